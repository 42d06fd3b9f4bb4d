"""Run every command of docs/tutorial.md in an empty folder, and write down what each one prints.

    python .ci/transcript.py docs/transcript.md

The photographs are scikit-learn's scans of handwritten digits, so that anybody can do it again. Needs
``effnet`` beside the Python that runs it, or on the PATH. Ends with 1 at the first command that fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from effnet_core.data.digits import write_digits

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"```shell\n(.*?)```", re.DOTALL)
PHOTOS, INBOX = 30, 40
"""Pictures of each class, and pictures that nobody has sorted."""
HEAD = """# What it looks like in the terminal

Every command of [the tutorial](tutorial.md) and its output, as `make transcript` recorded them:
{cores} cores ({processor}), {seconds:.0f} s in all. The photographs were {photos} scans of handwritten digits
in ten class folders (scikit-learn's), and {inbox} others to label. On a terminal progress is a row for each
step instead.
"""


def commands() -> list[str]:
    """The tutorial's commands in their order."""
    blocks = BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def lay_out(folder: Path) -> None:
    """``photos/CLASS/`` and ``inbox/``, from the digits."""
    write_digits(folder / "digits")
    source = folder / "digits"
    for place in sorted((source / "labelled" / "train").iterdir()):
        (folder / "photos" / place.name).mkdir(parents=True)
        for path in sorted(place.iterdir())[:PHOTOS]:
            shutil.copy2(path, folder / "photos" / place.name)
    (folder / "inbox").mkdir()
    for number, path in enumerate(sorted((source / "unlabelled").iterdir())[:INBOX]):
        shutil.copy2(path, folder / "inbox" / f"picture-{number:03}.png")
    shutil.rmtree(source)


def run(line: str, folder: Path) -> tuple[int, str, float]:
    """Exit code, output and seconds of a command."""
    here = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "EFFNET_STATE"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), here["PATH"]])
    started = time.monotonic()
    done = subprocess.run(
        shlex.split(line),
        cwd=folder,
        env={**here, "PATH": path, "COLUMNS": "110"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout, time.monotonic() - started


def public(text: str, folder: Path) -> str:
    """The output without what belongs to this machine: its paths, its name, the login."""
    return "\n".join(_public_line(line, folder).rstrip() for line in text.strip().splitlines())


def _public_line(line: str, folder: Path) -> str:
    text = line.replace(f"{folder}/", "").replace(str(folder), ".")
    text = text.replace(str(Path.home()), "~")
    text = re.sub(r"effnet:[A-Za-z0-9_-]{20,}", "effnet:...", text)
    text = text.replace(os.uname().nodename, "this-machine")
    if text.endswith("│"):  # a table keeps its border
        text = text[:-1].ljust(len(line) - 1) + "│"
    return text


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine


def main() -> int:
    """Record all commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    parts, total, failed = [], 0.0, False
    with tempfile.TemporaryDirectory(prefix="tutorial-") as name:
        folder = Path(name).resolve()
        lay_out(folder)
        lines = commands()
        try:
            for line in lines:
                code, text, seconds = run(line, folder)
                print(f"{seconds:6.1f} s  {code}  {line}", flush=True)
                shown = public(text, folder)
                parts.append(f"```text\n$ {line}\n{shown}\n```\n\n{seconds:.0f} s\n")
                total += seconds
                if failed := code != 0:
                    print(text, file=sys.stderr)
                    break
        finally:
            if lines[-1] == "effnet down":
                run("effnet down", folder)
    head = HEAD.format(
        cores=len(os.sched_getaffinity(0)),
        processor=processor(),
        seconds=total,
        photos=10 * PHOTOS,
        inbox=INBOX,
    )
    if not failed:
        out.write_text("\n".join([head, *parts]), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
