"""MindSpore's launcher ``msrun``, started in half the time: ``python -m effnet_core.jobs.msrun OPTIONS``.

What it starts and how is all MindSpore's own; only its import is done without a search for garbage.
"""

from __future__ import annotations

import sys

from effnet_core.jobs import environment

with environment.importing():
    from mindspore.parallel.cluster.run import main

if __name__ == "__main__":
    sys.exit(main())
