"""The fastest engine that gives the same answers as fp32, found once for a model and a machine.

``infer.engine=auto`` and ``infer.precision=auto`` leave the choice open. A run of many pictures then lets
everything that is installed label some of its own (``trial.py``, in a child process) and keeps the
fastest whose answers agree; later runs, small ones too, take what was found.
"""

from __future__ import annotations

import platform
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from effnet_core.config.schema import RunConfig
from effnet_core.errors import EffnetError
from effnet_core.events import Event, emit
from effnet_core.infer import engines
from effnet_core.infer.engines.tuning import CACHE_NAME
from effnet_core.jobs.job import EngineChoice, TrialJob
from effnet_core.jobs.launch import run_job
from effnet_core.results.engines import FINE, Tried, pictures_needed
from effnet_core.storage.cache import cache_dir, cached
from effnet_core.system.files import read_json, remove_temporaries, sha256_of_text, write_json
from effnet_core.system.locks import alone, scratch_folder
from effnet_core.system.machine import available_cores, processor, processor_features
from effnet_core.weights import quantized
from effnet_core.weights.checkpoint import Checkpoint

STAGE = "predict"
NOTES_NAME = "choice.json"
AGREEMENTS = {"strict": (0.002, 0.01), "close": (0.01, 0.05)}
"""Share of the pictures that may have another answer, and what differs by more is another answer."""
MOST_TIMES = 4
"""Where some pictures differ, so many times as many as are needed without are tried, to be sure."""

Sample = Callable[[int], Sequence[str]]
"""Gives so many paths of a run, from all over it; fewer where it has fewer."""


@dataclass(frozen=True)
class Selected:
    """The engine of a run, and why it is that."""

    choice: EngineChoice
    tried: tuple[Tried, ...] = ()
    """What was measured; empty where nothing was."""
    agreement: str = ""

    def sentence(self) -> str:
        """What was taken and what was turned down, with figures."""
        if not self.tried:
            return f"engine: {self.choice}"
        taken = next(
            one
            for one in self.tried
            if (one.engine, one.precision) == (self.choice.engine, self.choice.precision)
        )
        others = [one.in_words() for one in self.tried if one is not taken]
        text = f"engine: {taken.as_taken(AGREEMENTS[self.agreement][1])}"
        return f"{text}; turned down: {'; '.join(others)}" if others else text

    def to_dict(self) -> dict[str, Any]:
        """For ``summary.json``."""
        return {
            "engine": self.choice.engine,
            "precision": self.choice.precision,
            "why": self.sentence(),
            "tried": [vars(one) for one in self.tried],
        }


def select(
    checkpoint: Checkpoint, config: RunConfig, planned: Path, images: int, sample: Sample
) -> Selected:
    """The engine of a run, its file ready.

    Args:
        checkpoint: the model.
        config: what is asked for.
        planned: folder of the run's plan.
        images: of the run.
        sample: gives some of its paths.

    Raises:
        ConfigError, CheckpointError, ExportError: as ``engines.prepare``.
    """
    choices = _choices(checkpoint, config)
    if len(choices) < 2:
        engine, file = engines.prepare(checkpoint, config)
        precision = config.infer.precision
        return Selected(EngineChoice(engine, "fp32" if precision == "auto" else precision, file))
    notes, key = _notes(), _key(checkpoint, config, choices)
    share, within = AGREEMENTS[config.infer.agreement]
    with alone(notes):
        found = _remembered(notes, key)
        if found is None and images >= pictures_needed(share):
            choices = _with_files(choices, checkpoint, config)
            paths = sample(MOST_TIMES * pictures_needed(share))
            if len(paths) >= pictures_needed(share):
                found = _try(checkpoint, config, choices, planned, paths, share, within)
                _remember(notes, key, found)
    tried = tuple(found or ())
    best = _best(choices, tried)
    (chosen,) = _with_files([best], checkpoint, config)
    selected = Selected(chosen, tried, config.infer.agreement)
    if tried:
        emit(Event(STAGE, selected.sentence()))
    return selected


def remembered(checkpoint: Checkpoint, config: RunConfig) -> Selected | None:
    """What a run has taken on this machine, where nothing has to be tried to know it."""
    try:
        choices = _choices(checkpoint, config)
        if len(choices) < 2:
            precision = config.infer.precision
            return Selected(
                EngineChoice(
                    engines.choose(config), "fp32" if precision == "auto" else precision, None
                )
            )
        tried = tuple(_remembered(_notes(), _key(checkpoint, config, choices)) or ())
    except EffnetError:
        return None
    return Selected(_best(choices, tried), tried, config.infer.agreement)


def spread_over(count: int, total: int) -> list[int]:
    """Positions of some of so many items, from all over them, in a mixed order."""
    count = min(count, total)
    places = [index * total // count for index in range(count)]
    random.Random(0).shuffle(places)  # noqa: S311
    return places


def _choices(checkpoint: Checkpoint, config: RunConfig) -> list[EngineChoice]:
    """What may be tried, fp32 first; one where there is nothing to choose."""
    infer = config.infer
    asked = engines.choose(config)  # refuses what cannot be
    if config.runtime.device != "CPU" or asked == "mindspore":
        return [EngineChoice(asked, infer.precision, None)]
    names = list(engines.PACKAGES) if infer.engine == "auto" else [infer.engine]
    names = [name for name in names if not engines.missing(name)]
    precisions = (
        ["fp32", "fp16", "bf16", "int8"] if infer.precision == "auto" else [infer.precision]
    )
    asked_int8 = infer.precision == "int8"
    can_int8 = engines.computes_int8(platform.machine(), processor_features())
    has_int8 = (asked_int8 or can_int8) and quantized.path_of(checkpoint) is not None
    if asked_int8:
        engines.int8_file(checkpoint)  # refuses
    found = []
    for precision in precisions:
        for name in names:
            special = (precision, name, "CPU") in engines.SPECIAL
            if precision == "fp32" or (special and (precision != "int8" or has_int8)):
                found.append(EngineChoice(name, precision, None))
    return found


def _with_files(
    choices: Sequence[EngineChoice], checkpoint: Checkpoint, config: RunConfig
) -> list[EngineChoice]:
    """The same with what each runs: one verified file in floating point, whatever runs it."""
    floats = ints = None
    done = []
    for choice in choices:
        if choice.precision == "int8":
            ints = ints or engines.int8_file(checkpoint)
        else:
            floats = floats or engines.engine_file(checkpoint, config, engines.installed()[0])
        done.append(replace(choice, file=ints if choice.precision == "int8" else floats))
    return done


def _best(choices: Sequence[EngineChoice], tried: Sequence[Tried]) -> EngineChoice:
    """The fastest that agrees; the first where nothing was tried."""
    fine = [
        (one.times, choice)
        for one, choice in zip(tried, choices, strict=False)
        if one.verdict == FINE
    ]
    return max(fine, key=lambda pair: pair[0])[1] if fine else choices[0]


def _try(
    checkpoint: Checkpoint,
    config: RunConfig,
    choices: Sequence[EngineChoice],
    planned: Path,
    paths: Sequence[str],
    share: float,
    within: float,
) -> list[Tried]:
    names = ", ".join(map(str, choices))
    emit(Event(STAGE, f"trying engines over pictures of this run, once: {names}"))
    job = TrialJob(
        checkpoint.path.resolve(),
        checkpoint.sha256,
        choices=tuple(choices),
        planned=planned,
        paths=tuple(paths),
        share=share,
        within=within,
    )
    single = config.runtime.model_copy(update={"world_size": 1})
    with scratch_folder("trial") as folder:
        answer = run_job(job, config.model_copy(update={"runtime": single}), folder)
    return [Tried(**one) for one in answer["tried"]]


def _key(checkpoint: Checkpoint, config: RunConfig, choices: Sequence[EngineChoice]) -> str:
    sidecar, infer = checkpoint.sidecar, config.infer
    packages = sorted({name for one in choices for name in engines.PACKAGES[one.engine]})
    return sha256_of_text(
        checkpoint.sha256,
        str(sidecar.temperature),
        repr(sorted(sidecar.preprocess.to_dict().items())),
        str(sidecar.int8.get("sha256")),
        infer.agreement,
        *(str(choice) for choice in choices),
        *(f"{name} {version(name)}" for name in packages),
        f"{processor()} {len(available_cores())}",
    )


def _notes() -> Path:
    return cached(cache_dir(CACHE_NAME) / NOTES_NAME)


def _remembered(notes: Path, key: str) -> list[Tried] | None:
    try:
        return [Tried(**one) for one in read_json(notes)[key]]
    except (EffnetError, OSError, ValueError, KeyError, TypeError):
        return None


def _remember(notes: Path, key: str, found: Sequence[Tried]) -> None:
    try:
        known = read_json(notes)
        known = known if isinstance(known, dict) else {}
    except (EffnetError, OSError, ValueError):
        known = {}
    remove_temporaries(notes.parent, [notes.name])
    write_json(notes, {**known, key: [vars(one) for one in found]})
