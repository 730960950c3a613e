"""Run the command line: ``python -m cnncodes`` or the ``cnncodes`` script."""

from __future__ import annotations

from cnncodes.cli import main

if __name__ == "__main__":
    main(prog_name="cnncodes")
