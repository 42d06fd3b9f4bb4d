"""What every command does alike: errors as sentences, the right exit codes, no tracebacks.

0 done, 1 failed, 2 wrong usage or setting, 130 interrupted. ``EFFNET_TRACEBACK=1`` shows tracebacks to
those who look for a fault in the program.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from effnet_core.errors import ConfigError, EffnetError, OutputExists
from effnet_core.files import os_reason

GC_THRESHOLD = 50_000
"""Objects made before the collector looks through the young ones; Python's own is 700."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
TRACEBACK_VARIABLE = "EFFNET_TRACEBACK"

P = ParamSpec("P")
R = TypeVar("R")


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Let ``command`` end with a sentence and an exit code instead of an exception."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt as stop:
            _end(str(stop) or "interrupted; run the same command again to go on", EXIT_INTERRUPTED)
        except (ConfigError, OutputExists) as error:
            _end(str(error), EXIT_USAGE)
        except EffnetError as error:
            _end(str(error), EXIT_FAILED)
        except OSError as error:
            place = f": {error.filename}" if error.filename else ""
            _end(f"{os_reason(error)}{place}", EXIT_FAILED)
        raise AssertionError("unreachable")

    return wrapper


def run(app: Callable[..., object]) -> None:
    """Run the program, with a collector of reference cycles that does not keep people waiting.

    Imports and boto3's descriptions of its services are 300,000 objects that live until the end. Looking
    through them again and again, and once more when the process ends, takes up to half a second.
    """
    gc.set_threshold(GC_THRESHOLD)
    try:
        app(prog_name="effnet")
    finally:
        gc.freeze()


def _end(message: str, code: int) -> None:
    if os.environ.get(TRACEBACK_VARIABLE):
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"effnet: {message}\n")
    raise SystemExit(code)
