"""What the columns of answers are called."""

from __future__ import annotations

from collections.abc import Sequence

from effnet_core.errors import ConfigError

COLUMNS = ("image_id", "path", "class_ids", "class_names", "probs")
OPTIONAL_COLUMNS = ("probabilities", "features")
"""Lists of float32, present where the settings of the same name ask for them."""
LISTS = ("class_ids", "class_names", "probs", *OPTIONAL_COLUMNS)
BEST = "class"
"""What ``infer.partition_by`` calls the best answer."""


def require_columns(columns: Sequence[tuple[str, str]], partition_by: str | None) -> None:
    """Refuse names that answers have themselves, and a partition by what is not there.

    Raises:
        ConfigError: with what is allowed.
    """
    own = (*COLUMNS, *OPTIONAL_COLUMNS)
    names = [name for name, _ in columns]
    for name in names:
        if name in own:
            raise ConfigError(
                f"infer.keep_columns: answers have a column {name!r} themselves; rename it in the list"
            )
    if len(set(names)) < len(names):
        raise ConfigError(f"infer.keep_columns={','.join(names)} names a column twice")
    if partition_by is None:
        return
    if partition_by == BEST and BEST in names:
        raise ConfigError(
            f"infer.partition_by={BEST} is the best answer, and {BEST!r} is a kept column too; rename it"
        )
    if partition_by not in (BEST, *names):
        known = ", ".join((BEST, *names))
        raise ConfigError(
            f"infer.partition_by={partition_by!r} is not known (known: {known}; kept columns by "
            "infer.keep_columns)"
        )
