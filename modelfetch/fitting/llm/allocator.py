"""The memory of a ggml graph: a simulation of its allocator on tensors without data.

The compute buffer of llama.cpp is as large as this allocator's peak for one batch. It depends on the order of the
graph, on operations in place and on the holes between tensors. No formula gives it, so the allocator is simulated.

Source: ggml in ollama v0.9.6: ggml-alloc.c (ggml_gallocr_alloc_graph_impl, ggml_dyn_tallocr_alloc), ggml.c
(ggml_visit_parents).
"""

from __future__ import annotations

from dataclasses import dataclass, field

_ALIGNMENT = 32


@dataclass(slots=True, kw_only=True, eq=False)
class Tensor:
    """A tensor of a graph, without its data.

    Attributes:
        shape: Elements by dimension.
        width: Bytes of an element.
        sources: The tensors that it is computed from, in order.
        inplace: Whether its operation may write into the memory of a source.
        root: For a view, the tensor that owns the memory.
        given: Whether its memory is not part of the graph: a weight, the cache.
        is_input: Whether it is an input, whose memory is allocated before anything is computed.
    """

    shape: tuple[int, ...]
    width: int = 4
    sources: tuple[Tensor, ...] = ()
    inplace: bool = False
    root: Tensor | None = None
    given: bool = False
    is_input: bool = False
    children: int = 0
    views: int = 0
    place: int | None = None

    @property
    def nbytes(self) -> int:
        """Its size in bytes, rounded up to the alignment."""
        size = self.width
        for count in self.shape:
            size *= count
        return -(-size // _ALIGNMENT) * _ALIGNMENT

    def view(self, *shape: int) -> Tensor:
        """A view of the same memory in another shape."""
        return Tensor(shape=shape, width=self.width, sources=(self,), root=self.root or self)


GIVEN = Tensor(shape=(), given=True)
"""Any weight, and the cache: their memory does not count."""


@dataclass(slots=True)
class Graph:
    """Tensors in the order of computation: each one after its sources."""

    inputs: list[Tensor] = field(default_factory=list)
    nodes: list[Tensor] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def expand(self, tensor: Tensor) -> None:
        """Add a tensor, and those of its sources that are missing."""
        if id(tensor) in self._seen:
            return
        self._seen.add(id(tensor))
        for source in tensor.sources:
            self.expand(source)
        if tensor.is_input:
            self.inputs.append(tensor)
        elif not tensor.given:
            self.nodes.append(tensor)

    def peak_bytes(self) -> int:
        """The peak of the graph in bytes. Call it once: it changes the graph."""
        memory = _Memory()
        for tensor in self.inputs:
            tensor.place = memory.take(tensor.nbytes)
        for node in self.nodes:
            if node.root is not None and not node.root.given:
                node.root.views += 1
            for source in node.sources:
                source.children += not source.given
        for node in self.nodes:
            _place(node, memory)
            for source in node.sources:
                source.children -= not source.given
                if source.children == 0 and source.views == 0 and not source.given:
                    _leave(source, memory)
        return memory.peak_bytes


def _place(node: Tensor, memory: _Memory) -> None:
    """Place a tensor: in the memory of a source that is not needed any more, if allowed, otherwise in a new place."""
    if node.root is not None:
        return
    if node.inplace:
        for source in node.sources:
            alike = source.shape == node.shape and source.width == node.width
            if source.place is not None and alike and source.children == 1 and source.views == 0:
                node.place, source.place = source.place, None
                return
    node.place = memory.take(node.nbytes)


def _leave(tensor: Tensor, memory: _Memory) -> None:
    """Free the memory of a tensor that is not needed any more, unless a view of it is."""
    owner = tensor
    if tensor.root is not None:
        owner = tensor.root
        if owner.given:
            return
        owner.views -= 1
        if owner.views or owner.children:
            return
    if owner.place is not None:
        memory.free(owner.place, owner.nbytes)
        owner.place = None


class _Memory:
    """An unlimited memory with a list of free blocks (offset, size); after the last one everything is free."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, int]] = []
        self._end = 0
        self.peak_bytes = 0

    def take(self, size: int) -> int:
        """Allocate in the smallest block that is large enough, of several the last one; otherwise at the end."""
        best = min(
            ((length, -at, at) for at, (_, length) in enumerate(self._blocks) if length >= size),
            default=None,
        )
        if best is None:
            place = self._end
            self._end += size
            self.peak_bytes = max(self.peak_bytes, self._end)
            return place
        at = best[2]
        place, length = self._blocks[at]
        if length == size:
            del self._blocks[at]
        else:
            self._blocks[at] = (place + size, length - size)
        return place

    def free(self, place: int, size: int) -> None:
        """Free a place; adjacent blocks are joined."""
        end = place + size
        kept = []
        for start, length in self._blocks:
            if start + length == place:
                place = start
            elif start == end:
                end = start + length
            else:
                kept.append((start, length))
        if end == self._end:
            self._end = place
        else:
            kept.append((place, end - place))
            kept.sort()
        self._blocks = kept
