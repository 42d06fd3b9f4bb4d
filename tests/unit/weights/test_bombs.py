"""Small files that would fill the memory are refused by whatever reads them, within a limit of the system."""

from __future__ import annotations

import json
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from effnet_core.errors import CheckpointError
from effnet_core.weights.containers import read_tensors, write_safetensors

LIMIT_BYTES = 2 << 30
READ = (
    "import sys; from effnet_core.errors import CheckpointError\n"
    "from effnet_core.weights.containers import read_tensors\n"
    "from pathlib import Path\n"
    "try: read_tensors(Path(sys.argv[1]))\n"
    "except CheckpointError as error: print(error)\n"
)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


PAIRS = b"](" + b"".join(b"(" + text(str(n)) + b"Nt" for n in range(30_000)) + b"eq\x00"
PICKLES = {
    "one list in many dictionaries": PAIRS
    + b"ccollections\nOrderedDict\nq\x01("
    + b"h\x01h\x00\x85R" * 5000
    + b"t.",
    "empty dictionaries": b"(" + b"}" * 50_000_000 + b"t.",
    "empty lists": b"(" + b"]" * 50_000_000 + b"t.",
    "marks": b"(" * 50_000_000 + b".",
    "tuples of tuples": b"(N" + b"\x85" * 50_000_000 + b"t.",
}


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.costly
def test_a_pickle_that_makes_far_more_than_its_size(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + PICKLES[name])

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))

    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert "bomb.pth (torch zip) cannot be used: " in done.stdout


def test_a_safetensors_header_of_nothing_but_names(tmp_path: Path) -> None:
    entry = '"%07d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    entries = ",".join(entry % number for number in range(1000))
    header = ("{" + ",".join([entries] * 1600) + "}").encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match=r"its header has 9\d,\d+,\d+ bytes, at most"):
        read_tensors(path)


@pytest.mark.parametrize(
    "change",
    [{"shape": ["inf"]}, {"shape": [2.0, 2]}, {"shape": [True, 4]}, {"data_offsets": ["inf", 16]}],
)
def test_numbers_of_safetensors_that_are_none(
    change: dict[str, list[object]], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"w": np.zeros((2, 2), np.float32)})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["w"].update(change)
    changed = json.dumps(header).replace('"inf"', "Infinity").encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + length :])
    with pytest.raises(CheckpointError, match=r"it is damaged \(invalid JSON"):
        read_tensors(path)
