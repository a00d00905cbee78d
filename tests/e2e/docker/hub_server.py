"""The hub's process. It listens on every address of its network, and hands out URLs of the engine's two addresses."""

from __future__ import annotations

import json
import sys
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from modelfetch.demo import faults as demo_faults
from modelfetch.demo import hub as hub_module
from modelfetch.demo import models
from modelfetch.demo.tier import demo_world, environment
from tests import faults
from tests.e2e.docker.engine import HOSTS

if TYPE_CHECKING:
    from modelfetch.demo.server import Listener

CHAT_MODEL = "qwen2.5:0.5b"
EMBEDDING_MODEL = "nomic-embed-text:latest"
_FAULTS = vars(demo_faults) | vars(faults)


def _listen(origin: str, port: int = 0) -> Listener:
    import socket

    from modelfetch.demo.server import Listener

    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("0.0.0.0", port))  # noqa: S104 - in the engine's own network, where nobody else is
    sock.listen(128)
    return Listener(origin=origin, sock=sock)


class _Hub(hub_module.Hub):
    def _base(self, origin: str, host: str = HOSTS[0]) -> str:
        # The CDN has another address, as it has another name elsewhere.
        address = HOSTS[1] if host == "localhost" else HOSTS[0]
        return super()._base(origin, address)


class _Director:
    """Executes the commands on stdin, one a line."""

    def __init__(self) -> None:
        self.world = demo_world()
        for name in (CHAT_MODEL, EMBEDDING_MODEL):
            self.world.ollama_model(name, models.ollama_layers(), config=models.ollama_config())
        self.hub = _Hub(self.world)
        self._away: dict[str, Any] = {}

    def environment(self) -> dict[str, str]:
        return {**environment(self.hub), "MODELFETCH_ALLOW_HTTP": ",".join(HOSTS)}

    def manifests(self) -> dict[str, str]:
        """The digest of each registry model's manifest."""
        import hashlib

        return {name: hashlib.sha256(model.manifest).hexdigest() for name, model in self.world.ollama.items()}

    def requests(self) -> int:
        return len(self.hub.log.requests())

    def sent(self, path: str) -> int:
        return sum(request.sent for request in self.hub.log.requests() if fnmatchcase(request.path, path))

    def fault(self, path: str, kind: str, times: int | None, arguments: dict[str, Any]) -> None:
        self.hub.faults.add(path, _FAULTS[kind](**arguments), times=times)

    def gate(self, repo: str) -> None:
        self.world.repos[repo].gated = "manual"

    def token(self, value: str, repo: str) -> str:
        return self.world.token("hf", value, gated=[repo])

    def take_away(self, file: str) -> None:
        self._away[file] = self.world.files.pop(file)

    def heal(self) -> None:
        self.hub.faults.clear()
        self.world.files.update(self._away)
        self._away.clear()
        for repo in self.world.repos.values():
            repo.gated = False

    def stop(self) -> None:
        self.hub.stop()

    def start(self) -> None:
        self.hub.start()


def main() -> None:
    """Serve until stdin ends."""
    vars(hub_module)["listen"] = _listen
    director = _Director()
    director.start()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"value": getattr(director, order.pop("do"))(**order)}
        except Exception as error:
            answer = {"error": repr(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
