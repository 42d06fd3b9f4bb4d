"""From JPEG bytes to the network's square: Pillow, native resizing, and other libraries, in turns in one run.

Speed is processor time of the process, so that what else the machine does counts little. Differences are
levels of 256, from evaluation's square. Libraries that are not installed are left out:

    pip install --target build/decoders --no-deps simplejpeg opencv-python-headless kornia_rs \\
        pyvips pyvips-binary cffi pycparser
    PYTHONPATH=build/decoders python -m benchmarks.decode [--images 200] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.infer import write_photographs
from benchmarks.machine import write_note
from effnet_core.config.schema import RunConfig
from effnet_core.data.images import decode_image
from effnet_core.data.preprocess import PreprocessSpec, decode_square, placed, resize_and_crop
from effnet_core.kernels.resize import resizer

SPEC = PreprocessSpec.from_config(RunConfig())
"""EfficientNet-B0's: 256 px, of which 224, bicubic."""
NATIVE = resizer("auto", print)
Way = Callable[[bytes], np.ndarray]


def pillow_exact(content: bytes) -> np.ndarray:
    return decode_square(content, SPEC, fast=False)


def pillow_box(content: bytes) -> np.ndarray:
    return decode_square(content, SPEC, fast=True)


def native(content: bytes) -> np.ndarray:
    return decode_square(content, SPEC, fast=True, resize=NATIVE)


def resized(pixels: np.ndarray) -> np.ndarray:
    """A decoded picture with our own resizing."""
    image = Image.fromarray(pixels)
    size, corner = placed(image.size, SPEC)
    square = NATIVE(image, new_size=size, corner=corner, side=224, interpolation="bicubic")  # type: ignore[misc]
    return np.asarray(resize_and_crop(image, SPEC)) if square is None else square


def box_of(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """What the square shows, in whole pixels."""
    height, width = pixels.shape[:2]
    (wide, high), (left, top) = placed((width, height), SPEC)
    x, y = round(left * width / wide), round(top * height / high)
    across, down = round(224 * width / wide), round(224 * height / high)
    return pixels[y : y + down, x : x + across], 224


def others() -> dict[str, Way]:
    """What other libraries do, those that are here."""
    found: dict[str, Way] = {}
    try:
        import simplejpeg

        found["simplejpeg, native resizing"] = lambda c: resized(simplejpeg.decode_jpeg(c))
        found["simplejpeg, fast DCT and upsampling, native resizing"] = lambda c: resized(
            simplejpeg.decode_jpeg(c, fastdct=True, fastupsample=True)
        )
        found["decoding only: simplejpeg"] = simplejpeg.decode_jpeg
    except ImportError:
        pass
    try:
        import cv2

        cv2.setNumThreads(1)

        def by_opencv(content: bytes, how: int) -> np.ndarray:
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
            part, side = box_of(pixels)
            return cv2.resize(part, (side, side), interpolation=how)

        found["opencv, area"] = lambda c: by_opencv(c, cv2.INTER_AREA)
        found["opencv, bicubic (skips pixels)"] = lambda c: by_opencv(c, cv2.INTER_CUBIC)
        found["decoding only: opencv"] = lambda c: cv2.imdecode(
            np.frombuffer(c, np.uint8), cv2.IMREAD_COLOR_RGB
        )
    except ImportError:
        pass
    try:
        import kornia_rs

        def by_kornia(content: bytes) -> np.ndarray:
            pixels = kornia_rs.io.decode_image_jpegturbo(content, "rgb")
            (wide, high), (left, top) = placed((pixels.shape[1], pixels.shape[0]), SPEC)
            whole = kornia_rs.imgproc.resize(pixels, (high, wide), "bicubic", antialias=True)
            return whole[top : top + 224, left : left + 224]

        found["kornia_rs"] = by_kornia
    except ImportError:
        pass
    try:
        import pyvips

        def by_vips(content: bytes) -> np.ndarray:
            image = pyvips.Image.new_from_buffer(content, "", access="sequential")
            (wide, high), (left, top) = placed((image.width, image.height), SPEC)
            image = image.reduce(image.width / wide, image.height / high, kernel="cubic")
            return image.crop(left, top, 224, 224).numpy()

        found["pyvips"] = by_vips
    except (ImportError, OSError):
        pass
    return found


def seconds_of(way: Way, contents: list[bytes]) -> float:
    began = time.process_time()
    for content in contents:
        way(content)
    return (time.process_time() - began) / len(contents)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ways: dict[str, Way] = {
        "Pillow, exact": pillow_exact,
        "Pillow, only the square (as before)": pillow_box,
        "Pillow, native resizing": native,
        **others(),
        "decoding only: Pillow": lambda c: np.asarray(decode_image(c)),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photographs"
        write_photographs(folder, options.images)
        contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            times[name].append(seconds_of(way, contents))
    base = times["Pillow, only the square (as before)"]
    rows = ["| way | ms a picture | speed, as before = 1 | mean difference | largest |"]
    rows.append("|---|---|---|---|---|")
    for name, way in ways.items():
        mean = most = ""
        if not name.startswith("decoding only"):
            gaps = [np.abs(way(c).astype(int) - pillow_exact(c)) for c in contents[:50]]
            mean, most = f"{np.mean(gaps):.4f}", f"{np.max(gaps)}"
        ratio = statistics.median(b / t for b, t in zip(base, times[name], strict=True))
        rows.append(
            f"| {name} | {1000 * statistics.median(times[name]):.2f} | {ratio:.2f} | {mean} | {most} |"
        )
    rows += [
        "",
        f"{options.images} JPEGs of 500x375 to squares of 224 out of 256, bicubic; {options.rounds} rounds "
        "in turns, medians; processor time of the process.",
        "",
        "Decoding is libjpeg-turbo in all of them, so libraries differ little there. Not tried: torchcodec, "
        "which needs torch and FFmpeg, and PyTurboJPEG, which needs a libturbojpeg of the system.",
    ]
    write_note(__file__, "Decoding pictures for labelling", rows)


if __name__ == "__main__":
    main()
