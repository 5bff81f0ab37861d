"""The generator against the reference's numbers: arrays, gradients, sampling and training steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import generate
from helpers import parity
from unitok_jax.generate import objective, sampling
from unitok_jax.generate.api import Sampler
from unitok_jax.generate.loading import Weights
from unitok_jax.generate.step import GeneratorSteps, abstract_model
from unitok_jax.models.sampling import Filters, filter_logits
from unitok_jax.weights import generator_layout, torch_layout

pytestmark = pytest.mark.slow

GREEDY = Filters(temperature=0.0)
B, K, N, V, D = 4, 4, 16, 64, 64


def model_keys(name):
    """The keyword arguments of the model of a manifest."""
    options = parity.manifest(name)["config"]
    config = generate.get_config()
    config.model.update(
        size="nano",
        num_codebooks=options["num_codebooks"],
        vocab_size=options["vocab_size"],
        grid=(4, 4),
        prompt={"c2i": "class", "t2i": "text"}[options["model_type"]],
        classes=options["num_classes"],
        text_tokens=options["cls_token_num"],
        text_features=options.get("caption_dim", 1),
        head_depth=options["n_output_layer"],
        dropout=0.0,
        dtype="float32",
    )
    return config.model.to_dict()


@functools.cache
def built(name):
    """(graph, parameters) of the reference's seeded weights."""
    graph, shapes = abstract_model(model_keys(name))
    state = parity.weights.reference_state(parity.manifest(name), parity.SEED)
    return graph, torch_layout.from_torch(state, shapes, generator_layout.ROWS, {})


def close(ours, theirs, tolerance=1e-4):
    """Within a part of the reference's deviation; relative for scalars."""
    scale = theirs.std() if np.size(theirs) > 1 else abs(theirs)
    assert np.shape(ours) == np.shape(theirs)
    assert np.abs(np.asarray(ours, np.float64) - theirs).max() <= tolerance * scale


def prompts(model, name, golden):
    """(prompt, valid) of the golden's training call."""
    if name == "generator":
        return model.prompt(golden["classes"]), None
    return model.prompt(golden["features"], golden["dropped"].astype(bool)), golden["mask"]


def forward(name):
    """Every array of a training call, in the golden's names."""
    graph, params = built(name)
    golden = parity.load(name)

    def run(params):
        model = nnx.merge(graph, params)
        prompt, valid = prompts(model, name, golden)
        x = model.inputs(golden["codes"], prompt)
        length = x.shape[1]
        rope, mask = model.rope[:length], model.mask(valid, length)
        blocks = model.trunk.streams(x, rope=rope, mask=mask)
        hidden = model.hidden(golden["codes"], prompt, valid).reshape(B * N, D)
        codes = golden["codes"].transpose(0, 2, 1).reshape(B * N, K)
        inputs = model.head.inputs(hidden, codes)
        head = model.head.decoder.streams(inputs)
        logits = model.logits(hidden, codes).reshape(B, N, K, V)
        found = {
            "trunk.input": x,
            "trunk.block0": blocks[0],
            "trunk.block1": blocks[1],
            "trunk.output": model.trunk(x, rope=rope, mask=mask)[0],
            "head.input": inputs,
            "head.block0": head[0],
            "head.block1": head[1],
            "logits": logits.transpose(0, 2, 1, 3),
        }
        if name == "generator":
            return found | {"rope_table": jnp.asarray(model.rope)}
        return found | {"caption": prompt, "mask": mask}

    return jax.device_get(jax.jit(run)(params))


@pytest.mark.parametrize("name", ["generator", "generator_text"])
def test_every_array(name):
    golden, found = parity.load(name), forward(name)
    if name == "generator_text":
        shape = golden["attention_mask_shape"]
        bits = np.unpackbits(golden["attention_mask"])[: np.prod(shape)].reshape(shape)
        np.testing.assert_array_equal(found.pop("mask"), bits.astype(bool))
    for key, ours in found.items():
        close(ours, golden[key])


@pytest.mark.parametrize("name", ["generator", "generator_text"])
@pytest.mark.parametrize("chunk", [1, 8, 16])
def test_loss_and_gradients(name, chunk):
    graph, params = built(name)
    golden = parity.load(name)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def run(params):
        model = nnx.merge(graph, params)
        prompt, valid = prompts(model, name, golden)
        parts = objective.losses(
            model,
            jnp.asarray(golden["codes"]),
            prompt,
            valid=valid,
            weights=golden.get("valid"),
            chunk=chunk,
        )
        return parts.mean(), parts

    (loss, parts), grads = jax.device_get(run(params))
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-5)
    if "loss_per_codebook" in golden:
        np.testing.assert_allclose(parts, golden["loss_per_codebook"], rtol=1e-5)
    grads = torch_layout.to_torch(grads, generator_layout.ROWS, {})
    total = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in grads.values()))
    for key, theirs in golden.items():
        kind, _, parameter = key.partition(".")
        if kind == "grad_norm":
            ours = np.linalg.norm(grads[parameter])
            assert ours == pytest.approx(float(theirs), rel=1e-3, abs=1e-6 * total), key
        elif kind == "grad":
            close(grads[parameter], theirs, 1e-3)


def asked(model, name, golden, guided):
    """(prompt, valid) of greedy sampling; guided: null prompts behind."""
    if name == "generator":
        labels = golden["greedy.classes"]
        null = np.full_like(labels, parity.manifest(name)["config"]["num_classes"])
        return model.prompt(np.concatenate([labels, null]) if guided else labels), None
    times = 1 + guided
    features, valid = (np.concatenate([golden[key]] * times) for key in ("features", "mask"))
    return model.prompt(features, np.arange(times * B) >= B), valid


def greedy(name, way):
    """(codes, logits) of greedy sampling, in one of the golden's ways."""
    graph, params = built(name)
    golden = parity.load(name)
    guided = way != "plain"
    until = int(golden["greedy.interval"]) + 2 if way == "guided_interval" else None

    @jax.jit
    def run(params):
        model = nnx.merge(graph, params)
        prompt, valid = asked(model, name, golden, guided)
        return sampling.sample(
            model,
            prompt,
            jax.random.split(jax.random.key(0), B),
            filters=GREEDY,
            scale=jnp.full((N, K), golden["greedy.scale"]) if guided else None,
            until=until,
            valid=valid,
            keep_logits=True,
        )

    return jax.device_get(run(params))


@pytest.mark.parametrize(
    "name, way",
    [
        ("generator", "plain"),
        ("generator", "guided"),
        ("generator", "guided_interval"),
        ("generator_text", "plain"),
        ("generator_text", "guided"),
    ],
)
def test_greedy_codes_and_their_logits(name, way):
    golden = parity.load(name)
    codes, logits = greedy(name, way)
    np.testing.assert_array_equal(codes, golden[f"greedy.{way}.codes"])
    close(logits, golden[f"greedy.{way}.logits"])


@pytest.mark.parametrize(
    "name, way", [("generator", "guided_interval"), ("generator_text", "guided")]
)
def test_greedy_codes_of_the_api(name, way):
    golden = parity.load(name)
    weights = Weights(ConfigDict({"model": model_keys(name)}), built(name)[1], None)
    if name == "generator":
        prompts = {"labels": golden["greedy.classes"]}
        prompts["guided_tokens"] = int(golden["greedy.interval"]) + 2
    else:
        prompts = {"features": golden["features"], "valid": golden["mask"]}
    settings = {"temperature": 0, "scale": golden["greedy.scale"]}
    codes = Sampler(weights, B, jax.devices()[:1]).sample(**prompts, **settings)
    np.testing.assert_array_equal(codes, golden[f"greedy.{way}.codes"])


@pytest.mark.parametrize(
    "name, way, tolerance",
    [
        ("generator", "plain", 8e-6),
        ("generator", "guided", 8e-6),
        ("generator_text", "plain", 8e-6),
        ("generator_text", "guided", 5e-5),  # by a scale of 7.5
    ],
)
def test_cached_logits_are_those_of_a_whole_pass(name, way, tolerance):
    graph, params = built(name)
    golden, guided = parity.load(name), way == "guided"
    codes, cached = greedy(name, way)
    codes = np.concatenate([codes] * (1 + guided))

    @jax.jit
    def run(params):
        model = nnx.merge(graph, params)
        prompt, valid = asked(model, name, golden, guided)
        hidden = model.hidden(codes, prompt, valid).reshape(-1, D)
        rows = codes.transpose(0, 2, 1).reshape(-1, K)
        return model.logits(hidden, rows).reshape(-1, B, N, K, V).transpose(0, 1, 3, 2, 4)

    whole = np.asarray(run(params), np.float64)
    scale = golden["greedy.scale"] if guided else 1.0
    close(cached, whole[-1] + scale * (whole[0] - whole[-1]), tolerance)


def test_filters():
    golden = parity.load("generator")
    logits = golden["filter.logits"]
    for (temperature, top_k, top_p), filtered, probabilities in zip(
        golden["filter.settings"],
        golden["filter.filtered"],
        golden["filter.probabilities"],
        strict=True,
    ):
        filters = Filters(float(temperature), int(top_k), float(top_p))
        ours = np.asarray(filter_logits(jnp.asarray(logits), filters))
        rows = ~np.isnan(filtered).any(-1)  # NaN: ties, whose order is the sort's
        assert rows.sum() >= 4
        np.testing.assert_array_equal(np.isinf(ours[rows]), np.isinf(filtered[rows]))
        np.testing.assert_allclose(ours[rows], filtered[rows], rtol=1e-6)
        drawn = np.asarray(jax.nn.softmax(ours, axis=-1))[rows]
        np.testing.assert_allclose(drawn, probabilities[rows], rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def trained():
    """[metrics of each of four steps], and the parameters behind them."""
    golden, options = parity.load("generator"), parity.manifest("generator")["optimizer"]
    config = generate.get_config()
    config.model.update(model_keys("generator"))
    config.steps, config.loss.drop_prompt = options["total_steps"], 0.0
    config.optim.learning_rate, config.optim.eps = options["lr"], options["eps"]
    config.optim.betas, config.optim.clip_norm = tuple(options["betas"]), options["clip"]
    config.optim.weight_decay, config.optim.ema_decay = options["weight_decay"], 0.0
    steps = GeneratorSteps(config)
    state = jax.jit(steps.start)(built("generator")[1])
    step = jax.jit(functools.partial(steps.train_step, gather=lambda params: params))
    seen = []
    for codes, labels in zip(golden["steps.codes"], golden["steps.classes"], strict=True):
        state, metrics = step(state, {"codes": codes, "labels": labels})
        seen.append(jax.device_get(metrics))
    return steps, seen, jax.device_get(state.generator.params)


def test_training_steps(trained):
    golden, (_, seen, params) = parity.load("generator"), trained
    for number, metrics in enumerate(seen):
        assert metrics["loss"] == pytest.approx(golden["steps.loss"][number], rel=1e-5)
        assert metrics["grad_norm"] == pytest.approx(golden["steps.grad_norm"][number], rel=1e-3)
        assert metrics["learning_rate"] == pytest.approx(golden["steps.lr"][number], abs=1e-9)
    ours = torch_layout.to_torch(params, generator_layout.ROWS, {})
    for key, theirs in golden.items():
        if key.startswith("steps.param."):
            close(ours[key.removeprefix("steps.param.")], theirs, 1e-3)


def test_weight_decay_is_on_the_references_parameters(trained):
    from unitok_jax.training import optim

    steps, manifest = trained[0], parity.manifest("generator")
    mask = optim.decay_mask(steps.abstract_params)
    for kind, wanted in (("decay", True), ("no_decay", False)):
        for name in manifest[kind]:
            entry = torch_layout.entries(steps.abstract_params, generator_layout.ROWS)[name]
            marked = mask
            for key in entry.path:
                marked = marked[key]
            assert marked == wanted, name


def test_schedule(trained):
    from unitok_jax.training.optim import learning_rate_schedule

    golden = parity.load("generator")
    total = int(golden["schedule.total"])
    for step, theirs in zip(golden["schedule.steps"], golden["schedule.multiplier"], strict=True):
        with jax.enable_x64(True):
            ours = learning_rate_schedule(
                jnp.float64(step),
                kind="cosine",
                steps=total + 1,
                warmup_steps=int(0.03 * total),
                start_fraction=0.0,
                final_fraction=0.0,
            )
        assert float(ours) == pytest.approx(theirs, abs=1e-9)


def test_names_go_both_ways():
    for name in ("generator", "generator_text"):
        ours = torch_layout.to_torch(built(name)[1], generator_layout.ROWS, {})
        state = parity.weights.reference_state(parity.manifest(name), parity.SEED)
        assert ours.keys() == state.keys()
        assert all(np.array_equal(ours[key], state[key]) for key in state)
