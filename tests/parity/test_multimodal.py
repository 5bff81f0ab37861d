"""The multimodal model and its language trunks against the reference's numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from helpers import parity, sequences
from unitok_jax.models.sampling import Filters
from unitok_jax.models.transformer import segment_mask
from unitok_jax.multimodal import objective, sampling
from unitok_jax.multimodal.model import abstract_model
from unitok_jax.multimodal.packing import fill, pack
from unitok_jax.weights import llama_layout, torch_layout

pytestmark = pytest.mark.slow

OPTIONS = parity.manifest("multimodal")["config"]
TRUNKS = ("llama2", "llama3", "qwen2", "qwen3")
BOOKS, TOKENS = OPTIONS["tokenizer"]["num_codebooks"], OPTIONS["tokenizer"]["tokens"]
Z_WEIGHT = 5e-5


def model_keys(options, architecture="LlamaForCausalLM"):
    """The keyword arguments of a model with the reference's language model of these options."""
    rope = options.get("rope_parameters", {})
    scaling = {"factor": 1.0, "low": 1.0, "high": 4.0, "original": 8192}
    if rope.get("rope_type") == "llama3":
        scaling = {
            "factor": rope["factor"],
            "low": rope["low_freq_factor"],
            "high": rope["high_freq_factor"],
            "original": rope["original_max_position_embeddings"],
        }
    heads, tokenizer = options["num_attention_heads"], OPTIONS["tokenizer"]
    return {
        "vocabulary": options["vocab_size"],
        "width": options["hidden_size"],
        "heads": heads,
        "groups": options["num_key_value_heads"],
        "head_width": options.get("head_dim", options["hidden_size"] // heads),
        "hidden": options["intermediate_size"],
        "depth": options["num_hidden_layers"],
        "epsilon": options["rms_norm_eps"],
        "rope_base": rope.get("rope_theta", options.get("rope_theta")),
        "rope_scaling": scaling,
        "qkv_bias": architecture == "Qwen2ForCausalLM",
        "qk_norm": architecture == "Qwen3ForCausalLM",
        "tied": options["tie_word_embeddings"],
        "num_codebooks": BOOKS,
        "vocab_size": tokenizer["vocab_size"],
        "latent_width": tokenizer["vocab_width"],
        "grid": (4, TOKENS // 4),
        "projection": "causal",
        "projection_width": tokenizer["embed_dim"],
        "projection_heads": tokenizer["num_heads"],
        "head_depth": OPTIONS["depth_head_layers"],
        "depth_head_width": 0,
        "remat": "none",
        "dtype": "float32",
    }


def close(ours, theirs, tolerance=1e-4):
    """Within a part of the reference's deviation; relative for scalars."""
    scale = theirs.std() if np.size(theirs) > 1 else abs(theirs)
    assert np.shape(ours) == np.shape(theirs)
    assert np.abs(np.asarray(ours, np.float64) - theirs).max() <= tolerance * scale


def check_norms(grads, names, norms):
    """Every gradient's norm, within 1e-3; `grads` has the reference's names."""
    total = np.sqrt(np.sum(np.square(norms, dtype=np.float64)))
    assert len(names) == len(norms) > 0
    for name, theirs in zip(names, norms, strict=True):
        ours = np.linalg.norm(grads[str(name)])
        assert ours == pytest.approx(float(theirs), rel=1e-3, abs=1e-6 * total), name


@functools.cache
def trunk(name):
    """(graph, parameters, rows of the layout) of a language model alone."""
    manifest = parity.manifest("llama")[name]
    keys = model_keys(manifest["config"], manifest["architecture"])
    graph, shapes = abstract_model(keys)
    rows = llama_layout.rows(keys)
    state = parity.weights.reference_state(manifest, parity.SEED)
    params = torch_layout.from_torch(state, {"language": shapes["language"]}, rows, {})
    back = torch_layout.to_torch(params, rows, {})
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)
    rest = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), shapes)
    return graph, rest | params, rows


@pytest.mark.parametrize("name", TRUNKS)
def test_language_models(name):
    """Logits, loss and gradients of four architectures; padding is seen by nothing."""
    graph, params, rows = trunk(name)
    golden = {k.removeprefix(f"{name}."): v for k, v in parity.load("llama").items()}
    ids = golden["ids"]
    there = ids != 0
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        language = nnx.merge(graph, params).language
        x, rope = language.embed(ids), language.rope(positions)
        mask = segment_mask(jnp.asarray(there, jnp.int32))
        logits = language.logits(language.decoder(x, rope=rope, mask=mask)[0])
        nats = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], ids[:, 1:])
        return jnp.sum(nats * there[:, 1:]) / there[:, 1:].sum(), logits

    (loss, logits), grads = jax.device_get(run(params))
    close(logits * there[..., None], golden["logits"])
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-4)
    grads = torch_layout.to_torch({"language": grads["language"]}, rows, {})
    assert len(grads) == len(golden["grad_names"])
    check_norms(grads, golden["grad_names"], golden["grad_norms"])


@functools.cache
def built():
    """(graph, parameters, rows of the layout) of the reference's seeded weights."""
    manifest = parity.manifest("multimodal")
    keys = model_keys(OPTIONS["language_model"])
    graph, shapes = abstract_model(keys)
    state = parity.weights.reference_state(manifest, parity.SEED)
    for name in manifest["norms"]:
        array = parity.weights.reference_array(name, state[name].shape, parity.SEED)
        state[name] = 1 + 5 * array
    rows, fixed = llama_layout.rows(keys), llama_layout.fixed_entries(shapes)
    params = torch_layout.from_torch(state, shapes, rows, fixed)
    back = torch_layout.to_torch(params, rows, fixed)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)
    return graph, params, rows


def test_codes_to_vectors():
    graph, params, _ = built()
    golden = parity.load("multimodal")

    @jax.jit
    def run(params, codes):
        image = nnx.merge(graph, params).image
        quantized = image.quantized(codes)
        return {
            "quantized": quantized,
            "projected": image.projection(quantized),
            "embedded": image(codes),
        }

    found = run(params, golden["embed.codes"])
    for key, ours in found.items():
        close(ours, golden[f"embed.{key}"])
    # What the release feeds while it draws: every token as a sequence of its own.
    alone = golden["embed.codes"].transpose(0, 2, 1).reshape(-1, BOOKS, 1)
    alone = run(params, alone)["embedded"].reshape(golden["embed.embedded_alone"].shape)
    close(alone, golden["embed.embedded_alone"])
    assert np.abs(alone - golden["embed.embedded"])[:, 1:].max() > 0.1


def test_depth_head():
    graph, params, _ = built()
    golden = parity.load("multimodal")
    hidden, codes = golden["head.hidden"], golden["head.codes"].transpose(0, 2, 1)
    shape = codes.shape

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(hidden):
        rows = codes.reshape(-1, BOOKS)
        logits = nnx.merge(graph, params).head(hidden.reshape(len(rows), -1), rows)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, rows).mean()
        z = Z_WEIGHT * jnp.square(logits.max(-1)).mean()
        return nats + z, (logits.reshape(*shape, -1), nats, z)

    (_, (logits, nats, z)), grad = run(hidden)
    close(logits.transpose(0, 2, 1, 3), golden["head.logits"])
    assert nats == pytest.approx(float(golden["head.cross_entropy"]), rel=1e-4)
    assert z == pytest.approx(float(golden["head.z_loss"]), rel=1e-4)
    close(grad, golden["head.grad_hidden"])


def rows_of(ids, mask):
    """(ids, image_at, lengths) of rows after their placeholders became images; padded right."""
    rows, places = [], []
    for row, there in zip(ids, mask, strict=True):
        made, at = [], []
        for each in row[there]:
            image = each == OPTIONS["image_placeholder"]
            made += [0] * TOKENS if image else [int(each)]
            at += range(TOKENS) if image else [-1]
        rows.append(made)
        places.append(at)
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), lengths.max()), np.int32)
    image_at = np.full(padded.shape, -1, np.int32)
    for number, (row, at) in enumerate(zip(rows, places, strict=True)):
        padded[number, : len(row)], image_at[number, : len(at)] = row, at
    return padded, image_at, lengths


def batch():
    """The golden's batch as the model's inputs; a row without an image has codes all the same."""
    golden = parity.load("multimodal")
    ids, image_at, lengths = rows_of(golden["step.ids"], golden["step.ids"] != 0)
    np.testing.assert_array_equal(lengths, golden["step.mask"].sum(1))
    have = (image_at >= 0).any(1)
    codes = np.zeros((len(ids), 1, BOOKS, TOKENS), np.int32)
    codes[have, 0] = golden["step.codes"]
    return {
        "ids": ids,
        "image_at": image_at,
        "codes": codes,
        "labels": golden["step.full_labels"],
        "drawn": golden["step.kinds"][:, None] == 1,
        "segments": golden["step.mask"].astype(np.int32),
        "positions": golden["step.positions"],
        "kinds": np.zeros_like(ids),
    }


@pytest.fixture(scope="module")
def step():
    """(arrays, losses, gradients in the reference's names) of the golden's batch."""
    graph, params, rows = built()
    given = batch()

    @jax.jit
    def forward(params):
        model = nnx.merge(graph, params)
        hidden = model.hidden(*(given[key] for key in objective.INPUTS))
        drawn = given["codes"][given["drawn"]].transpose(0, 2, 1)
        first = [int(np.flatnonzero(row == 0)[0]) for row in given["image_at"][:2]]
        before = jnp.stack([hidden[n, at - 1 : at - 1 + TOKENS] for n, at in enumerate(first)])
        codes = drawn.reshape(-1, BOOKS)
        image = model.head(before.reshape(len(codes), -1), codes)
        return {
            "embeddings": model.embed(given["ids"], given["image_at"], given["codes"]),
            "hidden": hidden,
            "text_logits": model.language.logits(hidden),
            "image_logits": image.reshape(*drawn.shape, -1).transpose(0, 2, 1, 3),
        }

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradients(params):
        sums = objective.sums(nnx.merge(graph, params), given, chunk=5)
        losses = objective.losses(sums, objective.Weights(Z_WEIGHT))
        return losses.total, (sums, losses)

    grads, (sums, losses) = jax.device_get(gradients(params))
    return jax.device_get(forward(params)), sums, losses, torch_layout.to_torch(grads, rows, {})


def test_every_array_of_a_step(step):
    golden = parity.load("multimodal")
    for key, ours in step[0].items():
        if key != "image_logits":
            ours = ours * golden["step.mask"][..., None]
        close(ours, golden[f"step.{key}"])


def test_losses_of_a_step(step):
    golden = parity.load("multimodal")
    _, sums, losses, _ = step
    assert sums.ids == golden["step.text_tokens"]
    assert BOOKS * sums.image_tokens == golden["step.image_tokens"]
    for ours, name in (
        (losses.text, "text_loss"),
        (losses.image, "image_cross_entropy"),
        (losses.z, "image_z_loss"),
        (losses.total, "loss"),
        (losses.per_codebook.mean(), "image_cross_entropy"),
    ):
        assert ours == pytest.approx(float(golden[f"step.{name}"]), rel=1e-4), name


def test_losses_of_the_same_samples_packed():
    """Made and packed by this package: three rows for five samples."""
    graph, params, _ = built()
    golden, samples = parity.load("multimodal"), sequences.reference_samples()
    options = dict(length=60, images=3, image_shape=(BOOKS, TOKENS), pad=0)
    packed = pack(samples, 3, 60, 3)
    assert max(map(len, packed)) == 2 and sorted(sum(packed, [])) == [*range(5)]
    rows = [fill([samples[n] for n in each], **options) for each in packed]
    given = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    sums = jax.jit(lambda p: objective.sums(nnx.merge(graph, p), given, chunk=30))(params)
    losses = jax.device_get(objective.losses(sums, objective.Weights(Z_WEIGHT)))
    assert sums.ids == golden["step.text_tokens"]
    for ours, name in ((losses.text, "text_loss"), (losses.total, "loss")):
        assert ours == pytest.approx(float(golden[f"step.{name}"]), rel=1e-4), name


def test_gradients_of_a_step(step):
    golden, grads = parity.load("multimodal"), step[3]
    check_norms(grads, golden["step.grad_names"], golden["step.grad_norms"])
    frozen = parity.manifest("multimodal")["frozen"]
    assert len(frozen) == BOOKS and not any(grads[name].any() for name in frozen)
    whole = [key for key in golden if key.startswith("step.grad.")]
    assert len(whole) == 6
    for key in whole:
        close(grads[key.removeprefix("step.grad.")], golden[key], 1e-3)


GREEDY = Filters(temperature=0.0)


def left_padded(ids, mask):
    """The prompt of rows, with the padding on the left."""
    rows, image_at, lengths = rows_of(ids, mask)
    missing = rows.shape[1] - lengths
    for number, count in enumerate(missing):
        rows[number], image_at[number] = (np.roll(x[number], count) for x in (rows, image_at))
    valid = np.arange(rows.shape[1]) >= missing[:, None]
    codes = np.zeros((len(ids), 1, BOOKS, TOKENS), np.int32)
    return sampling.Prompt(rows, image_at, codes, valid)


def check_choices(ours, theirs, margin):
    """Equal up to the first choice that was nearly another."""
    for row, wanted, gaps in zip(ours, theirs, margin, strict=True):
        end = np.flatnonzero(gaps < 1e-3)
        end = end[0] if len(end) else len(gaps)
        assert end > 0
        np.testing.assert_array_equal(row[:end], wanted[:end])


@pytest.mark.parametrize("name", TRUNKS)
def test_greedy_continuations(name):
    """Two prompts of different lengths, padded on the left, with the cache."""
    graph, params, _ = trunk(name)
    golden = {k.removeprefix(f"{name}."): v for k, v in parity.load("llama").items()}
    prompt = left_padded(golden["prompt"], golden["prompt"] != 0)
    limit = golden["new_ids"].shape[1]

    @jax.jit
    def run(params):
        keys = jax.random.split(jax.random.key(0), len(prompt.ids))
        more = dict(filters=GREEDY, stops=(), limit=limit, keep_logits=True)
        return sampling.answer(nnx.merge(graph, params), prompt, keys, **more)

    found = jax.device_get(run(params))
    check_choices(found.ids, golden["new_ids"], golden["margin"])
    if (found.ids == golden["new_ids"]).all():
        close(found.logits, golden["new_logits"])
    assert not found.stopped.any() and (found.count == limit).all()


def test_greedy_answer_about_an_image():
    graph, params, _ = built()
    golden = parity.load("multimodal")
    prompt = left_padded(golden["answer.ids"], golden["answer.ids"] != 0)
    prompt = prompt._replace(codes=golden["answer.codes"][None])
    new_ids = golden["answer.new_ids"]

    @jax.jit
    def run(params):
        more = dict(filters=GREEDY, stops=(2,), limit=len(new_ids), keep_logits=True)
        key = jax.random.split(jax.random.key(0), 1)
        return sampling.answer(nnx.merge(graph, params), prompt, key, **more)

    found = jax.device_get(run(params))
    check_choices(found.ids, new_ids[None], golden["answer.margin"][None])
    close(found.logits[:, 0], golden["answer.logits"])


def draw(released):
    """(codes, logits) of greedy drawing with guidance."""
    graph, params, _ = built()
    golden = parity.load("multimodal")
    prompt = left_padded(golden["draw.ids"], golden["draw.mask"])
    np.testing.assert_array_equal(prompt.valid, golden["draw.mask"])

    @jax.jit
    def run(params):
        return sampling.draw(
            nnx.merge(graph, params),
            prompt,
            jax.random.split(jax.random.key(0), 2),
            filters=GREEDY,
            scale=jnp.full((TOKENS, BOOKS), golden["draw.scale"]),
            released=released,
            keep_logits=True,
        )

    return jax.device_get(run(params))


@pytest.mark.parametrize("way, released", [("exact", False), ("release", True)])
def test_greedy_drawings(way, released):
    golden = {k: v for k, v in parity.load("multimodal").items() if k.startswith(f"draw.{way}")}
    codes, logits = draw(released)
    wanted, margin = golden[f"draw.{way}.codes"], golden[f"draw.{way}.margin"]
    by_token = (x.transpose(0, 2, 1).reshape(len(x), -1) for x in (codes, wanted, margin))
    check_choices(*by_token)
    if (codes == wanted).all():
        close(logits, golden[f"draw.{way}.logits"])
