"""The benchmark of a generator times what it says: the same model, and all bytes of a token."""

import functools
import re

import jax
import numpy as np
import pytest

from benchmarks import generate, timing
from unitok_jax.generate.step import abstract_model
from unitok_jax.weights.generator_layout import ROWS
from unitok_jax.weights.torch_layout import to_torch

pytestmark = [pytest.mark.slow, pytest.mark.long]
# The release's names -> those of the benchmark's PyTorch.
NAMES = [
    (r"^cls_embedding.embedding_table", "prompt"),
    (r"^tok_embeddings.codebooks", "tables"),
    (r"^output.codebooks", "head_tables"),
    (r"^output.layers", "head"),
    (r"^output.norm.weight", "head_norm"),
    (r"^output.linear_head", "linear"),
    (r"^layers", "trunk"),
    (r"^norm.weight", "norm"),
    (r"attention.wqkv", "qkv"),
    (r"attention.wo", "out"),
    (r"feed_forward.w1", "gate"),
    (r"feed_forward.w3", "up"),
    (r"feed_forward.w2", "down"),
    (r"attention_norm.weight", "norm1"),
    (r"ffn_norm.weight", "norm2"),
]


@pytest.fixture(scope="module")
def model():
    return generate.model_of("nano", "float32", 16)


def test_the_floor_reads_the_head_for_every_code(model):
    """Bytes of one token, from the published shapes of a block."""
    block = 64 * 3 * 64 + 64 * 64 + 3 * 64 * 256 + 2 * 64
    trunk = 2 * block + 64
    head = 4 * block + 64 + 64 * 4096
    cache = 2 * 2 * 64 * 3 * 16 / 2  # keys and values, 2 blocks, 3 images of 16 tokens, half
    seconds = generate.floor(model, 3, 1.0, 1e9)
    assert seconds == pytest.approx(16 * (trunk + 8 * head + cache) * 4 / 1e9)
    assert generate.floor(model, 3, 1.5, 1e9) - seconds == pytest.approx(16 * cache * 4 / 1e9)


def test_pytorch_draws_the_same_model(model):
    """The most likely codes of both, with the same weights: neither does less than the other."""
    torch = pytest.importorskip("torch")
    import jax.numpy as jnp
    from flax import nnx

    from benchmarks.torch_generator import Generator
    from unitok_jax.generate import sampling
    from unitok_jax.models.sampling import Filters

    graph, abstract = abstract_model(model)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda a: jnp.asarray(rng.standard_normal(a.shape, np.float32) * 0.2 + (a.ndim == 1)),
        abstract,
    )
    network = nnx.merge(graph, params)
    theirs = Generator(64, 4, 2, 4, 8, 4096, 1000, 16)
    state = {
        functools.reduce(lambda name, pair: re.sub(*pair, name), NAMES, name): torch.tensor(array)
        for name, array in to_torch(params, ROWS, fixed={}).items()
    }
    state["rope"] = torch.tensor(network.rope[:16])[:, None]
    theirs.load_state_dict(state)
    theirs.choose = lambda logits: logits.argmax(-1)
    labels = np.array([3, 7])
    ours, _ = sampling.sample(
        network,
        network.prompt(jnp.asarray(labels)),
        jax.random.split(jax.random.key(0), 2),
        filters=Filters(temperature=0),
    )
    np.testing.assert_array_equal(ours, theirs.sample(torch.from_numpy(labels)).numpy())


def test_every_program_of_a_setting_runs(model):
    made = generate.compile_all([(1, 1.0), (1, 1.5)], model, 2)
    assert {name for _, name in made} == {"sample", "head"} and len(made) == 4
    params = timing.fill(abstract_model(model)[1])
    row = generate.sampling_row(made, params, model, (1, 1.5), 1e9, 1, 0)
    assert row["tokens/s"] == pytest.approx(16 * row["images/s"]) and row["x floor"] > 0
