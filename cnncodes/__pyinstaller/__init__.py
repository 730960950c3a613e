"""What PyInstaller, which freezes programs, has to know of this package.

It looks for hooks in the folders that the entry point ``hook-dirs`` names, and runs
``hook-cnncodes.py`` where a program imports cnncodes.
"""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Return the folder of the hooks."""
    return [str(Path(__file__).parent)]
