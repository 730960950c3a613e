"""The errors a user can cause, each with one line that names the file and the remedy.

::

    CnncodesError
    ├── ParameterError           a value is out of range; also a ValueError
    ├── MissingDependencyError   an optional package is not installed
    ├── WeightsError             weights are absent, damaged or of another network
    ├── ParityError              an exported graph does not reproduce Keras
    ├── FileFormatError          a file is not what it should be
    ├── OutputError              a result cannot be written where it was asked for
    ├── SourceError              the images, as a collection, cannot be used
    ├── ImageError               one image cannot be used
    ├── ClusterError             a Dask cluster is absent, or does not compute the same codes
    └── TrainingError            these codes cannot train or fit this head

The command line prints the message and exits with 1.
"""

from __future__ import annotations


class CnncodesError(Exception):
    """Base of every error that cnncodes raises on purpose."""


class ParameterError(CnncodesError, ValueError):
    """A parameter has a value that it cannot have here."""


class MissingDependencyError(CnncodesError):
    """An optional package is needed and not installed."""


class WeightsError(CnncodesError):
    """Weights are absent, damaged or belong to another network."""


class ParityError(CnncodesError):
    """An exported graph computes other codes than its Keras network."""


class FileFormatError(CnncodesError):
    """A file is damaged, foreign, of another kind or of a later format."""


class OutputError(CnncodesError):
    """A result cannot be written where it was asked for."""


class SourceError(CnncodesError):
    """A collection of images is empty, unreadable or contradicts itself."""


class ImageError(CnncodesError):
    """One image cannot be decoded or is too large."""


class ClusterError(CnncodesError):
    """A Dask cluster cannot be reached, or its workers would not compute the same codes."""


class TrainingError(CnncodesError):
    """A head cannot be trained on these codes, or does not belong to them."""


class SaturationWarning(UserWarning):
    """An int8 network overflows the 16-bit sums of this processor."""


class SourceWarning(UserWarning):
    """Images are hardly what is meant: folders that are no classes, or many unusable files."""


class FileLockWarning(UserWarning):
    """A file system has no locks, so two processes may write one file."""
