"""The residual streams of the transformers: their dtype, and what it is worth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import tiny_full
from helpers import parity
from unitok_jax.models.unitok import abstract_model
from unitok_jax.tokenizer.step import TokenizerSteps
from unitok_jax.weights import pretrained

pytestmark = pytest.mark.slow

# dtype, residual_dtype -> the stream's: never less than that of the computation
STREAMS = {
    ("float32", "float32"): "float32",
    ("float32", "bfloat16"): "float32",
    ("bfloat16", "float32"): "float32",
    ("bfloat16", "bfloat16"): "bfloat16",
}


def configuration(dtype, residual_dtype):
    config = tiny_full.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    config.model.text.vocab_size, config.model.text.context_length = 512, 16
    config.model.dtype, config.model.residual_dtype = dtype, residual_dtype
    return config


def carries(jaxpr):
    """Dtypes of what the scans of a program carry from block to block: (B, N, D) arrays."""
    found = []
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    found += carries(inner)
        if equation.primitive.name == "scan":
            body = equation.params["jaxpr"]
            # What is carried goes out as it leaves the body; the rest gets a leading axis.
            outputs = zip(equation.outvars, getattr(body, "jaxpr", body).outvars, strict=True)
            carried = (x.aval for x, of_body in outputs if x.aval.shape == of_body.aval.shape)
            found += [str(aval.dtype) for aval in carried if aval.ndim == 3]
    return found


@pytest.mark.parametrize("dtypes", STREAMS, ids="-".join)
def test_the_key_decides_it_in_every_tower_forward_and_backward(dtypes):
    config = configuration(*dtypes)
    graph, params = abstract_model(config.model.to_dict())
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    text = jax.ShapeDtypeStruct((2, 16), jnp.int32)

    def loss(params, images, text):
        out = nnx.merge(graph, params)(images, text)
        return out.reconstruction.sum() + out.image_features.sum() + out.text_features.sum()

    forward = carries(jax.make_jaxpr(loss)(params, images, text).jaxpr)
    assert forward == [STREAMS[dtypes]] * 3  # encoder, decoder, text tower
    both = carries(jax.make_jaxpr(jax.grad(loss))(params, images, text).jaxpr)
    assert len(both) >= 6 and set(both) == {STREAMS[dtypes]}


@pytest.mark.parametrize("dtypes", STREAMS, ids="-".join)
def test_the_key_decides_that_of_the_adversarys_dinov2(dtypes):
    graph = TokenizerSteps(configuration(*dtypes)).adversary._dinov2
    _, params = pretrained.abstract("dinov2", "float32")
    images = jax.ShapeDtypeStruct((1, 28, 28, 3), jnp.float32)
    program = jax.make_jaxpr(lambda p, x: nnx.merge(graph, p)(x))(params, images)
    assert carries(program.jaxpr) == [STREAMS[dtypes]]


def test_what_the_projection_sees_is_not_rounded():
    """The last norm of the encoder belongs to the stream: its tokens go on in float32."""
    graph, params = abstract_model(configuration("bfloat16", "float32").model.to_dict())
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    tokens = jax.eval_shape(lambda p, x: nnx.merge(graph, p).encoder(x), params, images)
    assert tokens.dtype == jnp.float32


def test_a_float32_stream_is_nearer_to_float32(reference):
    """What the products' own rounding leaves: the trunks, on the reference's seeded weights."""
    config, exact = reference("tiny")
    params = nnx.to_pure_dict(nnx.state(exact))
    text = parity.weights.reference_text(4, 16, 512, parity.SEED)
    golden = parity.load("tiny")

    def stacks(dtype, residual_dtype):
        model = config.model.to_dict() | {"dtype": dtype, "residual_dtype": residual_dtype}
        graph = abstract_model(model)[0]
        stream = jnp.dtype(residual_dtype)

        @jax.jit
        def run(params):
            model = nnx.merge(graph, params)
            tower = model.text_encoder
            embedded = tower.token_embedding[...][text] + tower.positional_embedding[...]
            return {
                "encoder": model.encoder.blocks(jnp.asarray(golden["encoder_tokens"], stream)),
                "decoder": model.decoder.blocks(jnp.asarray(golden["post_quant_proj"], stream)),
                "text": tower.blocks(embedded.astype(stream)),
            }

        return jax.device_get(run(params))

    exact = stacks("float32", "float32")

    def error(residual_dtype):
        found = stacks("bfloat16", residual_dtype)
        return {
            name: np.std(found[name].astype(np.float32) - x) / np.std(x)
            for name, x in exact.items()
        }

    wide, narrow = error("float32"), error("bfloat16")
    for name in exact:
        assert 0 < wide[name] < 0.95 * narrow[name], (name, wide[name], narrow[name])
