"""Fine-tuning by torch + timm, for ``first_hour.py``: reads a job from its input, prints its answer.

AdamW with one cycle of the rate over the whole network, as is usual. Pictures are decoded and shrunk once and
then kept in memory, which is faster than reading them in every epoch.
"""

from __future__ import annotations

import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms

SIZE, BATCH, KEPT_SIDE = 224, 32, 320
"""Pixels of the input, images of an update, and the shorter side that is kept in memory."""
RISE = 0.1
"""Share of the run in which the rate rises."""
Job = dict[str, Any]
Items = list[tuple[str, int]]
"""Paths and labels."""

_LAST = [transforms.ToTensor(), transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3)]
_CUBIC = transforms.InterpolationMode.BICUBIC
_SHRINK = transforms.Resize(KEPT_SIDE, _CUBIC)
AUGMENTED = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIZE, (0.5, 1.0), interpolation=_CUBIC),
        transforms.RandomHorizontalFlip(),
        *_LAST,
    ]
)
PLAIN = transforms.Compose([transforms.Resize(256, _CUBIC), transforms.CenterCrop(SIZE), *_LAST])


class Pictures:
    """Pictures in memory, in batches."""

    def __init__(self) -> None:
        self.pool, self.known = ThreadPoolExecutor(2), dict[str, Any]()
        Image.MAX_IMAGE_PIXELS = None  # staging has looked at their sizes

    def batch(self, items: Items, transform: Any) -> tuple[Any, Any]:
        """Images (N, 3, S, S) and labels (N,)."""
        images = list(self.pool.map(lambda item: transform(self._open(item[0])), items))
        labels = torch.tensor([label for _, label in items])
        return torch.stack(images).to(memory_format=torch.channels_last), labels

    def _open(self, path: str) -> Any:
        """On white, as this project lays transparent pictures."""
        if path not in self.known:
            image = Image.open(path).convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
            self.known[path] = _SHRINK(image) if min(image.size) > KEPT_SIDE else image
        return self.known[path]


def network(job: Job) -> Any:
    """Lite0 with the weights' body and a head for the job's classes."""
    model = timm.create_model("tf_efficientnet_lite0", num_classes=job["classes"])
    weights = load_file(job["weights"])
    body = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    missing = model.load_state_dict(body, strict=False).missing_keys
    if sorted(missing) != ["classifier.bias", "classifier.weight"]:
        raise SystemExit(f"weights do not fit: {missing}")
    return model.to(memory_format=torch.channels_last)


def accuracy(model: Any, pictures: Pictures, items: Items) -> float:
    """Top-1."""
    model.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(items), BATCH):
            images, labels = pictures.batch(items[start : start + BATCH], PLAIN)
            right += int((model(images).argmax(1) == labels).sum())
    return right / len(items)


class Clock:
    """How much of the run is over: in minutes, imports and the last evaluation included, or in epochs."""

    def __init__(self, job: Job) -> None:
        self.job, self.steps, self.evaluation_s = job, 0, 0.0
        self.steps_an_epoch = len(job["pictures"]["train"]) // BATCH

    @property
    def seconds(self) -> float:
        """Since the command."""
        return float(time.time() - self.job["started"])

    @property
    def share(self) -> float:
        """From 0 to 1 and above."""
        if self.job.get("epochs"):
            return float(self.steps / (self.job["epochs"] * self.steps_an_epoch))
        return float(self.seconds / (60 * self.job["minutes"] - self.evaluation_s))


def train_epoch(model: Any, optimizer: Any, pictures: Pictures, items: Items, clock: Clock) -> None:
    """An epoch, or what of it is left of the run."""
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    for start in range(0, clock.steps_an_epoch * BATCH, BATCH):
        if (over := clock.share) >= 1:
            return
        for group in optimizer.param_groups:
            group["lr"] = clock.job["rate"] * min(over / RISE, (1 - over) / (1 - RISE))
        images, labels = pictures.batch(items[start : start + BATCH], AUGMENTED)
        optimizer.zero_grad()
        loss_of(model(images), labels).backward()
        optimizer.step()
        clock.steps += 1


def main() -> None:
    """Train for the job's minutes or epochs, take the best epoch on ``val``, measure it on ``test``."""
    job = json.load(sys.stdin)
    torch.manual_seed(job["seed"])
    rng = random.Random(job["seed"])
    model, pictures, clock = network(job), Pictures(), Clock(job)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job["rate"], weight_decay=0.01)
    curve, best, kept = [], -1.0, {}
    while clock.share < 1:
        items = list(job["pictures"]["train"])
        rng.shuffle(items)
        train_epoch(model, optimizer, pictures, items, clock)
        before = time.time()
        top1 = accuracy(model, pictures, job["pictures"]["val"])
        clock.evaluation_s = max(clock.evaluation_s, time.time() - before)
        curve.append((clock.seconds, top1))
        if top1 > best:
            best, kept = top1, {k: v.clone() for k, v in model.state_dict().items()}
    seconds = clock.seconds
    model.load_state_dict(kept)
    found = {
        "curve": curve,
        "seconds": seconds,
        "cpu_s": time.process_time(),
        "epochs": clock.steps / clock.steps_an_epoch,
    }
    print(json.dumps({**found, "test": accuracy(model, pictures, job["pictures"]["test"])}))


if __name__ == "__main__":
    main()
