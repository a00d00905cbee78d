"""How much memory ggml takes for a graph: its allocator, played through on tensors without data.

The compute buffer of llama.cpp is what this allocator needs for one batch. It depends on the order of the graph, on
what is written in place and on which hole fits which tensor, so it is played through rather than put into a formula.

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
        sources: What it is computed of, in order.
        inplace: Whether its operation may write into a source's memory.
        root: For a view, the tensor whose memory it shows.
        given: Its memory is not the graph's: a weight, the cache.
        asked: An input: it has its memory before anything is computed.
    """

    shape: tuple[int, ...]
    width: int = 4
    sources: tuple[Tensor, ...] = ()
    inplace: bool = False
    root: Tensor | None = None
    given: bool = False
    asked: bool = False
    children: int = 0
    views: int = 0
    place: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, a multiple of the alignment."""
        size = self.width
        for count in self.shape:
            size *= count
        return -(-size // _ALIGNMENT) * _ALIGNMENT

    def view(self, *shape: int) -> Tensor:
        """The same memory in another shape."""
        return Tensor(shape=shape, width=self.width, sources=(self,), root=self.root or self)


GIVEN = Tensor(shape=(), given=True)
"""Any weight, and the cache: nothing that concerns their memory is asked."""


@dataclass(slots=True)
class Graph:
    """Tensors in the order in which they are computed: each after its sources."""

    inputs: list[Tensor] = field(default_factory=list)
    nodes: list[Tensor] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def expand(self, tensor: Tensor) -> None:
        """Add a tensor and all that it needs and that is not there yet."""
        if id(tensor) in self._seen:
            return
        self._seen.add(id(tensor))
        for source in tensor.sources:
            self.expand(source)
        if tensor.asked:
            self.inputs.append(tensor)
        elif not tensor.given:
            self.nodes.append(tensor)

    def peak_bytes(self) -> int:
        """Bytes that the graph takes at most; a graph is good for one call."""
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
    """Give a tensor memory: that of a source which nobody else needs, if it may, else a new place."""
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
    """Nobody needs it any more: its memory is free, unless another view of it is needed."""
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
    """An endless memory; what is free are blocks of (offset, size), the last one without an end."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, int]] = []
        self._end = 0
        self.peak_bytes = 0

    def take(self, size: int) -> int:
        """A place: the smallest block that is large enough, of several the last; else the end."""
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
        """Give a place back; blocks that touch become one."""
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
