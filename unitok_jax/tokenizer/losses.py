"""Losses, from arrays to float32 scalars; and the table of the generator's losses."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unitok_jax.models.pretrained.lpips import Lpips


def l1_loss(reconstruction: jax.Array, images: jax.Array) -> jax.Array:
    """Computes the mean absolute error of two (B, H, W, 3) arrays."""
    return jnp.mean(jnp.abs(reconstruction - images))


def l2_loss(reconstruction: jax.Array, images: jax.Array) -> jax.Array:
    """Computes the mean squared error of two (B, H, W, 3) arrays."""
    return jnp.mean((reconstruction - images) ** 2)


def perceptual_loss(
    reconstruction: list[jax.Array], images: list[jax.Array], network: Lpips
) -> jax.Array:
    """Computes the mean LPIPS of image pairs from their `network.features`."""
    return jnp.mean(network.distance(reconstruction, images))


def gram_loss(
    reconstruction: list[jax.Array], images: list[jax.Array], network: Lpips
) -> jax.Array:
    """Computes the mean distance of Gram matrices of image pairs from their `network.features`."""
    return jnp.mean(network.gram_distance(reconstruction, images))


@jax.named_scope("contrastive")  # marks the loss's communication in a compiled program
def contrastive_loss(
    image_features: jax.Array, text_features: jax.Array, logit_scale: jax.Array
) -> jax.Array:
    """Computes CLIP's symmetric cross-entropy (arXiv 2103.00020) of the whole batch, in float32.

    Args:
      image_features: (B, E) unit vectors; row i belongs to row i of the text.
      text_features: (B, E) unit vectors.
      logit_scale: scalar factor of the cosines.
    """
    with jax.default_matmul_precision("highest"):
        logits = logit_scale * image_features @ text_features.T
    labels = jnp.arange(logits.shape[0])
    by_image = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    by_text = optax.softmax_cross_entropy_with_integer_labels(logits.T, labels)
    return (by_image.mean() + by_text.mean()) / 2


class Term(NamedTuple):
    """Term of the generator's loss.

    The function of a term of the reconstruction takes the reconstruction and the images; with
    `network`, the features of both and the network, LPIPS. Any other takes its outputs of the
    whole batch; scalars are averaged.
    """

    outputs: tuple[str, ...]  # inputs: fields of `models.unitok.Output`
    function: Callable[..., jax.Array] | None  # gives a scalar; None: the output is the loss
    network: bool = False  # True if the function takes LPIPS and its features
    free: bool = False  # reported with weight 0 too, where its outputs exist


# name -> term; the weights are `config.loss`
TERMS = {
    "l1": Term(("reconstruction",), l1_loss, free=True),
    "l2": Term(("reconstruction",), l2_loss, free=True),
    "perceptual": Term(("reconstruction",), perceptual_loss, network=True),
    "gram": Term(("reconstruction",), gram_loss, network=True),
    "vq": Term(("vq_loss",), None, free=True),
    "entropy": Term(("entropy_loss",), None),
    "contrastive": Term(("image_features", "text_features", "logit_scale"), contrastive_loss),
}
PIXEL_TERMS = tuple(name for name, t in TERMS.items() if t.outputs == ("reconstruction",))
NETWORK_TERMS = tuple(name for name, t in TERMS.items() if t.network)


DISCRIMINATOR_LOSSES = {
    "hinge": lambda margin: jax.nn.relu(1 - margin),
    "softplus": lambda margin: jax.nn.softplus(-margin),
    "linear": lambda margin: -margin,
}
GENERATOR_LOSSES = {
    "linear": DISCRIMINATOR_LOSSES["linear"],
    "non_saturating": DISCRIMINATOR_LOSSES["softplus"],
}


def discriminator_loss(kind: str, real: jax.Array, fake: jax.Array) -> jax.Array:
    """Computes the discriminator's loss: the mean over real logits plus the mean over fake ones.

    Args:
      kind: a key of `DISCRIMINATOR_LOSSES`.
      real, fake: logits of any shape; positive means real.
    """
    of_margin = DISCRIMINATOR_LOSSES[kind]
    return jnp.mean(of_margin(real)) + jnp.mean(of_margin(-fake))


def generator_loss(kind: str, fake: jax.Array) -> jax.Array:
    """Computes the generator's adversarial loss: its mean over the logits of reconstructions.

    Args:
      kind: 'linear', minus the logit; 'non_saturating', log(1 + exp(-logit)) (arXiv 1406.2661).
      fake: logits of any shape; positive means real.
    """
    return jnp.mean(GENERATOR_LOSSES[kind](fake))


def adaptive_weight(
    reconstruction_norm: jax.Array, gan_norm: jax.Array, limits: tuple[float, float]
) -> jax.Array:
    """Computes the adaptive weight of the adversarial loss (arXiv 2012.09841).

    The weight scales the adversarial gradient to the norm of the reconstruction gradient.

    Args:
      reconstruction_norm: gradient norm of the reconstruction losses at the last layer.
      gan_norm: gradient norm of the adversarial loss at the last layer.
      limits: the smallest and the largest weight.
    """
    return jnp.clip(reconstruction_norm / (gan_norm + 1e-6), *limits)
