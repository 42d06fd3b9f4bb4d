"""Services that pip cannot install: tests that need one skip loudly, or fail where it is required."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

REQUIRE_VARIABLE = "EFFNET_REQUIRE_SERVICES"
"""With ``1``, as ``.ci/run`` sets it where it could install them, all services are expected."""


def missing(what: str, *, how: str) -> NoReturn:
    """Skip, or fail where all services are expected.

    Args:
        what: the service, or what the machine does not let a test do.
        how: to install it, or why it is not to be had.
    """
    text = f"NOT TESTED, {what} is not to be had here: {how}"
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(text)
    pytest.skip(text)
