"""``python -m effnet_core``: the library's commands, without Prefect."""

from effnet_core.cli.app import main

if __name__ == "__main__":
    main()
