"""Forms of operations for GPUs, lowered for them without one, and equal to the plain forms."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo

from benchmarks.saved import saved
from unitok_jax.models import attention, gpu, layers, text_encoder, transformer

CUDNN = "__cudnn$fmhaSoftmax"


@pytest.fixture
def hopper(monkeypatch):
    """As on a machine with an H100: what is traced may be lowered for CUDA."""
    monkeypatch.setattr(gpu, "capability", lambda: (9, 0))
    # JAX asks for the library when cuDNN's attention is traced.
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def lowered(function, *args, platform="cuda"):
    """Text of a program for a platform."""
    traced = jax.jit(lambda *args: function(*args)).trace(*args)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def qkv(tokens=64):
    """Queries, keys and values (2, tokens, 2, 16)."""
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, (2, tokens, 2, 16), jnp.bfloat16) for key in keys]


def stack(dtype, remat="none", causal=False):
    """(function of parameters and tokens, its arguments): a stack of two blocks, 4 heads of 16."""

    def block(rngs):
        if causal:
            return text_encoder.TextBlock(64, 4, 2, gelu="exact", dtype=dtype, rngs=rngs)
        return layers.Block(64, 4, dtype=dtype, stream=jnp.float32, rngs=rngs)

    def make(rngs):
        return layers.Stack(block, 2, rngs=rngs, drop_path=0.0, remat=remat)

    graph, params = nnx.split(make(layers.Keys(0)))
    tokens = jax.random.normal(jax.random.key(1), (2, 96, 64))
    return lambda p, x: nnx.merge(graph, p)(x), (nnx.to_pure_dict(params), tokens)


def loss(function):
    return lambda *args: jnp.mean(jnp.square(function(*args).astype(jnp.float32)))


def test_the_arrays_that_cudnns_attention_saves(hopper):
    """Queries, keys, values and output; nothing where all but products is recomputed."""

    def shapes(remat):
        function, args = stack(jnp.bfloat16, remat)
        return [a.shape[2:] for a in saved(function, *args) if a.shape[:2] == (2, 2)]

    assert shapes("none").count((96, 4, 16)) == 4
    # The stream, qkv, the projection and the two products within the MLP.
    assert sorted(shapes("products")) == [(96, 64), (96, 64), (96, 128), (96, 128), (96, 192)]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(
    ("remat", "causal"), [("none", False), ("blocks", False), ("products", False), ("none", True)]
)
def test_a_bfloat16_step_for_cuda_has_cudnn_and_no_scores(hopper, remat, causal, platform):
    function, args = stack(jnp.bfloat16, remat, causal)
    text = lowered(jax.grad(loss(function)), *args, platform=platform)
    scores = [line for line in text.splitlines() if "96x96xf32" in line]
    if platform == "cuda":
        assert CUDNN in text and CUDNN + "Backward" in text
        assert not scores
    else:
        assert "cudnn" not in text and scores


def test_float32_and_machines_without_a_gpu_keep_the_plain_form(monkeypatch, hopper):
    function, args = stack(jnp.float32)
    assert "cudnn" not in lowered(jax.grad(loss(function)), *args)
    monkeypatch.undo()
    function, args = stack(jnp.bfloat16)
    assert "platform_index" not in str(jax.make_jaxpr(jax.grad(loss(function)))(*args))


def test_programs_for_any_machine_have_no_form_of_this_gpu(monkeypatch):
    class Gpu:
        compute_capability = "9.0"

        class client:
            platform_version = "PJRT C API\ncuda 13000"

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu])
    assert gpu.capability() == (9, 0)
    with gpu.for_any_machine():
        assert gpu.capability() is None
    monkeypatch.setattr(Gpu, "compute_capability", "7.5")
    assert gpu.capability() == (7, 5)
    monkeypatch.setattr(Gpu.client, "platform_version", "PJRT C API\nrocm 70000")
    assert gpu.capability() is None


@pytest.mark.parametrize("tokens", [64, 65, 77, 256, 257])
@pytest.mark.parametrize("causal", [False, True])
def test_what_is_not_refused_can_be_differentiated(hopper, causal, tokens):
    x = jax.ShapeDtypeStruct((2, tokens, 2, 64), jnp.bfloat16)
    gradient = jax.grad(loss(lambda x: attention.self_attention(x, x, x, causal)))
    assert ("dot_product_attention" in str(jax.make_jaxpr(gradient)(x))) == (tokens % 2 == 0)


def test_what_cudnn_refuses_saves_no_scores_on_a_gpu(monkeypatch, hopper):
    """The text tower's 77 tokens and DINOv2's 325 of 252 px."""

    def scores(causal, tokens):
        x = jax.ShapeDtypeStruct((2, tokens, 2, 64), jnp.bfloat16)
        arrays = saved(lambda *x: attention.self_attention(*x, causal), x, x, x)
        return [a for a in arrays if a.shape == (2, 2, tokens, tokens)]

    assert not scores(True, 77) and not scores(False, 325)
    monkeypatch.undo()
    assert scores(True, 77) and scores(False, 325)


@pytest.mark.parametrize("tokens", [64, 65])
@pytest.mark.parametrize("causal", [False, True])
def test_where_a_gpu_is_devices_of_other_kinds_compute_the_same(hopper, causal, tokens):
    args = qkv(tokens)
    mask = jnp.tri(tokens, dtype=bool) if causal else None

    def run(form):
        out, pullback = jax.vjp(form, *args)
        return out, *pullback(args[0])

    chosen = run(lambda q, k, v: attention.self_attention(q, k, v, causal))
    plain = run(lambda q, k, v: attention.attend(q, k, v, mask))
    for a, b in zip(chosen, plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("capability", "version", "dtype", "width", "tokens", "reason"),
    [
        ((7, 5), 91000, jnp.bfloat16, 64, 256, "compute capability 7.5 is older than Ampere"),
        ((9, 0), 91000, jnp.float32, 64, 256, "JAX refuses float32"),
        ((9, 0), 91000, jnp.bfloat16, 60, 256, "heads of width 60"),
        ((8, 0), 91000, jnp.bfloat16, 192, 256, "heads of width 192"),
        ((9, 0), 91000, jnp.bfloat16, 64, 62, "62 tokens are fewer than 64"),
        ((9, 0), 91000, jnp.bfloat16, 64, 77, "77 tokens"),
        ((9, 0), 91000, jnp.bfloat16, 192, 256, None),
        ((8, 0), 91000, jnp.float16, 128, 64, None),
        ((9, 0), None, jnp.bfloat16, 64, 256, "cuDNN is not detected"),
        ((10, 3), 91000, jnp.bfloat16, 64, 256, "requires cuDNN version"),
        ((10, 3), 91100, jnp.bfloat16, 64, 256, None),
    ],
)
def test_what_cudnn_refuses_is_told_once(
    monkeypatch, caplog, capability, version, dtype, width, tokens, reason
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(gpu, "capability", lambda: capability)

    def number(text):
        return tuple(map(int, text.split(".")))

    library = fused_attention_stablehlo
    if version:  # else as here, where cuDNN is not installed
        monkeypatch.setattr(library, "check_cudnn_version", lambda: version)
    for name, has in (
        ("check_compute_capability", lambda least: capability >= number(least)),
        ("is_cuda_compute_capability_equal", lambda other: capability == number(other)),
    ):
        monkeypatch.setattr(library, name, has)
    attention._log_once.cache_clear()
    q = jax.ShapeDtypeStruct((2, tokens, 4, width), dtype)
    assert attention.by_cudnn(q) == attention.by_cudnn(q) == (reason is None)
    attention.by_cudnn(jax.ShapeDtypeStruct((3, tokens, 4, width), dtype))  # another batch
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (reason is not None) and all(reason in line for line in told)


def test_a_decoder_is_causal_by_cudnn_and_with_a_mask_as_before(hopper):
    sizes = transformer.Sizes(64, 4, 128, 2, 2, 16)
    decoder = transformer.Decoder(
        sizes, dropout=transformer.Dropout(), remat="none", dtype=jnp.bfloat16, rngs=layers.Keys(0)
    )
    graph, params = nnx.split(decoder)
    x = jax.random.normal(jax.random.key(1), (2, 72, 64))
    mask = transformer.segment_mask(jnp.ones((2, 72), jnp.int32))

    def run(params, x, mask=None):
        return nnx.merge(graph, params)(x, mask=mask)[0]

    params = nnx.to_pure_dict(params)
    text = lowered(jax.grad(loss(run)), params, x)
    assert CUDNN + "Backward" in text and "72x72xf32" not in text
    text = lowered(jax.grad(loss(run)), params, x, mask)
    assert "cudnn" not in text and "72x72xf32" in text
    # Lowered for this CPU, both are the plain form.
    np.testing.assert_array_equal(run(params, x), run(params, x, mask))


def test_cudnn_attention_is_lowered_within_maps_of_devices(hopper):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    args = qkv()

    def run(*args):
        return jax.grad(loss(attention.self_attention), argnums=(0, 1, 2))(*args)

    split = jax.shard_map(run, mesh=mesh, in_specs=(spec,) * 3, out_specs=(spec,) * 3)
    assert CUDNN in lowered(split, *args)
    mapped = jax.vmap(run)
    assert CUDNN in lowered(mapped, *(x[:, None] for x in args))
