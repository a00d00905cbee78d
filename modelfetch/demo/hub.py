"""The hub: all origins together, started and stopped as one unit."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from modelfetch.demo.cdn import Cdn
from modelfetch.demo.civitai import CivitaiSite
from modelfetch.demo.connection import Connection
from modelfetch.demo.faults import FaultTable
from modelfetch.demo.hf import HfHub
from modelfetch.demo.log import RequestLog
from modelfetch.demo.ollama import OllamaRegistry
from modelfetch.demo.plain import PREFIX, PlainServer
from modelfetch.demo.server import Server, listen
from modelfetch.demo.world import World

if TYPE_CHECKING:
    import socket
    import ssl

    from modelfetch.demo.message import Route

ORIGINS = ("hf", "ollama", "civitai", "files", "cdn")


class Hub:
    """A context manager that serves a world on loopback.

    Each origin has its own port; the CDN also has another host name (``localhost`` instead of ``127.0.0.1``), as real
    ones do, so that a credential sent across a redirect is detected. A second start uses the same ports.
    """

    def __init__(self, world: World | None = None, *, ssl_context: ssl.SSLContext | None = None) -> None:
        """Prepare a hub for ``world`` (empty by default); with ``ssl_context`` every origin uses TLS."""
        self.world = World() if world is None else world
        self.faults = FaultTable()
        self.log = RequestLog()
        self._ssl_context = ssl_context
        self._ports = dict.fromkeys(ORIGINS, 0)
        self._cdn = Cdn()
        self._hf = HfHub(self.world, self._cdn)
        self._ollama = OllamaRegistry(self.world, self._cdn)
        self._civitai = CivitaiSite(self.world, self._cdn)
        self._routes: dict[str, Route] = {
            "hf": self._hf.answer,
            "ollama": self._ollama.answer,
            "civitai": self._civitai.answer,
            "files": PlainServer(self.world).answer,
            "cdn": self._cdn.answer,
        }
        self._stopping = threading.Event()
        self._server: Server | None = None

    def start(self) -> Self:
        """Start listening and serving."""
        self._stopping.clear()
        listeners = [listen(origin, self._ports[origin]) for origin in ORIGINS]
        self._ports = {listener.origin: listener.port for listener in listeners}
        self._cdn.base = self._base("cdn", "localhost")
        self._hf.base = self._base("hf")
        self._ollama.base = self._base("ollama")
        self._civitai.base = self._base("civitai")
        self._server = Server(listeners, self._serve, self._ssl_context)
        self._server.start()
        return self

    def stop(self) -> None:
        """Close every connection and socket, and wait for every thread; a second stop does nothing."""
        self._stopping.set()
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The Hugging Face Hub, for HF_ENDPOINT."""
        return self._base("hf")

    @property
    def ollama(self) -> str:
        """The Ollama registry, for MODELFETCH_OLLAMA_REGISTRY."""
        return self._base("ollama")

    @property
    def civitai(self) -> str:
        """CivitAI, for MODELFETCH_CIVITAI_ENDPOINT."""
        return self._base("civitai")

    @property
    def files(self) -> str:
        """The ordinary web server's base URL; ends in a slash, so that a file's path can be appended."""
        return self._base("files") + PREFIX

    @property
    def cdn(self) -> str:
        """The CDN's base URL."""
        return self._base("cdn", "localhost")

    def expire_urls(self) -> None:
        """Expire every signed URL issued so far."""
        self._cdn.expire_urls()

    def _base(self, origin: str, host: str = "127.0.0.1") -> str:
        scheme = "http" if self._ssl_context is None else "https"
        return f"{scheme}://{host}:{self._ports[origin]}"

    def _serve(self, sock: socket.socket, number: int, origin: str, keep: bool) -> None:
        Connection(
            sock,
            number=number,
            origin=origin,
            route=self._routes[origin],
            faults=self.faults,
            log=self.log,
            stopping=self._stopping,
            keep=keep,
        ).serve()
