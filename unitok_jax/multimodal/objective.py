"""Losses of a multimodal model: cross-entropy of ids and of codes, a few positions at a time.

Every predicted id and every predicted code weighs the same, over the whole batch on all devices:
sums are made first, and divided once. arXiv 2502.20321, section 4, with the z-loss of UniTok's
release.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unitok_jax.multimodal.model import Multimodal

IGNORED = -100
"""Label of a position whose id is not to be predicted."""


class Sums(NamedTuple):
    """Sums over the predictions of a batch, in nats; those of several batches can be added."""

    text: jax.Array  # scalar, cross-entropy of the ids
    text_count: jax.Array  # scalar, ids
    codes: jax.Array  # (K,), cross-entropy of the codes of each codebook
    square: jax.Array  # scalar, sum over all codes of the squared largest logit
    image_tokens: jax.Array  # scalar, visual tokens, of K codes each

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


class Losses(NamedTuple):
    """Losses in nats; 0 for a kind without a label."""

    total: jax.Array  # scalar: mean over ids and codes, the z-loss included
    text: jax.Array  # scalar, mean over the ids
    image: jax.Array  # scalar, mean over the codes
    z: jax.Array  # scalar, weight times the mean over the codes of the squared largest logit
    per_codebook: jax.Array  # (K,), means over the visual tokens


def sums(model: Multimodal, batch, chunk: int) -> Sums:
    """Computes what `losses` divides.

    The logits of `chunk` positions, and `chunk` visual tokens, of each row exist at a time, and are
    computed again in the backward pass.

    Args:
      model: with the parameters of the step.
      batch: ids, image_at, codes, segments and positions, as for `Multimodal.hidden`, and
        labels (B, T) int32: the id of a position, if it is to be predicted from those before in
          its sample; else `IGNORED`.
        drawn (B, M) bool: the codes of the image are to be predicted.
      chunk: positions of a row at a time.
    """
    hidden = model.hidden(*(batch[key] for key in INPUTS))
    text, text_count = _text(model, hidden, batch["labels"], batch["segments"], chunk)
    codes, square, tokens = _image(model, hidden, batch, chunk)
    return Sums(text, text_count, codes, square, tokens)


INPUTS = ("ids", "image_at", "codes", "segments", "positions")
"""Keys of a batch that the model reads, in the order of `Multimodal.hidden`."""


def losses(found: Sums, z_weight: float) -> Losses:
    """Divides sums by the number of predictions; z_weight: of the squared largest logits."""
    books = len(found.codes)
    codes = books * found.image_tokens
    z = z_weight * found.square
    whole = found.text + found.codes.sum() + z
    return Losses(
        total=whole / jnp.maximum(found.text_count + codes, 1),
        text=found.text / jnp.maximum(found.text_count, 1),
        image=found.codes.sum() / jnp.maximum(codes, 1),
        z=z / jnp.maximum(codes, 1),
        per_codebook=found.codes / jnp.maximum(found.image_tokens, 1),
    )


def _text(model, hidden, labels, segments, chunk):
    """Returns the sum of the cross-entropies of the labels, and their number."""
    # The first id of a sample is not predicted: the position before is of another sample.
    wanted = (labels[:, 1:] != IGNORED) & (segments[:, 1:] > 0)
    wanted &= segments[:, 1:] == segments[:, :-1]
    labels = jnp.where(wanted, labels[:, 1:], 0)

    def part(hidden, labels, wanted):
        logits = model.language.logits(hidden)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.where(wanted, nats, 0.0).sum()

    total = _in_chunks(part, (hidden[:, :-1], labels, wanted), chunk)
    return total, wanted.sum().astype(jnp.float32)


def _image(model, hidden, batch, chunk):
    """Returns sums of the cross-entropies (K,) and squared largest logits, and drawn tokens."""
    codes, drawn, image_at = batch["codes"], batch["drawn"], batch["image_at"]
    b, images, books, tokens = codes.shape
    rows = codes.transpose(0, 1, 3, 2).reshape(b, images * tokens, books)
    wanted = jnp.repeat(drawn, tokens, axis=1)
    # Where each visual token stands: its codes are predicted from the position before.
    t = image_at.shape[1]
    at = jnp.where(image_at < 0, images * tokens, image_at)
    place = jnp.zeros((b, images * tokens), jnp.int32)
    place = jax.vmap(lambda row, at: row.at[at].set(jnp.arange(t), mode="drop"))(place, at)
    before = jnp.maximum(place - 1, 0)[..., None]
    hidden = jnp.take_along_axis(hidden, before, axis=1)

    def part(hidden, rows, wanted):
        rows, wanted = rows.reshape(-1, books), wanted.reshape(-1, 1)
        logits = model.head(hidden.reshape(len(rows), -1), rows)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, rows)
        square = jnp.square(logits.max(-1))
        return jnp.where(wanted, nats, 0.0).sum(0), jnp.where(wanted, square, 0.0).sum()

    nats, square = _in_chunks(part, (hidden, rows, wanted), chunk)
    return nats, square, wanted.sum().astype(jnp.float32)


def _in_chunks(part, arrays, chunk):
    """Sums `part` over pieces of the second axis of arrays (B, N, ...), padded with zeros."""
    pieces = -(-arrays[0].shape[1] // chunk)

    def split(x):
        rest = [(0, 0), (0, pieces * chunk - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, rest)
        return x.reshape(len(x), pieces, chunk, *x.shape[2:]).swapaxes(0, 1)

    arrays = tuple(split(x) for x in arrays)
    first = jax.eval_shape(part, *(x[0] for x in arrays))

    @functools.partial(jax.checkpoint)
    def step(total, piece):
        return jax.tree.map(jnp.add, total, part(*piece)), None

    start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), first)
    return jax.lax.scan(step, start, arrays)[0]
