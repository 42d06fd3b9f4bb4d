"""The report of a run: what it shows, what it leaves out, and that names and files cannot break it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

from effnet_core.infer.readers import FolderReader
from effnet_core.render import plots
from effnet_core.reports.gallery import Selection
from effnet_core.reports.pipeline import Rejected, ReportInputs, write_report
from effnet_core.results import EvalResult
from effnet_core.results.confusion import Confusion
from effnet_core.text import format_seconds, format_share

RED, BLUE = (200, 30, 30), (30, 30, 200)


class Page(HTMLParser):
    """The elements of a page and the text that a reader sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.style = False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        self.style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self.style = False

    def handle_data(self, data: str) -> None:
        if not self.style:
            self.words.append(data)

    def find(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        return [a for name, a in self.elements if name == tag and kind in a.get("class", "")]

    def thumbnails(self) -> list[dict[str, str]]:
        return [a for a in self.find("img") if a["src"].startswith("data:image/webp")]


def row(path: str, class_id: int, names: Sequence[str], prob: float = 0.9) -> dict[str, Any]:
    other = (class_id + 1) % len(names)
    return {
        "image_id": path,
        "path": path,
        "class_ids": [class_id, other],
        "class_names": [names[class_id], names[other]],
        "probs": [prob, 1 - prob],
    }


def evaluate(classes: int, names: Sequence[str] = ()) -> EvalResult:
    """Ten images of each class; two of every class are taken for the next one."""
    confusion = [[0] * classes for _ in range(classes)]
    for i in range(classes):
        confusion[i][i] = 8
        confusion[i][(i + 1) % classes] += 2
    names = list(names) or [f"class_{i}" for i in range(classes)]
    seen = 10 * classes
    counts = Confusion.from_dense(confusion)
    return EvalResult(seen, 8 * classes, 9 * classes, 0.5, counts, names, "val", seconds=2.0)


def make_metrics(epochs: int = 3, top5: float | None = 0.99) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, 10 * epochs + 1):
        train = {"loss": 2 / step, "loss_mean": 2 / step, "lr": 0.01, "images_per_s": 100.0 + step}
        if step == 1:
            train["images_per_s"] = 1.0
        epoch = (step - 1) // 10 + 1
        rows.append({"kind": "train", "epoch": epoch, "step": step, **train})
        if step % 10 == 0:
            result = {"top1": 0.2 * epoch, "top5": top5, "loss": 1 / epoch}
            rows.append({"kind": "eval", "epoch": epoch, "step": step, **result})
    return rows


def save_image(root: Path, name: str, colour: tuple[int, int, int] = RED, **options: Any) -> str:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (300, 200), colour).save(path, **options)
    return name


@pytest.fixture(autouse=True)
def coarse_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts of fewer pixels, which are drawn faster, for all tests but those that measure them."""
    if "readable" not in request.node.name:
        monkeypatch.setattr(plots, "DPI", 50)


@pytest.fixture
def inputs(tmp_path: Path) -> ReportInputs:
    root = tmp_path / "in"
    result = evaluate(6)
    paths = [save_image(root, f"a/{i}.png") for i in range(6)]
    return ReportInputs(
        title="efficientnet_b0 on things",
        facts={"Processes": "2", "Version": "v7"},
        steps={"stage": 1.5, "train": 125.0},
        metrics=make_metrics(),
        evaluation=result,
        selection=Selection.of(row(path, i, result.class_names) for i, path in enumerate(paths)),
        rejected=Rejected.of([{"path": "b/cut.jpg", "reason": "truncated"}]),
        source=FolderReader(root),
        config_yaml="model:\n  weights: https://example.org/b0.ckpt\n",
    )


def write(tmp_path: Path, inputs: ReportInputs) -> Page:
    path = tmp_path / "out" / "report.html"
    assert write_report(path, inputs) == path
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    return Page(path)


def write_plain(tmp_path: Path, inputs: ReportInputs) -> Page:
    """A page without its charts, which cost most of the time."""
    return write(tmp_path, replace(inputs, metrics=[], evaluation=EvalResult(0, 0, 0, 0.0)))


@pytest.mark.costly
def test_shows_the_numbers_of_the_run(tmp_path: Path, inputs: ReportInputs) -> None:
    page = write(tmp_path, inputs)
    for expected in (
        "efficientnet_b0 on things",
        "Processes 2",
        "Top-1 accuracy 80.00% 48 of 60 images of val right",
        "Top-5 accuracy 90.00%",
        "Images per second 116.0 in training, median",  # steps 2-30; the first one compiled
        "Images labelled 6 1 file set aside",
        "class_0 class_1 2 20.0%",  # a confusion
        "class_3 10 80.0% 80.0%",  # recall and precision
        "train 2 min 05 s",
        "b/cut.jpg truncated",
        "weights: https://example.org/b0.ckpt",
    ):
        assert expected in page.text
    alts = [image["alt"] for image in page.find("img")]
    assert "Top-1 accuracy: 20.00% at epoch 1, 60.00% at epoch 3." in alts
    assert all(alts)


@pytest.mark.costly
def test_needs_nothing_from_elsewhere(tmp_path: Path, inputs: ReportInputs) -> None:
    page = write(tmp_path, inputs)
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for key in ("src", "srcset", "href", "action", "background", "poster"):
            assert attributes.get(key, "#").startswith(("data:", "#"))
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert page.source.count("://") == 1  # the setting, as text


@pytest.mark.costly
def test_names_cannot_become_markup(tmp_path: Path, inputs: ReportInputs) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    names = [evil, "50% {{ title }}", "$x^2$", r"$\frac$", "虎斑猫", "🦊\u202efox"]
    path = save_image(inputs.source.root, "<b>" + "ü%s {}'\"&amp;.png")
    hostile = replace(
        inputs,
        title=evil,
        facts={evil: evil},
        steps={evil: 1.0},
        evaluation=evaluate(6, names),
        selection=Selection.of([row(path, 0, names), row(evil, 1, names)]),
        rejected=Rejected.of([{"path": evil, "reason": evil}]),
        config_yaml=evil,
    )
    page = write(tmp_path, hostile)
    assert not page.find("script")
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert page.text.count(evil) >= 8
    assert "50% {{ title }}" in page.text
    assert any(picture["alt"].startswith(path) for picture in page.thumbnails())


def test_file_names_that_are_no_text(tmp_path: Path, inputs: ReportInputs) -> None:
    strange = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    rejected = Rejected.of([{"path": strange, "reason": "empty file"}])
    predictions = [row(strange, 0, ["a", "b"]), row("nul\0.png", 0, ["a", "b"])]
    page = write_plain(
        tmp_path, replace(inputs, rejected=rejected, selection=Selection.of(predictions))
    )
    assert r"caf\udce9.png empty file" in page.text
    assert "embedded null byte" in page.text


def test_pictures_belong_to_their_paths(tmp_path: Path, inputs: ReportInputs) -> None:
    names = ["hot", "cold"]
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    save_image(inputs.source.root, "red.png")
    save_image(inputs.source.root, "blue.jpg", BLUE, exif=turned)
    rows = [row("red.png", 0, names, 0.75), row("blue.jpg", 1, names, 0.625)]
    page = write_plain(tmp_path, replace(inputs, selection=Selection.of(rows)))
    seen = {}
    for picture in page.thumbnails():
        content = base64.b64decode(picture["src"].partition(",")[2])
        with Image.open(io.BytesIO(content)) as image:
            pixel = image.convert("RGB").getpixel((5, 5))
            seen[picture["alt"]] = (image.size, "red" if pixel[0] > pixel[2] else "blue")
    assert seen == {
        "red.png, labelled hot": ((192, 128), "red"),
        "blue.jpg, labelled cold": ((128, 192), "blue"),
    }
    titles = [figure["title"] for figure in page.find("figure", "tile")]
    assert "red.png\nhot 75.0%\ncold 25.0%" in titles
    assert "hot 75.0% red.png" in page.text
    assert "cold 62.5% hot 37.5% blue.jpg" in page.text


def test_small_pictures_keep_their_pixels(tmp_path: Path, inputs: ReportInputs) -> None:
    (inputs.source.root / "tiny.png").parent.mkdir(exist_ok=True)
    Image.new("L", (8, 8), 200).save(inputs.source.root / "tiny.png")
    page = write_plain(
        tmp_path, replace(inputs, selection=Selection.of([row("tiny.png", 0, ["a", "b"])]))
    )
    assert [picture.get("class") for picture in page.thumbnails()] == ["pixelated"] * 2


def test_missing_and_damaged_pictures_become_placeholders(
    tmp_path: Path, inputs: ReportInputs
) -> None:
    save_image(inputs.source.root, "good.png")
    (inputs.source.root / "bad.png").write_bytes(b"no picture")
    names = ["a", "b"]
    rows = [row(path, 0, names) for path in ("good.png", "gone.png", "bad.png")]
    page = write_plain(tmp_path, replace(inputs, selection=Selection.of(rows)))
    assert len(page.thumbnails()) == 2  # in both galleries
    labels = [div["aria-label"] for div in page.find("div", "placeholder")]
    assert labels == ["bad.png, no picture", "gone.png, no picture"] * 2
    assert "No picture no such file or directory" in page.text
    assert "No picture not an image" in page.text


@pytest.mark.parametrize(
    ("classes", "shown", "note"),
    [
        (2, 12, "12 of 400 images, at most 6 of a class."),
        (10, 60, "60 of 400 images, at most 6 of a class."),
        (40, 40, "40 of 400 images, at most 1 of a class."),
        (100, 60, "at most 1 of a class; the 60 most frequent of 100 classes that were given."),
    ],
)
def test_galleries_are_capped(
    tmp_path: Path, inputs: ReportInputs, classes: int, shown: int, note: str
) -> None:
    path = save_image(inputs.source.root, "same.png")
    names = [f"class_{i}" for i in range(classes)]
    rows = [row(path, i % classes, names, 1 - i / 1000) for i in range(400)]
    page = write_plain(tmp_path, replace(inputs, selection=Selection.of(rows)))
    assert len(page.thumbnails()) == shown + 24
    assert note in page.text
    least = [figure["title"] for figure in page.find("figure", "tile")][-24:]
    assert least[0].splitlines()[1].endswith(" 60.1%")
    assert least[-1].splitlines()[1].endswith(" 62.4%")


@pytest.mark.costly
def test_long_tables_say_what_they_leave_out(tmp_path: Path, inputs: ReportInputs) -> None:
    result = evaluate(1000)
    counts = result.confusion.dense()
    counts[777, 777], counts[777, 3] = 1, 7
    result = replace(result, confusion=Confusion.from_dense(counts.tolist()))
    rejected = Rejected.of({"path": f"{i}.jpg", "reason": "truncated"} for i in range(1234))
    page = write(tmp_path, replace(inputs, evaluation=result, rejected=rejected))
    assert "Drawn are the 40 of 1,000 classes" in page.text
    assert "True class Answer Images Share class_777 class_3 7 70.0%" in page.text
    assert "Recall Precision class_777 10 10.0%" in page.text
    assert "The 50 classes with the lowest recall; 950 better ones left out." in page.text
    assert "989 rarer pairs left out, 1,978 images together." in page.text
    assert "The first 50 files; 1,184 more left out." in page.text
    assert len(page.source) < 2_000_000


def test_an_empty_run_has_a_report(tmp_path: Path, inputs: ReportInputs) -> None:
    nothing = replace(
        inputs,
        facts={},
        steps={},
        metrics=[],
        evaluation=EvalResult(0, 0, 0, 0.0),
        selection=Selection(),
        rejected=Rejected.of([]),
        config_yaml="",
    )
    page = write(tmp_path, nothing)
    assert not page.find("img")
    assert "Images labelled 0 no file set aside" in page.text
    assert "This run recorded no training." in page.text


def test_speed_of_an_evaluation_stands_in(tmp_path: Path, inputs: ReportInputs) -> None:
    page = write(tmp_path, replace(inputs, metrics=[]))
    assert "Images per second 30.0 in evaluation" in page.text


@pytest.mark.costly
def test_two_classes_have_no_top5(tmp_path: Path, inputs: ReportInputs) -> None:
    metrics = make_metrics(top5=None)
    page = write(tmp_path, replace(inputs, evaluation=evaluate(2), metrics=metrics))
    assert "Top-5 accuracy \N{EN DASH} needs five classes or more" in page.text


def test_a_class_without_images_or_answers_has_no_ratio(
    tmp_path: Path, inputs: ReportInputs
) -> None:
    confusion = Confusion.from_dense([[2, 1, 0], [0, 0, 0], [0, 0, 0]])
    result = EvalResult(3, 2, 3, 0.1, confusion, ["a", "b", "c"])
    page = write(tmp_path, replace(inputs, evaluation=result, metrics=[]))
    dash = "\N{EN DASH}"
    assert f"b 0 {dash} 0.0% c 0 {dash} {dash}" in page.text


@pytest.mark.parametrize(
    "draw", [plots.loss_curve, plots.learning_rate_curve, plots.accuracy_curve]
)
@pytest.mark.parametrize(
    "metrics",
    [
        [],
        make_metrics(),
        make_metrics(top5=None),
        make_metrics(epochs=60),
        make_metrics()[:1],
        [{**values, "loss": float("nan"), "top1": float("inf")} for values in make_metrics()],
    ],
    ids=["none", "three", "no top-5", "sixty", "one row", "not finite"],
)
def test_curves_are_drawn_from_any_metrics(draw: Any, metrics: list[dict[str, Any]]) -> None:
    with Image.open(io.BytesIO(draw(metrics, theme=plots.DARK))) as image:
        assert image.format == "PNG"
        assert image.getpixel((0, 0))[:3] == (0x17, 0x1D, 0x26)
        drawn = image.convert("RGB").getcolors(1 << 20)
    assert len(drawn) > 20


def test_points_are_finite_and_sorted() -> None:
    rows = [{"kind": "train", "step": s, "loss": v} for s, v in ((2, 1.5), (1, 2.5), (3, None))]
    rows += [{"kind": "train", "step": 4, "loss": float("nan")}, {"kind": "train", "step": 5}]
    rows += [{"kind": "eval", "step": 1, "loss": 9.0}]
    assert plots.select_points(rows, "train", x="step", y="loss") == [(1.0, 2.5), (2.0, 1.5)]


def test_a_curve_shows_its_values() -> None:
    low, high = make_metrics(), make_metrics()
    high[-1]["top1"] = 0.9
    assert plots.accuracy_curve(low) == plots.accuracy_curve(low)
    assert plots.accuracy_curve(low) != plots.accuracy_curve(high)


def test_one_outlier_does_not_flatten_the_loss_curve() -> None:
    rows = [
        {"kind": "train", "epoch": 1, "step": step, "loss": loss, "loss_mean": loss, "lr": 0.1}
        for step, loss in ((1, 2.5), (2, 1.5))
    ]
    later = {"kind": "eval", "epoch": 2, "step": 2, "loss": 1.6, "top1": 0.5, "top5": None}
    curves = [
        plots.loss_curve([*rows, {**later, "epoch": 1, "step": 1, "loss": loss}, later])
        for loss in (2.4, 3000.0, 3001.0)
    ]
    assert curves[0] != curves[1]
    with Image.open(io.BytesIO(curves[1])) as one, Image.open(io.BytesIO(curves[2])) as other:
        difference = ImageChops.difference(one.convert("L"), other.convert("L"))
    assert difference.getextrema()[1] < 32  # what is beyond the picture changes its slope only


@pytest.mark.costly
def test_bars_show_the_most_frequent_classes() -> None:
    classes = [(f"class {index}", 100 - index) for index in range(plots.MAX_BARS)]
    assert plots.class_bars(classes) == plots.class_bars([*classes, ("rare", 1)])
    assert plots.class_bars(classes) != plots.class_bars(classes[::-1])


def test_pictures_stand_beside_each_other() -> None:
    left, right = plots.loss_curve([]), plots.certainty_histogram([1, 2, 3])
    sizes = [Image.open(io.BytesIO(content)).size for content in (left, right)]
    both = Image.open(io.BytesIO(plots.beside(left, right)))
    assert both.size == (sizes[0][0] + sizes[1][0], max(size[1] for size in sizes))
    box = (sizes[0][0], 0, both.width, sizes[1][1])
    assert both.crop(box).tobytes() == Image.open(io.BytesIO(right)).convert("RGB").tobytes()


@pytest.mark.parametrize("classes", [1, 2, 20, 21, 1000])
@pytest.mark.costly
def test_matrices_stay_readable(classes: int) -> None:
    result = evaluate(classes)
    content = plots.confusion_matrix(result.confusion, result.class_names)
    with Image.open(io.BytesIO(content)) as image:
        assert 300 < image.width < 2000
        assert 300 < image.height < 2000
    assert plots.png_data_uri(content).startswith("data:image/png;base64,iVBOR")


def test_counts_of_a_small_matrix_are_written() -> None:
    names = ["a", "b"]
    few, many = (Confusion.from_dense([[8 * n, 2 * n], [2 * n, 8 * n]]) for n in (1, 10))
    once = plots.confusion_matrix(few, names)
    assert once != plots.confusion_matrix(many, names)  # the same shares


def test_a_large_matrix_keeps_the_confused_classes() -> None:
    confusion = [[10 if i == j else 0 for j in range(200)] for i in range(200)]
    confusion[150][199] = 4
    kept = plots.select_matrix_classes(Confusion.from_dense(confusion))
    assert len(kept) == 40
    assert {150, 199} <= set(kept)
    assert kept == sorted(kept)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("tabby", "tabby"),
        ("two\n words", "two words"),
        ("a name of many letters", "a name of many lett…"),
        ("\ue123", "class 4"),
        ("", "class 4"),
    ],
)
def test_labels_fit_and_can_be_written(name: str, label: str) -> None:
    assert plots.shorten_label(name, number=4) == label


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125.4, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7380, "2 h 03 min"),
    ],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_shares_are_percent() -> None:
    assert format_share(0.97436) == "97.4%"
    assert format_share(None) == "\N{EN DASH}"
