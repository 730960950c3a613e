"""A page and an HTTP API for one app; needs the extra ``serve``.

- `limits`: how much a server takes on: requests, bytes, files, images, seconds
- `batching`: worker threads that classify images of several requests together
- `guard`: Host, Origin and token of a request, bodies and their number, headers of an answer
- `uploads`: the files of a request, in memory and within the limits
- `api`: the routes, each with its answer in JSON
- `server`: the socket, the addresses to print, and the end by Ctrl-C

Beside them `openapi.json` describes the API. The page itself is in `cnncodes.page`.
"""

from importlib.util import find_spec

from cnncodes.errors import MissingDependencyError

for _package in ("starlette", "uvicorn", "python_multipart"):
    if find_spec(_package) is None:
        raise MissingDependencyError(
            "serve needs starlette, uvicorn and python-multipart; pip install 'cnncodes[serve]'"
        )
