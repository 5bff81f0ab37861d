"""The discriminator against the reference's logits, and how images are fitted to patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import parity
from unitok_jax.models.discriminator import DiscriminatorHeads, fit_to_patches
from unitok_jax.models.pretrained.dinov2 import DinoV2
from unitok_jax.weights import torch_layout
from unitok_jax.weights.pretrained import DINOV2_ROWS

pytestmark = pytest.mark.slow

RESIZE, START = jnp.array(False), jnp.zeros(2)


def filled(make, section, rows):
    graph, params = nnx.split(nnx.eval_shape(make))
    abstract = nnx.to_pure_dict(params)
    names = torch_layout.entries(abstract, rows)
    state = {k: v for k, v in parity.network_state(section).items() if k in names}
    return nnx.merge(graph, torch_layout.from_torch(state, abstract, rows, {}))


@pytest.fixture(scope="module")
def discriminator():
    dinov2 = filled(lambda: DinoV2(dtype=jnp.float32, rngs=nnx.Rngs(0)), "dino", DINOV2_ROWS)
    heads = filled(
        lambda: DiscriminatorHeads(rngs=nnx.Rngs(0)),
        "discriminator",
        torch_layout.DISCRIMINATOR_ROWS,
    )
    return jax.jit(lambda images: heads(dinov2(fit_to_patches(images, RESIZE, START))))


@pytest.mark.parametrize("size", [64, 252, 256])
def test_logits_equal_the_reference(discriminator, size):
    theirs = parity.load("losses")[f"disc_logits_{size}"]
    ours = discriminator(parity.weights.reference_images(2, size, parity.SEED + 11))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4 * theirs.std()


def test_every_entry_of_the_release_has_a_place():
    params = nnx.to_pure_dict(
        nnx.state(nnx.eval_shape(lambda: DiscriminatorHeads(rngs=nnx.Rngs(0))))
    )
    names = torch_layout.entries(params, torch_layout.DISCRIMINATOR_ROWS)
    assert {n: e.shape for n, e in names.items()} == {
        n: v.shape for n, v in parity.network_state("discriminator").items()
    }


def test_a_resize_by_areas_is_adaptive_pooling():
    image = np.random.default_rng(0).normal(size=(1, 30, 33, 3)).astype(np.float32)
    ours = np.asarray(fit_to_patches(jnp.asarray(image), RESIZE, START))
    assert ours.shape == (1, 28, 28, 3)
    for i, j in np.ndindex(28, 28):
        rows = image[:, i * 30 // 28 : -(-(i + 1) * 30 // 28)]
        window = rows[:, :, j * 33 // 28 : -(-(j + 1) * 33 // 28)]
        np.testing.assert_allclose(ours[:, i, j], window.mean(axis=(1, 2)), atol=1e-6)


@pytest.mark.parametrize("height, width", [(28, 33), (33, 28), (42, 40)])
def test_a_side_that_alone_does_not_fit_is_resized_bicubically(height, width):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    ours = np.asarray(fit_to_patches(jnp.asarray(image), RESIZE, START))
    theirs = torch.nn.functional.interpolate(
        torch.tensor(image.transpose(0, 3, 1, 2)).double(), ours.shape[1:3], mode="bicubic"
    )
    assert ours.shape[1:3] == (height // 14 * 14, width // 14 * 14)
    np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), atol=2e-6)


def test_a_crop_is_a_window():
    image = jnp.arange(64 * 64 * 3.0).reshape(1, 64, 64, 3)
    ours = fit_to_patches(image, jnp.array(True), jnp.array([0.999, 0.5]))
    np.testing.assert_array_equal(ours, image[:, 8:64, 4:60])


def test_images_that_fit_are_left_alone():
    image = jnp.ones((1, 28, 14, 3))
    assert fit_to_patches(image, RESIZE, START) is image


def test_images_that_are_too_small():
    with pytest.raises(ValueError, match="13x64 px are smaller than DINOv2's patch of 14 px"):
        fit_to_patches(jnp.ones((1, 13, 64, 3)), RESIZE, START)
