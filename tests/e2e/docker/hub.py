"""The tests' hub in the engine's network: a separate process that reads its instructions as lines of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.e2e.docker.engine import HOSTS
from tests.e2e.peers import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.docker.engine import Engine


class HubProcess:
    """A hub that the engine's containers can reach. Its content is the demo tier's, and the two models of the tests."""

    def __init__(self, engine: Engine) -> None:
        self._process = subprocess.Popen(
            engine.inside(sys.executable, "-m", "tests.e2e.docker.hub_server"),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.environment: Mapping[str, str] = self.ask("environment")
        """The settings that lead a stack to this hub, as `.env` has them."""

    def ask(self, what: str, **details: Any) -> Any:
        """Send one instruction or question, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **details}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def requests(self) -> int:
        """How many requests it has seen."""
        return int(self.ask("requests"))

    def sent(self, path: str) -> int:
        """How many bytes of body it has sent for paths that match a glob."""
        return int(self.ask("sent", path=path))

    def fault(self, path: str, kind: str, *, times: int | None = None, **arguments: Any) -> None:
        """From now on, answers to a path are faulty: ``kind`` is a class of tests.faults or modelfetch.demo.faults."""
        self.ask("fault", path=path, kind=kind, times=times, arguments=arguments)

    def heal(self) -> None:
        """No faults any more, and nothing is gated or missing."""
        self.ask("heal")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


ADDRESSES = HOSTS
