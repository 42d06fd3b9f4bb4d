"""S3 credentials from a Prefect Secret block: a setting names the block, nothing else is passed on.

The block holds JSON with ``aws_access_key_id``, ``aws_secret_access_key`` and, where needed,
``aws_session_token``. It is read inside the task, so that no parameter, result or log holds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect.blocks.system import Secret

from effnet_core.config.schema import StorageConfig
from effnet_core.errors import ConfigError
from effnet_core.storage.client import Credentials, using


@contextmanager
def credentials_of(storage: StorageConfig) -> Iterator[None]:
    """Use the credentials of ``storage.credentials_block`` inside the block; nothing without one.

    Raises:
        ConfigError: there is no such block, or it does not hold a key pair.
    """
    with using(_load(storage.credentials_block) if storage.credentials_block else None):
        yield


def _load(name: str) -> Credentials:
    try:
        block: Any = Secret.load(name)
    except ValueError:  # the block's content must not be in a traceback
        raise ConfigError(
            f"storage.credentials_block={name!r}: Prefect has no Secret block of that name; make one "
            "on the dashboard or with Secret(value={...}).save(NAME)"
        ) from None
    value = block.get()
    try:
        values = json.loads(value) if isinstance(value, str) else dict(value)
        return Credentials(
            values["aws_access_key_id"],
            values["aws_secret_access_key"],
            values.get("aws_session_token"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"storage.credentials_block={name!r}: the Secret block must hold JSON with "
            "aws_access_key_id and aws_secret_access_key"
        ) from None
