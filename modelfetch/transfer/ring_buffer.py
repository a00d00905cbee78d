"""Ring buffer between the reader and the hash and write threads.

Allocating memory for every read halves the speed, and hashing is twice as fast on bytes that are still in the CPU
cache. So the ring is small, and its page-aligned buffers are reused at once (measured: docs/benchmarks.md).
"""

from __future__ import annotations

import mmap
import threading
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING

from modelfetch.errors import UnreachableError
from modelfetch.transfer.syscalls import write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

    from modelfetch.transfer.writer import SegmentWriter


class Slot:
    """One buffer and the part of the file that it holds."""

    def __init__(self, size: int) -> None:
        self.memory = memoryview(mmap.mmap(-1, size))  # the mapping goes with the last view of it
        self.offset = 0
        self.length = 0
        self.users = 0

    def view(self) -> memoryview:
        """The bytes that it holds."""
        return self.memory[: self.length]


_WHOLE_SINGLES = 16
"""Connections that get a whole buffer; further ones get a quarter of one."""


_SMALLEST = 64 * 1024
"""Bytes of a buffer where there is not enough memory for a larger one."""


class BufferPool:
    """Buffers for all transfers: large ones for the first file, small ones for files downloaded at the same time.

    Large buffers cost a tenth less CPU time (fewer wake-ups), but a container may have little memory.

    Args:
        buffers: How many buffers a ring has.
        large: Bytes per buffer of the first ring.
        small: Bytes per buffer of all others.
        single: Bytes of the buffer of a connection without a ring.
    """

    def __init__(self, *, buffers: int, large: int, small: int, single: int) -> None:
        self._buffers = buffers
        self._large = large
        self._small = small
        self._single = single
        self._lock = threading.Lock()
        self._large_is_taken = False
        self._kept: list[Slot] = []
        self._singles: list[Slot] = []
        self._singles_made = 0

    def take(self) -> list[Slot]:
        """Take buffers for a ring; return them with `give_back`."""
        with self._lock:
            if self._large_is_taken:
                return self._slots(self._small)
            self._large_is_taken = True
            kept, self._kept = self._kept, []
        return kept or self._slots(self._large)

    def _slots(self, size: int) -> list[Slot]:
        """Buffers of a size, or of the smallest useful size if there is not enough memory."""
        try:
            return [Slot(size) for _ in range(self._buffers)]
        except (OSError, MemoryError):
            return [Slot(min(size, _SMALLEST)) for _ in range(self._buffers)]

    def give_back(self, slots: list[Slot]) -> None:
        """Return a ring's buffers."""
        with self._lock:
            if len(slots[0].memory) == self._large:
                self._kept, self._large_is_taken = slots, False
            elif len(slots[0].memory) < self._small:
                self._large_is_taken = False

    @contextmanager
    def single(self) -> Iterator[Slot]:
        """Lend one buffer to a connection that needs no ring."""
        with self._lock:
            slot = self._singles.pop() if self._singles else None
            if slot is None:
                slot = Slot(self._single if self._singles_made < _WHOLE_SINGLES else self._single // 4)
                self._singles_made += 1
        try:
            yield slot
        finally:
            with self._lock:
                self._singles.append(slot)
                self._singles.sort(key=lambda kept: len(kept.memory))


class RingBuffer:
    """The buffers, and the two threads that hash and write their contents.

    Call `start`, then use it as a context manager: the end of the block waits until all that was published is hashed
    and written.

    Args:
        writer: Hashes and writes the bytes.
        pool: The pool that the buffers come from.
        flush: Called by the write thread with the end of what was written, to start the write-back.
    """

    def __init__(self, writer: SegmentWriter, *, pool: BufferPool, flush: Callable[[int], None]) -> None:
        self._writer = writer
        self._flush = flush
        self._pool = pool
        self._slots = pool.take()
        self.size = len(self._slots[0].memory)
        """Bytes that a buffer holds."""
        self._free: SimpleQueue[Slot] = SimpleQueue()
        for slot in self._slots:
            self._free.put(slot)
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._queues: tuple[SimpleQueue[Slot | None], ...] = (SimpleQueue(), SimpleQueue())
        works = ((self._hash, "modelfetch-hash"), (self._write, "modelfetch-write"))
        self._threads = [
            threading.Thread(target=self._consume, args=(queue, work), name=name, daemon=True)
            for queue, (work, name) in zip(self._queues, works, strict=True)
        ]

    def start(self) -> bool:
        """Start the threads; returns False where the system allows no further ones: then the ring can't be used."""
        started: list[threading.Thread] = []
        try:
            for thread in self._threads:
                thread.start()
                started.append(thread)
        except RuntimeError:
            self._threads = started
            self._end()
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        if kind is None or issubclass(kind, UnreachableError):  # a retry would not notice that the disk has failed
            self._raise()

    def _end(self) -> None:
        for queue in self._queues:
            queue.put(None)
        for thread in self._threads:
            thread.join()
        self._pool.give_back(self._slots)

    def take(self) -> Slot:
        """Take a free buffer; waits for one.

        Raises:
            OSError: The write thread failed.
        """
        slot = self._free.get()
        self._raise()
        return slot

    def publish(self, slot: Slot, offset: int, length: int) -> None:
        """Pass a filled buffer to the threads: ``length`` bytes for ``offset``; they follow each other without gaps."""
        slot.offset, slot.length, slot.users = offset, length, len(self._queues)
        for queue in self._queues:
            queue.put(slot)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _consume(self, queue: SimpleQueue[Slot | None], work: Callable[[Slot], None]) -> None:
        while (slot := queue.get()) is not None:
            if self._error is None:
                try:
                    work(slot)
                except BaseException as error:
                    self._error = error
            self._leave(slot)

    def _hash(self, slot: Slot) -> None:
        self._writer.hash(slot.offset, slot.view())

    def _write(self, slot: Slot) -> None:
        write_all(self._writer.fd, slot.view(), slot.offset)
        self._flush(slot.offset + slot.length)

    def _leave(self, slot: Slot) -> None:
        """One thread is done with a buffer; the last one records its bytes and frees it."""
        with self._lock:
            slot.users -= 1
            last = slot.users == 0
        if not last:
            return
        if self._error is None:
            try:
                self._writer.done(slot.offset + slot.length)
            except BaseException as error:
                self._error = error
        self._free.put(slot)
