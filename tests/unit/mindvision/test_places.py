"""The place of a rank of mpirun: its number, and its device among those of its machine."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from effnet_core.mindvision import ranks
from effnet_core.mindvision.ranks import Launch


def test_a_rank_of_mpirun_takes_the_device_of_its_place_on_the_machine(tmp_path: Path) -> None:
    given = {
        "OMPI_COMM_WORLD_SIZE": "16",
        "OMPI_COMM_WORLD_RANK": "11",
        "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    }
    with mock.patch.dict(os.environ, given):
        scheduler = ranks._take_places(Launch.of(dict(os.environ)), tmp_path, port=4711)
        assert scheduler is None  # it is rank 0's
        assert os.environ["MS_NODE_ID"] == "11"
        assert os.environ["DEVICE_ID"] == "3"
        assert os.environ["MS_ROLE"] == "MS_WORKER"
