"""``effnet copy``."""

from __future__ import annotations

from pathlib import Path

from effnet_core.cli.lines import say, show_events
from effnet_core.errors import ConfigError
from effnet_core.storage.addresses import is_s3, parse_s3
from effnet_core.storage.client import DEFAULT_ACCESS, S3Access
from effnet_core.storage.trees import download_tree, upload_tree
from effnet_core.system.locks import sole_user


def copy(source: str, target: str, access: S3Access = DEFAULT_ACCESS) -> None:
    """Copy a folder of files to a bucket or back, and say how many had to travel.

    Raises:
        ConfigError: not exactly one of both is in a bucket.
        DataError: the files cannot be read or written.
        StoreError: the server refuses.
    """
    if is_s3(source) == is_s3(target):
        raise ConfigError(f"give one folder and one s3://bucket/prefix, not {source} and {target}")
    with show_events():
        if is_s3(source):
            with sole_user(Path(target), what="folder"):
                count = download_tree(parse_s3(source), Path(target), access)
        else:
            count = upload_tree(Path(source), parse_s3(target), access)
    say(f"{count:,} file(s) copied")
