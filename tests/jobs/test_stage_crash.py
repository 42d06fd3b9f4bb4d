"""Staging from a bucket that is killed again and again ends with the data set of a straight run."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effnet_core.data.manifest import open_dataset
from effnet_core.data.staging import WORK_NAME, stage_dataset
from effnet_core.errors import DataError
from effnet_core.storage import S3Url, s3_client
from effnet_core.storage.trees import upload_tree
from tests.support.images import class_folders
from tests.support.s3 import SeaweedFS
from tests.unit.data.sources.test_opening import pack

STAGER = """
import sys
from pathlib import Path
from effnet_core.data.staging import stage_dataset
from effnet_core.storage import S3Access

print("begun", flush=True)
stage_dataset(sys.argv[1], Path(sys.argv[2]), access=S3Access(sys.argv[3]))
"""


@pytest.mark.parametrize("packed", [False, True])
def test_kill_9_of_staging(seaweedfs: SeaweedFS, bucket: str, tmp_path: Path, packed: bool) -> None:
    source = class_folders(tmp_path / "source", {"cat": 100, "dog": 100})
    if packed:
        pack(source, tmp_path / "set.tar.gz")
        s3_client(seaweedfs.access).upload_file(str(tmp_path / "set.tar.gz"), bucket, "set.tar.gz")
        url = f"s3://{bucket}/set.tar.gz"
    else:
        upload_tree(source, S3Url(bucket, "data"), seaweedfs.access)
        url = f"s3://{bucket}/data"
    begun = time.monotonic()
    straight, _ = stage_dataset(url, tmp_path / "straight", access=seaweedfs.access)
    whole_s = time.monotonic() - begun
    out, chance = tmp_path / "out", random.Random(3)
    argv = [sys.executable, "-c", STAGER, url, str(out), seaweedfs.endpoint_url]
    killed = 0
    for _ in range(5):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(chance.uniform(0.05, whole_s))
        killed += process.poll() is None
        process.kill()
        process.communicate()
        try:
            assert open_dataset(out).digest == straight.digest  # whole, or it does not count
        except DataError as error:
            assert re.search("was not finished|holds no staged|does not exist", str(error))
    again, _ = stage_dataset(url, out, access=seaweedfs.access)
    assert killed
    assert again.digest == straight.digest
    names = [path for path in out.rglob("*") if path.is_file()]
    assert len([path for path in names if path.suffix == ".jpg"]) == 200
    assert not [path for path in names if path.name.startswith(".")]
    assert not (out / WORK_NAME).exists()
