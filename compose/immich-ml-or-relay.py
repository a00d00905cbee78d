"""Starts Immich's machine learning, or passes on to the one that runs on the GPU, so that its models are loaded once.

The command that starts it is in the arguments. It passes on rather than ends: what has ended by itself Docker does not
start again after a reboot, or it starts it again and again.
"""

import asyncio
import os
import signal
import socket
import sys
import time

PORT = 3003
# With a dot at its end: no search domain of the machine may answer for it.
GPU = "immich-machine-learning-gpu."
SECONDS = 5  # after a reboot both are started at once


def gpu_service_is_there() -> bool:
    """Whether its name resolves, now or soon."""
    for _ in range(SECONDS):
        try:
            socket.getaddrinfo(GPU, PORT)
        except OSError:
            time.sleep(1)
        else:
            return True
    return False


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, and its end."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, both ways; closed at once when the other service is not up (yet)."""
    try:
        far_reader, far_writer = await asyncio.open_connection(GPU, PORT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
    far_writer.close()
    writer.close()


async def relay() -> None:
    """Serve until the container is stopped."""
    server = await asyncio.start_server(pass_on, port=PORT)
    await server.serve_forever()


def main() -> None:
    """One of the two."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # as process 1 it would not end by itself
    if not gpu_service_is_there():
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the image's own command
    sys.stdout.write("immich-machine-learning-gpu does the work; this one passes on to it\n")
    sys.stdout.flush()
    asyncio.run(relay())


if __name__ == "__main__":
    main()
