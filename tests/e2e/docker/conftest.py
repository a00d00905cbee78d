"""One engine, one set of images and one hub for all tests of the stack; what is not available is an error."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.docker import images
from tests.e2e.docker.engine import Engine
from tests.e2e.docker.hub import HubProcess
from tests.e2e.docker.stack import Stack, clone, settings_for, write_tier

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A running Docker Engine."""
    with tempfile.TemporaryDirectory(prefix="modelfetch-engine-", ignore_cleanup_errors=True) as name:
        running = Engine(folder=Path(name, "engine"))
        try:
            running.open()
            yield running
        finally:
            running.close()


@pytest.fixture(scope="session")
def playground() -> Iterator[Path]:
    """A folder for clones that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="modelfetch-stack-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def image_names(engine: Engine, playground: Path) -> dict[str, str]:
    """The image of each service, as the compose files name it on a machine without a GPU."""
    stack = Stack(engine=engine, folder=clone(playground / "names"))
    services = stack.config("--profile", "*", GPU_ENABLE="false")["services"]
    return {name: service["image"] for name, service in services.items()}


@pytest.fixture(scope="session")
def built(engine: Engine, image_names: dict[str, str], playground: Path) -> Engine:
    """The engine with every image that the stack runs."""
    images.build_all(engine, playground / "images", image_names)
    return engine


@pytest.fixture(scope="session")
def hub(engine: Engine) -> Iterator[HubProcess]:
    """The upstream of all stacks here."""
    process = HubProcess(engine)
    yield process
    process.close()


@pytest.fixture
def new_stack(built: Engine, hub: HubProcess, playground: Path, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A fresh clone with the test tier; removed with its containers."""
    folder = Path(tempfile.mkdtemp(prefix=f"{request.node.originalname}-"[:30], dir=playground)) / "clone"
    stack = Stack(engine=built, folder=clone(folder))
    write_tier(folder, hub.ask("manifests"))
    stack.write_settings(settings_for(hub))
    folder.parent.chmod(0o755)
    yield stack
    hub.heal()
    stack.down()
    shutil.rmtree(folder.parent, ignore_errors=True)
