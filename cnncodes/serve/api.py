"""The routes of the server, each with its answer in JSON; `openapi.json` describes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from cnncodes._version import __version__
from cnncodes.app.classifier import Classifier
from cnncodes.app.explain import Explanation
from cnncodes.app.prediction import LabelPrediction, Prediction
from cnncodes.errors import CnncodesError
from cnncodes.models.metadata import unknown_entries
from cnncodes.page import ASSETS
from cnncodes.parameters import COUNT
from cnncodes.serve.batching import Answer, Batcher, BusyError, Upload
from cnncodes.serve.guard import Access, Guard, problem
from cnncodes.serve.limits import Limits
from cnncodes.serve.uploads import Form, Intake, busy

OPENAPI = Path(__file__).parent / "openapi.json"
DEFAULT_TOP = 5  # classes per image


class Api:
    """The endpoints, for one app.

    Parameters
    ----------
    classifier : Classifier
        The app.
    batcher : Batcher
        Computes the images to predict.
    limits : Limits
        The bounds of what is taken on.
    """

    def __init__(self, classifier: Classifier, batcher: Batcher, limits: Limits) -> None:
        self._classifier = classifier
        self._batcher = batcher
        self._limits = limits
        self._intake = Intake(limits)
        self._one_at_a_time = anyio.CapacityLimiter(1)  # beside the workers of the batcher
        self._openapi = json.loads(OPENAPI.read_text("utf-8"))

    def routes(self) -> list[Route]:
        """Return the routes of the API."""
        return [
            Route("/api/predict", self._predict, methods=["POST"]),
            Route("/api/explain", self._explain, methods=["POST"]),
            Route("/api/health", self._health),
            Route("/api/version", self._version),
            Route("/api/openapi.json", self._describe),
        ]

    async def _predict(self, request: Request) -> Response:
        top = _top_of(request)
        async with self._intake.form(request) as form:
            answers = await self._classify(form)
        results = [
            self._as_json(upload, answer, top)
            for upload, answer in zip(form.uploads, answers, strict=True)
        ]
        is_usable = any(answer.probabilities is not None for answer in answers)
        return JSONResponse({"results": results}, 200 if is_usable else 422)

    async def _classify(self, form: Form) -> list[Answer]:
        """Let the workers classify the images of a form."""
        try:
            futures = self._batcher.submit(form.uploads)
        except BusyError as error:
            raise busy(str(error)) from None
        with self._in_time():  # at its end, images that still wait are cancelled
            return await asyncio.gather(*map(asyncio.wrap_future, futures))

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        seconds = self._limits.seconds_to_answer
        try:
            with anyio.fail_after(seconds):
                yield
        except TimeoutError:
            raise busy(f"not computed within {seconds:g} seconds; try again later") from None

    def _as_json(self, upload: Upload, answer: Answer, top: int) -> dict[str, Any]:
        predictions: list[Prediction] = []
        if answer.probabilities is not None:
            predictions = self._classifier.ranked(answer.probabilities)
            # All labels that an image has, before others.
            predictions.sort(key=lambda each: not getattr(each, "is_present", False))
            n_present = sum(getattr(each, "is_present", False) for each in predictions)
            predictions = predictions[: max(top, n_present)]
        return {
            "name": upload.name,
            "predictions": [
                {
                    "label": each.label,
                    "probability": each.probability,
                    **({"present": each.is_present} if isinstance(each, LabelPrediction) else {}),
                }
                for each in predictions
            ],
            "problem": answer.problem,
            **unknown_entries(answer.unknown),
        }

    async def _explain(self, request: Request) -> Response:
        async with self._intake.form(request, max_files=1, fields=("label",)) as form:
            (upload,) = form.uploads
            size, white = self._classifier.input_size, self._classifier.info.white

            def compute() -> Explanation:
                pixels = upload.decode(size, self._limits.max_pixels, white)
                return self._classifier.explain(pixels, form.fields.get("label"))

            try:
                with self._in_time():
                    explanation = await run_sync(
                        compute, limiter=self._one_at_a_time, abandon_on_cancel=True
                    )
            except CnncodesError as error:
                # The sender need not know where the server's files are.
                path = self._classifier.path
                message = " ".join(str(error).replace(str(path), path.name).split())
                raise HTTPException(422, message) from None
        return JSONResponse(
            {
                "label": explanation.label,
                "logit": explanation.logit,
                "bias": explanation.bias,
                "contributions": explanation.contributions.tolist(),
            }
        )

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _version(self, _: Request) -> Response:
        network = self._classifier.info.backbone
        return JSONResponse(
            {
                "cnncodes": __version__,
                "app": self._classifier.path.name,
                "backbone": network.backbone,
                "weights": network.weights,
                "precision": network.precision,
                "input_size": self._classifier.input_size,
                "labels": self._classifier.labels,
                "max_files": self._limits.max_files,
                "max_body": self._limits.max_body,
            }
        )

    async def _describe(self, _: Request) -> Response:
        return JSONResponse(self._openapi)


def create_app(classifier: Classifier, batcher: Batcher, limits: Limits, access: Access) -> ASGIApp:
    """Return the server's application: the API, and the page at ``/``.

    Parameters
    ----------
    classifier, batcher, limits
        As for `Api`.
    access : Access
        Names and token of the server.

    Returns
    -------
    ASGI application
        Of HTTP alone: it needs no lifespan.
    """
    page = StaticFiles(directory=ASSETS, html=True)
    app = Starlette(
        routes=[*Api(classifier, batcher, limits).routes(), Mount("/", page)],
        exception_handlers={HTTPException: _refuse, Exception: _fail},
    )
    return Guard(app, access)  # around all of it, also the answer to an unexpected error


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, dict(error.headers or {}))


async def _fail(_: Request, error: Exception) -> Response:
    return problem(500, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _top_of(request: Request) -> int:
    """Return the number of classes that a request asks for."""
    text = request.query_params.get("top", str(DEFAULT_TOP))
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if number not in COUNT:
        raise HTTPException(400, "top must be a whole number from 1")
    return number
