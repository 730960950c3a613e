"""Run the command line: ``python -m cnncodes`` or the ``cnncodes`` script."""

from cnncodes.interrupts import end_at_once_when_interrupted, leave_if_interrupted


def main() -> None:
    """Run the program; what takes time to import is imported once it may be interrupted."""
    end_at_once_when_interrupted()
    from cnncodes.cli import main as program

    try:
        program(prog_name="cnncodes")
    except SystemExit as end:
        leave_if_interrupted(end.code)
        raise


if __name__ == "__main__":
    main()
