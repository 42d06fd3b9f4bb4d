"""Which image is seen when, by which rank."""

from __future__ import annotations

import numpy as np
import pytest

from effnet_core.data.order import epoch_order, eval_range, train_indices


@pytest.mark.parametrize("num_images", [1, 2, 7, 100])
def test_an_epoch_is_a_permutation(num_images: int) -> None:
    order = epoch_order(num_images, seed=0, epoch=0)
    assert sorted(order) == list(range(num_images))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    order = epoch_order(100, seed=1, epoch=2)
    assert (order == epoch_order(100, seed=1, epoch=2)).all()
    assert (order != epoch_order(100, seed=2, epoch=2)).any()
    assert (order != epoch_order(100, seed=1, epoch=3)).any()
    assert (order != epoch_order(100, seed=2, epoch=1)).any()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("per_device", [1, 2, 4])
@pytest.mark.parametrize("num_images", [40, 47, 101])
def test_ranks_share_every_global_batch(world_size: int, per_device: int, num_images: int) -> None:
    order = epoch_order(num_images, seed=0, epoch=0)
    shares = [
        train_indices(order, rank=rank, world_size=world_size, per_device_batch_size=per_device)
        for rank in range(world_size)
    ]
    batch = world_size * per_device
    steps = num_images // batch
    assert {len(share) for share in shares} == {steps * per_device}
    together = np.concatenate(shares)
    assert len(set(together)) == steps * batch
    assert set(together) == set(order[: steps * batch])
    for step in range(steps):
        of_step = [share[step * per_device : (step + 1) * per_device] for share in shares]
        assert (np.concatenate(of_step) == order[step * batch : (step + 1) * batch]).all()


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_resumed_epoch_is_the_rest_of_the_straight_one(world_size: int) -> None:
    order = epoch_order(50, seed=4, epoch=1)
    for rank in range(world_size):
        place = {"rank": rank, "world_size": world_size, "per_device_batch_size": 4}
        straight = train_indices(order, **place)
        steps = len(straight) // 4
        for first in range(steps + 1):
            rest = train_indices(order, **place, first_step=first)
            assert (rest == straight[first * 4 :]).all()


def test_the_same_images_whatever_the_world_size() -> None:
    """The global batch of a step does not depend on how many ranks share it."""
    order = epoch_order(64, seed=0, epoch=0)

    def batch_of_step(world_size: int, step: int) -> set[int]:
        size = 16 // world_size
        return {
            int(i)
            for rank in range(world_size)
            for i in train_indices(
                order, rank=rank, world_size=world_size, per_device_batch_size=size
            )[step * size : (step + 1) * size]
        }

    for step in range(4):
        assert batch_of_step(1, step) == batch_of_step(2, step) == batch_of_step(8, step)


@pytest.mark.parametrize("num_images", [1, 2, 7, 48, 50, 997])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 7, 16])
def test_evaluation_sees_each_image_exactly_once(num_images: int, world_size: int) -> None:
    ranges = [
        eval_range(num_images, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    assert [i for part in ranges for i in part] == list(range(num_images))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
