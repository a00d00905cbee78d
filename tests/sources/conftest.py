from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from modelfetch.demo.hub import Hub
from tests.sources.bench import SourceBench, bench_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def make_desk(hub: Hub, home: Path) -> Iterator[Callable[..., SourceBench]]:
    """Return a factory for benches with additional variables or another number of retries."""
    made: list[SourceBench] = []

    def make(*, retries: int = 3, **more: str) -> SourceBench:
        made.append(bench_for(hub, home, retries=retries, **more))
        return made[-1]

    yield make
    for bench in made:
        bench.http.close()


@pytest.fixture
def bench(make_desk: Callable[..., SourceBench]) -> SourceBench:
    return make_desk()


@pytest.fixture(autouse=True)
def _no_open_session() -> Iterator[None]:
    yield
    import huggingface_hub

    if hasattr(huggingface_hub, "close_session"):  # since 1.0; older versions keep one session per thread
        huggingface_hub.close_session()
