"""What the published experiment reports on Caltech-101.

The source is yoavz/transfer-learning-keras (2017), on a MacBook Air (2.2 GHz Intel Core i7): its
README has the accuracies with all training images and the durations, its chart those with at most
5 to 30 training images per class. The latter are read off the chart, to about half a point.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

HOMEPAGE = "https://github.com/yoavz/transfer-learning-keras"
PER_CLASS = (5, 10, 15, 20, 25, 30)
EPOCHS = (5, 25)
TRAIN_FRACTION = 0.7
_SOME_CLASSES = {"accordion", "airplanes", "watch", "wrench", "yin_yang"}
_N_CLASSES = (101, 102)  # without and with BACKGROUND_Google


@dataclass(frozen=True)
class Published:
    """The published figures of a network.

    Attributes
    ----------
    epochs : int
        Epochs of its training.
    accuracy : float
        Test accuracy with all training images.
    seconds : int
        Duration of the training.
    by_size : tuple of float
        Test accuracy with each number of images of `PER_CLASS`, read off its chart.
    """

    epochs: int
    accuracy: float
    seconds: int
    by_size: tuple[float, ...]

    def accuracy_of(self, per_class: int) -> float | None:
        """Return the accuracy with at most a number of training images per class, if published."""
        return dict(zip(PER_CLASS, self.by_size, strict=True)).get(per_class)


PUBLISHED = {
    "inception_v3": Published(5, 0.9079, 129, (0.815, 0.849, 0.861, 0.873, 0.884, 0.888)),
    "vgg19": Published(25, 0.7908, 328, (0.090, 0.228, 0.456, 0.485, 0.473, 0.635)),
}


def is_caltech101(class_names: Collection[str]) -> bool:
    """Whether classes are those of Caltech-101, so that its published figures compare."""
    return len(class_names) in _N_CLASSES and set(class_names) >= _SOME_CLASSES
