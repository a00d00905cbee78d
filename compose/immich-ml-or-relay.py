"""Immich's machine learning on the CPU, or a relay to the one on the GPU while that is running.

So models are loaded only once, whichever container starts first, and Immich always uses the same name. The arguments
are the command that starts machine learning on the CPU.
"""

import asyncio
import os
import signal
import socket
import sys

PORT = 3003
# The dot at the end keeps the machine's search domains out of the lookup.
GPU_HOST = "immich-machine-learning-gpu."
POLL_INTERVAL = 5.0  # seconds
LOOKUP_TIMEOUT = 2.0  # seconds
MAX_MISSES = 2  # failed lookups in a row after which the other container counts as gone


async def gpu_container_runs() -> bool:
    """Whether the name of the other container resolves, as it does while that is running."""
    lookup = asyncio.get_running_loop().getaddrinfo(GPU_HOST, PORT, type=socket.SOCK_STREAM)
    try:
        await asyncio.wait_for(lookup, LOOKUP_TIMEOUT)
    except (OSError, asyncio.TimeoutError):  # noqa: UP041 - Immich's image chooses the version of Python
        return False
    return True


async def run_on_cpu(command: list[str]) -> None:
    """Run the command until the other container runs; exit with its code if it ends by itself."""
    process = await asyncio.create_subprocess_exec(*command)
    try:
        while not await gpu_container_runs():
            try:
                sys.exit(await asyncio.wait_for(process.wait(), POLL_INTERVAL))
            except asyncio.TimeoutError:  # noqa: UP041 - as above
                continue
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def relay_to_gpu() -> None:
    """Forward every connection to the other container until that is gone."""
    server = await asyncio.start_server(forward, port=PORT)
    misses = 0
    try:
        while misses < MAX_MISSES:
            await asyncio.sleep(POLL_INTERVAL)
            misses = 0 if await gpu_container_runs() else misses + 1
    finally:
        server.close()


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Forward one connection in both directions; close it if the other container does not accept it."""
    try:
        gpu_reader, gpu_writer = await asyncio.open_connection(GPU_HOST, PORT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(copy(reader, gpu_writer), copy(gpu_reader, writer))
    gpu_writer.close()
    writer.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy all data in one direction, and its end."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def main() -> None:
    """Switch between both modes until the container is stopped."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        while True:
            if await gpu_container_runs():
                log("immich-machine-learning-gpu is running: this container passes on to it")
                await relay_to_gpu()
            else:
                log("working on the CPU")
                await run_on_cpu(sys.argv[1:])
    except asyncio.CancelledError:
        os._exit(0)  # at once, without waiting for a DNS lookup in a thread


def log(text: str) -> None:
    """Print one line to the container's log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
