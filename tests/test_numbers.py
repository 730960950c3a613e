"""Whatever stands for a number on the command line, or in a call: a result, or one line."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cnncodes.cli import main
from cnncodes.cli_options import Number, Sizes, Strength
from cnncodes.errors import ParameterError
from cnncodes.evaluate.evaluate import evaluate
from cnncodes.evaluate.learning_curve import learning_curves
from cnncodes.extract.pipeline import extract
from cnncodes.extract.transformer import CodeExtractor
from cnncodes.head import GramLogisticRegression, SGDSoftmax
from cnncodes.head.train import train_head
from cnncodes.inspect.bench import benchmark
from cnncodes.inspect.verify import verify
from cnncodes.parameters import EPOCHS, STRENGTH
from cnncodes.quantize.quantize import quantize_backbone
from tests.helpers import write_backbone, write_codes

# Those options would keep the machine busy as long as they ask for, and so are not run when valid.
SLOW = {
    ("train", "epochs"),
    ("curve", "seeds"),
    ("bench", "seconds"),
    ("bench", "threads"),
    ("bench", "batch_sizes"),
}
NEEDS_OPTIONS = {
    "epochs": ["--estimator", "sgd"],
    "batch_size": ["--estimator", "sgd"],
    "learning_rate": ["--estimator", "sgd"],
    "l2": ["--estimator", "sgd"],
    "patience": ["--estimator", "sgd"],
}
EDGES = [
    *(str(sign * 2**bits + more) for bits in (0, 8, 31, 32, 53, 63, 64, 128)
      for sign in (1, -1) for more in (-1, 0, 1)),
    *("nan", "-nan", "inf", "-inf", "1e400", "1e-400", "1e-300", "1e300", "-0", "0.0", "1e5"),
    *("0x10", "", " ", "1_0", "٣", "½", "1,2", "1,,2", "true", "None", "9" * 5000, "1e8", "3e38"),
]  # fmt: skip
WILD = st.one_of(
    st.sampled_from(EDGES),
    st.integers().map(str),
    st.floats().map(repr),
    st.floats().map("{:.60f}".format),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.lists(st.integers(-2, 2**70), max_size=4).map(lambda each: ",".join(map(str, each))),
)


def numeric_options() -> list[tuple[str, str]]:
    """Name all commands' options that are numbers."""
    kinds = (click.IntRange, Number, Strength, Sizes)
    return [
        (name, parameter.name or "")
        for name, command in main.commands.items()
        for parameter in command.params
        if isinstance(parameter.type, kinds)
    ]


OPTIONS = numeric_options()


def test_no_option_is_a_number_without_a_range() -> None:
    for name, command in main.commands.items():
        for parameter in command.params:
            kind = parameter.type
            assert type(kind) not in (type(click.INT), type(click.FLOAT)), (name, parameter.name)
            if isinstance(kind, click.IntRange | click.FloatRange):
                assert kind.min is not None, (name, parameter.name)
                assert kind.max is not None, (name, parameter.name)
    assert len(OPTIONS) >= 30


class Inputs:
    """Small files of each kind, and the commands on them."""

    def __init__(self, folder: Path) -> None:
        self.backbone = write_backbone(folder / "mean.onnx")
        self.photos = folder / "photos"
        for name, grey in itertools.product("ab", range(9)):
            (self.photos / name).mkdir(parents=True, exist_ok=True)
            image = Image.new("RGB", (6, 6), (20 * grey, 100 * (name == "b"), 9))
            image.save(self.photos / name / f"{grey}.png")
        random = np.random.default_rng(0)
        y = np.repeat([0, 1, 2], 8).astype(np.int32)
        X = (random.normal(size=(3, 6))[y] + random.normal(size=(24, 6))).astype(np.float32)
        self.codes = write_codes(folder / "codes.h5", X, y)
        self.head = folder / "head.onnx"
        train_head(self.codes, self.head)
        self.app = folder / "absent.onnx"
        self._folder = folder
        self._numbers = itertools.count()

    def command(self, name: str) -> tuple[list[str], Path]:
        """Return the arguments of a command, and the folder of its output, which is empty."""
        outputs = self._folder / f"outputs{next(self._numbers)}"
        outputs.mkdir()
        output = ["-o", str(outputs / "output")]
        arguments: dict[str, list[Any]] = {
            "export": ["mobilenet_v2", *output],
            "quantize": [self.backbone, "--images", self.photos, *output],
            "extract": [self.backbone, self.photos, *output],
            "train": [self.codes, *output],
            "curve": [self.codes, *output],
            "evaluate": [self.head, self.codes, "--include-training"],
            "bundle": [self.backbone, self.head, *output],
            "predict": [self.app, self.photos],
            "serve": [self.app],
            "bench": [self.backbone],
            "experiment": [self.photos, self.app, *output],  # which is absent: no time is spent
            "finetune": [self.app, "mobilenet_v2", *output],
            "overlap": [self.codes, *output],
            "verify": [self.codes, "--source", self.photos],
        }
        return [name, *map(str, arguments[name])], outputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("numbers"))


def is_accepted(name: str, option: str, text: str) -> bool:
    """Whether click takes a text for an option."""
    command = main.commands[name]
    (parameter,) = (each for each in command.params if each.name == option)
    try:
        parameter.type.convert(text, parameter, None)
    except click.UsageError:
        return False
    return True


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=map("-".join, OPTIONS))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=WILD)
def test_any_text_for_a_number_ends_in_a_result_or_a_line(
    inputs: Inputs, name: str, option: str, text: str
) -> None:
    accepted = is_accepted(name, option, text)
    if accepted and (name == "export" or (name, option) in SLOW):
        return
    arguments, outputs = inputs.command(name)
    if name == "train":
        arguments += NEEDS_OPTIONS.get(option, [])
        if option != "epochs" and option in NEEDS_OPTIONS:
            arguments += ["--epochs", "2"]
    flag = next(each.opts[0] for each in main.commands[name].params if each.name == option)
    result = CliRunner().invoke(main, [*arguments, f"{flag}={text}"])
    message = result.output
    assert "Traceback" not in message
    assert "--debug" not in message
    assert "Warning" not in message
    if accepted:
        assert result.exit_code in (0, 1), message
        if result.exit_code:
            assert result.stderr.splitlines()[-1].startswith("Error: ")
    else:
        assert result.exit_code == 2, message
        # The value of --unknown may be left out, and what begins with a dash is the next option.
        is_next_option = option == "unknown" and text.startswith("-")
        assert ("No such option" if is_next_option else flag) in message
        assert not list(outputs.iterdir())


NUMBERS: dict[str, Any] = {
    "train": (train_head, ["train_fraction", "per_class", "seed", "C"]),
    "curve": (learning_curves, ["per_class", "seeds", "seed", "train_fraction", "C"]),
    "extract": (extract, ["batch_size", "threads", "max_pixels", "white"]),
    "quantize": (quantize_backbone, ["n_images", "seed"]),
    "evaluate": (evaluate, ["max_pixels"]),
    "verify": (verify, ["sample", "max_pixels"]),
    "bench": (benchmark, ["batch_sizes", "threads", "seconds"]),
}
CALLS = [(name, parameter) for name, (_, names) in NUMBERS.items() for parameter in names]
NONE_AT_ALL = [-1, 0, math.nan, math.inf, -math.inf, "7", True, 2**65, 10**5000, 1e300, 1j, [], b""]


@pytest.mark.parametrize(
    "value", NONE_AT_ALL, ids=lambda value: f"{value!r:.10}" if value != 10**5000 else "vast"
)
@pytest.mark.parametrize(("name", "parameter"), CALLS, ids=map("-".join, CALLS))
def test_library_refuses_a_number_before_a_file_is_opened(
    tmp_path: Path, name: str, parameter: str, value: Any
) -> None:
    if parameter == "seed" and value == 0:
        return  # which it may be
    absent = tmp_path / "absent"
    first: Any = [absent] if name in ("curve", "bench") else absent
    others = {
        "train": [tmp_path / "new"],
        "curve": [tmp_path / "new"],
        "extract": [absent, tmp_path / "new"],
        "quantize": [absent, tmp_path / "new"],
        "evaluate": [absent],
    }
    call = NUMBERS[name][0]
    with pytest.raises(ParameterError, match=rf"^(each of )?{parameter} must ") as caught:
        call(first, *others.get(name, []), **{parameter: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert not list(tmp_path.iterdir())


CHOICES = {
    "train": ["split", "class_weight"],
    "curve": ["split", "class_weight"],
    "extract": ["dtype", "on_error", "group_by"],
    "quantize": ["weights"],
    "evaluate": ["group_by"],
}
CHOSEN = [(name, parameter) for name, names in CHOICES.items() for parameter in names]


@pytest.mark.parametrize("value", ["x", "", 3, ["skip"], {"a": 1}, np.zeros(2)], ids=repr)
@pytest.mark.parametrize(("name", "parameter"), CHOSEN, ids=map("-".join, CHOSEN))
def test_library_refuses_a_word_before_a_file_is_opened(
    tmp_path: Path, name: str, parameter: str, value: Any
) -> None:
    absent, new = tmp_path / "absent", tmp_path / "new"
    arguments: dict[str, list[Any]] = {
        "train": [absent, new],
        "curve": [[absent], new],
        "extract": [absent, absent, new],
        "quantize": [absent, absent, new],
        "evaluate": [absent, absent],
    }
    with pytest.raises(ParameterError, match=rf"^{parameter} must be '") as caught:
        NUMBERS[name][0](*arguments[name], **{parameter: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("parameter", ["batch_size", "threads"])
def test_transformer_refuses_a_number(inputs: Inputs, parameter: str) -> None:
    for value in (0, -1, 2**64, 1.5, "2", True):
        extractor = CodeExtractor(inputs.backbone, **{parameter: value})
        with pytest.raises(ParameterError, match=f"^{parameter} must be "):
            extractor.transform([])


@pytest.mark.parametrize(
    "parameters",
    [{"epochs": 0}, {"epochs": 1.5}, {"epochs": EPOCHS.most + 1}, {"batch_size": True},
     {"learning_rate": math.nan}, {"learning_rate": 0}, {"learning_rate": "3"}, {"l2": -1},
     {"l2": math.inf}, {"patience": 0}, {"momentum": 1}, {"validation_fraction": math.nan}],
    ids=str,
)  # fmt: skip
def test_descent_refuses_numbers(
    inputs: Inputs, tmp_path: Path, parameters: dict[str, Any]
) -> None:
    (name,) = parameters
    X, y = np.eye(4), [0, 1, 0, 1]
    with pytest.raises(ValueError, match=rf"^{name} must be "):
        SGDSoftmax(**parameters).fit(X, y)
    with pytest.raises(ParameterError, match=rf"^sgd: {name} must be "):
        train_head(tmp_path / "absent.h5", tmp_path / "new", estimator="sgd", sgd=parameters)


def test_descent_refuses_parameters_it_does_not_have(tmp_path: Path) -> None:
    for sgd in ({"rate": 1}, {3: 4}, {"random_state": 0}):
        with pytest.raises(ParameterError, match="sgd has no parameter"):
            train_head(tmp_path / "absent.h5", tmp_path / "new", estimator="sgd", sgd=sgd)
    with pytest.raises(ParameterError, match="sgd must be a dict, not list"):
        train_head(tmp_path / "absent.h5", tmp_path / "new", estimator="sgd", sgd=[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "parameters",
    [{"C": 0}, {"C": math.nan}, {"C": 1e-300}, {"C": "much"}, {"C": True}, {"Cs": [1, 0]},
     {"n_folds": 0}, {"n_folds": 2.5}],
    ids=str,
)  # fmt: skip
def test_gram_refuses_numbers(parameters: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=rf"{next(iter(parameters))} must "):
        GramLogisticRegression(**parameters).fit(np.eye(4), [0, 1, 0, 1])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.floats(math.log(STRENGTH.least), math.log(STRENGTH.most)).map(math.exp),
    st.sampled_from([3, 60]),
    st.sampled_from([0.0, 0.3, 3.0]),
    st.floats(-6, 6),
    st.integers(0, 99),
)
def test_any_strength_trains_and_draws_a_curve_without_a_warning(
    tmp_path_factory: pytest.TempPathFactory,
    C: float,
    n_features: int,
    distance: float,
    size: float,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    y = np.repeat([0, 1, 2], 14).astype(np.int32)
    X = distance * random.normal(size=(3, n_features))[y] + random.normal(size=(42, n_features))
    folder = tmp_path_factory.mktemp("strength")
    codes = write_codes(folder / "codes.h5", (10**size * X).astype(np.float32), y)
    C = min(max(C, STRENGTH.least), STRENGTH.most)
    training = train_head(codes, folder / "head.onnx", C=C)
    assert training.train.loss is not None
    assert math.isfinite(training.train.loss)
    (curve,) = learning_curves([codes], folder / "curve.json", C=C, per_class=[2, 9], seeds=2)
    assert all(point.C == C for point in curve.points)
