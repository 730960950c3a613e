"""The network: an onnxruntime session around one self-describing backbone file."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncodes.errors import FileFormatError
from cnncodes.files import sha256_of
from cnncodes.images.limits import check_pixels
from cnncodes.models.metadata import BackboneInfo
from cnncodes.models.session import DEFAULT_PROVIDER, open_session, run_session, warn_of_saturation
from cnncodes.parameters import as_path


class Backbone:
    """A network that turns images into CNN codes.

    Thread-safe. Copies and pickles hold the path, not the network, and open the file again.

    Parameters
    ----------
    path : str or Path
        A file made by ``cnncodes export``.
    threads : int, optional
        Threads of the session; by default one per available CPU.
    provider : str
        Execution provider of onnxruntime, such as ``cpu`` or ``openvino``.

    Attributes
    ----------
    info : BackboneInfo
        The metadata of the file.
    code_shape : tuple of int
        Shape of one image's codes, such as ``(5, 5, 2048)``.
    provider : str
        Full name of the execution provider, such as ``CPUExecutionProvider``.

    Raises
    ------
    FileFormatError
        The file is not a backbone.
    ParameterError
        The provider is missing or cannot start, or a parameter has another type or range.

    Examples
    --------
    >>> backbone = Backbone("inception_v3.onnx")  # doctest: +SKIP
    >>> backbone.extract(np.zeros((2, 224, 224, 3), np.uint8)).shape  # doctest: +SKIP
    (2, 5, 5, 2048)
    """

    def __init__(
        self, path: str | Path, *, threads: int | None = None, provider: str = DEFAULT_PROVIDER
    ) -> None:
        self.path = as_path(path, "path")
        self._session, metadata = open_session(
            self.path, "backbone", threads=threads, provider=provider
        )
        self.info = BackboneInfo.from_metadata(metadata, self.path)
        warn_of_saturation(self.path, self.info)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        size = self.info.input_size
        if (
            [(each.name, each.type, each.shape[1:]) for each in inputs]
            != [("images", "tensor(uint8)", [size, size, 3])]
            or [(each.name, each.type) for each in outputs] != [("codes", "tensor(float)")]
            or not all(isinstance(length, int) for length in outputs[0].shape[1:])
        ):
            raise FileFormatError(
                f"{self.path}: its input or output is not that of a backbone; export it again"
            )
        self.code_shape: tuple[int, ...] = tuple(outputs[0].shape[1:])
        self.provider: str = self._session.get_providers()[0]
        # For copies, which may be opened with other CPUs or in another working folder.
        self._opened_as = self.path.absolute(), threads, provider

    def __reduce__(self) -> tuple[Any, ...]:
        path, threads, provider = self._opened_as
        return partial(type(self), threads=threads, provider=provider), (path,)

    def __repr__(self) -> str:
        kind, _, which = self.info.weights.partition(":")
        weights = f"file:{which[:8]}" if kind == "file" else self.info.weights
        return (
            f"<Backbone {str(self.path)!r}: {self.info.backbone} {self.info.precision}, "
            f"weights {weights}, {self.info.input_size} pixels to codes {self.code_shape}>"
        )

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, hexadecimal; stored with codes and heads to identify it."""
        return sha256_of(self.path)

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the codes of a batch.

        Parameters
        ----------
        images : ndarray of uint8, shape (n_images, input_size, input_size, 3)
            RGB.

        Returns
        -------
        ndarray of float32, shape (n_images, *code_shape)
            The codes.

        Raises
        ------
        ParameterError
            The images have another dtype or shape.
        FileFormatError
            The network cannot be computed.
        """
        check_pixels(images, self.info.input_size)
        codes: NDArray[np.float32]
        (codes,) = run_session(self._session, self.path, ["codes"], "images", images)
        return codes
