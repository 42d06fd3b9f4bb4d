"""Start a rank: ``python -m effnet_core.worker RUN_DIR``. Started by ``jobs/launch.py``, not by people."""

from __future__ import annotations

import faulthandler
import io
import sys
from pathlib import Path

from effnet_core.jobs import environment

with environment.importing():
    from effnet_core.worker.rank import main

if __name__ == "__main__":
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):  # a log may be ASCII alone, names of files are not
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main(Path(sys.argv[1])))
