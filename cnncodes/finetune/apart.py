"""The layers above the cut in a process of their own, so that the memory of Keras ends with it.

TensorFlow alone takes half a gigabyte, and returns nothing of what a training took. Without it the
activations, the app and its test take as much as they take in `extract`, `bundle` and `evaluate`.

The two processes send each other pickled tuples through pipes that nobody else can reach: those of
standard input and output, which `serve` takes from what else may read or write there. What is
written before that, as by a ``sitecustomize``, is skipped.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from itertools import count
from types import TracebackType
from typing import IO, Any, cast

from numpy.typing import NDArray

from cnncodes._version import created_with
from cnncodes.errors import CnncodesError, TrainingError
from cnncodes.export.keras_settings import own_keras
from cnncodes.export.keras_weights import Weights
from cnncodes.finetune.codes import Codes, Floats, Standardizing
from cnncodes.finetune.recipe import Recipe
from cnncodes.finetune.top import Top
from cnncodes.head.scaling import Scaling
from cnncodes.inspect.bench import peak_bytes

_READY = b"\ncnncodes serves\n"  # precedes the first answer; a line also after half a line
_PROGRAM = "import sys; sys.path[:] = {!r}; from cnncodes.finetune.apart import serve; serve()"


class TopProcess:
    """A `Top` in another process, which ends with the block.

    Parameters
    ----------
    network, input_size, weights, cut, codes
        As for `Top`; `network` is a name in `BACKBONES`.

    Raises
    ------
    TrainingError
        The other process ended, as for want of memory. Every method may raise it.
    """

    def __init__(
        self, network: str, input_size: int, weights: Weights, cut: str, codes: Codes
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM.format(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        try:
            self._wait()
            self.input_shape, self.n_features = self._exchange(
                (network, input_size, weights, cut, codes)
            )
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> TopProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()  # closes the pipes

    def _wait(self) -> None:
        """Wait until the other process serves; skip what it writes before."""
        for line in cast(IO[bytes], self._process.stdout):
            if line == _READY.lstrip():
                return
        raise self._lost()

    def _lost(self) -> TrainingError:
        return TrainingError(
            f"the process that trains has ended ({self._process.wait()}), probably for want of "
            "memory; lower batch_size, or choose a later from_layer"
        )

    def _exchange(self, message: tuple[Any, ...], **options: Any) -> Any:
        """Send a name and arguments, and return the answer or raise it."""
        process = self._process
        try:
            _send((message, options), cast(IO[bytes], process.stdin))
            answer, error = pickle.load(cast(IO[bytes], process.stdout))
        except (OSError, EOFError, pickle.UnpicklingError) as lost:
            raise self._lost() from lost
        if error is not None:
            raise error
        return answer

    def attach(
        self,
        scaling: Scaling | Standardizing,
        weights: Floats,
        bias: Floats,
        recipe: Recipe,
        n_steps: int,
    ) -> None:
        """As `Top.attach`."""
        self._exchange(("attach", scaling, weights, bias, recipe, n_steps))

    def seed(self, seed: int) -> None:
        """As `Top.seed`."""
        self._exchange(("seed", seed))

    def step(self, X: Floats, targets: Floats, weights: Floats, rate: float) -> float:
        """As `Top.step`."""
        return float(self._exchange(("step", X, targets, weights, rate)))

    def probabilities(self, X: Floats) -> Floats:
        """As `Top.probabilities`."""
        return cast(Floats, self._exchange(("probabilities", X)))

    def features(self, X: Floats) -> Floats:
        """As `Top.features`."""
        return cast(Floats, self._exchange(("features", X)))

    def use_averages(self) -> None:
        """As `Top.use_averages`."""
        self._exchange(("use_averages",))

    def use_weights(self) -> None:
        """As `Top.use_weights`."""
        self._exchange(("use_weights",))

    @property
    def head(self) -> tuple[Floats, Floats]:
        """As `Top.head`."""
        return cast(tuple[Floats, Floats], self._exchange(("head",)))

    @property
    def weights(self) -> Weights:
        """As `Top.weights`."""
        return cast(Weights, self._exchange(("weights",)))

    @property
    def variables(self) -> list[NDArray[Any]]:
        """As `Top.variables`."""
        return list(self.read_variables())

    @variables.setter
    def variables(self, values: list[NDArray[Any]]) -> None:
        self._exchange(("=", "variables", values))

    def read_variables(self, *, of_optimizer: bool = False) -> Iterator[NDArray[Any]]:
        """Yield copies of `variables`, or of the optimizer's, one after the other."""
        for index in count():
            value = self._exchange(("read_variable", index), of_optimizer=of_optimizer)
            if value is None:
                return
            yield value

    def set_optimizer_variables(self, values: Sequence[NDArray[Any]]) -> None:
        """As `Top.set_optimizer_variables`."""
        self._exchange(("set_optimizer_variables", list(values)))

    @property
    def created_with(self) -> str:
        """Versions of the packages of the training, which only the other process imports."""
        return str(self._exchange(("created_with",)))

    @property
    def peak_bytes(self) -> int | None:
        """Peak memory of the other process; None where it is unknown."""
        return cast(int | None, self._exchange(("peak_bytes",)))


def serve() -> None:
    """Make a `Top` and do what is asked of it, from standard input to standard output."""
    from cnncodes.machine import give_memory_back

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the other process ends this one
    give_memory_back()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # TensorFlow writes there
        os.dup2(silent, descriptor)
    answers.write(_READY)
    answers.flush()
    try:
        arguments, _ = pickle.load(requests)  # all of it, before Keras may fail and end the pipe
        with own_keras() as keras:
            top = _make(keras, *arguments)
            _send(((top.input_shape, top.n_features), None), answers)
            while True:
                (name, *arguments), options = pickle.load(requests)
                _send((_do(top, name, arguments, options), None), answers)
    except (EOFError, BrokenPipeError):
        pass  # the other process has ended
    except CnncodesError as error:
        _send((None, error), answers)
    except BaseException:
        _send((None, RuntimeError(traceback.format_exc())), answers)


def _make(
    keras: Any, network: str, input_size: int, weights: Weights, cut: str, codes: Codes
) -> Top:
    from cnncodes.export.architectures import layers_of
    from cnncodes.export.backbones import BACKBONES

    layers = layers_of(network, input_size)
    return Top(keras, BACKBONES[network], layers, weights, cut, codes)


def _do(top: Top, name: str, arguments: list[Any], options: dict[str, Any]) -> Any:
    if name == "=":
        setattr(top, *arguments)
        return None
    if name == "created_with":
        return created_with("sklearn", "keras", "tensorflow")
    if name == "peak_bytes":
        return peak_bytes()
    attribute = getattr(top, name)
    return attribute(*arguments, **options) if callable(attribute) else attribute


def _send(message: object, pipe: IO[bytes]) -> None:
    pickle.dump(message, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()
