"""Archives, tables and what is carried through: the same rows as the folder that they were made from."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from effnet_core.config.schema import InferConfig, RunConfig, StorageConfig
from effnet_core.data.images import ImageProblem
from effnet_core.errors import ConfigError, DataError
from effnet_core.export.onnx_model import write_onnx
from effnet_core.infer import sinks
from effnet_core.infer.engines.onnxruntime import OnnxRuntimePredictor
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.parts import read_parts
from effnet_core.infer.pipeline import Predictor
from effnet_core.infer.plan import plan, planned_reader
from effnet_core.infer.readers import MemberReader
from effnet_core.infer.shards import predict_shards
from effnet_core.storage import S3Url
from effnet_core.storage.trees import upload_tree
from effnet_core.weights.checkpoint import open_checkpoint
from tests.support.fakes import BrightnessPredictor, predict_job
from tests.support.images import draw, encode
from tests.support.s3 import SeaweedFS
from tests.support.weights import make_checkpoint

Rows = list[dict[str, Any]]


def label(
    inputs: Sequence[str | Path],
    output: Path,
    *,
    storage: StorageConfig | None = None,
    predictor: Predictor | None = None,
    **settings: Any,
) -> Rows:
    """Rows of a run, by default with a predictor that looks at colours."""
    infer = InferConfig(**{"shard_images": 4, "decoders": 0, "max_error_share": 1.0, **settings})
    config = RunConfig(infer=infer, storage=storage or StorageConfig())
    listed = list_inputs(inputs, output, storage=config.storage, keep=infer.keep_columns)
    planned = plan(listed, output, model_sha256="m", infer=infer)
    job = predict_job(planned, allowed_errors=1000)
    predict_shards(predictor or BrightnessPredictor(), job, config)
    assert planned.missing() == []
    return read_parts(output)


def by_path(rows: Rows) -> Rows:
    return sorted(rows, key=lambda row: str(row["path"]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven pictures at two depths, one without a suffix, and what is none."""
    root = tmp_path / "photos"
    for index in range(11):
        place = root / ("red" if index % 2 else "blue/deep") / f"{index:02d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode(draw(40, 30, seed=index), "JPEG"))
    (root / "red/nameless").write_bytes(encode(draw(40, 30, seed=50)))
    (root / "red/note.txt").write_text("hello")
    (root / ".hidden.jpg").write_bytes(b"x")
    return root


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def as_tar(folder: Path, out: Path, mode: str = "w") -> Path:
    with tarfile.open(out, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, arcname=".")
    return out


def as_zip(folder: Path, out: Path) -> Path:
    with zipfile.ZipFile(out, "w") as container:
        for number, path in enumerate(files_of(folder)):
            how = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            container.write(path, path.relative_to(folder), how)
    return out


def as_parquet(folder: Path, out: Path, *, plain: bool = False, **columns: Any) -> Path:
    """As the Hugging Face hub keeps pictures, or with a column of plain bytes; small row groups."""
    found = [path for path in files_of(folder) if path.suffix != ".txt" and path.name[0] != "."]
    names = [path.relative_to(folder).as_posix() for path in found]
    contents = [path.read_bytes() for path in found]
    if plain:
        values = {"bytes": contents, "file_name": names}
    else:
        pairs = zip(contents, names, strict=True)
        values = {"image": [{"bytes": content, "path": name} for content, name in pairs]}
    more = {name: make(len(found)) for name, make in columns.items()}
    pq.write_table(pa.table({**values, **more}), out, row_group_size=5)
    return out


PACKED: dict[str, Callable[[Path, Path], Path]] = {
    "tar": lambda folder, out: as_tar(folder, out / "x.tar"),
    "tar.gz": lambda folder, out: as_tar(folder, out / "x.tar.gz", "w:gz"),
    "tar.bz2": lambda folder, out: as_tar(folder, out / "x.tar.bz2", "w:bz2"),
    "zip": lambda folder, out: as_zip(folder, out / "x.zip"),
    "parquet": lambda folder, out: as_parquet(folder, out / "x.parquet"),
    "plain parquet": lambda folder, out: as_parquet(folder, out / "x.parquet", plain=True),
}


@pytest.mark.parametrize("form", PACKED)
def test_a_container_gives_the_rows_of_the_folder_it_was_made_from(
    folder: Path, tmp_path: Path, form: str
) -> None:
    expected = by_path(label([folder], tmp_path / "a"))
    assert len(expected) == 12
    (tmp_path / "packed").mkdir()
    file = PACKED[form](folder, tmp_path / "packed")
    assert by_path(label([file], tmp_path / "b")) == expected
    assert by_path(label([tmp_path / "packed"], tmp_path / "c")) == expected  # its folder
    assert [path.name for path in (tmp_path / "packed").iterdir()] == [file.name]


def test_a_network_answers_the_same_from_a_container(folder: Path, tmp_path: Path) -> None:
    """By the engine that labels on a CPU, to the last bit of each probability."""
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "model.ckpt"))
    write_onnx(checkpoint, tmp_path / "engine.onnx", features=True, pixels=True)

    def rows(file: Path, name: str) -> Rows:
        predictor = OnnxRuntimePredictor(
            tmp_path / "engine.onnx", checkpoint.sidecar, workers=2, micro_batch=4
        )
        return by_path(label([file], tmp_path / name, predictor=predictor))

    expected = rows(folder, "folder")
    assert len({tuple(row["probs"]) for row in expected}) == len(expected) == 12
    (tmp_path / "packed").mkdir()
    for number, pack in enumerate(PACKED.values()):
        assert rows(pack(folder, tmp_path / "packed"), str(number)) == expected


@pytest.mark.parametrize("form", PACKED)
def test_pictures_of_a_container_can_be_read_again_in_any_order(
    folder: Path, tmp_path: Path, form: str
) -> None:
    file = PACKED[form](folder, tmp_path)
    rows = label([file], tmp_path / "out")
    reader = planned_reader(tmp_path / "out", StorageConfig())
    paths = [row["path"] for row in rows]
    for path in [*reversed(paths), paths[0]]:
        assert reader.read(path) == (folder / path).read_bytes()
    reader.look_up(paths[::3])
    for path in paths[::3]:
        assert reader.read(path) == (folder / path).read_bytes()


def test_members_of_several_shards_are_told_apart(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number in range(3):
        as_tar(folder, tmp_path / "shards" / f"{number}.tar", "w:gz" if number else "w")
    rows = label([tmp_path / "shards"], tmp_path / "out")
    assert len({row["path"] for row in rows}) == len(rows) == 36
    assert "1.tar/red/01.jpg" in {row["path"] for row in rows}
    files = sorted((tmp_path / "shards").iterdir())
    assert label(files, tmp_path / "b") == rows
    assert label([f"{tmp_path}/shards/*.tar"], tmp_path / "c") == rows


@pytest.mark.parametrize("form", PACKED)
def test_containers_in_a_bucket_are_read_in_pieces(
    folder: Path, tmp_path: Path, form: str, seaweedfs: SeaweedFS, bucket: str
) -> None:
    expected = by_path(label([folder], tmp_path / "a"))
    (tmp_path / "packed").mkdir()
    file = PACKED[form](folder, tmp_path / "packed")
    upload_tree(tmp_path / "packed", S3Url(bucket, "in"), seaweedfs.access)
    storage = StorageConfig(endpoint_url=seaweedfs.endpoint_url)
    rows = label([f"s3://{bucket}/in/{file.name}"], tmp_path / "b", storage=storage)
    assert by_path(rows) == expected
    rows = label([f"s3://{bucket}/in"], tmp_path / "c", storage=storage)
    assert by_path(rows) == expected


def test_what_is_wrong_with_a_member_is_its_own_affair(folder: Path, tmp_path: Path) -> None:
    file = as_zip(folder, tmp_path / "x.zip")
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as container:
        info = container.getinfo("red/01.jpg")
    content[info.header_offset + 60 + len("red/01.jpg")] ^= 0xFF
    file.write_bytes(content)
    rows = label([file], tmp_path / "out")
    assert len(rows) == 11 and "red/01.jpg" not in {row["path"] for row in rows}
    reader = planned_reader(tmp_path / "out", StorageConfig())
    with pytest.raises(ImageProblem, match="damaged in the archive"):
        reader.read("red/01.jpg")


def test_a_container_that_changes_under_a_run_is_noticed(folder: Path, tmp_path: Path) -> None:
    file = as_tar(folder, tmp_path / "x.tar")
    listed = list_inputs([file], tmp_path / "out")
    as_tar(folder / "red", file)
    reader = MemberReader(listed.root, StorageConfig())
    reader.know(listed.entries())
    with pytest.raises(DataError, match="has changed since the run began"):
        reader.read(listed.paths[0])


def test_links_second_names_and_strangers_in_a_tar_are_listed_apart(tmp_path: Path) -> None:
    picture = encode(draw())
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("a.png", "a.png", "../b.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            tar.addfile(info, io.BytesIO(picture))
        for name, kind, target in (
            ("hard.png", tarfile.LNKTYPE, "a.png"),
            ("soft.png", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    listed = list_inputs([tmp_path / "x.tar"], tmp_path / "out")
    assert listed.paths == ("a.png", "hard.png")
    assert listed.left_out == (("../b.png", "hidden"),)
    assert dict(listed.other) == {"a.png": "a second member of this name", "soft.png": "a link"}
    assert len(label([tmp_path / "x.tar"], tmp_path / "out")) == 2


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip", "parquet"])
def test_a_cut_container_is_refused_in_a_sentence(folder: Path, tmp_path: Path, form: str) -> None:
    file = PACKED[form](folder, tmp_path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=r"damaged or cut|is not a table"):
        list_inputs([file], tmp_path / "out")


# --- columns that are carried through ------------------------------------------------------------


def test_columns_of_a_list_are_carried_through(folder: Path, tmp_path: Path) -> None:
    lines = ["path,id,customer,unused"]
    lines += [f"red/{n:02d}.jpg,00{n},=cmd{n},x" for n in (9, 1, 3, 5, 7)]
    (folder / "list.csv").write_text("\n".join(lines))
    settings = {"keep_columns": ("id", "customer"), "shard_images": 2}
    for form in ("parquet", "csv", "jsonl"):
        rows = label([folder / "list.csv"], tmp_path / form, format=form, **settings)
        found = [(row["path"], row["id"], row["customer"]) for row in rows]
        assert found == [(f"{n:02d}.jpg", f"00{n}", f"=cmd{n}") for n in (9, 1, 3, 5, 7)]
        assert "unused" not in rows[0]


def test_types_of_carried_columns_are_those_of_all_rows(folder: Path, tmp_path: Path) -> None:
    table = as_parquet(
        folder,
        tmp_path / "x.parquet",
        number=lambda n: [None, *range(n - 1)],
        real=lambda n: [i / 2 for i in range(n)],
        flag=lambda n: [i % 2 == 0 for i in range(n)],
    )
    label([table], tmp_path / "out", keep_columns=("number", "real", "flag"), shard_images=1)
    kinds = ["int64", "double", "bool"]
    for part in (tmp_path / "out" / "predictions").iterdir():  # also where the only value is none
        schema = pq.read_schema(part)
        assert [str(schema.field(name).type) for name in ("number", "real", "flag")] == kinds
    assert sorted(row["real"] for row in read_parts(tmp_path / "out")) == [i / 2 for i in range(12)]


def test_columns_that_cannot_be_carried(folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text("path,probs,id\nred/01.jpg,1,2\n")
    (folder / "list.txt").write_text("red/01.jpg\n")
    cases = [
        (folder / "list.csv", ("ids",), DataError, "no column 'ids' .*did you mean 'id'"),
        (folder / "list.csv", ("probs",), ConfigError, "answers have a column 'probs' themselves"),
        (folder / "list.txt", ("id",), ConfigError, "has lines and no columns"),
        (folder, ("id",), ConfigError, "needs a list or a table with columns"),
        (as_tar(folder, tmp_path / "x.tar"), ("id",), ConfigError, "is an archive"),
    ]
    for source, keep, error, words in cases:
        with pytest.raises(error, match=words):
            label([source], tmp_path / "out", keep_columns=keep)


def test_another_value_of_a_carried_column_is_another_list(folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text("path,id\nred/01.jpg,1\n")
    label([folder / "list.csv"], tmp_path / "out", keep_columns=("id",))
    (folder / "list.csv").write_text("path,id\nred/01.jpg,2\n")
    with pytest.raises(Exception, match="1 of 1 files have changed"):
        label([folder / "list.csv"], tmp_path / "out", keep_columns=("id",))


# --- partitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_partitions_hold_the_same_rows(folder: Path, tmp_path: Path, form: str) -> None:
    plain = label([folder], tmp_path / "a", format=form)
    rows = label([folder], tmp_path / "b", format=form, partition_by="class")
    assert by_path(rows) == by_path(plain)
    names = {path.name for path in (tmp_path / "b" / "predictions").iterdir()}
    assert names == {f"class={row['class_names'][0]}" for row in plain}


def test_partitions_are_what_pyarrow_reads(folder: Path, tmp_path: Path) -> None:
    lines = ["path,customer"]
    customers = ["A/S & Söhne", "100%", "", "A/S & Söhne", "x=y"]
    lines += [f"red/{n:02d}.jpg,{name}" for n, name in zip((1, 3, 5, 7, 9), customers, strict=True)]
    (folder / "list.csv").write_text("\n".join(lines))
    settings = {"keep_columns": ("customer",), "partition_by": "customer", "shard_images": 2}
    rows = label([folder / "list.csv"], tmp_path / "out", **settings)
    table = ds.dataset(tmp_path / "out" / "predictions", partitioning="hive").to_table()
    found = sorted(zip(table["path"].to_pylist(), table["customer"].to_pylist(), strict=True))
    expected = [
        (f"{n:02d}.jpg", name or None) for n, name in zip((1, 3, 5, 7, 9), customers, strict=True)
    ]
    assert found == expected
    assert sorted((row["path"], row["customer"]) for row in rows) == expected


def test_a_partition_by_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"partition_by='customer' is not known \(known: class"):
        label([folder], tmp_path / "out", partition_by="customer")


def test_a_shard_that_was_cut_while_it_was_partitioned_leaves_no_row_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Exception):
        """A process that ends here."""

    def cut(*_: Any) -> None:
        raise Cut

    plain = label([folder], tmp_path / "a")
    settings = {"partition_by": "class", "shard_images": 100}
    with monkeypatch.context() as patch:
        # All partitions are there, by another view of the pictures, when the process ends.
        patch.setattr(BrightnessPredictor, "class_names", ("cat", "dog", "fox"))
        patch.setattr(sinks, "write_json", cut)
        with pytest.raises(Cut):
            label([folder], tmp_path / "b", **settings)
    assert {row["class_names"][0] for row in read_parts(tmp_path / "b")} <= {"cat", "dog", "fox"}
    assert by_path(label([folder], tmp_path / "b", **settings)) == by_path(plain)
    assert not list((tmp_path / "b").rglob("*staged*"))
