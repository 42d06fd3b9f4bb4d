"""What every command does alike: errors as sentences, the right exit codes, no tracebacks.

``EFFNET_TRACEBACK=1`` shows tracebacks to those who look for a fault in the program.
"""

from __future__ import annotations

import functools
import gc
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from effnet_core.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    EXIT_UNREAD,
    EXIT_USAGE,
    ConfigError,
    EffnetError,
    OutputExists,
)
from effnet_core.system.files import is_full
from effnet_core.text import os_reason, visible

GC_THRESHOLD = 50_000
"""Objects made before the collector looks through the young ones; Python's own is 700."""

TRACEBACK_VARIABLE = "EFFNET_TRACEBACK"

P = ParamSpec("P")
R = TypeVar("R")


class Stopped(KeyboardInterrupt):
    """A scheduler, or whoever sent SIGTERM, wants its machine back."""


@contextmanager
def _heeding_sigterm() -> Iterator[None]:
    """Inside, SIGTERM does what Ctrl-C does, so that jobs can save, where nobody else listens to it."""
    listens = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )

    def stop(*_: object) -> None:
        raise Stopped

    if listens:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if listens and signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Let ``command`` end with a sentence and an exit code instead of an exception."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with _heeding_sigterm():
                return command(*args, **kwargs)
        except Stopped:
            _end("stopped by SIGTERM; run the same command again to continue", EXIT_STOPPED)
        except KeyboardInterrupt as stop:
            _end(
                str(stop) or "interrupted; run the same command again to continue", EXIT_INTERRUPTED
            )
        except (ConfigError, OutputExists) as error:
            _end(str(error), EXIT_USAGE)
        except EffnetError as error:
            _end(str(error), EXIT_FAILED)
        except BrokenPipeError:
            _end_unread()
        except OSError as error:
            place = f": {error.filename}" if error.filename else ""
            advice = "; make room, and run the same command again" if is_full(error) else ""
            _end(f"{os_reason(error)}{place}{advice}", EXIT_FAILED)
        raise AssertionError("unreachable")

    return wrapper


def run(app: Callable[..., object], *, checks: tuple[Callable[[], object], ...] = ()) -> None:
    """Run the program, with a collector of reference cycles that does not keep people waiting.

    Imports and boto3's descriptions of its services are 300,000 objects that live until the end. Looking
    through them again and again, and once more when the process ends, takes up to half a second.

    Args:
        app: the commands.
        checks: what ``effnet doctor`` looks at besides the library's own.
    """
    gc.set_threshold(GC_THRESHOLD)
    _prepare_output()
    try:
        try:
            app(prog_name="effnet", obj=checks)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _end_unread()
    finally:
        gc.freeze()


def _end_unread() -> None:
    """Nobody reads the output any more, as after ``| head``: end as quietly as other programs do."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # what is left to be flushed
    raise SystemExit(EXIT_UNREAD)


def _prepare_output() -> None:
    """Let every text be printed: also to a closed output, and where only ASCII can be."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _end(message: str, code: int) -> None:
    if os.environ.get(TRACEBACK_VARIABLE):
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"effnet: {visible(message)}\n")
    raise SystemExit(code)
