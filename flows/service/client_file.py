"""``prefect.toml``: lets Prefect's own commands find the service, without a setting typed.

Prefect reads it in the folder in which a command is called. ``effnet up`` writes it where it is called
itself, for its owner alone since it holds the login, and ``effnet down`` takes it away. A file of somebody
else's is left alone, and so are folders whose state lies elsewhere (``EFFNET_STATE_DIR``):
``eval "$(effnet env)"`` does the same there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from flows.service.server import API_URL, AUTH_VARIABLE, STATE_DIR_VARIABLE

NAME = "prefect.toml"
MARK = "# Written by effnet up, removed by effnet down. It holds the login: keep it to yourself."
NAMES = {API_URL: "url", AUTH_VARIABLE: "auth_string"}


def write_client_file(settings: dict[str, str]) -> bool:
    """Write the service's address and login for Prefect's commands in this folder.

    Args:
        settings: values of ``PREFECT_API_URL`` and ``PREFECT_API_AUTH_STRING``.

    Returns:
        Whether Prefect's commands find the service now.
    """
    path = _path()
    if path is None or not _is_ours(path):
        return False
    lines = [f"{NAMES[name]} = {json.dumps(value)}" for name, value in settings.items()]
    try:
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write("\n".join([MARK, "[api]", *lines]) + "\n")
    except OSError:  # the service runs all the same
        return False
    return True


def remove_client_file() -> None:
    """Take away what ``write_client_file`` has written."""
    path = _path()
    if path is not None and path.exists() and _is_ours(path):
        path.unlink()


def _path() -> Path | None:
    return None if os.environ.get(STATE_DIR_VARIABLE) else Path.cwd() / NAME


def _is_ours(path: Path) -> bool:
    """Whether the file is not there, or was written by us."""
    try:
        return path.read_text(encoding="utf-8").startswith(MARK)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
