"""The ``effnet`` command's first step: copying needs none of what the others load."""

from __future__ import annotations

import sys

from effnet_core.cli.copy import copied


def main() -> None:
    """Run the ``effnet`` command."""
    if not copied(sys.argv[1:]):
        from flows.cli import main as command

        command()


if __name__ == "__main__":
    main()
