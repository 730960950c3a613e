"""The version of this package, and of the packages a file depends on."""

from importlib import import_module

__version__ = "0.1.0"

_NAMES = {"sklearn": "scikit-learn"}  # of packages that are imported under another one


def created_with(*packages: str) -> str:
    """Return the versions that a written file names, such as "cnncodes 0.1.0, onnx 1.23.0".

    Parameters
    ----------
    *packages : str
        Names under which the packages are imported.

    Returns
    -------
    str
        This package first, then `packages`, separated by commas.
    """
    # As the modules have it: in a frozen program the packages' metadata are missing.
    named = [
        f"{_NAMES.get(package, package)} {import_module(package).__version__}"
        for package in packages
    ]
    return ", ".join([f"cnncodes {__version__}", *named])
