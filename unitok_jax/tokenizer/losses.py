"""Losses, from arrays to float32 scalars; and the table of the generator's losses."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unitok_jax.models.pretrained.lpips import Lpips
from unitok_jax.models.unitok import LOGITS

CHUNK = 1024  # texts that the sigmoid loss takes at a time


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
    logits = _logits(image_features, text_features, logit_scale)
    labels = jnp.arange(logits.shape[0])
    by_image = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    by_text = optax.softmax_cross_entropy_with_integer_labels(logits.T, labels)
    return (by_image.mean() + by_text.mean()) / 2


def token_loss(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Computes 1 - cosine, plus the mean squared error, of the features of a teacher's tokens.

    Args:
      predicted: (B, N, D) float32.
      target: (B, N, D) float32.

    Returns:
      The mean over tokens.
    """
    products = jnp.sum(predicted * target, axis=-1)
    squares = jnp.sum(predicted**2, axis=-1) * jnp.sum(target**2, axis=-1)
    cosine = products / jnp.sqrt(jnp.maximum(squares, 1e-16))
    return jnp.mean(1 - cosine) + jnp.mean((predicted - target) ** 2)


@jax.named_scope("relation")
def relation_loss(
    image_features: jax.Array,
    text_features: jax.Array,
    logit_scale: jax.Array,
    teacher_image: jax.Array,
    teacher_text: jax.Array,
    *,
    temperature: float,
) -> jax.Array:
    """Computes the divergence KL(teacher || student) of image-text similarities, in float32.

    The distributions are those of an image over all texts of the batch, and of a text over all
    images (arXiv 2509.14476): softmax of logits / temperature. The mean of both is returned.

    Args:
      image_features, text_features: (B, E) unit vectors of the student.
      logit_scale: scalar factor of their cosines.
      teacher_image, teacher_text: (B, F), whose products are the teacher's logits.
      temperature: above 0; the higher, the more the small similarities count.
    """
    with jax.default_matmul_precision("highest"):
        student = logit_scale * image_features @ text_features.T / temperature
        teacher = teacher_image @ teacher_text.T / temperature

    def divergence(axis):
        log_teacher = jax.nn.log_softmax(teacher, axis)
        gap = log_teacher - jax.nn.log_softmax(student, axis)
        return jnp.mean(jnp.sum(jnp.exp(log_teacher) * gap, axis))

    return (divergence(1) + divergence(0)) / 2


@jax.named_scope("contrastive")
def sigmoid_loss(
    image_features: jax.Array,
    text_features: jax.Array,
    logit_scale: jax.Array,
    logit_bias: jax.Array,
    chunk: int = CHUNK,
) -> jax.Array:
    """Computes SigLIP's loss (arXiv 2303.15343) of all pairs of the whole batch, in float32.

    Each pair is a case of its own: log(1 + exp(-logit)) of an image and its own text,
    log(1 + exp(logit)) of an image and another's, in sum over texts and mean over images.

    A (B, B) array is never kept: the forward and the backward pass each take about `chunk` texts at
    a time, every n-th, so that of a sharded batch each device adds its own rows to each chunk.

    Args:
      image_features: (B, E) unit vectors; row i belongs to row i of the text.
      text_features: (B, E) unit vectors.
      logit_scale: scalar factor of the cosines.
      logit_bias: scalar, added to them.
      chunk: maximum number of texts at a time.
    """
    size = len(image_features)
    count = -(-size // chunk)  # chunks
    width = -(-size // count)
    padded = jnp.pad(text_features, ((0, width * count - size), (0, 0)))
    rows = jnp.arange(size)[:, None]

    @functools.partial(jax.checkpoint, prevent_cse=False)  # a loop's body has no twin to merge with
    def add(total, inputs):
        first, texts = inputs
        logits = _logits(image_features, texts, logit_scale) + logit_bias
        columns = first + count * jnp.arange(width)[None]
        losses = jax.nn.softplus(jnp.where(rows == columns, -logits, logits))
        return total + jnp.sum(jnp.where(columns < size, losses, 0.0)) / size, None

    chunks = jnp.arange(count), padded.reshape(width, count, -1).swapaxes(0, 1)
    return jax.lax.scan(add, jnp.float32(0), chunks)[0]


def _logits(image_features, text_features, logit_scale):
    """Computes the scaled cosines (B, C) of images (B, E) and texts (C, E)."""
    with jax.default_matmul_precision("highest"):
        return logit_scale * image_features @ text_features.T


class Term(NamedTuple):
    """Term of the generator's loss.

    The function of a term of the reconstruction takes the reconstruction and the images; with
    `network`, the features of both and the network, LPIPS. Any other takes its outputs of the
    whole batch, and then its targets; scalars are averaged.
    """

    outputs: tuple[str, ...]  # inputs: fields of `models.unitok.Output`, or `teacher_token_loss`
    function: Callable[..., jax.Array] | None  # gives a scalar; None: the output is the loss
    network: bool = False  # True if the function takes LPIPS and its features
    free: bool = False  # reported with weight 0 too, where its outputs exist
    targets: tuple[str, ...] = ()  # inputs of `tokenizer.teaching`, without a gradient


# name -> term; the weights are `config.loss`
TERMS = {
    "l1": Term(("reconstruction",), l1_loss, free=True),
    "l2": Term(("reconstruction",), l2_loss, free=True),
    "perceptual": Term(("reconstruction",), perceptual_loss, network=True),
    "gram": Term(("reconstruction",), gram_loss, network=True),
    "vq": Term(("vq_loss",), None, free=True),
    "entropy": Term(("entropy_loss",), None),
    "contrastive": Term(("image_features", "text_features", "logit_scale"), contrastive_loss),
    "teacher_token": Term(("teacher_token_loss",), None),
    "teacher_relation": Term(
        ("image_features", "text_features", "logit_scale"),
        relation_loss,
        targets=("teacher_image", "teacher_text"),
    ),
}
OF_PAIRS = ("contrastive", "teacher_relation")
"""Terms that compare the pairs of a batch with each other: one alone has no gradient."""
_WITH_BIAS = Term((*TERMS["contrastive"].outputs, "logit_bias"), sigmoid_loss)
# loss.contrastive_kind -> the contrastive term
CONTRASTIVE = {
    kind: TERMS["contrastive"] if logits.bias is None else _WITH_BIAS
    for kind, logits in LOGITS.items()
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
