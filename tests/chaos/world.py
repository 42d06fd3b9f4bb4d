"""What the hand plays with: a service, an object store, a small disk, nights and an inbox.

Everything that is started carries a mark in its environment, so that it can be found among the processes
of the machine, and whatever is left of it at the end.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from effnet_core.errors import EffnetError
from effnet_core.storage.cache import CACHE_VARIABLE
from flows.service.recovery import is_final
from tests.chaos.findings import Findings
from tests.flows.service import TestedService
from tests.support.images import COLOURS, class_folders, draw, encode
from tests.support.s3 import KEY_ID, SECRET, SeaweedFS, free_ports, new_bucket
from tests.support.tiny import TINY

MARK = "EFFNET_CHAOS"
DISK_SIZE = "700m"
CLASSES = ("cat", "dog", "owl")
PHOTOS = 12
STALL_S = 30
MIN_TOP1 = 0.5
ROLES = {
    "daemon": ("flows.service.daemon",),
    "server": ("flows.service.guarded",),
    "worker": ("prefect", "worker", "start"),
    "supervisor": ("supervise.py",),
    "rank": ("effnet_core.worker",),
    "run": ("flow-run", "execute"),
    "engine": ("prefect.engine",),
    "command": ("flows.cli",),
}
"""Words on the command line by which a process is known; the first that fits counts."""
UNFINISHED = ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED")


@dataclass
class Night:
    """One run of the whole pipeline, in a folder of its own; started again until it is finished."""

    number: int
    out: Path
    overrides: list[str]
    tries: list[str] = field(default_factory=list)
    """Flow runs, oldest first."""
    begun_anew: set[str] = field(default_factory=set)
    """Tries that were refused because the source had changed since the training began."""
    ended: str = ""
    """How it came to its end; empty while it has not."""


@dataclass
class Second:
    """A command that is started beside what runs already."""

    name: str
    process: subprocess.Popen[str]
    log: Path
    killed: bool = False


class World:
    """A service on a disk of its own, with an object store beside it."""

    def __init__(self, folder: Path, seed: int, findings: Findings) -> None:
        self.folder, self.findings = folder, findings
        self.random = random.Random(seed + 1)
        self.disk = folder / "disk"
        self.disk.mkdir(parents=True)
        self.has_own_disk = _mount(self.disk)
        self.source, self.inbox = folder / "source", folder / "inbox"
        self.photos, self.temporary = folder / "photos", self.disk / "tmp"
        self.labels, self.cache = self.disk / "labels", self.disk / "cache"
        for place in (self.inbox, self.photos, self.temporary, folder / "logs"):
            place.mkdir()
        class_folders(self.source, dict.fromkeys(CLASSES, 20))
        for index in range(PHOTOS):
            (self.photos / f"{index:02d}.png").write_bytes(encode(draw(seed=index, label=index)))
        self.s3 = SeaweedFS(folder / "s3", free_ports())
        (self.disk / "service").mkdir()
        self.service = TestedService(self.disk / "service")
        self.service.environment |= {
            MARK: str(folder),
            CACHE_VARIABLE: str(self.cache),
            "TMPDIR": str(self.temporary),
            "PREFECT_HOME": str(self.disk / "service" / ".effnet" / "prefect"),
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self.nights: list[Night] = []
        self.inbox_runs: list[str] = []
        self.inbox_ended = 0.0
        self.pictures = 0
        self.seconds: list[Second] = []
        self.bucket = ""

    def start(self) -> None:
        """Object store and service, and one night that nobody disturbs."""
        self.s3.start()
        self.bucket = new_bucket(self.s3.access)
        self.add_pictures(5)
        self.up()

    def end(self) -> None:
        """Leave nothing of it on the machine."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.s3.kill()
        if self.has_own_disk:
            for _ in range(20):
                if not subprocess.run(["umount", str(self.disk)], check=False).returncode:
                    return
                time.sleep(0.5)

    @property
    def place(self) -> list[str]:
        """Settings of the store and of labelling that all commands share."""
        return [
            f"storage.root=s3://{self.bucket}/models",
            "storage.name=animals",
            f"storage.endpoint_url={self.s3.endpoint_url}",
            "infer.engine=onnxruntime",
            "infer.shard_images=8",
            "infer.max_error_share=0.9",
            "runtime.world_size=1",
            f"runtime.stall_timeout_s={STALL_S}",
        ]

    # --- the service and its runs

    def up(self) -> bool:
        """``effnet up``; whether it is up then."""
        try:
            done = self.service.effnet("up", "--port", str(self.service.port))
        except subprocess.TimeoutExpired as late:
            self.findings.add("effnet up did not end", f"within {late.timeout:.0f} s")
            return False
        self.findings.look_at("effnet up", done.stdout + done.stderr)
        if done.returncode == 0:
            from flows.service.private import login_of

            self.service.api.auth = login_of(self.service.state_dir)
        return done.returncode == 0

    def ask(self, question: Callable[[], Any]) -> Any:
        """The server's answer, or None where it does not give one now."""
        try:
            return question()
        except (EffnetError, OSError, AssertionError, KeyError, TypeError):
            return None

    def start_run(self, deployment: str, parameters: dict[str, Any]) -> str | None:
        """A flow run, where the server takes it."""
        found = self.ask(lambda: self.service.start_run(deployment, parameters))
        return str(found) if found else None

    def run_state(self, run: str) -> dict[str, Any] | None:
        """A run as the server knows it."""
        found = self.ask(lambda: self.service.api.run(run))
        return found if isinstance(found, dict) else None

    def new_night(self) -> Night:
        """The next night; some train with two ranks, some learn nothing."""
        number = len(self.nights)
        overrides = [*TINY, *self.place, "train.epochs=4", f"evaluate.min_top1={MIN_TOP1}"]
        if number % 3 == 2:
            overrides.append("runtime.world_size=2")
        if number % 4 == 3:
            overrides.append("optim.base_lr=0.0000001")
        night = Night(number, self.disk / "runs" / f"night-{number:03d}", overrides)
        self.nights.append(night)
        return night

    def start_night(self, night: Night) -> None:
        """Start a night, or start it again in its folder."""
        parameters = {
            "source": str(self.source),
            "folder": str(self.photos),
            "out": str(night.out),
            "data": str(night.out / "data"),
            "recipe": "digits",
            "overrides": night.overrides,
        }
        if run := self.start_run("pipeline/nightly-pipeline", parameters):
            night.tries.append(run)

    def start_inbox(self) -> None:
        """Label what is new in the inbox."""
        parameters = {
            "folder": str(self.inbox),
            "output": str(self.labels),
            "weights": "production",
            "overrides": self.place,
        }
        if run := self.start_run("batch-infer/batch-infer-inbox", parameters):
            self.inbox_runs.append(run)

    def tick(self) -> None:
        """Let work come in: nights one after the other, pictures, and runs over the inbox."""
        night = self.nights[-1] if self.nights else self.new_night()
        self._follow(night)
        if night.ended:
            night = self.new_night()
        if not night.tries or self._has_ended(night.tries[-1]):
            self.start_night(night)
        if not self.inbox_runs or self._has_ended(self.inbox_runs[-1]):
            if not self.inbox_ended:
                self.inbox_ended = time.monotonic()
            elif time.monotonic() - self.inbox_ended > 8:
                self.inbox_ended = 0.0
                self.add_pictures(3)
                self.start_inbox()
        self.collect()

    def _follow(self, night: Night) -> None:
        """Note how a night's last try ended."""
        if night.ended or not night.tries:
            return
        run = self.run_state(night.tries[-1])
        if run is None or not is_final(run):
            return
        message = str(run["state"].get("message") or "")
        if run["state_type"] == "COMPLETED":
            night.ended = "completed"
        elif "holds another run (differs in" in message:  # begun anew, as a person does
            for name in ("train", "predictions"):
                shutil.rmtree(night.out / name, ignore_errors=True)
            night.begun_anew.add(night.tries[-1])

    def _has_ended(self, run: str) -> bool:
        found = self.run_state(run)
        return found is not None and is_final(found)

    def unfinished(self) -> list[str]:
        """Runs that the server has not brought to an end; where it does not answer, a word that says so."""
        found = self.ask(lambda: self.service.api.runs(*UNFINISHED))
        if found is None:
            return ["server away"]
        now = [run for run in found if not run.get("auto_scheduled")]
        crashed = self.ask(lambda: self.service.api.runs("CRASHED")) or []
        return [run["name"] for run in [*now, *(run for run in crashed if not is_final(run))]]

    # --- files

    def add_pictures(self, count: int) -> None:
        """New pictures in the inbox, each by a rename."""
        for _ in range(count):
            self.write_picture(self.inbox / f"{self.pictures:05d}.jpg", seed=self.pictures)
            self.pictures += 1

    def write_picture(self, path: Path, *, seed: int) -> None:
        """A picture under a name, whole at once."""
        part = path.with_name(f".{path.name}.new")
        image = draw(seed=seed, label=seed % len(COLOURS))
        part.write_bytes(encode(image, "JPEG", quality=90))
        part.replace(path)

    # --- processes

    def processes(self) -> list[psutil.Process]:
        """Every living process that carries the mark, oldest first."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get(MARK) == str(self.folder)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return sorted(found, key=lambda process: (process.create_time(), process.pid))

    def of_role(self, *roles: str) -> list[tuple[str, psutil.Process]]:
        """Living processes of some kinds, by what stands on their command lines."""
        found = []
        for process in self.processes():
            if (role := role_of(process)) in roles:
                found.append((role, process))
        return sorted(found, key=lambda pair: (pair[0], pair[1].create_time()))

    def second(self, name: str, *arguments: str) -> None:
        """Start a command beside the others."""
        log = self.folder / "logs" / f"{len(self.seconds):04d}-{name}.txt"
        with log.open("w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *arguments],
                env={**self.service.environment, "PYTHONUNBUFFERED": "1"},
                cwd=self.service.folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.seconds.append(Second(name, process, log))

    def collect(self) -> None:
        """Look at what second commands said that have ended."""
        for second in self.seconds:
            if second.process.poll() is not None and second.log.exists():
                text = second.log.read_text(errors="replace")
                code = second.process.returncode
                self.findings.look_at(f"effnet {second.name}", text)
                if code not in (0, 1, 2, 75, 130) and code >= 0:
                    self.findings.add(f"effnet {second.name} ended with code {code}", text[-500:])
                second.log.rename(second.log.with_suffix(f".{code}"))


def role_of(process: psutil.Process) -> str:
    """What a process is; empty where it is nothing of ours."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return ""
    for role, wanted in ROLES.items():
        if all(any(word == item or word in item for item in words) for word in wanted):
            return role
    return ""


def signal_process(process: psutil.Process, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(psutil.Error, ProcessLookupError, PermissionError):
        os.kill(process.pid, number)


def wake(process: psutil.Process) -> None:
    """Let a stopped process continue."""
    signal_process(process, signal.SIGCONT)


def _mount(folder: Path) -> bool:
    """A small file system of its own, where this person may mount one."""
    if os.geteuid() != 0:
        return False
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(folder)]
    return not subprocess.run(mount, check=False, capture_output=True).returncode
