"""The metadata of a model in words, for `info`, reports and charts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cnncodes.text import counted, shown, value_text

DIGEST_DIGITS = 8
_FILE, _RANDOM = "file:", "random:"
_PLUS = " + "  # between the weights of several networks
# What a fact of another program, of other types than ours, raises.
_FOREIGN = (KeyError, TypeError, ValueError, AttributeError, OverflowError)

# What the methods of `quantize.calibration` take as the range of a tensor.
_RANGES = {"max": "all values", "mse": "the least squared error", "99.99": "99.99% of the values"}


def short_digest(digest: str) -> str:
    """Return the first 8 digits of a SHA-256, enough to tell files apart."""
    return shown(digest[:DIGEST_DIGITS])


def weights_name(weights: str, file: str = "") -> str:
    """Name the weights of a network.

    Parameters
    ----------
    weights : str
        ``imagenet``, ``random:SEED`` or ``file:SHA256``, as in `BackboneInfo.weights`.
    file : str
        Name of the weight file; empty in files of earlier releases.

    Returns
    -------
    str
        The name and 8 digits of the SHA-256 of a weight file; else `weights`.
    """
    if not weights.startswith(_FILE):
        return shown(weights)
    return f"{shown(file) or 'a file'} ({short_digest(weights[len(_FILE) :])})"


def is_random(weights: str) -> bool:
    """Return whether the weights of a network are random, so that its metrics carry no meaning."""
    return weights.startswith(_RANDOM)


def weights_text(weights: str, file: str = "") -> str:
    """Name the weights as a phrase, such as ``imagenet weights`` or ``weights of a file (…)``.

    Weights of several networks, joined by plus signs as in a curve, are named one after the other.
    """
    if len(several := weights.split(_PLUS)) > 1:
        files = iter(file.split(_PLUS))  # of those alone that are from a file
        return _PLUS.join(
            weights_text(each, next(files, "") if each.startswith(_FILE) else "")
            for each in several
        )
    if is_random(weights):
        return f"random weights (seed {shown(weights[len(_RANDOM) :])})"
    name = weights_name(weights, file)
    return f"weights of {name}" if weights.startswith(_FILE) else f"{name} weights"


def precision_rows(
    parity: float, parity_images: str, quantization: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Describe how exact the codes of a network are, as pairs of name and text.

    Parameters
    ----------
    parity : float
        `BackboneInfo.parity`.
    parity_images : str
        The images on which it was measured.
    quantization : mapping of str to JSON types
        `BackboneInfo.quantization`; empty for a float32 file.

    Returns
    -------
    list of (str, str)
        Of an int8 file the closeness to the float32 codes and the calibration, since the parity
        in its metadata is that of the float32 file; else how close they are to Keras's.
    """
    if not quantization:
        text = f"codes as from Keras, to within {1e6 * parity:.1f} millionths of the largest"
        return [("check", f"{text} ({shown(parity_images)})")]
    try:
        return [
            ("closeness", shown(_closeness_text(quantization))),
            ("calibration", shown(_calibration_text(quantization))),
        ]
    except _FOREIGN:
        return [("quantization", plain_text(quantization))]


def _closeness_text(closeness: Mapping[str, Any]) -> str:
    """Describe the closeness of int8 codes to float32 codes, from the fields of `Closeness`."""
    images = counted(closeness["n_images"], "image")
    return (
        f"cosine {closeness['cosine']:.4f} to the float32 codes, at least "
        f"{closeness['min_cosine']:.4f}; relative error {closeness['relative_error']:.1%} "
        f"(on {images} not used for calibration)"
    )


def _calibration_text(quantization: Mapping[str, Any]) -> str:
    method = quantization["method"]
    parts = [
        f"ranges by {_RANGES.get(method, shown(method))} on "
        f"{counted(quantization['calibration_images'], 'image')}",
        f"equalization {quantization['equalization']:g}",
        *(["biases corrected"] if quantization["bias_correction"] else []),
        f"weights of {quantization['weight_limit'].bit_length() + 1} bits",
    ]
    if quantization["floats"]:
        parts.append(f"{counted(quantization['floats'], 'convolution')} in float32")
    return ", ".join([*parts, f"seed {quantization['seed']}"])


def training_rows(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Describe how a head was trained, as pairs of name and text.

    Parameters
    ----------
    training : mapping of str to JSON types
        `HeadInfo.training`. An entry that is not of `train` is described as it is.

    Returns
    -------
    list of (str, str)
        Without control characters.
    """
    rows: list[tuple[str, str]] = []
    for key, value in training.items():
        describe = _TRAINING.get(key)
        try:
            rows += describe(value) if describe else [(_name(key), plain_text(value))]
        except _FOREIGN:
            rows.append((_name(key), plain_text(value)))
    return [(name, shown(text)) for name, text in rows if text]


def fitted_text(fitted: Mapping[str, Any]) -> str:
    """Describe the result of a fit, from `Training.fitted`, without the ``parameters``."""
    hidden = (
        "C_scores",
        "parameters",
        "compared",
        "temperature",
        "calibration_error",
        "thresholds",
    )
    rest = {key: each for key, each in fitted.items() if key not in hidden}
    n_iterations = rest.pop("n_iterations", None)
    if isinstance(fitted.get("C"), list):
        rest["C"] = _strengths_text(fitted["C"])
    if "C_scores" in fitted:
        n_tried = len(fitted["C_scores"])
        rest["C"] = f"{value_text(rest['C'])} (best of {n_tried} in cross-validation)"
    standardized = rest.pop("standardize", False)
    parts = [plain_text(rest), "codes standardized" if standardized else ""]
    if n_iterations is not None:
        parts.append(counted(n_iterations, "iteration"))
    if "temperature" in fitted:
        parts.append(_temperature_text(fitted["temperature"], fitted.get("calibration_error")))
    if "compared" in fitted:
        # Some names are a kind with its normalisation, as "ridge, sqrt".
        pairs = [name.partition(", ") for name in fitted["compared"]]
        names = shown(", ".join(f"{kind} ({how})" if how else kind for kind, _, how in pairs))
        if any(each["loss"] is not None for each in fitted["compared"].values()):
            parts.append(f"chosen by cross-validation among {names}")
        else:
            parts.append(f"the first of {names}: too few images or groups for cross-validation")
    return ", ".join(filter(None, parts))


def _strengths_text(strengths: list[float]) -> str:
    """Describe the strengths of the labels of a head of several."""
    least, most = value_text(min(strengths)), value_text(max(strengths))
    return least if least == most else f"{least} to {most} (one for each label)"


def _temperature_text(temperature: Any, error: Any) -> str:
    text = f"temperature {value_text(temperature)}"
    if error is None:
        return text
    return (
        f"{text} (calibration error in cross-validation {error['before']:.1%} before, "
        f"{error['after']:.1%} after)"
    )


def _split_rows(split: Any) -> list[tuple[str, str]]:
    share = f"{100 * split['train_fraction']:.4g} %"
    text = f"{shown(split['method'])}, {share} of each class for training"
    if split.get("per_class") is not None:
        text += f", at most {counted(split['per_class'], 'image')} of each"
    return [("split", f"{text}, seed {split['seed']}")]


def _score_rows(part: str, score: Any) -> list[tuple[str, str]]:
    text = counted(score["n_images"], "image")
    if score.get("mean_average_precision") is not None:
        text += f", {label_score_text(score)}, log loss {score['loss']:.4f}"
    elif score["accuracy"] is not None:
        text += f", accuracy {score['accuracy']:.1%}, log loss {score['loss']:.4f}"
    return [(part, text)]


def label_score_text(score: Mapping[str, Any]) -> str:
    """Describe the metrics of a head of several labels, from `LabelScore` or its JSON."""
    return (
        f"mean average precision {score['mean_average_precision']:.1%}, micro F1 "
        f"{score['micro_f1']:.1%}, macro F1 {score['macro_f1']:.1%}"
    )


def unknown_text(unknown: Mapping[str, Any]) -> str:
    """Describe the score of "none of these", from `Training.unknown`."""
    text = f"set to refuse {100 * unknown['share']:.3g} % of the images of the classes"
    if unknown["test_refused"] is not None:
        text += f"; refuses {unknown['test_refused']:.1%} of the test images"
    if unknown.get("none_refused") is not None:
        images = counted(unknown["none_images"], "image")
        text += f", {unknown['none_refused']:.1%} of {images} of {shown(unknown['none'])}"
    if unknown.get("auroc") is not None:
        text += f" (AUROC {unknown['auroc']:.3f})"
    return text


_TRAINING: dict[str, Callable[[Any], list[tuple[str, str]]]] = {
    "fitted": lambda fitted: [
        ("fitted", fitted_text(fitted)),
        ("parameters", plain_text(fitted.get("parameters", {}))),
    ],
    "split": _split_rows,
    "train": lambda score: _score_rows("training part", score),
    "test": lambda score: _score_rows("test part", score),
    "unknown": lambda unknown: [("none of these", unknown_text(unknown))],
    "refit": lambda refit: [
        ("refit", f"on all {counted(refit['n_images'], 'image')} after the test part measured it")
    ],
}


def card_rows(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Describe what only an app has, as pairs of name and text.

    Parameters
    ----------
    card : mapping of str to JSON types
        `HeadInfo.card`. An entry that is not of `bundle` is described as it is.

    Returns
    -------
    list of (str, str)
        Without control characters.
    """
    rows = []
    for key, value in card.items():
        try:
            text = _CARD[key](value) if key in _CARD else plain_text(value)
        except _FOREIGN:
            text = plain_text(value)
        rows.append((_CARD_NAMES.get(key, _name(key)), shown(text)))
    return rows


def _half_text(half: Any) -> str:
    return (
        f"{counted(half['n_tensors'], 'tensor')} of weights stored as float16; probabilities "
        f"differ by {half['largest_difference']:.1e} at most, {half['n_same_label']} of "
        f"{half['n_images']} labels are the same (on drawn images)"
    )


_CARD_NAMES = {"date": "made on"}
_CARD: dict[str, Callable[[Any], str]] = {
    "limits": lambda text: " ".join(text.split()),  # of several lines, perhaps
    "half": _half_text,
    "batch": lambda n_images: f"{counted(n_images, 'image')} at a time, neither more nor fewer",
}


def plain_text(value: Any) -> str:
    """Format JSON types as one line; names of entries have blanks for underscores."""
    return value_text(_named(value))


def _named(value: Any) -> Any:
    if isinstance(value, dict):
        return {_name(key): _named(each) for key, each in value.items()}
    return [_named(each) for each in value] if isinstance(value, list) else value


def _name(key: str) -> str:
    return shown(key).replace("_", " ").strip()
