"""What ``effnet doctor`` asks MindSpore itself; all else: tests/unit/cli/test_doctor.py."""

from __future__ import annotations

import pytest

from effnet_core.cli import doctor
from tests.unit.cli.test_doctor import one

pytestmark = pytest.mark.mindspore


@pytest.mark.parametrize(
    ("pattern", "device"), [("nvidia[0-9]*", "GPU"), ("davinci[0-9]*", "Ascend")]
)
def test_a_device_that_mindspore_cannot_use_is_told_with_its_reason(
    pattern: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_count", lambda asked: 2 if asked == pattern else 0)
    finding = one(doctor.devices(), "devices")
    assert finding.found.startswith(
        f"2 {device} device(s), which MindSpore cannot use: Unsupported"
    )
    assert (finding.level, "docs/gpu.md" in finding.advice) == ("note", device == "GPU")
