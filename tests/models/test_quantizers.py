"""What every quantizer promises, and the residual one against computations by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unitok_jax.models import layers
from unitok_jax.models.quantizers import multi_codebook
from unitok_jax.models.quantizers.base import join_chunks, split_chunks
from unitok_jax.models.unitok import QUANTIZERS, abstract_model
from unitok_jax.tokenizer.step import TokenizerSteps
from unitok_jax.weights import load as loading
from unitok_jax.weights import torch_layout

pytestmark = pytest.mark.slow

KINDS = tuple(QUANTIZERS)
# vocab_size, num_codebooks, latent_width: 64 entries for 4 books, chunks that suit each kind
SIZES = {
    "multi_codebook": (256, 4, 32),
    "residual": (256, 4, 32),
    "fsq": (256, 4, 12),
    "bsq": (256, 4, 24),
}


def make(kind, *sizes, seed=0):
    sizes = sizes or SIZES[kind]
    return QUANTIZERS[kind](*sizes, commitment_weight=0.25, rngs=nnx.Rngs(seed))


def latents(kind, key=1, batch=2, tokens=5):
    return 2 * jax.random.normal(jax.random.key(key), (batch, tokens, SIZES[kind][2]))


def bounded(kind, latent):
    """What the straight-through gradient is the identity on."""
    if kind == "residual":
        return layers.l2_normalize(latent)
    if kind == "fsq":
        return jnp.tanh(latent)
    return join_chunks(layers.l2_normalize(split_chunks(latent, 4)))


def tiny_config(kind):
    from configs import tiny

    config = tiny.get_config()
    config.model.text.vocab_size, config.model.text.context_length = 512, 16
    sizes = zip(("vocab_size", "num_codebooks", "latent_width"), SIZES[kind], strict=True)
    config.model.update({"quantizer": kind, **dict(sizes)})
    return config


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_codes_and_latent(self, kind):
        module, latent = make(kind), latents(kind)
        assert (module.num_codebooks, module.entries) == (4, 64)
        out = module(latent)
        assert (out.codes.shape, out.codes.dtype) == ((2, 4, 5), jnp.int32)
        assert (out.latent.shape, out.latent.dtype) == (latent.shape, jnp.float32)
        assert out.loss.shape == out.entropy_loss.shape == () and out.entropy_loss == 0
        assert 0 <= out.codes.min() and out.codes.max() < 64

    def test_lookup_of_indices_is_the_output(self, kind):
        module, latent = make(kind), latents(kind)
        out = module(latent)
        np.testing.assert_array_equal(module.indices(latent), out.codes)
        np.testing.assert_allclose(module.lookup(out.codes), out.latent, atol=1e-6)

    def test_straight_through(self, kind):
        module, latent = make(kind), latents(kind)
        cotangent = latents(kind, key=2)
        ours = jax.vjp(lambda x: module(x).latent, latent)[1](cotangent)[0]
        expected = jax.vjp(lambda x: bounded(kind, x), latent)[1](cotangent)[0]
        np.testing.assert_allclose(ours, expected, atol=1e-6)

    def test_gradient_at_zero_is_finite(self, kind):
        module = make(kind)
        entropy = kind != "fsq"

        def loss(latent):
            out = module(latent, entropy)
            return out.loss + out.entropy_loss + out.latent.sum()

        assert np.isfinite(jax.grad(loss)(jnp.zeros((1, 2, SIZES[kind][2])))).all()

    def test_every_product_is_in_full_precision(self, kind):
        latent = jax.ShapeDtypeStruct((1, 5, SIZES[kind][2]), jnp.float32)
        run = lambda x: make(kind)(x, kind != "fsq")  # noqa: E731
        text = str(jax.make_jaxpr(run)(latent))
        assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST")
        assert ("dot_general" in text) == (kind in ("multi_codebook", "residual"))

    def test_shapes_of_a_whole_model(self, kind):
        graph, params = abstract_model(tiny_config(kind).model.to_dict())
        images = jax.ShapeDtypeStruct((2, 32, 48, 3), jnp.float32)
        text = jax.ShapeDtypeStruct((2, 16), jnp.int32)
        out = jax.eval_shape(lambda p, i, t: nnx.merge(graph, p)(i, t), params, images, text)
        assert (out.codes.shape, out.codes.dtype) == ((2, 4, 6), jnp.int32)
        run = lambda p, c: nnx.merge(graph, p).decode(c, (2, 3))  # noqa: E731
        assert jax.eval_shape(run, params, out.codes).shape == (2, 32, 48, 3)

    def test_sizes_that_no_kind_divides(self, kind):
        with pytest.raises(ValueError, match=r"model\.num_codebooks=3 .*model\.vocab_size=256"):
            make(kind, 256, 3, 24)


def test_unknown_kind():
    config = tiny_config("bsq")
    config.model.quantizer = "bqs"
    with pytest.raises(
        ValueError, match="model.quantizer='bqs' is not one of .*did you mean 'bsq'"
    ):
        abstract_model(config.model.to_dict())


class TestResidual:
    def with_rows(self, rows):
        rows = jnp.asarray(rows, jnp.float32)
        levels, entries, width = rows.shape
        module = make("residual", levels * entries, levels, width)
        module.levels[...] = rows
        return module

    def test_by_hand(self):
        """(3, 4) is (0.6, 0.8) at unit length; then 0.6, 0.3 and then 0.1, 0.3 are left."""
        rows = [[[0.0, 0.5], [0.5, 0.0]], [[0.5, 0.0], [0.0, 0.25]], [[1.0, 1.0], [0.0, 0.25]]]
        module = self.with_rows(rows)
        out = module(jnp.array([[[3.0, 4.0]]]))
        np.testing.assert_array_equal(out.codes, [[[0], [0], [1]]])
        np.testing.assert_allclose(out.latent, [[[0.5, 0.75]]], atol=1e-6)
        # left of (0.6, 0.8): (0.6, 0.3), (0.1, 0.3), (0.1, 0.05)
        squares = [0.6**2 + 0.3**2, 0.1**2 + 0.3**2, 0.1**2 + 0.05**2]
        assert float(out.loss) == pytest.approx(1.25 * sum(squares) / 6, rel=1e-5)

    def test_distance_decides_and_not_the_angle(self):
        module = self.with_rows([[[10.0, 0.0], [0.6, 0.6]]])
        np.testing.assert_array_equal(module.indices(jnp.array([[[7.0, 0.1]]])), [[[1]]])

    def test_nearest_rows_by_brute_force(self):
        module, latent = make("residual"), latents("residual")
        rows = np.asarray(module.levels[...], np.float64) * 20  # long enough to matter
        module.levels[...] = jnp.asarray(rows, jnp.float32)
        codes = np.asarray(module.indices(latent))
        left = np.asarray(layers.l2_normalize(latent), np.float64)
        for level in range(4):
            square = ((left[:, :, None] - rows[level]) ** 2).sum(-1)
            np.testing.assert_array_equal(codes[:, level], square.argmin(-1))
            left = left - rows[level][codes[:, level]]

    def test_a_level_more_leaves_less(self):
        module, latent = make("residual"), latents("residual", batch=8)
        target, rows = layers.l2_normalize(latent), module.levels[...]
        errors = []
        for levels in range(1, 5):
            part = self.with_rows(rows[:levels])
            total = part.lookup(part.indices(latent))
            errors.append(float(jnp.mean((total - target) ** 2)))
        assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]

    def test_gradient_of_a_row_is_from_its_own_level(self):
        """mse(row, sg[residual]) by hand: nothing reaches a row but what chose it."""
        module, latent = make("residual"), latents("residual")
        graph, params = nnx.split(module)
        params = nnx.to_pure_dict(params)
        ours = jax.grad(lambda p: nnx.merge(graph, p)(latent).loss)(params)["levels"]
        rows, codes = np.asarray(module.levels[...]), np.asarray(module.indices(latent))
        expected, left = np.zeros_like(rows), np.asarray(layers.l2_normalize(latent))
        for level in range(4):
            chosen = rows[level][codes[:, level]]
            step = 2 * (chosen - left) / (4 * left.size)
            np.add.at(expected[level], codes[:, level], step)
            left = left - chosen
        np.testing.assert_allclose(ours, expected, atol=1e-7)

    def test_lookup_of_a_level_sends_no_gradient_to_another(self):
        module = make("residual")
        graph, params = nnx.split(module)
        params = nnx.to_pure_dict(params)
        codes = module.indices(latents("residual"))
        other = codes.at[:, 1:].set((codes[:, 1:] + 1) % 64)

        def gradient(codes):
            return jax.grad(lambda p: nnx.merge(graph, p).lookup(codes).sum())(params)["levels"]

        ours, theirs = gradient(codes), gradient(other)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert all(np.any(ours[k] != theirs[k]) for k in (1, 2, 3))
        counts = np.bincount(np.asarray(codes[:, 0]).ravel(), minlength=64)
        np.testing.assert_array_equal(ours[0], np.repeat(counts[:, None], 32, 1))

    def test_entropy_is_that_of_distances(self):
        module, latent = make("residual"), latents("residual")
        ours = module(latent, entropy=True).entropy_loss
        left, values = np.asarray(layers.l2_normalize(latent), np.float64), []
        rows, codes = np.asarray(module.levels[...], np.float64), module.indices(latent)
        for level in range(4):
            logits = -((left[:, :, None] - rows[level]) ** 2).sum(-1) / 0.01
            p = np.exp(logits - logits.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            mean = p.mean((0, 1))
            values.append(-(p * np.log(p)).sum(-1).mean() + (mean * np.log(mean)).sum())
            left = left - rows[level][np.asarray(codes[:, level])]
        # 64 terms log(p + 1e-7) a sample: up to 1e-5 apart
        assert float(ours) == pytest.approx(np.mean(values), rel=1e-4, abs=1e-5)


def fresh(config):
    return jax.jit(lambda: TokenizerSteps(config).init().generator.params)()


def batch(config):
    key = jax.random.key(3)
    height, width = config.data.image_size
    return {
        "image": jax.random.uniform(key, (2, height, width, 3), minval=-1),
        "text": jax.random.randint(key, (2, config.model.text.context_length), 1, 512),
    }


def gradient(config):
    """Gradients of one batch, all terms of the configuration together."""
    pure = TokenizerSteps(config)

    @jax.jit
    def run(params, batch):
        keys = jax.random.split(jax.random.key(0))
        batches = jax.tree.map(lambda x: x[None], batch)
        return pure.objective.gradients(params, {}, None, {}, batches, None, keys)[0]

    return run(fresh(config), batch(config))


def norms(tree):
    return [float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(tree)]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_training_reaches_the_encoder(kind):
    config = tiny_config(kind)
    config.data.image_size = (32, 32)
    config.loss.entropy = 0.0 if kind == "fsq" else 0.1
    grads = gradient(config)
    assert np.isfinite(norms(grads)).all()
    assert all(norms(grads["encoder"]["stem"])) and all(norms(grads["decoder"]["up_conv4"]))
    if "quantizer" in grads:
        assert all(norms(grads["quantizer"]))


def test_contrastive_only_leaves_the_decoder_alone():
    config = tiny_config("multi_codebook")
    config.data.image_size = (32, 32)
    config.loss.l1 = config.loss.l2 = 0.0
    grads = gradient(config)
    assert not any(norms(grads["decoder"]))
    assert all(norms(grads["encoder"]["stem"])) and all(norms(grads["projection"]))
    assert np.isfinite(norms(grads)).all()


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS[1:])
class TestFiles:
    def test_folder_and_tokenizer(self, kind, tmp_path):
        from unitok_jax.tokenizer.api import Tokenizer, load

        config = tiny_config(kind)
        tokenizer = Tokenizer(config, fresh(config), batch_size=1)
        tokenizer.save(tmp_path / "folder")
        again = load(tmp_path / "folder", batch_size=1, quant_heads=4)
        assert again.config.model.quantizer == kind and again.codebook_shape == (4, 64)
        images = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
        codes = again.encode(images)
        assert codes.shape == (1, 4, 4)
        np.testing.assert_array_equal(codes, tokenizer.encode(images))
        assert again.decode(codes).shape == (1, 32, 32, 3)
        with pytest.raises(loading.ConversionError, match="quant_heads=2 was given"):
            load(tmp_path / "folder", quant_heads=2)

    @pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
    def test_the_public_layout_has_no_place_for_it(self, kind, name, tmp_path):
        if name == "a.pth":
            pytest.importorskip("torch")
        config = tiny_config(kind)
        params = abstract_model(config.model.to_dict())[1]
        with pytest.raises(loading.ConversionError, match=f"model.quantizer='{kind}'.*folder"):
            loading.write(tmp_path / name, config, params)
        assert not (tmp_path / name).exists()
        with pytest.raises(torch_layout.LayoutError, match="quantizer"):
            torch_layout.to_torch(params)
        with pytest.raises(torch_layout.LayoutError, match="quantizer"):
            torch_layout.from_torch({}, params)


def take(rows, codes):
    """(K, V, C) and (B, K, N) -> (B, K, N, C)."""
    return rows[jnp.arange(len(rows))[:, None], codes]


@pytest.mark.parametrize("kind, name", [("multi_codebook", "codebook"), ("residual", "levels")])
def test_each_term_of_the_loss_moves_its_own_side(kind, name):
    """The commitment moves what is quantized, by its weight, and the other term the rows."""
    module, latent = make(kind), latents(kind)
    if kind == "residual":
        module.levels[...] *= 20  # long enough to matter
    graph, params = nnx.split(module)
    params = nnx.to_pure_dict(params)
    ours = jax.grad(lambda p, x: nnx.merge(graph, p)(x).loss, argnums=(0, 1))(params, latent)
    codes = module.indices(latent)
    if kind == "residual":
        chosen = take(params[name], codes)
        taken = jnp.cumsum(chosen, axis=1) - chosen  # by the levels before
        chunks = lambda x: layers.l2_normalize(x)[:, None] - taken  # noqa: E731
        rows = lambda rows: take(rows, codes)  # noqa: E731
    else:
        chunks = lambda x: layers.l2_normalize(split_chunks(x, 4))  # noqa: E731
        rows = lambda rows: take(layers.l2_normalize(rows), codes)  # noqa: E731
    still_chunks, still_rows = chunks(latent), rows(params[name])
    for gradient, expected in (
        (ours[0][name], jax.grad(lambda x: jnp.mean((rows(x) - still_chunks) ** 2))(params[name])),
        (ours[1], jax.grad(lambda x: 0.25 * jnp.mean((still_rows - chunks(x)) ** 2))(latent)),
    ):
        assert np.abs(expected).max() > 1e-5
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


class TestNearestRow:
    """The form for CPUs finds what argmax finds, and both the first of equal rows."""

    @pytest.mark.parametrize("entries", [1024, 4096, 1056, 96])
    @pytest.mark.parametrize("find", [multi_codebook._argmax_rows, multi_codebook._fold_rows])
    def test_of_equal_rows_the_first_is_found(self, entries, find):
        """Every row stands there four times, in whole numbers, whose products are exact."""
        rng = np.random.default_rng(0)
        rows = np.tile(rng.integers(-2, 3, (entries // 4, 8)), (4, 1))[rng.permutation(entries)]
        chunk = rng.integers(-2, 3, (2, 200, 8))
        products = chunk @ rows.T
        assert ((products == products.max(-1, keepdims=True)).sum(-1) >= 4).all()
        codes = find(jnp.asarray(chunk, jnp.float32), jnp.asarray(rows, jnp.float32))
        np.testing.assert_array_equal(codes, products.argmax(-1))

    @pytest.mark.parametrize("entries", [1024, 4096, 1056, 96])
    def test_forms_agree(self, entries):
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((entries, 8)).astype(np.float32)
        rows[rng.permutation(entries)[: entries // 2]] = rows[3]  # a collapsed codebook
        chunk = jnp.asarray(rng.standard_normal((2, 200, 8)).astype(np.float32))
        plain = multi_codebook._argmax_rows(chunk, jnp.asarray(rows))
        assert (plain == plain.min()).sum() < plain.size
        np.testing.assert_array_equal(multi_codebook._fold_rows(chunk, jnp.asarray(rows)), plain)
        assert int(plain.max()) < entries

    def test_what_is_not_a_number_gets_a_valid_code(self):
        rows = jnp.ones((1024, 4))
        chunk = jnp.full((1, 2, 4), jnp.nan)
        codes = multi_codebook._fold_rows(chunk, rows)
        assert (0 <= codes).all() and (codes < 1024).all()
