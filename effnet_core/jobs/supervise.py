"""Run a command so that nothing it starts outlives its parent: ``python supervise.py -- COMMAND``.

``msrun`` puts its workers into sessions of their own and leaves them behind when it is terminated. This
process makes itself the reaper of all descendants, so that such orphans stay below it, and ends every
one of them

- when the command ends,
- when standard input closes, which happens however the parent dies, ``kill -9`` included,
- when it is told to stop by SIGTERM or SIGINT; then they get ``--grace`` seconds to save their state.

Standard library only; it must start fast and never import what it supervises. Linux keeps orphans below
a reaper; elsewhere only descendants that are still linked to the command are found.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
PR_SET_PDEATHSIG = 1
POLL_S, SHORT_POLL_S = 0.1, 0.005
EOF_GRACE_S = 2.0
EXIT_STOPPED = 75
"""As in ``effnet_core.errors``; this file imports nothing of the library."""


def become_reaper() -> None:
    """Adopt orphaned descendants instead of leaving them to process 1 (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """Let the kernel end this process when its parent is killed, a supervisor above it or not (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Process ids below ``root``, zombies left out."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def signal_all(pids: list[int], number: int) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def reap(child: int) -> int | None:
    """Collect ended processes; the exit code of ``child`` once it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)


def end_all(grace_s: float) -> None:
    """Ask every descendant to end, wait, then kill what is left, until nothing is.

    Standard input that closes meanwhile means that the parent has what it waited for, or is gone.
    """
    signal_all(descendants(os.getpid()), signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while descendants(os.getpid()):
        reap(-1)
        if time.monotonic() > deadline:
            signal_all(descendants(os.getpid()), signal.SIGKILL)
            time.sleep(POLL_S)
        elif parent_is_gone():
            deadline = min(deadline, time.monotonic() + EOF_GRACE_S)
            time.sleep(POLL_S)
    _reap_all()


def _reap_all() -> None:
    """Collect what has ended; a process whose threads are still ending can be collected a moment later."""
    deadline = time.monotonic() + EOF_GRACE_S
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(SHORT_POLL_S)


def parent_is_gone() -> bool:
    """Whether standard input has closed; waits a moment for it."""
    readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
    return bool(readable) and not os.read(sys.stdin.fileno(), 4096)


def run(command: list[str], *, grace_s: float) -> int:
    """Run ``command`` under supervision.

    Returns:
        Its exit code, 128 + n where signal n ended it, or 75 where it was asked to stop.
    """
    become_reaper()
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stops.append(received))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while True:
        code = reap(process.pid)
        if code is not None:
            process.returncode = code
            end_all(EOF_GRACE_S)
            return 128 - code if code < 0 else code
        if stops:
            end_all(grace_s)
            process.returncode = EXIT_STOPPED
            return EXIT_STOPPED
        if parent_is_gone():
            end_all(EOF_GRACE_S)
            process.returncode = EXIT_STOPPED
            return EXIT_STOPPED


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``[--grace SECONDS] -- COMMAND ...``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--grace", type=float, default=20.0, help="seconds to save state in")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    return run(command, grace_s=options.grace)


if __name__ == "__main__":
    sys.exit(main())
