"""Freeze of cnncodes what a program uses.

Some of our packages offer names that they import when first used. PyInstaller sees all of these
imports, and would take scikit-learn, scipy and h5py along with a program that only classifies. So
each is forgotten where no code of the program has the name in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import CodeType
from typing import Any

from PyInstaller.utils.hooks import collect_data_files

LAZY = ("cnncodes", "cnncodes.extract", "cnncodes.head")

datas = collect_data_files("cnncodes")


def hook(hook_api: Any) -> None:
    """Forget the imports that stand behind unused names; called by PyInstaller.

    Parameters
    ----------
    hook_api : PyInstaller.depend.imphookapi.PostGraphAPI
        The graph of all modules of the program.
    """
    graph = hook_api.module_graph
    for package in LAZY:
        used = {word for code in graph.get_code_using(package).values() for word in _words(code)}
        homes: dict[str, str] = import_module(package)._HOMES
        kept = {home for name, home in homes.items() if name in used or "*" in used}
        for home in {*homes.values()} - kept:
            graph.removeReference(package, home)
    # It looks into HDF5 files for an error message only.
    graph.removeReference("cnncodes.models.kinds", "cnncodes.hdf5")


def _words(code: CodeType) -> Iterator[str]:
    """Yield the names and texts in a code object and in all that it defines."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _words(constant)
        elif isinstance(constant, tuple):  # the names of ``from cnncodes import …``
            yield from filter(lambda each: isinstance(each, str), constant)
        elif isinstance(constant, str):  # as in ``getattr(cnncodes, "CodeStore")``
            yield constant
