"""How much a server takes on at a time."""

from __future__ import annotations

from dataclasses import dataclass

from cnncodes.images.limits import DEFAULT_MAX_PIXELS

MB = 1_000_000


@dataclass(frozen=True)
class Limits:
    """The bounds of a server; each has a status of its own.

    Attributes
    ----------
    max_requests : int
        Requests with a body that are received or answered at a time (503).
    max_body : int
        Bytes of a request's body (413).
    max_held : int
        Bytes of the bodies of all requests at a time (503).
    max_files : int
        Files in a request (400).
    max_fields : int
        Other fields in a request (400).
    max_waiting : int
        Images that wait for a worker (503).
    max_pixels : int
        Pixels of an image; a larger one is a problem of that file, and status 422 where it is
        the only one.
    seconds_to_send : float
        Time for the head of a request, and again for its body (408).
    seconds_to_answer : float
        Time for the answer, once the body is complete (503).
    """

    max_requests: int = 256
    max_body: int = 64 * MB
    max_held: int = 512 * MB
    max_files: int = 64
    max_fields: int = 8
    max_waiting: int = 512
    max_pixels: int = DEFAULT_MAX_PIXELS
    seconds_to_send: float = 30.0
    seconds_to_answer: float = 60.0
