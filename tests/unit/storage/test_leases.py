"""Leases on a real server: one holder, signs of life, take-over without a common clock."""

from __future__ import annotations

import threading
import time

import pytest

from effnet_core.errors import Conflict
from effnet_core.storage import S3Url
from effnet_core.storage.leases import Lease, Watch, take
from effnet_core.storage.s3 import S3Store
from tests.support.s3 import SeaweedFS

LEASE_S = 0.6


@pytest.fixture
def store(seaweedfs: SeaweedFS, bucket: str) -> S3Store:
    return S3Store(S3Url(bucket, "out"), seaweedfs.access)


def taken(store: S3Store, name: str, **options: str) -> Lease | None:
    return take(store, "leases/a", {"id": name}, lease_s=LEASE_S, **options)


def test_one_of_many_takes_a_lease(store: S3Store) -> None:
    found: list[Lease | None] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(taken(store, str(n)))) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [lease] = [one for one in found if one is not None]
    assert taken(store, "late") is None
    lease.release()
    late = taken(store, "late")
    assert late is not None
    late.release()


def test_a_lease_that_is_renewed_is_never_stale_and_a_dead_one_is_taken_over(
    store: S3Store,
) -> None:
    lease = taken(store, "first")
    assert lease is not None
    watch = Watch(store, "leases/", lease_s=LEASE_S)
    until = time.monotonic() + 3 * LEASE_S
    while time.monotonic() < until:
        assert watch.stale(watch.look()) == {}
        time.sleep(0.05)
    lease._ended.set()  # as a process that is gone
    lease._thread.join()
    stale: dict[str, str] = {}
    began = time.monotonic()
    while not stale:
        stale = watch.stale(watch.look())
        time.sleep(0.05)
    assert time.monotonic() - began >= LEASE_S / 2
    heirs = [taken(store, name, instead_of=stale["leases/a"]) for name in ("x", "y")]
    assert [heir is not None for heir in heirs] == [True, False]
    assert heirs[0] is not None
    with pytest.raises(Conflict):  # the first holder wakes up
        lease.say(plan="old")
    heirs[0].release()


def test_a_holder_learns_that_it_was_taken_for_dead(store: S3Store) -> None:
    lease = taken(store, "first")
    assert lease is not None and not lease.lost
    heir = taken(store, "heir", instead_of=store.get_bytes("leases/a")[1])
    assert heir is not None
    until = time.monotonic() + 5
    while not lease.lost and time.monotonic() < until:
        time.sleep(0.05)
    assert lease.lost
    lease.release()  # leaves the heir's
    assert store.head("leases/a") is not None
    heir.release()
