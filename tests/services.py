"""Services that pip cannot install: tests that need one skip loudly, or fail where it is required."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

REQUIRE_VARIABLE = "EFFNET_REQUIRE_SERVICES"


def missing(what: str, *, how: str) -> NoReturn:
    """Skip, or fail where ``EFFNET_REQUIRE_SERVICES=1`` says that all services are there.

    Args:
        what: the service.
        how: to install it.
    """
    text = f"{what} is not installed; {how}"
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(text)
    pytest.skip(text)
