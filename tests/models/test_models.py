"""What the networks promise beyond the reference's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.saved import saved
from configs import default
from unitok_jax import trees
from unitok_jax.models import convolutions, layers, vitamin
from unitok_jax.models.quantizers import base
from unitok_jax.models.quantizers.multi_codebook import MultiCodebookQuantizer
from unitok_jax.models.unitok import abstract_model

pytestmark = pytest.mark.slow


def model_config(**changes):
    from configs import tiny

    model = tiny.get_config().model
    model.text.vocab_size, model.text.context_length = 512, 16
    model.update(changes)
    return model.to_dict()


def millions(tree):
    return sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) / 1e6


class TestAbstractModel:
    def test_is_traced_once_and_the_callers_own(self):
        model = model_config()
        (graph, params), (again, others) = abstract_model(model), abstract_model(dict(model))
        assert graph is again and trees.flatten(params) == trees.flatten(others)
        params.pop("encoder")
        others["decoder"].clear()
        assert {"encoder", "decoder"} <= abstract_model(model)[1].keys()
        assert abstract_model(model)[1]["decoder"]
        assert abstract_model(model | {"drop_path": 0.5})[0] != graph


def test_keys_are_those_of_flax():
    ours, theirs = layers.Keys(3), nnx.Rngs(3)
    inner = layers.Keys(jax.random.key(5)), nnx.Rngs(jax.random.key(5))
    for keys, rngs in ((ours, theirs), inner):
        for _ in range(3):
            assert keys.params() == rngs.params()


class TestSizes:
    def test_parameters_of_base(self):
        _, params = abstract_model(default.get_config().model.to_dict())
        counts = {name: millions(part) for name, part in params.items()}
        expected = {
            "encoder": 86.98,
            "quant_proj": 1.85,
            "quantizer": 0.26,
            "post_quant_proj": 4.34,
            "decoder": 99.83,
            "text_encoder": 123.65,
            "projection": 0.59,
        }
        for name, value in expected.items():
            assert round(counts[name], 2) == value, name
        assert round(millions(params), 1) == 317.5

    def test_parameters_of_large(self):
        from configs import l16

        _, params = abstract_model(l16.get_config().model.to_dict())
        assert round(millions(params), 1) == 820.3

    def test_small_is_between(self):
        config = default.get_config().model
        config.size, config.quant_heads = "small", 6
        _, params = abstract_model(config.to_dict())
        assert params["encoder"]["blocks"]["block"]["norm1"]["scale"].shape == (14, 384)
        assert millions(params["encoder"]) < 25

    @pytest.mark.parametrize("size", ["base", "large"])
    def test_shapes_of_a_forward_pass(self, size):
        from configs import b16, l16

        config = {"base": b16, "large": l16}[size].get_config().model
        graph, params = abstract_model(config.to_dict())
        images = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
        text = jax.ShapeDtypeStruct((2, 77), jnp.int32)
        out = jax.eval_shape(lambda p, i, t: nnx.merge(graph, p)(i, t), params, images, text)
        assert out.reconstruction.shape == (2, 256, 256, 3)
        assert (out.codes.shape, out.codes.dtype) == ((2, 8, 256), jnp.int32)
        assert out.image_features.shape == out.text_features.shape == (2, 768)
        assert out.reconstruction.dtype == out.image_features.dtype == jnp.float32

    @pytest.mark.parametrize(
        "key, value, words",
        [
            ("size", "bse", ["model.size='bse'", "base"]),
            ("dtype", "float16", ["model.dtype='float16'", "bfloat16"]),
            ("residual_dtype", "", ["model.residual_dtype=''", "float32, bfloat16"]),
            ("remat", "some", ["model.remat='some'", "everything"]),
            ("quant_proj", "attn", ["model.quant_proj='attn'", "attention"]),
            ("num_codebooks", 3, ["model.num_codebooks=3", "model.vocab_size=256"]),
            ("latent_width", 30, ["model.num_codebooks=4", "model.latent_width=30"]),
            ("quant_heads", 5, ["5", "128"]),
        ],
    )
    def test_values_that_do_not_fit(self, key, value, words):
        with pytest.raises(ValueError) as error:
            abstract_model(model_config(**{key: value}))
        assert all(word in str(error.value) for word in words), error.value


class TestGrids:
    @pytest.mark.parametrize("height, width", [(32, 64), (64, 16)])
    def test_any_multiple_of_16(self, reference, height, width):
        _, model = reference("tiny")
        images = jnp.linspace(-1, 1, 2 * height * width * 3).reshape(2, height, width, 3)
        grid = (height // 16, width // 16)
        rebuilt, codes, _ = jax.jit(model.reconstruct)(images)
        assert codes.shape == (2, 4, grid[0] * grid[1])
        assert rebuilt.shape == images.shape
        again = jax.jit(model.decode, static_argnums=1)(codes, grid)
        np.testing.assert_allclose(again, rebuilt, atol=1e-5)

    def test_tokens_are_row_major(self, reference):
        """A change in the lower right corner changes the last token most."""
        _, model = reference("tiny")
        images = jnp.zeros((1, 32, 48, 3))
        changed = images.at[:, 16:, 32:].set(0.9)
        encode = jax.jit(model.encoder)
        difference = jnp.abs(encode(changed) - encode(images)).sum(-1)[0]
        assert int(difference.argmax()) == 5

    @pytest.mark.parametrize("shape", [(1, 60, 64, 3), (1, 64, 8, 3), (1, 64, 64, 4)])
    def test_other_shapes_are_refused(self, reference, shape):
        with pytest.raises(ValueError, match="multiples of 16"):
            reference("tiny")[1].encode(jnp.zeros(shape))

    def test_query_tokens(self):
        graph, params = abstract_model(model_config(num_query=3))
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        run = lambda p, x: nnx.merge(graph, p).reconstruct(x)  # noqa: E731
        rebuilt, codes, _ = jax.eval_shape(run, params, images)
        assert codes.shape == (1, 4, 3 + 4)
        assert rebuilt.shape == images.shape
        decode = lambda p, c: nnx.merge(graph, p).decode(c, (3, 2))  # noqa: E731
        with pytest.raises(ValueError, match="do not fill a grid of 3 x 2"):
            jax.eval_shape(decode, params, codes)


class TestQuantizer:
    def make(self, **kwargs):
        return MultiCodebookQuantizer(64, 4, 32, commitment_weight=0.25, rngs=nnx.Rngs(0), **kwargs)

    def test_lookup_of_indices_is_the_output(self):
        module, latent = self.make(), jax.random.normal(jax.random.key(1), (2, 5, 32))
        out = module(latent)
        assert np.array_equal(module.indices(latent), out.codes)
        np.testing.assert_allclose(module.lookup(out.codes), out.latent, atol=1e-6)
        norms = jnp.linalg.norm(base.split_chunks(out.latent, 4), axis=-1)
        np.testing.assert_allclose(norms, 1, atol=1e-5)

    def test_straight_through_is_the_identity_on_the_normalised_chunk(self):
        module = self.make()
        latent = jax.random.normal(jax.random.key(1), (2, 5, 32))
        cotangent = jax.random.normal(jax.random.key(2), (2, 5, 32))

        def normalised(x):
            return base.join_chunks(layers.l2_normalize(base.split_chunks(x, 4)))

        ours = jax.vjp(lambda x: module(x).latent, latent)[1](cotangent)[0]
        expected = jax.vjp(normalised, latent)[1](cotangent)[0]
        np.testing.assert_allclose(ours, expected, atol=1e-6)

    def test_a_codebook_sends_no_gradient_to_another(self):
        module = self.make()
        graph, params = nnx.split(module)
        params = nnx.to_pure_dict(params)
        latent = jax.random.normal(jax.random.key(1), (2, 5, 32))
        codes = module.indices(latent)

        def first_book(params):
            return base.split_chunks(nnx.merge(graph, params).lookup(codes), 4)[:, 0].sum()

        grads = jax.grad(first_book)(params)["codebook"]
        assert np.any(grads[0]) and not np.any(grads[1:])

    def test_gradient_at_a_zero_latent_is_finite(self):
        module = self.make()
        assert np.isfinite(jax.grad(lambda x: module(x).loss)(jnp.zeros((1, 2, 32)))).all()

    def test_bfloat16_model_looks_up_in_float32(self):
        """No product of the island, from projection to projection, has a bfloat16 operand."""
        graph, params = abstract_model(model_config(dtype="bfloat16"))
        tokens = jax.ShapeDtypeStruct((1, 4, 128), jnp.bfloat16)

        def island(params, tokens):
            model = nnx.merge(graph, params)
            latent = model.quant_proj(tokens.astype(jnp.float32))
            quantized = model.quantizer(latent, entropy=True)
            return model.tokens(model.quantizer.indices(latent)), quantized

        text = str(jax.make_jaxpr(island)(params, tokens))
        assert text.count("bf16") == 1, text  # the argument
        assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST") > 0

    @pytest.mark.parametrize("quant_proj", ["attention", "linear"])
    def test_encode_looks_up_in_full_precision_and_the_encoder_runs_as_told(self, quant_proj):
        graph, params = abstract_model(model_config(dtype="bfloat16", quant_proj=quant_proj))
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)

        def products(method):
            def run(params, images):
                return getattr(nnx.merge(graph, params), method)(images)

            jaxpr = str(jax.make_jaxpr(run)(params, images))
            return jaxpr.count("dot_general"), jaxpr.count("precision=(Precision.HIGHEST")

        in_encoder, none = products("encoder")
        in_all, highest = products("encode")
        assert none == 0
        assert highest == in_all - in_encoder > 0


class TestLayers:
    @pytest.mark.parametrize("stride", [1, 2])
    @pytest.mark.parametrize("height", [6, 7])
    def test_depthwise_formulations_agree(self, stride, height):
        x = jax.random.normal(jax.random.key(0), (2, height, 5, 8))
        kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 8))
        shifts = lambda x, k: convolutions._depthwise_by_shifts(x, k, stride)  # noqa: E731
        groups = lambda x, k: convolutions._depthwise_by_groups(x, k, stride)  # noqa: E731
        np.testing.assert_allclose(shifts(x, kernel), groups(x, kernel), atol=1e-5)
        np.testing.assert_allclose(
            convolutions.depthwise_conv3x3(x, kernel, stride), groups(x, kernel), atol=1e-5
        )
        for argument in (0, 1):
            ours, theirs = (
                jax.grad(lambda *a, f=f: jnp.sin(f(*a)).sum(), argnums=argument)(x, kernel)
                for f in (shifts, groups)
            )
            np.testing.assert_allclose(ours, theirs, atol=1e-4)

    @pytest.mark.parametrize("width", [4, 256])  # on a CPU by phases, by taps
    def test_upsampling_convolution_is_exact(self, width):
        x = jax.random.normal(jax.random.key(0), (2, 3, 5, width))
        kernel = jax.random.normal(jax.random.key(1), (3, 3, width, 6)) / width**0.5

        def plain(x, kernel):
            return jax.lax.conv_general_dilated(
                x.repeat(2, axis=1).repeat(2, axis=2),
                kernel,
                (1, 1),
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )

        forms = (
            convolutions.upsample_conv3x3,
            convolutions._upsample_by_phases,
            convolutions._upsample_by_corners,
            convolutions._upsample_by_taps,
        )
        for form in forms:
            np.testing.assert_allclose(form(x, kernel), plain(x, kernel), atol=2e-5)
            for argument in (0, 1):
                ours, theirs = (
                    jax.grad(lambda *a, f=f: jnp.sin(f(*a)).sum(), argnums=argument)(x, kernel)
                    for f in (form, plain)
                )
                np.testing.assert_allclose(ours, theirs, atol=2e-4)

    def test_upsampling_in_bfloat16_sums_in_float32(self):
        x = jax.random.normal(jax.random.key(0), (1, 4, 4, 256), jnp.bfloat16)
        kernel = jax.random.normal(jax.random.key(1), (3, 3, 256, 8)) / 16
        ours = convolutions._upsample_by_taps(x, kernel)
        assert ours.dtype == jnp.bfloat16
        exact = convolutions._upsample_by_taps(
            x.astype(jnp.float32), kernel.astype(jnp.bfloat16).astype(jnp.float32)
        )
        np.testing.assert_array_equal(ours, exact.astype(jnp.bfloat16))

    def test_upsampling_by_corners_rounds_the_gradient_of_an_image_once(self):
        x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8), jnp.bfloat16)
        kernel = jax.random.normal(jax.random.key(1), (3, 3, 8, 16)).astype(jnp.bfloat16)
        # Small integers: their sums, the taps of the four parities, are exact in bfloat16.
        kernel = jnp.round(kernel * 4).astype(jnp.float32)
        cotangent = jax.random.normal(jax.random.key(2), (1, 8, 8, 16), jnp.bfloat16)

        def gradient(x, cotangent):
            return jax.vjp(lambda x: convolutions._upsample_by_corners(x, kernel), x)[1](cotangent)[
                0
            ]

        exact = gradient(x.astype(jnp.float32), cotangent.astype(jnp.float32))
        np.testing.assert_array_equal(gradient(x, cotangent), exact.astype(jnp.bfloat16))

    @pytest.mark.parametrize("stride", [1, 2])
    def test_shortcuts_and_depthwise_convolutions_round_once(self, stride):
        x = jax.random.normal(jax.random.key(0), (2, 8, 6, 16), jnp.bfloat16)
        kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 16), jnp.bfloat16)
        exact = x.astype(jnp.float32), kernel.astype(jnp.float32)
        for found, wanted in (
            (convolutions.average_pool(x, stride), convolutions.average_pool(exact[0], stride)),
            (
                convolutions.depthwise_conv3x3(x, kernel, stride),
                convolutions.depthwise_conv3x3(*exact, stride),
            ),
        ):
            assert found.dtype == jnp.bfloat16
            np.testing.assert_array_equal(found, wanted.astype(jnp.bfloat16))

    @pytest.mark.parametrize("stride", [1, 2])
    def test_depthwise_gradients_round_once_and_save_no_float32(self, stride):
        x = jax.random.normal(jax.random.key(0), (2, 8, 6, 16), jnp.bfloat16)
        kernel = jax.random.normal(jax.random.key(1), (3, 3, 1, 16), jnp.bfloat16)

        def run(x, kernel):
            return convolutions.depthwise_conv3x3(x, kernel, stride)

        def gradients(*args):
            out, pullback = jax.vjp(run, *args)
            cotangent = jax.random.normal(jax.random.key(2), out.shape, jnp.bfloat16)
            return pullback(cotangent.astype(out.dtype))

        exact = gradients(x.astype(jnp.float32), kernel.astype(jnp.float32))
        for found, wanted in zip(gradients(x, kernel), exact, strict=True):
            np.testing.assert_array_equal(found, wanted.astype(jnp.bfloat16))
        arrays = [a for a in saved(run, x, kernel) if a.shape == x.shape]
        assert [a.dtype for a in arrays] == [jnp.bfloat16]

    def test_average_pool_does_not_count_padding(self):
        assert np.allclose(convolutions.average_pool(jnp.ones((1, 6, 6, 2))), 1)

    def test_pooling_matrix_averages_windows(self):
        matrix = layers.pooling_matrix(5, 3)  # PyTorch's windows: 0-1, 1-3, 3-4
        expected = np.array(
            [[1 / 2, 1 / 2, 0, 0, 0], [0, 1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 1 / 2, 1 / 2]]
        )
        np.testing.assert_allclose(matrix, expected.T, atol=1e-7)

    def test_drop_path_drops_samples_and_keeps_the_mean(self):
        x = jnp.ones((4000, 1, 1))
        dropped = layers.drop_path(x, 0.25, jax.random.key(0))
        assert set(np.unique(dropped.round(4))) == {0.0, np.float32(1.3333)}
        assert abs(float(dropped.mean()) - 1) < 0.05
        assert layers.drop_path(x, 0.25, None) is x

    def test_stack_equals_a_loop(self):
        def block(rngs):
            return layers.Block(8, 2, dtype=jnp.float32, stream=jnp.float32, rngs=rngs)

        stack = layers.Stack(block, 3, rngs=nnx.Rngs(0), drop_path=0.0, remat="none")
        x = jax.random.normal(jax.random.key(0), (2, 5, 8))
        graph, params = nnx.split(stack.block)
        expected = x
        for i in range(3):
            layer = jax.tree.map(lambda leaf, i=i: leaf[i], nnx.to_pure_dict(params))
            expected = nnx.merge(graph, layer)(expected, 0.0, None)
        np.testing.assert_allclose(stack(x), expected, atol=1e-5)


def test_every_size_is_a_row():
    assert set(vitamin.SIZES) == {"nano", "tiny", "small", "base", "large"}
