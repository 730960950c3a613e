"""Run the command line: ``python -m cnncodes`` or the ``cnncodes`` script."""

from cnncodes.interrupts import end_at_once_when_interrupted


def main() -> None:
    """Run the program; what takes time to import is imported once it may be interrupted."""
    end_at_once_when_interrupted()
    from cnncodes.cli import main as program

    program(prog_name="cnncodes")


if __name__ == "__main__":
    main()
