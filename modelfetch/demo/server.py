"""Listening sockets on loopback, with one accepting thread and one thread per connection; all end when it stops."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One origin's listening socket."""

    origin: str
    sock: socket.socket

    @property
    def port(self) -> int:
        """The port that the system assigned."""
        return int(self.sock.getsockname()[1])


def listen(origin: str, port: int = 0) -> Listener:
    """Open a socket on 127.0.0.1."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(128)
    return Listener(origin=origin, sock=sock)


class Server:
    """Accepts connections for several listeners; runs ``serve(sock, number, origin, keep)`` for each in a new thread.

    ``keep``: whether the connection may serve several requests. If the system allows no further thread, it may not:
    the accepting thread then answers one request on each connection, one after the other.
    """

    def __init__(
        self,
        listeners: list[Listener],
        serve: Callable[[socket.socket, int, str, bool], None],
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self._listeners = listeners
        self._serve = serve
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        self._open: dict[int, tuple[socket.socket, threading.Thread]] = {}
        self._accepted = 0
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._accept_all, name="demo-hub", daemon=True)

    def start(self) -> None:
        """Start accepting connections."""
        self._thread.start()

    def stop(self) -> None:
        """Close every socket and wait for every thread."""
        self._wake_writer.send(b"x")
        while self._thread.is_alive():  # it may be serving a connection, and accept another before it ends
            self._shut_connections()
            self._thread.join(timeout=0.1)
        for thread in self._shut_connections():
            thread.join(timeout=10)
        for sock in (self._wake_reader, self._wake_writer, *(listener.sock for listener in self._listeners)):
            sock.close()

    def _shut_connections(self) -> list[threading.Thread]:
        with self._lock:
            connections = list(self._open.values())
        for sock, _ in connections:
            with contextlib.suppress(OSError):  # the client closed it first
                sock.shutdown(socket.SHUT_RDWR)
        return [thread for _, thread in connections if thread is not self._thread]

    def _accept_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            for listener in self._listeners:
                selector.register(listener.sock, selectors.EVENT_READ, listener)
            while True:
                ready = [key.data for key, _ in selector.select()]
                if None in ready:  # woken up to stop
                    return
                for listener in ready:
                    with contextlib.suppress(MemoryError):  # the client tries again
                        self._accept(listener)

    def _accept(self, listener: Listener) -> None:
        try:
            sock, _ = listener.sock.accept()
        except OSError:  # the client disconnected before the connection was accepted
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = self._accepted
        self._accepted += 1
        thread = threading.Thread(
            target=self._run, args=(sock, number, listener.origin, True), name=f"demo-{listener.origin}", daemon=True
        )
        with self._lock:
            self._open[number] = (sock, thread)
        try:
            thread.start()
        except RuntimeError:  # the system allows no further thread
            with self._lock:
                self._open[number] = (sock, self._thread)
            self._run(sock, number, listener.origin, False)

    def _run(self, sock: socket.socket, number: int, origin: str, keep: bool) -> None:
        try:
            if self._ssl_context is not None:
                sock.settimeout(5)
                sock = self._ssl_context.wrap_socket(sock, server_side=True)
                sock.settimeout(None)
                with self._lock:
                    self._open[number] = (sock, threading.current_thread())
            self._serve(sock, number, origin, keep)
        except (OSError, MemoryError):  # a failed handshake, or a limit on memory
            return
        finally:
            sock.close()
            with self._lock:
                self._open.pop(number, None)
