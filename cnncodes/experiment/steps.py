"""Finished steps of an experiment: their results, by which it goes on, and their durations.

They stand in ``times.json``, which is written again after each step. A result is reused only where
the digest of all that it depends on is the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnncodes.errors import FileFormatError
from cnncodes.files import check_filled, exists
from cnncodes.output import replacing

FORMAT = "1"
KIND = "experiment times"
_MAX_BYTES = 10 * 2**20
_MAX_NUMBER = 1e9  # seconds, images and the like
Form = Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """A finished step.

    Attributes
    ----------
    name : str
        What was done.
    inputs : str
        SHA-256 of all that its result depends on.
    seconds : float
        How long it took.
    result : dict
        What it found, as JSON types.
    """

    name: str
    inputs: str
    seconds: float
    result: dict[str, Any]


class Steps:
    """The steps of an experiment, kept in a file.

    Parameters
    ----------
    path : Path
        The file. Where there is none, no step is finished.

    Raises
    ------
    FileFormatError
        It is not of an experiment, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._finished = {step.name: step for step in _read(path)} if exists(path) else {}
        self._used: dict[str, Step] = {}

    def find(self, name: str, inputs: Any, form: Form) -> Step | None:
        """Return a finished step that can be used.

        Parameters
        ----------
        name : str
            The step.
        inputs : object
            All that the result depends on, as JSON types.
        form : dict
            For each key of the result the class of its value, or the form of a dict in it. A
            result of another form was changed by hand, and the step is not finished.
        """
        step = self._finished.get(name)
        if step is None or step.inputs != _digest(inputs) or not _has_form(step.result, form):
            return None
        return step

    def run(self, name: str, inputs: Any, compute: Callable[[], dict[str, Any]]) -> Step:
        """Do a step and keep it.

        Parameters
        ----------
        name : str
            The step, of which there is one of that name.
        inputs : object
            All that the result depends on, as JSON types.
        compute : callable
            Returns the result, as JSON types; a number ``seconds`` in it is the duration.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        started = time.monotonic()
        result = compute()
        seconds = result.pop("seconds", time.monotonic() - started)
        step = Step(name, _digest(inputs), round(seconds, 3), result)
        self.keep(step)
        return step

    def keep(self, step: Step) -> None:
        """Keep a finished step, in the file too."""
        self._used[step.name] = step
        if self._finished.get(step.name) != step:
            self._finished[step.name] = step
            self._write(self._finished)

    def finish(self) -> None:
        """Drop the steps of other networks and sizes, which were not used."""
        self._write(self._used)

    def _write(self, steps: Mapping[str, Step]) -> None:
        content = {
            "format": FORMAT,
            "kind": KIND,
            "steps": [asdict(step) for step in steps.values()],
        }
        with replacing(self.path, overwrite=True) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _digest(inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> list[Step]:
    remedy = "remove it, and the experiment begins again with the codes it has"
    n_bytes = check_filled(path, remedy).st_size
    try:
        content = json.loads(path.read_bytes()) if n_bytes <= _MAX_BYTES else None
    except OSError as error:
        raise FileFormatError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise FileFormatError(f"{path}: is not of an experiment; {remedy}")
    if content.get("format") != FORMAT:
        raise FileFormatError(f"{path}: is of another release; {remedy}")
    try:
        steps = [Step(**each) for each in content["steps"]]
        if not all(_is_step(step) for step in steps):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path}: is damaged; {remedy}") from error
    return steps


def _is_step(step: Step) -> bool:
    texts = all(isinstance(each, str) for each in (step.name, step.inputs))
    return texts and _has_form(step.seconds, float) and isinstance(step.result, dict)


def _has_form(value: Any, form: Any) -> bool:
    """Whether a value of JSON has the form of `Steps.find`; ``list`` is one of texts."""
    if isinstance(form, Mapping):
        is_same = isinstance(value, dict) and value.keys() == form.keys()
        return is_same and all(_has_form(value[key], form[key]) for key in form)
    if form is list:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    kinds = (float, int) if form is float else (form,)
    return type(value) in kinds and 0 <= value < _MAX_NUMBER
