"""Writing a trained head: what its file says of its training, and the scales in front of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cnncodes.extract.store import CodeStore
from cnncodes.head.joined import JoinedStore
from cnncodes.head.recipe import Score
from cnncodes.head.rows import CodeRows
from cnncodes.head.views import ImageViews
from cnncodes.models.checksum import save_checked
from cnncodes.models.metadata import HeadInfo
from cnncodes.output import replacing


def head_info(
    store: CodeStore,
    views: ImageViews,
    *,
    labels: Sequence[str],
    estimator: str,
    fitted: dict[str, Any],
    split: dict[str, Any],
    scores: tuple[Score, Score],
    trained: NDArray[np.intp],
    measured: NDArray[np.intp],
    created_with: str,
    entries: dict[str, Any],
    thresholds: tuple[float, ...] = (),
) -> HeadInfo:
    """Return the metadata of a head that was trained on a codes file.

    Parameters
    ----------
    store : CodeStore
        The open file.
    views : ImageViews
        The rows of its images.
    labels : sequence of str
        The classes.
    estimator, fitted, split
        Entries of `HeadInfo.training`.
    scores : tuple of Score
        On the training and the test images.
    trained : ndarray of intp
        The images that trained the head.
    measured : ndarray of intp
        Those of them that another head, with the same choices, was measured on.
    created_with : str
        Versions of what fitted it.
    entries : dict
        Further entries of `HeadInfo.training`.
    thresholds : tuple of float
        As in `HeadInfo`.
    """
    train, test = scores
    return HeadInfo(
        labels=tuple(labels),
        training={
            # The folder's name alone: who gets the head need not know what is around it.
            "data": store.source_name,
            "estimator": estimator,
            "fitted": fitted,
            "split": split,
            **views.training_entries,
            "train": asdict(train),
            "test": asdict(test),
            **entries,
        },
        backbone=store.backbone,
        backbone_sha256=store.backbone_sha256,
        training_images=CodeRows(store, views.first_rows(trained)).image_keys(),
        created_with=created_with,
        white=store.white,
        parts=store.parts if isinstance(store, JoinedStore) else (),
        measured_images=CodeRows(store, views.first_rows(measured)).image_keys(),
        thresholds=thresholds,
    )


def write_head(model: onnx.ModelProto, store: CodeStore, output: Path, *, overwrite: bool) -> None:
    """Write a head of a codes file; that of networks side by side scales the codes of each first.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    if isinstance(store, JoinedStore):
        store.write_scales(model)  # in front of all that reads the codes
    with replacing(output, overwrite=overwrite) as temporary:
        save_checked(model, temporary)
