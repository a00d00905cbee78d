"""The graphs of language models: whatever a header says of the shape, the memory is found."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelfetch.fitting.llm.graph import Form, graph_bytes
from modelfetch.fitting.llm.hyperparameters import Hyper

SIZES = st.integers(1, 2**31)


@st.composite
def hypers(draw: st.DrawFn) -> Hyper:
    layers = draw(st.integers(1, 6))

    def each(least: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(least, 2**16), min_size=layers, max_size=layers)))

    experts = draw(st.integers(0, 300))
    return Hyper(
        arch="llama",
        embedding=draw(SIZES),
        heads=each(0),
        kv_heads=each(0),
        ff=each(0),
        key_length=draw(SIZES),
        value_length=draw(SIZES),
        vocabulary=draw(SIZES),
        trained_context=2**31,
        experts=experts,
        experts_used=draw(st.integers(0, 64)),
    )


FORMS = st.builds(
    Form,
    fused=st.booleans(),
    normed=st.booleans(),
    after=st.booleans(),
    window_every=st.sampled_from((1, 2)),
)


@given(hypers(), FORMS, st.integers(32, 2**31), st.integers(1, 512), st.booleans(), st.booleans())
def test_any_shape_takes_at_least_its_output_and_its_scores(
    hyper: Hyper, form: Form, context: int, batch: int, flash: bool, on_cpu: bool
) -> None:
    found = graph_bytes(hyper, form, context=context, batch=batch, flash=flash, on_cpu=on_cpu)
    assert found >= 4 * batch * hyper.vocabulary
    if any(hyper.heads) and not flash:
        attended = [heads for heads, kv in zip(hyper.heads, hyper.kv_heads, strict=True) if kv]
        assert found >= 4 * batch * context * max(attended, default=0)
