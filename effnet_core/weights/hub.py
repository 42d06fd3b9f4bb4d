"""Weights by their name on the Hugging Face hub: ``hf-hub:OWNER/NAME``, with ``@REVISION`` or ``/FILE``.

``huggingface_hub`` fetches, resumes, caches and knows the tokens; its variables count here too: ``HF_TOKEN``,
``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_HUB_OFFLINE``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.errors import CheckpointError, ConfigError, DownloadFailed
from effnet_core.events import Event, emit
from effnet_core.text import in_one_line
from effnet_core.weights.catalogue import HUB_SCHEME
from effnet_core.weights.publisher import CONFIG_NAME

TOPIC = "download"
FILES = ("model.safetensors", "pytorch_model.bin", "model.ckpt")
"""Files with the weights of a repository, best first."""
ADDRESS = re.compile(
    rf"{HUB_SCHEME}(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+?))?(?:/(?P<file>[^@\s]+))?"
)


@dataclass(frozen=True)
class HubAddress:
    """What ``hf-hub:OWNER/NAME@REVISION/FILE`` names."""

    repository: str
    revision: str | None = None
    """Branch, tag or commit; the main branch where None."""
    file: str | None = None
    """One of its files; the usual one where None."""

    @classmethod
    def parse(cls, text: str) -> HubAddress:
        """The parts of an address.

        Raises:
            ConfigError: it is not one.
        """
        found = ADDRESS.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"{text!r} is not an address of the hub; write {HUB_SCHEME}OWNER/NAME, and @REVISION or "
                "/FILE after it where needed"
            )
        return cls(found["repository"], found["revision"], found["file"])

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        file = f"/{self.file}" if self.file else ""
        return f"{HUB_SCHEME}{self.repository}{revision}{file}"


def fetch(address: HubAddress) -> Path:
    """The file of weights, in the hub's own cache with ``config.json`` beside it where there is one.

    Raises:
        CheckpointError: there is no such repository, revision or file, or it is not public for this token,
            or not in the cache where the hub is off-line.
        DownloadFailed: the hub cannot be reached.
    """
    emit(Event(TOPIC, f"looking for {address}"))
    with suppress(CheckpointError):
        _download(address, CONFIG_NAME)
    for name in (address.file,) if address.file else FILES:
        with suppress(_NotThere):
            return _download(address, name)
    names = address.file or ", ".join(FILES)
    where = " in the cache, and the hub is off-line" if is_offline() else ""
    raise CheckpointError(
        f"{address} has no file {names}{where}; name another: {HUB_SCHEME}{address.repository}/FILE"
    )


def is_offline() -> bool:
    """Whether the environment forbids to ask the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def settings() -> dict[str, Any]:
    """What the environment says now: the library itself reads it only once."""
    home = os.environ.get("HF_HOME")
    cache = os.environ.get("HF_HUB_CACHE") or (str(Path(home) / "hub") if home else None)
    return {"endpoint": os.environ.get("HF_ENDPOINT") or None, "cache_dir": cache}


class _NotThere(CheckpointError):
    """The repository has no such file."""


def _download(address: HubAddress, name: str) -> Path:
    hub = library()
    hub.utils.disable_progress_bars()
    with hub_errors(str(address)):
        try:
            path = hub.hf_hub_download(
                address.repository,
                name,
                revision=address.revision,
                local_files_only=is_offline(),
                **settings(),
            )
        except hub.errors.LocalEntryNotFoundError as cause:
            if is_offline():
                raise _NotThere(f"{address} has no file {name} in the cache") from cause
            raise DownloadFailed(
                f"{address} cannot be fetched (the hub cannot be reached: {_reason(cause)}); try again, or "
                "place the file by hand and name it"
            ) from cause
        except hub.errors.EntryNotFoundError as cause:
            raise _NotThere(f"{address} has no file {name}") from cause
    return Path(path)


def library() -> Any:
    """``huggingface_hub``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as cause:
        raise ConfigError(
            f"weights of {HUB_SCHEME} need huggingface_hub; run: pip install 'effnet-flows[huggingface]'"
        ) from cause
    return huggingface_hub


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """The library's errors in a sentence each.

    Raises:
        CheckpointError: the hub refuses.
        DownloadFailed: it cannot be reached, or fails itself.
    """
    hub = library()
    try:
        yield
    except hub.errors.GatedRepoError as cause:
        raise CheckpointError(
            f"{what} is given only to those who have asked for it on the hub; ask there, then set HF_TOKEN"
        ) from cause
    except hub.errors.RepositoryNotFoundError as cause:
        raise CheckpointError(
            f"{what} does not exist, or is private: correct the name, or set HF_TOKEN to a token that may "
            "use it"
        ) from cause
    except hub.errors.RevisionNotFoundError as cause:
        raise CheckpointError(f"{what} has no such revision; correct what follows @") from cause
    except hub.errors.HFValidationError as cause:
        raise CheckpointError(f"{what} is not a name on the hub ({in_one_line(cause)})") from cause
    except hub.errors.HfHubHTTPError as cause:
        status = getattr(cause.response, "status_code", 0)
        kind = (
            CheckpointError if 400 <= status < 500 and status not in (408, 429) else DownloadFailed
        )
        raise kind(f"{what}: the hub answered {status} ({_reason(cause)})") from cause
    except (CheckpointError, DownloadFailed):
        raise
    except (OSError, RuntimeError) as cause:  # the second where an upload broke off
        raise DownloadFailed(f"{what}: the hub cannot be reached ({_reason(cause)})") from cause


def _reason(error: BaseException) -> str:
    """The library's sentence without its advice."""
    inner = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return in_one_line(inner)[:200]
