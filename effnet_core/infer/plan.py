"""What a batch inference has to do: an input list cut into shards, and the claim on its output folder.

OUTPUT/
  run.json              digests of model and input list, settings; refuses another run's parts
  inputs.jsonl          the files, relative to the input's root, and their stamps
  plan.jsonl            the shards: which files each has, and the part file of its answers
  other_files.jsonl     files of the input that are not pictures, and what they are
  predictions/, shards/  what is done (predictions.py)
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from effnet_core.config.schema import InferConfig, StorageConfig
from effnet_core.errors import DataError, OutputExists
from effnet_core.infer.answers import require_columns
from effnet_core.infer.entries import Entry, iter_entries, read_shard, write_entries
from effnet_core.infer.inputs import InputList
from effnet_core.infer.readers import PlannedReader
from effnet_core.jobs.job import Shard
from effnet_core.results.checked import check_fields, whole
from effnet_core.system.files import (
    LOCK_NAME,
    atomic_path,
    iter_jsonl,
    make_folder,
    no_longer_writable,
    read_json,
    remove_temporaries,
    sha256_of_text,
    write_json,
)

RUN_NAME = "run.json"
INPUTS_NAME = "inputs.jsonl"
PLAN_NAME = "plan.jsonl"
PARTS_NAME = "predictions"
OTHER_NAME = "other_files.jsonl"
SHARDS_NAME = "shards"

OTHER_FOLDER = "choose another folder, or delete this one to start over"

Lists = list[tuple[int, str]]
"""For each run into an output, how many files it added and the digest of the model that labels them."""


@dataclass(frozen=True)
class InferencePlan:
    """An input list cut into shards."""

    output: Path
    root: str
    """Folder or address that the paths are relative to."""
    images: int
    shards: tuple[Shard, ...]
    new: int
    """Images that no earlier run into this output had."""
    members: bool = False
    """Whether the files are members of archives or rows of tables."""
    columns: tuple[tuple[str, str], ...] = ()
    """Names and types of what is carried through."""
    partition_by: str | None = None
    remote: str = ""
    """Address of the output where it is in a bucket; ``output`` then holds copies of its records."""
    list_key: str = ""
    """The list of inputs in the bucket."""

    def header(self) -> InferencePlan:
        """The same without its shards: small enough to travel with each of them."""
        return replace(self, shards=())

    def missing(self) -> list[Shard]:
        """Shards that are still to do, in order."""
        return [shard for shard in self.shards if not self.is_done(shard)]

    def is_done(self, shard: Shard) -> bool:
        """Whether a shard's part and its counts are there; each appears whole or not at all."""
        if not self.shard_path(shard).exists():  # written after the parts
            return False
        return bool(self.remote or self.partition_by) or self.part_path(shard).exists()

    def shown(self, name: str = "") -> str:
        """What people know the output, or a file of it, by."""
        if self.remote:
            return f"{self.remote}/{name}" if name else self.remote
        return str(self.output / name if name else self.output)

    def part_path(self, shard: Shard) -> Path:
        """Where a shard's answers go."""
        return self.output / PARTS_NAME / shard.part

    def shard_path(self, shard: Shard) -> Path:
        """Where a shard's counts go."""
        return self.output / SHARDS_NAME / f"{shard.part}.json"


def plan(
    listed: InputList,
    output: Path,
    *,
    model_sha256: str,
    infer: InferConfig,
    only_new: bool = False,
    remote: str = "",
) -> InferencePlan:
    """Cut an input list into shards and claim the output folder.

    A folder that holds the same run is continued: only what is missing will be done.

    Args:
        listed: the files, in the order of the answers.
        output: where answers go.
        model_sha256: digest of the checkpoint.
        infer: shard size, and what answers hold.
        only_new: add to the run in ``output`` the files that it has not seen, or that have changed since,
            whatever else is in the list. Another model than before labels what is not labelled yet.
        remote: address of the output, where ``output`` is a copy of its records.

    Raises:
        DataError: the output cannot be written to.
        OutputExists: the output folder holds another run or foreign files.
    """
    require_columns(listed.columns, infer.partition_by)
    shown = remote or str(output)
    identity = {
        "model_sha256": model_sha256,
        "input": listed.root,
        "top_k": infer.top_k,
        "probabilities": infer.probabilities,
        "features": infer.features,
        "fast_decode": infer.fast_decode,
        "precision": infer.answers_precision,
        "shard_images": infer.shard_images,
        "format": infer.format,
        "columns": [list(column) for column in listed.columns] or None,
        "partition_by": infer.partition_by,
    }
    before = _claim(output, identity, any_model=only_new, shown=shown)
    entries = listed.entries()
    lists, seen = _earlier(output, before)
    if only_new and lists:
        known = {entry[:2] for entry in seen}
        fresh = [entry for entry in entries if entry[:2] not in known]
        entries = seen + fresh
        if before.get("model_sha256") != model_sha256:
            lists = _handed_over(output, lists, seen, identity, remote)
        lists += [(len(fresh), model_sha256)] if fresh else []
    else:
        if lists:
            _require_same_list(shown, seen, entries)
        fresh = [] if lists else entries
        lists = lists or [(len(entries), model_sha256)]
    places = write_entries(output / INPUTS_NAME, entries)
    shards = tuple(
        replace(shard, begin=places[shard.start], end=places[shard.stop])
        for shard in _cut(lists, entries, identity)
    )
    _write_lines(output / PLAN_NAME, (asdict(shard) for shard in shards))
    facts = {
        "lists": [length for length, _ in lists],
        "models": [model for _, model in lists],
        "inputs_sha256": sha256_of_text(*(entry.path for entry in entries)),
        "images": len(entries),
        "new": len(fresh),
        "members": bool(listed.where),
    }
    write_json(output / RUN_NAME, {**identity, **facts})
    _write_lines(
        output / OTHER_NAME, ({"path": path, "reason": reason} for path, reason in listed.other)
    )
    return InferencePlan(
        output,
        listed.root,
        len(entries),
        shards,
        len(fresh),
        bool(listed.where),
        listed.columns,
        infer.partition_by,
        remote,
    )


def _earlier(output: Path, before: dict[str, Any]) -> tuple[Lists, list[Entry]]:
    """What earlier runs have planned: their lists, and the files in order.

    Raises:
        DataError: their record is damaged.
    """
    with whole(output / RUN_NAME, "run record", remedy=OTHER_FOLDER):
        lengths = [_length(length) for length in before.get("lists", [])]
        models = before.get("models", [before.get("model_sha256", "")] * len(lengths))
        lists = [(length, str(model)) for length, model in zip(lengths, models, strict=True)]
    with whole(output / INPUTS_NAME, "list of inputs", remedy=OTHER_FOLDER):
        path = output / INPUTS_NAME
        seen = list(itertools.islice(iter_entries(path), sum(lengths))) if sum(lengths) else []
        if len(seen) != sum(lengths):
            raise ValueError(f"it has {len(seen)} of {sum(lengths)} files")
    return lists, seen


def _length(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"a list of {value!r} files")
    return value


def read_plan(output: Path, *, remote: str = "") -> InferencePlan:
    """The plan that ``plan`` left in an output folder.

    Args:
        output: the folder.
        remote: address of the output, where ``output`` is a copy of its records.

    Raises:
        DataError: there is none, or it is damaged.
    """
    facts = read_json(output / RUN_NAME)
    with whole(output / PLAN_NAME, "plan"):
        shards = tuple(check_fields(Shard, row) for row in iter_jsonl(output / PLAN_NAME))
        images = shards[-1].stop if shards else 0
        if images != facts["images"]:
            raise ValueError(f"it ends at image {images} of {facts['images']}")
        return InferencePlan(
            output,
            str(facts["input"]),
            images,
            shards,
            int(facts["new"]),
            bool(facts.get("members", False)),
            tuple((str(name), str(kind)) for name, kind in facts.get("columns") or ()),
            facts.get("partition_by"),
            remote,
            str(facts.get("list_key", "")),
        )


def _handed_over(
    output: Path,
    lists: Lists,
    entries: Sequence[Entry],
    identity: dict[str, Any],
    remote: str,
) -> Lists:
    """The lists of earlier runs, cut so that another model has the shards that nobody has done."""
    shards = tuple(_cut(lists, entries, identity))
    partition_by = identity["partition_by"]
    before = InferencePlan(
        output, identity["input"], len(entries), shards, 0, partition_by=partition_by, remote=remote
    )
    result: Lists = []
    inside = 0
    for length, _ in lists:
        end = inside + length
        own = [shard for shard in shards if inside <= shard.start < end]
        groups = itertools.groupby(own, lambda shard: (before.is_done(shard), shard.model_sha256))
        for (done, model), group in groups:
            some = list(group)
            images = some[-1].stop - some[0].start
            result.append((images, model if done else identity["model_sha256"]))
            if not done:  # a part without its counts is of a run that was cut
                for shard in some:
                    remove_part(before, shard)
        inside = end
    return result


def remove_part(plan: InferencePlan, shard: Shard) -> None:
    """Remove what a run that was cut has written of a shard's answers."""
    folder = plan.output / PARTS_NAME
    written = folder.glob(f"*=*/{shard.part}") if plan.partition_by else [folder / shard.part]
    for path in written:
        path.unlink(missing_ok=True)


def _require_same_list(output: str, before: Sequence[Entry], now: Sequence[Entry]) -> None:
    """Refuse to continue with a run whose files are others now, or have other content."""
    how = "choose another folder, or --only-new to add the new files to it"
    if [entry.path for entry in before] != [entry.path for entry in now]:
        raise OutputExists(
            f"output folder {output} holds a run over another list of files ({len(before)}, now "
            f"{len(now)}); {how}"
        )
    changed = [
        entry.path
        for old, entry in zip(before, now, strict=True)
        if (old.stamp, list(old.kept)) != (entry.stamp, list(entry.kept))
    ]
    if changed:
        raise OutputExists(
            f"{len(changed)} of {len(now)} files have changed since the run in output folder {output} "
            f"began, such as {changed[0]}; {how}"
        )


def _cut(lists: Lists, entries: Sequence[Entry], identity: dict[str, Any]) -> Iterator[Shard]:
    """Shards, so that those of earlier lists stay what they were."""
    index = first = 0
    for length, model in lists:
        own = json.dumps({**identity, "model_sha256": model}, sort_keys=True)
        end = first + length
        for start in range(first, end, identity["shard_images"]):
            stop = min(end, start + identity["shard_images"])
            digest = sha256_of_text(own, *(entry.path for entry in entries[start:stop]))[:12]
            part = f"part-{index:05d}-{digest}.{identity['format']}"
            yield Shard(index, start, stop, part, model)
            index += 1
        first = end


def _write_lines(path: Path, values: Iterable[Any]) -> None:
    with atomic_path(path) as temporary, temporary.open("w") as stream:
        for value in values:
            stream.write(json.dumps(value) + "\n")


def planned_reader(output: Path, storage: StorageConfig) -> PlannedReader:
    """What reads the pictures of a planned run by their paths.

    Raises:
        DataError: the output has no record of a run, or a damaged one.
    """
    facts = read_json(output / RUN_NAME)
    with whole(output / RUN_NAME, "run record"):
        root, members = str(facts["input"]), bool(facts.get("members", False))
    records = output / INPUTS_NAME
    return PlannedReader(root, records, storage, infer=InferConfig(), members=members)


def paths_at(output: Path, places: Sequence[int]) -> list[str]:
    """Paths of a planned run at some positions, in their order; none where its list is not here."""
    wanted, found = set(places), {}
    try:
        with (output / INPUTS_NAME).open("rb") as stream:
            for index, line in enumerate(stream):
                if index in wanted:
                    found[index] = Entry.of_line(line).path
    except (OSError, ValueError):
        return []
    return [found[place] for place in places if place in found]


def read_inputs(output: Path, shard: Shard) -> list[Entry]:
    """The files of one shard of a planned run.

    Raises:
        DataError: the list of inputs is damaged.
    """
    with whole(output / INPUTS_NAME, "list of inputs", remedy=OTHER_FOLDER):
        return read_shard(output / INPUTS_NAME, shard)


def _claim(
    output: Path, identity: dict[str, Any], *, any_model: bool, shown: str
) -> dict[str, Any]:
    """What an earlier run of the same left in ``run.json``; empty where there was none."""
    make_folder(output, what="output folder")
    for folder in (output, output / PARTS_NAME, output / SHARDS_NAME):
        remove_temporaries(folder)
    path = output / RUN_NAME
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict):
            raise DataError(
                f"run record {path} is damaged (it is not an object with names and values); choose "
                "another folder, or delete this one to start over"
            )
        changed = [
            key
            for key, value in identity.items()
            if found.get(key) != value and not (any_model and key == "model_sha256")
        ]
        if changed:
            raise OutputExists(
                f"output folder {shown} holds another run (differs in {', '.join(changed)}); "
                "choose another folder, or delete this one to start over"
            )
        return found
    if not all(_is_of_a_beginning(item.name) for item in output.iterdir()):
        raise OutputExists(f"output folder {shown} is not empty; choose an empty one")
    return {}


def output_lost(output: Path, error: OSError) -> DataError:
    """The sentence about an output folder that could be written to before."""
    how = "with the shards that are missing"
    return no_longer_writable(output, error, kind="output folder", resumes=how)


def _is_of_a_beginning(name: str) -> bool:
    """Whether a run that was killed before it had its ``run.json`` may have left this file."""
    names = (INPUTS_NAME, PLAN_NAME, OTHER_NAME)
    partial = tuple(f".{n}." for n in (*names, RUN_NAME))
    return name in (*names, LOCK_NAME) or name.startswith(partial)
