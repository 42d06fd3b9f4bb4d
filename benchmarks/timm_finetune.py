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

STARTED = time.time()
SIZE, BATCH, KEPT_SIDE = 224, 32, 320
"""Pixels of the input, images of an update, and the shorter side that is kept in memory."""
RISE = 0.1
"""Share of the run in which the rate rises."""


def main() -> None:
    """Train for the job's minutes or epochs, take the best epoch on ``val``, measure it on ``test``."""
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from torchvision import transforms

    job = json.load(sys.stdin)
    torch.manual_seed(job["seed"])
    rng = random.Random(job["seed"])
    model = timm.create_model("tf_efficientnet_lite0", num_classes=job["classes"])
    weights = load_file(job["weights"])
    body = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    missing = model.load_state_dict(body, strict=False).missing_keys
    if sorted(missing) != ["classifier.bias", "classifier.weight"]:
        raise SystemExit(f"weights do not fit: {missing}")
    model = model.to(memory_format=torch.channels_last)

    last = [transforms.ToTensor(), transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3)]
    cubic = transforms.InterpolationMode.BICUBIC
    crop = transforms.RandomResizedCrop(SIZE, (0.5, 1.0), interpolation=cubic)
    augmented = transforms.Compose([crop, transforms.RandomHorizontalFlip(), *last])
    plain = transforms.Compose([transforms.Resize(256, cubic), transforms.CenterCrop(SIZE), *last])
    shrink = transforms.Resize(KEPT_SIDE, cubic)
    Image.MAX_IMAGE_PIXELS = None  # staging has looked at their sizes
    pool, memory = ThreadPoolExecutor(2), {}

    def picture(path: str) -> Any:
        if path not in memory:
            image = _opaque(Image.open(path))
            memory[path] = shrink(image) if min(image.size) > KEPT_SIDE else image
        return memory[path]

    def batch(items: list[Any], transform: Any) -> Any:
        images = list(pool.map(lambda item: transform(picture(item[0])), items))
        labels = torch.tensor([label for _, label in items])
        return torch.stack(images).to(memory_format=torch.channels_last), labels

    def accuracy(name: str) -> float:
        model.eval()
        items, right = job["pictures"][name], 0
        with torch.inference_mode():
            for start in range(0, len(items), BATCH):
                images, labels = batch(items[start : start + BATCH], plain)
                right += int((model(images).argmax(1) == labels).sum())
        return right / len(items)

    optimizer = torch.optim.AdamW(model.parameters(), lr=job["rate"], weight_decay=0.01)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    steps_an_epoch = len(job["pictures"]["train"]) // BATCH
    curve, best, kept, done, evaluation_s = [], -1.0, None, 0, 0.0

    def share() -> float:
        """Of the run that is over."""
        if job.get("epochs"):
            return done / (job["epochs"] * steps_an_epoch)
        return (time.time() - STARTED) / (60 * job["minutes"] - evaluation_s)

    while share() < 1:
        items = list(job["pictures"]["train"])
        rng.shuffle(items)
        model.train()
        for start in range(0, steps_an_epoch * BATCH, BATCH):
            if (over := share()) >= 1:
                break
            rate = job["rate"] * (over / RISE if over < RISE else (1 - over) / (1 - RISE))
            for group in optimizer.param_groups:
                group["lr"] = rate
            images, labels = batch(items[start : start + BATCH], augmented)
            optimizer.zero_grad()
            loss_of(model(images), labels).backward()
            optimizer.step()
            done += 1
        before = time.time()
        top1 = accuracy("val")
        evaluation_s = max(evaluation_s, time.time() - before)
        curve.append((time.time() - STARTED, top1))
        if top1 > best:
            best, kept = top1, {k: v.clone() for k, v in model.state_dict().items()}
    seconds = time.time() - STARTED
    model.load_state_dict(kept)
    answer = {"curve": curve, "seconds": seconds, "epochs": done / steps_an_epoch}
    print(json.dumps({**answer, "test": accuracy("test")}))


def _opaque(image: Any) -> Any:
    """On white, as this project lays transparent pictures."""
    from PIL import Image

    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


if __name__ == "__main__":
    main()
