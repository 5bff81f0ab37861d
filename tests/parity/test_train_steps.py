"""Three consecutive training steps of both players against the reference's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import tiny_full
from helpers import parity
from unitok_jax.models.pretrained.dinov2 import DinoV2
from unitok_jax.models.pretrained.lpips import Lpips
from unitok_jax.tokenizer import augment
from unitok_jax.tokenizer.step import TokenizerSteps
from unitok_jax.weights import torch_layout, torch_options
from unitok_jax.weights.pretrained import DINOV2_ROWS, LPIPS_ROWS

pytestmark = pytest.mark.slow

GOLDEN = parity.json_file("train_steps.json")
STEPS = GOLDEN["steps"]


def table(name):
    values = jnp.array([step[name] for step in STEPS])
    return lambda step: values[step]


def configuration():
    options = GOLDEN["optimizer"]
    config = tiny_full.get_config()
    model = torch_options.to_config(parity.manifest("tiny")["config"]).model
    with config.unlocked():
        config.model = model
    config.model.drop_path = 0.0
    config.steps = 1000
    config.loss.l1, config.loss.l2 = options["l1"], options["l2"]
    config.loss.perceptual, config.loss.vq = options["lp"], options["lq"]
    config.loss.contrastive, config.loss.entropy = options["lc"], options["le"]
    config.optim.betas = tuple(map(float, options["optim_beta"].split("_")))
    config.optim.eps, config.optim.clip_norm = options["optim_eps"], float(options["grad_clip"])
    config.optim.weight_decay, config.optim.ema_decay = options["wd"], 0.0
    gan = config.gan
    gan.betas = tuple(map(float, options["disc_optim_beta"].split("_")))
    gan.eps, gan.clip_norm = options["optim_eps"], float(options["grad_clip"])
    gan.weight, gan.weight_decay = options["ld"], options["disc_wd"]
    gan.loss, gan.consistency = {"hg": "hinge"}[options["dcrit"]], options["bcr"]
    gan.crop_probability = 0.0
    return config


def only_blurred(images, fade, key):
    """What the reference's views were in these steps: neither augmentation was on."""
    return images if fade is None else augment.blur(images, fade)


def gradients(before, after, metrics, betas, clip_norm):
    """The gradient that AdamW was given, from its first moments."""
    mu = (before.opt_state[1].mu, after.opt_state[1].mu)
    unclip = max(1.0, float(metrics) / clip_norm)
    return jax.tree.map(lambda a, b: unclip * (b - betas[0] * a) / (1 - betas[0]), *mu)


def network(make, section, rows):
    model = nnx.eval_shape(lambda: make(dtype=jnp.float32, rngs=nnx.Rngs(0)))
    abstract = nnx.to_pure_dict(nnx.state(model))
    names = torch_layout.entries(abstract, rows)
    state = {k: v for k, v in parity.network_state(section).items() if k in names}
    return torch_layout.from_torch(state, abstract, rows, {})


@pytest.fixture(scope="module")
def run():
    """[(metrics, generator's gradients in the reference's names)], and the state at the end."""
    config = configuration()
    pure = TokenizerSteps(config)
    schedule, weight, fade = pure.adversary.schedule, table("disc_weight_ramp"), table("blur")
    pure.adversary._augment = only_blurred
    pure.learning_rate = table("lr")
    pure.adversary.learning_rate = table("disc_lr")
    pure.adversary.schedule = lambda step, key: schedule(step, key)._replace(
        weight=config.gan.weight * weight(step), fade=fade(step)
    )
    params = torch_layout.from_torch(parity.state("tiny"), pure.abstract_params)
    frozen = {
        "lpips": network(Lpips, "lpips", LPIPS_ROWS),
        "dinov2": network(DinoV2, "dino", DINOV2_ROWS),
    }
    abstract = jax.eval_shape(pure.init).discriminator
    heads = torch_layout.from_torch(
        parity.network_state("discriminator"),
        abstract.params,
        torch_layout.DISCRIMINATOR_ROWS,
        {},
    )
    heads = jax.tree.map(jnp.asarray, heads)
    moments = jax.jit(pure.adversary.optimizer.init)(heads)
    discriminator = abstract.replace(params=heads, opt_state=moments)
    state = jax.jit(pure.start)(params, discriminator)
    batch = {
        "image": parity.weights.reference_images(4, 64, parity.SEED),
        "text": parity.weights.reference_text(4, 16, 512, parity.SEED),
    }
    steps = {
        phase: jax.jit(
            lambda *args, phase=phase: pure.train_step(
                *args, adversarial=phase, gather=lambda params: params
            )
        )
        for phase in (False, True)
    }
    seen = []
    for golden in STEPS:
        after, metrics = steps[golden["disc_weight_ramp"] > 0](state, frozen, batch)
        after, metrics = jax.device_get((after, metrics))
        grads = gradients(
            state.generator,
            after.generator,
            metrics["grad_norm"],
            config.optim.betas,
            config.optim.clip_norm,
        )
        seen.append((metrics, torch_layout.to_torch(grads, fixed={})))
        state = after
    return seen, state


NAMES = {
    "total_loss": "loss",
    "L1": "loss/l1",
    "Lq": "loss/vq",
    "Lc": "loss/contrastive",
    "Lpip": "loss/perceptual",
    "Gradnorm_g": "grad_norm",
    "Logit_scale": "logit_scale",
    "lr": "learning_rate",
    "Lg": "loss/gan",
    "Wei_g": "gan/weight",
    "Ldisc": "gan/discriminator",
    "Gradnorm_d": "gan/grad_norm",
    "disc_lr": "gan/learning_rate",
}


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_every_scalar_of_the_step(run, step):
    metrics, _ = run[0][step]
    golden = STEPS[step]
    adversarial = golden["disc_weight_ramp"] > 0
    assert ("loss/gan" in metrics) == adversarial
    for theirs, ours in NAMES.items():
        if not adversarial and ours.startswith(("gan/", "loss/gan")):
            continue
        # Norms of gradients, and the quotient of two.
        tolerance = 1e-3 if "Gradnorm" in theirs or theirs == "Wei_g" else 1e-4
        assert metrics[ours] == pytest.approx(golden[theirs], rel=tolerance, abs=1e-6), theirs
    pixels = 0.2 * metrics["loss/l1"] + metrics["loss/l2"] + metrics["loss/perceptual"]
    assert pixels == pytest.approx(golden["Lnll"], rel=1e-4)
    assert 100 * metrics["usage"].mean() == pytest.approx(golden["Codebook_usage"], rel=1e-4)
    if adversarial:
        consistency = GOLDEN["optimizer"]["bcr"] * metrics["gan/consistency"]
        assert consistency == pytest.approx(golden["Lbcr"], rel=1e-4, abs=1e-6)
        real, fake = golden["Disc_accu_real"], golden["Disc_accu_fake"]
        assert 100 * metrics["gan/accuracy_real"] == pytest.approx(real, rel=1e-4)
        assert 100 * metrics["gan/accuracy_fake"] == pytest.approx(fake, rel=1e-4)


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_the_norm_of_every_gradient(run, step):
    _, grads = run[0][step]
    golden = STEPS[step]["grad_norms"]
    assert grads.keys() == golden.keys()
    # What rounding leaves of a gradient that is zero (a bias before a norm) has no digits.
    floor = 1e-6 * STEPS[step]["Gradnorm_g"]
    for name, norm in golden.items():
        ours = float(np.linalg.norm(grads[name]))
        assert ours == pytest.approx(norm, rel=1e-3, abs=floor), name


def test_gradients_of_the_second_step(run):
    _, grads = run[0][1]
    for name, theirs in parity.load("train_steps").items():
        if name.startswith("grad."):
            check(grads[name.removeprefix("grad.")], theirs, name)


def test_parameters_after_three_steps(run):
    state = run[1]
    ours = torch_layout.to_torch(state.generator.params)
    heads = torch_layout.to_torch(state.discriminator.params, torch_layout.DISCRIMINATOR_ROWS, {})
    for name, theirs in parity.load("train_steps").items():
        kind, name = name.split(".", 1)
        if kind == "param":
            check(ours[name], theirs, name)
        elif kind == "disc" and not name.endswith(".2.bias"):
            # (Within its margin the hinge pushes real and fake logits equally: the last bias gets
            # what rounding leaves of nothing.)
            check(heads[name], theirs, name)


def check(ours, theirs, name):
    if name.endswith(("attn.qkv.bias", "attn.in_proj_bias")):
        # A bias of k moves all scores of a query alike, so its gradient is rounding alone, which
        # AdamW scales to the size of any other: there is nothing to compare.
        ours, theirs = (np.delete(x.reshape(3, -1), 1, axis=0) for x in (ours, theirs))
    # Of the whole tensor: AdamW's first updates have the size of the learning rate wherever the
    # gradient is not zero, so where it is close to zero its sign is rounding.
    scale = theirs.std() if theirs.size > 1 else abs(theirs.item())
    error = np.sqrt(np.mean((ours - theirs) ** 2))
    assert error <= 1e-4 * scale, f"{name}: {error / scale:.2e} of the reference's deviation"
