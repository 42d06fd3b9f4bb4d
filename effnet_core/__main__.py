"""``python -m effnet_core``: the library's commands, without Prefect."""

import sys

from effnet_core.cli.copy import copied

if __name__ == "__main__" and not copied(sys.argv[1:]):
    from effnet_core.cli.app import main

    main()
