"""What must be true of every folder, store and process afterwards, and of production all the time."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from effnet_core.config.schema import StorageConfig
from effnet_core.data.manifest import DATASET_NAME, MANIFEST_NAME
from effnet_core.errors import EffnetError, StoreDamaged
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.parts import read_parts
from effnet_core.infer.plan import INPUTS_NAME, read_plan
from effnet_core.model_store.maintenance import collect_garbage, verify
from effnet_core.model_store.registry import Registry
from effnet_core.results import ShardResult
from effnet_core.storage import s3_client
from effnet_core.system.files import UNFINISHED, read_json, read_jsonl, sha256_of_file
from effnet_core.system.locks import KEPT_NAME
from flows.service.recovery import is_final
from tests.chaos.findings import Findings
from tests.chaos.world import MIN_TOP1, PHOTOS, Night, World

TEMPORARY = re.compile(
    rf".*{re.escape(UNFINISHED)}|\..+\.part|.*\.tmp|\.staging.*|\.effnet-.*-.{{8}}"
)
"""Names of files that are not whole yet: ``atomic_path``, downloads, staging."""
MARGIN = 1e-9


def storage_of(world: World) -> StorageConfig:
    """How commands of the test reach the store."""
    return StorageConfig(
        root=f"s3://{world.bucket}/models", name="animals", endpoint_url=world.s3.endpoint_url
    )


def registry_of(world: World) -> Registry:
    """The store's versions."""
    return Registry.open(storage_of(world))


class ProductionWatch(threading.Thread):
    """Reads production again and again while the hand is at work."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self.world, self.findings = world, world.findings
        self.history: list[tuple[str, str]] = []
        """Version and reason, each time that it moved."""
        self.reads = self.refused = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(3):
            self.look()

    def look(self) -> None:
        """One reading; a store that is away says nothing about production."""
        try:
            found = registry_of(self.world).pointer()
        except StoreDamaged as damage:
            self.findings.add("production's pointer is damaged", str(damage))
            return
        except (EffnetError, OSError):
            self.refused += 1
            return
        self.reads += 1
        if found is None:
            if self.history:
                self.findings.add("production's pointer is gone", str(self.history))
            return
        now = found[0].version, found[0].reason
        if not self.history or self.history[-1] != now:
            self.history.append(now)
            print(f"        production is {now[0]}: {now[1]}", flush=True)

    def judge(self) -> None:
        """Whether every version that was seen in production had passed the gate."""
        registry = registry_of(self.world)
        before = None
        for version, reason in self.history:
            found = registry.manifest(version)
            if found is None:
                self.findings.add("production was a version that is not there", version)
                continue
            manifest = found[0]
            if manifest.metrics.top1 < MIN_TOP1 - MARGIN:
                self.findings.add("production was a version below the gate", f"{version} {reason}")
            if not reason.startswith(("passed the gate", "not compared with")):
                self.findings.add("production was moved past the gate", f"{version} {reason}")
            same = before and (before.data_digest, before.metrics.split) == (
                manifest.data_digest,
                manifest.metrics.split,
            )
            if before and same and manifest.metrics.top1 < before.metrics.top1 - 0.05:
                self.findings.add("production became worse on the same pictures", reason)
            before = manifest


def audit_labels(world: World) -> dict[str, int]:
    """Every picture of the inbox is labelled once, and what is there now is among them."""
    add = world.findings.add
    plan = read_plan(world.labels)
    for shard in plan.missing():
        add("a shard of the inbox is missing after the last run", str(shard))
    entries = [
        tuple(row) for row in map(json.loads, (world.labels / INPUTS_NAME).read_text().splitlines())
    ]
    twice = [entry for entry, count in Counter(entries).items() if count > 1]
    if twice:
        add("a picture stands in the list of inputs twice", f"{twice[:5]}")
    now = list_inputs([world.inbox], world.labels, recursive=True, storage=storage_of(world))
    unseen = set(zip(now.paths, now.stamps, strict=True)) - set(entries)
    if unseen:
        add("a picture of the inbox was never labelled", f"{sorted(unseen)[:5]}")
    rows = Counter(row["path"] for row in read_parts(world.labels))
    wanted = Counter(path for path, _ in entries)
    for shard in plan.shards:
        if plan.shard_path(shard).exists():
            result = ShardResult.read(plan.shard_path(shard))
            rows.update(row["path"] for row in [*result.rejected, *result.other])
    if rows != wanted:
        wrong = {path: (rows[path], wanted[path]) for path in rows | wanted}
        wrong = {path: pair for path, pair in wrong.items() if pair[0] != pair[1]}
        add("a picture was not answered exactly once", f"{dict(list(wrong.items())[:5])}")
    known = {m.checkpoint_sha256 for m in registry_of(world).survey()[0]}
    foreign = {shard.model_sha256 for shard in plan.shards} - known
    if foreign:
        add("the inbox was labelled by a model that was never published", f"{foreign}")
    parts = {path.name for path in (world.labels / "predictions").iterdir()}
    strays = parts - {shard.part for shard in plan.shards}
    if strays:
        add("a part file belongs to no shard", f"{sorted(strays)[:5]}")
    return {"pictures": len(entries), "answers": sum(rows.values()), "shards": len(plan.shards)}


def audit_night(world: World, night: Night) -> int:
    """A finished night's data are whole, and its photos labelled once; returns the files compared."""
    add = world.findings.add
    data = night.out / "data"
    facts = read_json(data / DATASET_NAME)
    if not facts.get("complete"):
        add("a finished night has unfinished data", str(night.out))
        return 0
    table = pq.read_table(data / MANIFEST_NAME, columns=["path", "sha256"]).to_pylist()
    for row in table:
        if sha256_of_file(data / row["path"]) != row["sha256"]:
            add("a staged file is not what the manifest says", f"{data / row['path']}")
    staged = {p.relative_to(data).as_posix() for p in (data / "images").rglob("*") if p.is_file()}
    if staged != {row["path"] for row in table}:
        add("staged files and manifest differ", f"{staged ^ {row['path'] for row in table}}")
    rows = Counter(row["path"] for row in read_parts(night.out / "predictions"))
    if len(rows) != PHOTOS or set(rows.values()) != {1}:
        add("a night's photos are not labelled once each", f"{night.out}: {rows}")
    return len(table)


def audit_store(world: World) -> dict[str, int]:
    """Every version is whole, and what killed publishers left can be swept."""
    storage = storage_of(world)
    for problem in verify(storage):
        world.findings.add("a version is not whole", problem)
    uploads = registry_of(world).uploads()
    unfinished = [version for version, complete in uploads.items() if not complete]
    collect_garbage(storage, older_than_s=0)
    left = [name for name, complete in registry_of(world).uploads().items() if not complete]
    if left:
        world.findings.add("an unfinished upload cannot be swept", f"{left}")
    answer = s3_client(storage.access).list_multipart_uploads(Bucket=world.bucket)
    if answer.get("Uploads"):
        world.findings.add("a transfer without end is left", f"{answer['Uploads']}")
    return {"versions": len(uploads) - len(unfinished), "swept uploads": len(unfinished)}


def audit_leftovers(world: World) -> dict[str, int]:
    """No process, held lock or temporary file is left.

    The file of a lock that nobody holds may stay where a killed command was the last one in its folder: the
    next one takes it over. A temporary folder may stay where what a command or a run said names it, and that
    of a killed command until the next one that needs such a folder.
    """
    free_locks, others = 0, list[str]()
    swept, kept = _sweep_temporary(world.temporary), 0
    for process in world.processes():
        with suppress(Exception):
            world.findings.add("a process is left", f"{process.pid} {process.cmdline()}")
    for path in _everything(world.disk):
        name = path.relative_to(world.disk)
        if path.name == ".effnet.lock" or (path.name[0] == "." and path.suffix == ".lock"):
            if _is_held(path):
                text = path.read_text(errors="replace")
                world.findings.add("a lock is held", f"{name}: {text}")
            free_locks += 1
        elif TEMPORARY.fullmatch(path.name):
            world.findings.add("a temporary file is left", str(name))
        elif path.parent == world.temporary:
            others.append(path.name)
            if path.name.startswith("effnet-") and (path / KEPT_NAME).exists():
                kept += 1
                if path.name not in world.findings.named:
                    world.findings.add(
                        "a temporary folder is kept that nobody was told of", str(name)
                    )
            elif path.name.startswith("effnet-"):
                world.findings.add("a temporary folder is left", str(name))
    print(f"of libraries, in the folder for temporary files: {others}", flush=True)
    return {
        "files of free locks": free_locks,
        "temporary folders removed by the next": swept,
        "temporary folders kept to look into": kept,
        "temporary files of libraries": len(others) - kept,
    }


def _sweep_temporary(folder: Path) -> int:
    """Need a temporary folder of each kind, as the next command would; returns how many that removes."""
    before = {path.name for path in folder.glob("effnet-*-*")}
    code = "import sys; from effnet_core.system.locks import scratch_folder\n" + (
        "for purpose in sys.argv[1:]:\n    with scratch_folder(purpose): pass\n"
    )
    purposes = {name.split("-")[1] for name in before}
    environment = {**os.environ, "TMPDIR": str(folder)}
    subprocess.run([sys.executable, "-c", code, *purposes], env=environment, check=True)
    return len(before - {path.name for path in folder.glob("effnet-*-*")})


def _everything(folder: Path) -> list[Path]:
    return sorted(
        Path(place, name)
        for place, folders, names in os.walk(folder)
        for name in [*folders, *names]
        if ".effnet/prefect" not in place
    )


def _is_held(path: Path) -> bool:
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def audit_logs(world: World) -> None:
    """The daemon's log and the runs' words have no traceback of ours."""
    log = world.service.state_dir / "service" / "daemon.log"
    for path in (log, log.with_suffix(".log.1")):
        if path.exists():
            world.findings.look_at("the daemon", path.read_text(errors="replace"))


def audit_run_logs(world: World) -> int:
    """Tracebacks of ours in what runs have logged; returns the lines that were looked at."""
    count = 0
    body = {"logs": {}, "limit": 200, "sort": "TIMESTAMP_ASC"}
    while True:
        page = {**body, "offset": count}
        lines = world.ask(partial(world.service.api.post, "/logs/filter", page))
        if not lines:
            return count
        count += len(lines)
        for line in lines:
            world.findings.look_at(f"a run ({line['name']})", str(line["message"]))


def settle(world: World, findings: Findings, minutes: float) -> None:
    """Wait until nothing runs any more, the daemon's second thoughts included."""
    deadline = time.monotonic() + 60 * minutes
    while (left := world.unfinished()) and time.monotonic() < deadline:
        time.sleep(2)
        world.collect()
    if left:
        findings.add(f"a run did not end within {minutes:.0f} minutes of peace", f"{left}")
    for second in world.seconds:
        try:
            second.process.wait(120)
        except Exception:
            findings.add(f"effnet {second.name} did not end within 2 minutes of peace")
    world.collect()


def finish_nights(world: World, patience_s: float) -> None:
    """Start every night that has not come to its end again, until it has."""
    for night in world.nights:
        world._follow(night)
        for _ in range(3):
            if night.ended:
                break
            world.start_night(night)
            _wait(world, night, patience_s)
        if not night.ended:
            run = world.run_state(night.tries[-1]) if night.tries else None
            state = run["state"] if run else {}
            text = f"{state.get('name')}: {state.get('message')}"
            world.findings.add("a night cannot be finished in peace", f"{night.out.name}: {text}")


def finish_inbox(world: World, patience_s: float) -> None:
    """One more run over the inbox, which must be Completed."""
    world.start_inbox()
    deadline = time.monotonic() + patience_s
    run = None
    while time.monotonic() < deadline:
        run = world.run_state(world.inbox_runs[-1]) if world.inbox_runs else None
        if run and is_final(run):
            break
        time.sleep(1)
    if run is None or run["state_type"] != "COMPLETED":
        state = run["state"] if run else {}
        text = f"{state.get('name')}: {state.get('message')}"
        world.findings.add("the inbox cannot be labelled in peace", text)


def _wait(world: World, night: Night, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and night.tries and not world._has_ended(night.tries[-1]):
        time.sleep(1)
    world._follow(night)


def rows_of(path: Path) -> int:
    """Lines of a JSON Lines file."""
    return len(read_jsonl(path))
