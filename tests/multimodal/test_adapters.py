"""Adapters of a language model: what they compute, what is trained with them, and bad ranks."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import multimodal
from helpers import multimodals
from unitok_jax import trees
from unitok_jax.models import layers, transformer
from unitok_jax.multimodal import adapters
from unitok_jax.multimodal.config_checks import check
from unitok_jax.multimodal.step import MultimodalSteps


def configured(rank, **model):
    config = multimodals.configured(**model)
    config.optim.lora_rank = rank
    return config


def test_a_layer_adds_the_product_of_two_narrow_matrices():
    """Nothing at the start, and after it what `merge` makes of the layer."""
    layer = transformer.linear(6, 5, jnp.float32, layers.Keys(0), rank=2)
    x = jax.random.normal(jax.random.key(1), (3, 6))
    np.testing.assert_array_equal(layer(x), x @ layer.kernel[...])
    assert layer.lora.lora_a.shape == (6, 2) and layer.lora.lora_b.shape == (2, 5)
    assert jnp.abs(layer.lora.lora_a[...]).min() > 0
    layer.lora.lora_b[...] = jnp.ones((2, 5))
    params = {
        "kernel": layer.kernel[...],
        "lora": {"lora_a": layer.lora.lora_a[...], "lora_b": layer.lora.lora_b[...]},
    }
    merged = jax.device_get(params)
    adapters.merge(merged)
    assert list(merged) == ["kernel"]
    assert np.abs(merged["kernel"] - params["kernel"]).max() > 0.1
    np.testing.assert_allclose(layer(x), x @ merged["kernel"], rtol=1e-5, atol=1e-6)


def test_stacked_blocks_are_merged_one_by_one():
    rng = np.random.default_rng(0)
    kernel, a, b = (rng.normal(size=(3, *shape)) for shape in ((4, 5), (4, 2), (2, 5)))
    tree = {"out": {"kernel": kernel, "lora": {"lora_a": a, "lora_b": b}}, "scale": a[0]}
    adapters.merge(tree)
    for i in range(3):
        np.testing.assert_allclose(tree["out"]["kernel"][i], kernel[i] + a[i] @ b[i])
    assert np.array_equal(tree["scale"], a[0])
    assert list(tree["out"]) == ["kernel"]


def test_layers_are_merged_one_by_one():
    """As large models are in memory once, not twice."""
    rng, side, layers = np.random.default_rng(0), 256, 8
    tracemalloc.start()
    try:
        tree = {
            str(n): {
                "kernel": rng.random((side, side), np.float32),
                "lora": {
                    "lora_a": rng.random((side, 1), np.float32),
                    "lora_b": rng.random((1, side), np.float32),
                },
            }
            for n in range(layers)
        }
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        adapters.merge(tree)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    layer = tree["0"]["kernel"].nbytes
    assert layer <= peak - before < 1.5 * layer


@pytest.mark.parametrize("bias", [False, True])
def test_of_the_decoder_adapters_alone_are_trained(bias):
    """And all else, as without them: tables of ids, the depth head and the images' MLP."""
    pure = MultimodalSteps(configured(3, qkv_bias=bias, qk_norm=bias))
    plain = MultimodalSteps(configured(0, qkv_bias=bias, qk_norm=bias))
    trained = trees.flatten(pure._split(pure.abstract_params)[1])
    others = {
        name
        for name in trees.flatten(plain._split(plain.abstract_params)[1])
        if not name.startswith("language.decoder.")
    }
    assert trained.keys() == others | set(adapters.NAMES)
    assert "language.embedding" in others and "head.decoder.norm.scale" in others
    width, depth = multimodals.SMALL["width"], multimodals.SMALL["depth"]
    assert trained["language.decoder.blocks.mlp.gate.lora.lora_a"].shape == (depth, width, 3)
    # A model that is read has none.
    names = trees.flatten(plain.abstract_params).keys()
    read = jax.tree.map(zeros, pure.abstract_params)
    adapters.merge(read)
    assert trees.flatten(read).keys() == names


def zeros(leaf):
    return np.zeros(leaf.shape, leaf.dtype)


@pytest.mark.parametrize("rank", [-1, 2.0, True, 1025])
def test_a_rank_that_is_none(rank):
    config = multimodal.get_config()
    with config.ignore_type():
        config.optim.lora_rank = rank
    with pytest.raises(ValueError, match=f"optim.lora_rank={rank} must be an integer from 0 to"):
        check(config)


@pytest.mark.parametrize("glob", ["language.*", "*.lora_b", "language.decoder.blocks.mlp.*"])
def test_adapters_that_would_be_frozen(glob):
    config = configured(2)
    config.optim.frozen = ("image.*", glob)
    with pytest.raises(ValueError, match="which holds the adapters of optim.lora_rank=2: leave"):
        check(config)
    config.optim.frozen = ("language.embedding", "head.*")
    check(config)
