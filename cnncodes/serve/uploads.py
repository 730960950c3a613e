"""The files of a request, in memory only and within the limits.

Nothing is written to disk: the files that starlette collects stay in memory whatever their size,
which is bounded before, as the body arrives.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from python_multipart.exceptions import FormParserError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from cnncodes.serve.batching import Upload
from cnncodes.serve.limits import MB, Limits

FILE = "file"  # name of the part that holds an image
RETRY_AFTER = {"Retry-After": "1"}  # seconds


@dataclass(frozen=True)
class Form:
    """The content of a request.

    Attributes
    ----------
    uploads : list of Upload
        The images, one or more.
    fields : dict of str to str
        The other fields.
    """

    uploads: list[Upload]
    fields: dict[str, str]


class InMemoryParser(MultiPartParser):
    """Keeps files in memory; 0 is no limit for `tempfile.SpooledTemporaryFile`."""

    spool_max_size = 0


class Intake:
    """Receives forms, a limited number at a time.

    Parameters
    ----------
    limits : Limits
        The bounds of requests, bytes, files and seconds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._n_requests = 0
        self._n_held = 0  # bytes

    @asynccontextmanager
    async def form(
        self, request: Request, *, max_files: int | None = None, fields: tuple[str, ...] = ()
    ) -> AsyncIterator[Form]:
        """Receive a form; in the block the request counts as one that is being answered.

        Parameters
        ----------
        request : Request
            The request.
        max_files : int, optional
            Number of files that it may have, by default that of the limits.
        fields : tuple of str
            Names of the fields that it may have beside files.

        Yields
        ------
        Form
            At least one file, and known fields.

        Raises
        ------
        HTTPException
            The request exceeds a limit, or is not such a form.
        """
        if self._n_requests >= self._limits.max_requests:
            raise busy(f"{self._n_requests} requests are being answered; try again in a second")
        body = _Body(self)
        self._n_requests += 1
        try:
            yield await self._receive(request, body, max_files or self._limits.max_files, fields)
        finally:
            self._n_requests -= 1
            body.release()

    async def _receive(
        self, request: Request, body: _Body, max_files: int, fields: tuple[str, ...]
    ) -> Form:
        if request.headers.get("content-type", "").partition(";")[0] != "multipart/form-data":
            raise HTTPException(415, f"send images as multipart/form-data, in parts named {FILE!r}")
        announced = request.headers.get("content-length", "")
        if announced.isdecimal():
            body.hold(int(announced))
        parser = InMemoryParser(
            request.headers,
            body.counted(request.stream()),
            max_files=max_files,
            max_fields=self._limits.max_fields,
        )
        seconds = self._limits.seconds_to_send
        try:
            with anyio.fail_after(seconds):
                form = await parser.parse()
        except TimeoutError:
            raise HTTPException(
                408,
                f"the body did not arrive within {seconds:g} seconds",
                {"Connection": "close"},
            ) from None
        except MultiPartException as error:
            raise HTTPException(400, error.message) from None
        except FormParserError:  # which later releases of starlette turn into the other
            raise HTTPException(400, "Invalid multipart data.") from None
        except ClientDisconnect:
            raise HTTPException(400, "the connection ended within the body") from None
        uploads, values = [], {}
        for name, value in form.multi_items():
            if isinstance(value, str):
                values[name] = value
            else:
                uploads.append(Upload(value.filename or "", await value.read()))
                await value.close()
                if name != FILE:
                    raise HTTPException(400, f"images are parts named {FILE!r}, not {name!r:.100}")
        if unknown := values.keys() - set(fields):
            raise HTTPException(400, f"unknown field {min(unknown)!r:.100}")
        if not uploads:
            raise HTTPException(400, f"no image; send one or more files in parts named {FILE!r}")
        return Form(uploads, values)


class _Body:
    """The share of a request's body in the memory of all."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._limits = intake._limits
        self._n_held = 0  # bytes

    def hold(self, n_bytes: int) -> None:
        """Hold memory for a body of some bytes, or refuse it."""
        more = n_bytes - self._n_held
        if more <= 0:
            return
        if n_bytes > self._limits.max_body:
            most = self._limits.max_body / MB
            raise HTTPException(413, f"a request may have {most:g} MB; send fewer files")
        if self._intake._n_held + more > self._limits.max_held:
            raise busy("too many large files arrive at a time; try again in a second")
        self._intake._n_held += more
        self._n_held = n_bytes

    async def counted(self, parts: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Pass on the parts of a body while it is within the limits."""
        n_bytes = 0
        async for part in parts:
            n_bytes += len(part)
            self.hold(n_bytes)
            yield part

    def release(self) -> None:
        """Give the memory back."""
        self._intake._n_held -= self._n_held


def busy(message: str) -> HTTPException:
    """Return the refusal of a request that may be sent again soon."""
    return HTTPException(503, message, RETRY_AFTER)
