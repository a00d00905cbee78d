"""Immich's machine learning on the CPU, for as long as the one on the GPU is not there; then it passes on to that one.

So models are loaded once, whichever is started first, and Immich finds its machine learning at one name. The command
that starts the one on the CPU is in the arguments.
"""

import asyncio
import os
import signal
import socket
import sys

PORT = 3003
# With a dot at its end: no search domain of the machine may answer for it.
GPU = "immich-machine-learning-gpu."
EVERY = 5.0  # seconds between two looks
PATIENCE = 2.0  # seconds for an answer
MISSES = 2  # so many in a row, and it is gone


async def gpu_service_is_there() -> bool:
    """Whether its name resolves, as it does while its container runs. Docker knows that at once, or asks outside."""
    question = asyncio.get_running_loop().getaddrinfo(GPU, PORT, type=socket.SOCK_STREAM)
    try:
        await asyncio.wait_for(question, PATIENCE)
    except (OSError, asyncio.TimeoutError):  # noqa: UP041 - Immich's image chooses the version of Python
        return False
    return True


async def run_until_it_comes(command: list[str]) -> None:
    """Work on the CPU. Ends with the command where that ends by itself."""
    process = await asyncio.create_subprocess_exec(*command)
    try:
        while not await gpu_service_is_there():
            try:
                sys.exit(await asyncio.wait_for(process.wait(), EVERY))
            except asyncio.TimeoutError:  # noqa: UP041 - as above
                continue
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def pass_on_until_it_goes() -> None:
    """Hand every connection to the one on the GPU."""
    server = await asyncio.start_server(pass_on, port=PORT)
    misses = 0
    try:
        while misses < MISSES:
            await asyncio.sleep(EVERY)
            misses = 0 if await gpu_service_is_there() else misses + 1
    finally:
        server.close()


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, both ways; closed at once when the other service is not up yet."""
    try:
        far_reader, far_writer = await asyncio.open_connection(GPU, PORT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
    far_writer.close()
    writer.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, and its end."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def main() -> None:
    """Turn about, until the container is stopped."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        while True:
            if await gpu_service_is_there():
                say("immich-machine-learning-gpu does the work; this one passes on to it")
                await pass_on_until_it_goes()
            else:
                say("working on the CPU")
                await run_until_it_comes(sys.argv[1:])
    except asyncio.CancelledError:
        os._exit(0)  # at once: a question to DNS that nobody answers would be waited for


def say(text: str) -> None:
    """One line of the container's log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
