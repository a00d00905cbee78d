"""The graphs of language models: the memory is computed for any shape in a header."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelfetch.fitting.llm.architectures import ARCHITECTURES
from modelfetch.fitting.llm.graph import Batch, graph_bytes
from modelfetch.fitting.llm.hyperparameters import Hyper, Latent, Layer, Recurrent

SIZES = st.integers(1, 2**20)
SMALL = st.integers(0, 2**16)
BLOCKS = st.builds(
    Layer,
    heads=SMALL,
    kv_heads=SMALL,
    keys=SIZES,
    values=SIZES,
    ff=SMALL,
    windowed=st.booleans(),
    recurrent=st.booleans(),
    cached=st.booleans(),
    experts=st.booleans(),
)
HYPERS = st.builds(
    Hyper,
    arch=st.sampled_from(sorted(ARCHITECTURES)),
    embedding=SIZES,
    layers=st.lists(BLOCKS, min_size=1, max_size=6).map(tuple),
    vocabulary=SIZES,
    trained_context=st.just(2**31),
    experts=st.integers(0, 300),
    experts_used=st.integers(0, 64),
    expert_ff=SMALL,
    shared_ff=SMALL,
    recurrent=st.none() | st.builds(Recurrent, kernel=st.integers(2, 8), state=SIZES, heads=SIZES, groups=SIZES),
    latent=st.none() | st.builds(Latent, query_rank=SMALL, rank=SIZES, rope=SIZES, keys=SIZES, values=SIZES),
    per_layer_input=st.integers(0, 512),
)
BATCHES = st.builds(
    Batch,
    tokens=st.integers(1, 512),
    outputs=st.integers(1, 16),
    context=st.integers(256, 2**31),
    short=st.integers(256, 2**20),
    flash=st.booleans(),
)


@given(HYPERS, BATCHES)
def test_any_shape_takes_at_least_its_inputs_and_its_output(hyper: Hyper, batch: Batch) -> None:
    found = graph_bytes(hyper, batch)
    assert found >= 4 * batch.tokens * hyper.embedding
    if not hyper.architecture.encoder:
        assert found >= 4 * batch.outputs * hyper.vocabulary or batch.outputs > batch.tokens
