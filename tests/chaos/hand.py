"""The random hand: what it does is decided by a seed before anything runs.

An action's targets are chosen among what is there when its turn comes, by a number that the seed gave
as well; so a seed repeats the sequence, and on an equally fast machine about the same run.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tests.chaos.audit import registry_of
from tests.chaos.world import CLASSES, MIN_TOP1, STALL_S, World, signal_process, wake

WEIGHTS = {
    "kill -9 a rank": 3,
    "kill -9 a run": 3,
    "kill -9 a supervisor": 1,
    "kill -9 the worker": 1,
    "kill -9 the server": 1,
    "kill -9 the daemon": 1,
    "kill -9 a command": 1,
    "stop a rank for good": 1,
    "pause a process": 3,
    "kill -9 the store": 2,
    "pause the store": 1,
    "fill the disk": 2,
    "effnet down and up": 1,
    "change the source": 2,
    "change the inbox": 2,
    "write slowly into the inbox": 1,
    "second stage": 1,
    "second predict": 2,
    "second train": 1,
    "second publish": 1,
    "promote any version": 1,
    "store gc": 1,
    "second night": 1,
    "cancel a run": 1,
    "rest": 4,
}
REST_S = 60.0


@dataclass(frozen=True)
class Action:
    """One thing that the hand does."""

    what: str
    after_s: float
    """Since the action before."""
    which: float
    """In [0, 1): chooses among targets."""
    how_long: float
    """In [0, 1): of what ends again."""


def actions(seed: int) -> Iterator[Action]:
    """The sequence of a seed; it has no end."""
    chance = random.Random(seed)
    names, weights = zip(*WEIGHTS.items(), strict=True)
    while True:
        (what,) = chance.choices(names, weights)
        yield Action(what, chance.uniform(4, 20), chance.random(), chance.random())


class Hand:
    """Does the actions, and undoes in time what must end again."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.done = Counter[str]()
        self.idle = Counter[str]()
        self.later: list[tuple[float, str, Callable[[], None]]] = []
        self.peace, self.ending = threading.Event(), threading.Event()
        # effnet up may wait for a server whose pause has to end meanwhile.
        for only_up in (False, True):
            threading.Thread(target=self.undo_due, args=(only_up,), daemon=True).start()
        self.doings: dict[str, Callable[[Action], str]] = {
            "kill -9 a rank": lambda a: self._kill(a, "rank"),
            "kill -9 a run": lambda a: self._kill(a, "run", "engine"),
            "kill -9 a supervisor": lambda a: self._kill(a, "supervisor"),
            "kill -9 the worker": lambda a: self._kill(a, "worker"),
            "kill -9 the server": lambda a: self._kill(a, "server"),
            "kill -9 the daemon": self._kill_daemon,
            "kill -9 a command": lambda a: self._kill(a, "command"),
            "stop a rank for good": self._stop_rank,
            "pause a process": self._pause,
            "kill -9 the store": self._kill_store,
            "pause the store": self._pause_store,
            "fill the disk": self._fill,
            "effnet down and up": self._down_and_up,
            "change the source": self._change_source,
            "change the inbox": self._change_inbox,
            "write slowly into the inbox": self._write_slowly,
            "second stage": self._second_stage,
            "second predict": self._second_predict,
            "second train": self._second_train,
            "second publish": self._second_publish,
            "promote any version": self._promote,
            "store gc": self._gc,
            "second night": self._second_night,
            "cancel a run": self._cancel,
            "rest": lambda a: f"{REST_S:.0f} s",
        }

    def do(self, action: Action) -> str:
        """Do one thing; returns what it met, and counts it where it met anything."""
        text = self.doings[action.what](action)
        (self.done if text else self.idle)[action.what] += 1
        return text or "nothing there"

    def undo_due(self, only_up: bool) -> None:
        """End what has lasted long enough, by a thread of its own: the server may be what does not answer.

        The thread stays, because the object store ends with the thread that has started it.

        Args:
            only_up: do what starts the service, or all the rest.
        """
        while not self.peace.wait(0.2):
            now = time.monotonic()
            for item in [item for item in self.later if item[0] <= now or self.ending.is_set()]:
                if (item[1] == "daemon") is only_up:
                    item[2]()
                    self.later.remove(item)

    def undo_all(self) -> None:
        """End everything that lasts."""
        for process in self.world.processes():
            wake(process)
        self.ending.set()
        while self.later:
            time.sleep(0.2)
        for process in self.world.processes():
            wake(process)

    def _until(self, seconds: float, what: str, undo: Callable[[], None]) -> None:
        self.later.append((time.monotonic() + seconds, what, undo))

    def _lasts(self, what: str) -> bool:
        return any(name == what for _, name, _ in self.later)

    def _choose(self, action: Action, *roles: str) -> tuple[str, psutil.Process] | None:
        found = self.world.of_role(*roles)
        return found[int(action.which * len(found))] if found else None

    def _kill(self, action: Action, *roles: str) -> str:
        chosen = self._choose(action, *roles)
        if chosen is None:
            return ""
        role, process = chosen
        signal_process(process, signal.SIGKILL)
        return f"{role} {process.pid}"

    def _kill_daemon(self, action: Action) -> str:
        text = self._kill(action, "daemon")
        if text:
            self._until(2 + 6 * action.how_long, "daemon", self._up)
        return text

    def _up(self) -> None:
        if not self.world.up():
            self._until(5, "daemon", self._up)

    def _stop_rank(self, action: Action) -> str:
        chosen = self._choose(action, "rank")
        if chosen is None:
            return ""
        signal_process(chosen[1], signal.SIGSTOP)
        return f"rank {chosen[1].pid}"

    def _pause(self, action: Action) -> str:
        chosen = self._choose(action, "rank", "run", "engine", "worker", "server", "command")
        if chosen is None:
            return ""
        role, process = chosen
        seconds = 2 + 18 * action.how_long
        signal_process(process, signal.SIGSTOP)
        self._until(seconds, "pause", lambda: wake(process))
        return f"{role} {process.pid} for {seconds:.0f} s"

    def _kill_store(self, action: Action) -> str:
        if self._lasts("store"):
            return ""
        seconds = 1 + 14 * action.how_long
        self.world.s3.kill()
        self._until(seconds, "store", self.world.s3.start)
        return f"for {seconds:.0f} s"

    def _pause_store(self, action: Action) -> str:
        if self._lasts("store") or self.world.s3.process is None:
            return ""
        process = psutil.Process(self.world.s3.process.pid)
        seconds = 1 + 19 * action.how_long
        signal_process(process, signal.SIGSTOP)
        self._until(seconds, "store", lambda: wake(process))
        return f"for {seconds:.0f} s"

    def _fill(self, action: Action) -> str:
        if self._lasts("disk") or not self.world.has_own_disk:
            return ""
        filler = self.world.disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        seconds = 2 + 13 * action.how_long
        self._until(seconds, "disk", lambda: filler.unlink(missing_ok=True))
        return f"for {seconds:.0f} s"

    def _down_and_up(self, action: Action) -> str:
        if self._lasts("daemon") or self._lasts("disk"):
            return ""
        done = self.world.service.effnet("down")
        self.world.findings.look_at("effnet down", done.stdout + done.stderr)
        self._until(1 + 4 * action.how_long, "daemon", self._up)
        return f"code {done.returncode}"

    def _change_source(self, action: Action) -> str:
        source = self.world.source
        name = CLASSES[int(action.which * len(CLASSES))]
        files = sorted((source / name).glob("*.jpg"))
        seed = 5_000 + int(1e6 * action.which)
        if action.how_long < 0.4:
            path = source / name / f"n{seed}.jpg"
            self.world.write_picture(path, seed=seed)
            return f"+ {path.name}"
        path = files[int(action.which * len(files))]
        if action.how_long < 0.6 and len(files) > 15:
            path.unlink()
            return f"- {path.name}"
        content = path.read_bytes()  # in place, so that a reader may meet a half
        with path.open("r+b") as stream:
            stream.write(content[: len(content) // 2])
            stream.flush()
            time.sleep(0.2)
            stream.truncate(0)
            stream.seek(0)
            self.world.random.seed(seed)
        self.world.write_picture(path, seed=seed)
        return f"~ {path.name}"

    def _change_inbox(self, action: Action) -> str:
        files = sorted(self.world.inbox.glob("*.jpg"))
        path = files[int(action.which * len(files))]
        if action.how_long < 0.3 and len(files) > 5:
            path.unlink()
            return f"- {path.name}"
        self.world.write_picture(path, seed=900_000 + int(1e5 * action.how_long))
        return f"~ {path.name}"

    def _write_slowly(self, action: Action) -> str:
        """A picture that a labelling may meet half written, under its final name."""
        path = self.world.inbox / f"{self.world.pictures:05d}.jpg"
        self.world.write_picture(path, seed=self.world.pictures)
        self.world.pictures += 1
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])

        def complete() -> None:
            path.write_bytes(content)

        self._until(2 + 8 * action.how_long, "slow", complete)
        return path.name

    def _settings(self) -> list[str]:
        return [word for setting in self.world.place for word in ("-o", setting)]

    def _night(self) -> str:
        return str(self.world.nights[-1].out)

    def _second_stage(self, action: Action) -> str:
        out = f"{self._night()}/data"
        limit = ("-o", f"runtime.stall_timeout_s={STALL_S}")
        self.world.second("stage", "stage", str(self.world.source), "--out", out, *limit)
        return out

    def _second_predict(self, action: Action) -> str:
        self.world.second(
            *("predict", "predict", str(self.world.inbox), "-w", "production"),
            *("--output", str(self.world.labels), "--only-new", *self._settings()),
        )
        return "into the labels"

    def _second_train(self, action: Action) -> str:
        night = self.world.nights[-1]
        settings = [word for setting in night.overrides for word in ("-o", setting)]
        self.world.second(
            *("train", "train", "--data", f"{night.out}/data", "--run-dir", f"{night.out}/train"),
            *("-r", "digits", *settings),
        )
        return str(night.out)

    def _second_publish(self, action: Action) -> str:
        nights = self.world.nights
        night = nights[int(action.which * len(nights))]
        settings = [word for setting in night.overrides for word in ("-o", setting)]
        self.world.second("publish", "publish", f"{night.out}/train", *settings)
        return str(night.out)

    def _promote(self, action: Action) -> str:
        found = self.world.ask(self._versions)
        if not found:
            return ""
        version = found[int(action.which * len(found))]
        gate = ["-o", f"evaluate.min_top1={MIN_TOP1}"]
        self.world.second(
            *("promote", "store", "promote", version, "--name", "animals", *self._settings()), *gate
        )
        return version

    def _versions(self) -> list[str]:
        if self._lasts("store"):
            return []
        return sorted(registry_of(self.world).uploads())

    def _gc(self, action: Action) -> str:
        command = ("gc", "verify", "list")[int(action.which * 3)]
        self.world.second(command, "store", command, "--name", "animals", *self._settings())
        return command

    def _second_night(self, action: Action) -> str:
        night = self.world.nights[-1]
        before = list(night.tries)
        self.world.start_night(night)
        started, night.tries = night.tries != before, before
        return str(night.out) if started else ""

    def _cancel(self, action: Action) -> str:
        found = self.world.ask(lambda: self.world.service.api.runs("RUNNING"))
        outer = [run for run in found or [] if run.get("deployment_id")]
        if not outer:
            return ""
        run = sorted(outer, key=lambda item: str(item["name"]))[int(action.which * len(outer))]

        def cancel() -> bool:
            self.world.service.api.set_state(run["id"], "CANCELLING", "Cancelling", "by the hand")
            return True

        return str(run["name"]) if self.world.ask(cancel) else ""
