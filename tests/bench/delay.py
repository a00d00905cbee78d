"""A delay line in user space: what passes through it arrives later, in both directions, and is otherwise unchanged.

For machines whose kernel has no netem. Bytes wait in pipes (splice, no copy), one loop serves all connections. A new
connection's first bytes wait for one round trip more, for its handshake was not delayed.

Usage: delay.py LISTEN_PORT TARGET_PORT ROUND_TRIP_MS
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import os
import select
import socket
import sys
import time

_PIPE = 2**20
_F_SETPIPE_SZ = 1031  # source: linux/fcntl.h


class Way:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, first: float) -> None:
        self.source, self.sink = source, sink
        self.out, self.into = os.pipe()
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.into, _F_SETPIPE_SZ, _PIPE)
        self.not_before = first
        self.waiting = 0
        self.ready = 0
        self.ended = False
        self.closed = False

    def fill(self) -> int | None:
        """Read available bytes; returns their number, None if there are none now, 0 at the end."""
        room = _PIPE - self.waiting - self.ready
        if room <= 0 or self.ended:
            return None
        try:
            count = os.splice(self.source.fileno(), self.into, room, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None
        except OSError:
            count = 0
        self.waiting += count
        self.ended = count == 0
        return count

    def drain(self) -> bool:
        """Forward what has waited long enough; False if the sink accepts no more."""
        while self.ready:
            try:
                count = os.splice(self.out, self.sink.fileno(), self.ready, flags=os.SPLICE_F_NONBLOCK)
            except BlockingIOError:
                return False
            except OSError:
                self.ready = 0
                return True
            self.ready -= count
        return True


class Line:
    """The loop."""

    def __init__(self, listen: int, target: int, delay: float) -> None:
        self._target, self._delay = target, delay
        self._listener = socket.create_server(("127.0.0.1", listen), backlog=512)
        self._listener.setblocking(False)
        self._poll = select.epoll()
        self._poll.register(self._listener.fileno(), select.EPOLLIN)
        self._by_source: dict[int, Way] = {}
        self._by_sink: dict[int, Way] = {}
        self._due: list[tuple[float, int, Way, int]] = []
        self._order = itertools.count()

    def run(self) -> None:
        while True:
            timeout = max(0.0, self._due[0][0] - time.monotonic()) if self._due else -1
            for fd, event in self._poll.poll(timeout):
                if fd == self._listener.fileno():
                    self._accept()
                    continue
                if event & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR) and (way := self._by_source.get(fd)):
                    self._take(way)
                if event & select.EPOLLOUT and (way := self._by_sink.get(fd)):
                    self._give(way)
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, way, count = heapq.heappop(self._due)
                way.waiting -= count
                way.ready += count
                self._give(way, end=count == 0)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for sock in (client, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.setblocking(False)
                start = time.monotonic() + 2 * self._delay
                for source, sink in ((client, server), (server, client)):
                    way = Way(source, sink, start if source is client else 0.0)
                    self._by_source[source.fileno()] = self._by_sink[sink.fileno()] = way
                for sock in (client, server):
                    self._poll.register(sock.fileno(), select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def _take(self, way: Way) -> None:
        while (count := way.fill()) is not None:
            due = max(time.monotonic(), way.not_before) + self._delay
            heapq.heappush(self._due, (due, next(self._order), way, count))
            if count == 0:
                return

    def _give(self, way: Way, *, end: bool = False) -> None:
        if way.closed:
            return
        if way.drain():
            self._take(way)
        if end:
            way.closed = True
            with contextlib.suppress(OSError):
                way.sink.shutdown(socket.SHUT_WR)
            back = self._by_source.get(way.sink.fileno())
            if back is not None and back.closed:
                self._close(way, back)

    def _close(self, *ways: Way) -> None:
        for way in ways:
            os.close(way.out)
            os.close(way.into)
            self._by_source.pop(way.source.fileno(), None)
            self._by_sink.pop(way.sink.fileno(), None)
        for way in ways:
            with contextlib.suppress(OSError, ValueError):
                self._poll.unregister(way.source.fileno())
            way.source.close()


if __name__ == "__main__":
    Line(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 2000).run()
