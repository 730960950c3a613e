from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.servers import Server, running


@pytest.fixture(scope="package")
def server(app: Path) -> Iterator[Server]:
    with running(app) as server:
        yield server


@pytest.fixture(scope="session")
def images(photos: Path) -> list[Path]:
    """Three images of different classes."""
    return [sorted(folder.iterdir())[0] for folder in sorted(photos.iterdir())[:3]]
