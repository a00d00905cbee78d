"""A file server that caps each connection, by the kernel's own pacing. One file, Range, keep-alive, sendfile.

nginx's limit_rate sends the bytes of a second at once, which no real origin does.

Usage: capped.py PORT FILE BYTES_PER_SECOND
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading

_SO_MAX_PACING_RATE = 47  # source: asm-generic/socket.h
_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)


def serve(sock: socket.socket, fd: int, size: int) -> None:
    buffer = b""
    with contextlib.suppress(OSError), sock:
        while True:
            while b"\r\n\r\n" not in buffer:
                data = sock.recv(65536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            match = _RANGE.search(head)
            start = int(match[1]) if match else 0
            end = min(int(match[2]) + 1, size) if match and match[2] else size
            lines = [b"HTTP/1.1 206 Partial Content" if match else b"HTTP/1.1 200 OK"]
            lines += [b"Content-Length: %d" % (end - start), b"Accept-Ranges: bytes", b'ETag: "bench"']
            lines += [b"Content-Type: application/octet-stream"]
            if match:
                lines.append(b"Content-Range: bytes %d-%d/%d" % (start, end - 1, size))
            sock.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
            if head.startswith(b"HEAD"):
                continue
            while start < end:
                start += os.sendfile(sock.fileno(), fd, start, min(end - start, 2**20))


def main(port: int, path: str, rate: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    listener = socket.create_server(("127.0.0.1", port), backlog=128)
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * 2**20)
        threading.Thread(target=serve, args=(sock, fd, size), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
