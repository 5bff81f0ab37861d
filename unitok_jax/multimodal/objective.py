"""Losses of a multimodal model: cross-entropy of ids and of codes, a few positions at a time.

Every predicted id and every predicted code weighs the same, or an id `text` times as much, over the
whole batch on all devices: sums are made first, and divided once. arXiv 2502.20321, section 4, with
the z-loss of UniTok's release.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unitok_jax.multimodal.model import Multimodal
from unitok_jax.multimodal.rows import KINDS, NO_LABEL


class Weights(NamedTuple):
    """Weights of the loss: what counts as one is a code."""

    z: float  # of the mean over the codes of the squared largest logit
    text: float = 1.0  # of an id

    def predictions(self, ids, codes):
        """Returns what numbers of ids and of codes count."""
        return self.text * ids + codes


class Sums(NamedTuple):
    """Sums over the predictions of a batch, in nats; those of several batches can be added."""

    text: jax.Array  # scalar, cross-entropy of the ids
    ids: jax.Array  # scalar, number of the ids
    codes: jax.Array  # (K,), cross-entropy of the codes of each codebook
    square: jax.Array  # scalar, sum over all codes of the squared largest logit
    image_tokens: jax.Array  # scalar, visual tokens, of K codes each
    kinds: jax.Array  # (P,), cross-entropy of ids and codes of the samples of each of `KINDS`
    of_kinds: jax.Array  # (P,), number of these ids and codes

    @property
    def all_codes(self) -> jax.Array:
        """Number of the codes of all codebooks."""
        return len(self.codes) * self.image_tokens

    @property
    def predictions(self) -> jax.Array:
        """Number of ids and codes."""
        return self.ids + self.all_codes

    def total(self, weights: Weights) -> jax.Array:
        """Returns what is minimised, once divided by what all predictions count."""
        return weights.text * self.text + self.codes.sum() + weights.z * self.square


class Losses(NamedTuple):
    """Losses in nats; 0 where nothing is predicted."""

    total: jax.Array  # scalar: weighted mean over ids and codes, the z-loss included
    text: jax.Array  # scalar, mean over the ids
    image: jax.Array  # scalar, mean over the codes
    z: jax.Array  # scalar, weight times the mean over the codes of the squared largest logit
    per_codebook: jax.Array  # (K,), means over the visual tokens
    per_kind: jax.Array  # (P,), means over ids and codes of the samples of each of `KINDS`


def sums(model: Multimodal, batch, chunk: int, shards: int = 1) -> Sums:
    """Computes what `losses` divides.

    The logits of `chunk` positions, or visual tokens, for each row exist at a time, and are
    computed again in the backward pass. What is not predicted, as most positions of questions and
    images are, has none: what is comes first.

    Args:
      model: with the parameters of the step.
      batch: ids, image_at, codes, segments and positions, as for `Multimodal.hidden`, and
        labels (B, T) int32: the id of a position, if it is to be predicted from those before in
          its sample; else `NO_LABEL`.
        drawn (B, M) bool: the codes of the image are to be predicted;
        kinds (B, T) int32: what the sample of a position is, a number in `KINDS`.
      chunk: positions of a row at a time, on the average.
      shards: parts of the batch, of whole rows, within which positions are put in order: devices
        that hold rows of their own send none to each other.
    """
    hidden = model.hidden(*(batch[key] for key in INPUTS))
    pieces = functools.partial(_in_pieces, chunk=chunk, shards=shards)
    text, of_text = _text(model, hidden, batch, pieces)
    codes, square, of_images = _image(model, hidden, batch, pieces)
    kinds, counts = (jnp.add(*pair) for pair in zip(of_text, of_images, strict=True))
    return Sums(text, predicted_ids(batch), codes, square, drawn_tokens(batch), kinds, counts)


INPUTS = ("ids", "image_at", "codes", "segments", "positions")
"""Keys of a batch that the model reads, in the order of `Multimodal.hidden`."""


def losses(found: Sums, weights: Weights) -> Losses:
    """Divides sums by the numbers of predictions."""
    codes = jnp.maximum(found.all_codes, 1)
    count = weights.predictions(found.ids, found.all_codes)
    return Losses(
        total=found.total(weights) / jnp.where(count > 0, count, 1),  # weighted: may be below 1
        text=found.text / jnp.maximum(found.ids, 1),
        image=found.codes.sum() / codes,
        z=weights.z * found.square / codes,
        per_codebook=found.codes / jnp.maximum(found.image_tokens, 1),
        per_kind=found.kinds / jnp.maximum(found.of_kinds, 1),
    )


def predicted_ids(batch) -> jax.Array:
    """Returns the number of ids that are predicted in a batch, float32."""
    return _wanted(batch).sum().astype(jnp.float32)


def drawn_tokens(batch) -> jax.Array:
    """Returns the number of visual tokens whose codes are predicted in a batch, float32."""
    return (batch["drawn"].sum() * batch["codes"].shape[-1]).astype(jnp.float32)


def _wanted(batch):
    """Returns at which positions but the first the id is predicted, (B, T - 1) bool."""
    labels, segments = batch["labels"], batch["segments"]
    wanted = (labels[:, 1:] != NO_LABEL) & (segments[:, 1:] > 0)
    # The first id of a sample is not predicted: the position before is of another sample.
    return wanted & (segments[:, 1:] == segments[:, :-1])


def _text(model, hidden, batch, pieces):
    """Returns the sum of the cross-entropies of the labels, and sums and counts by kinds."""
    wanted = _wanted(batch)
    labels = jnp.where(wanted, batch["labels"][:, 1:], 0)

    def part(hidden, labels, kinds, wanted):
        logits = model.language.logits(hidden)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        nats = jnp.where(wanted, nats, 0.0)
        return nats.sum(), (_by_kind(nats, kinds), _by_kind(wanted, kinds))

    return pieces(part, wanted, (hidden[:, :-1], labels, batch["kinds"][:, 1:]))


def _image(model, hidden, batch, pieces):
    """Returns the sums of the cross-entropies, (K,), and of the squared largest logits.

    Behind them, sums and counts of codes by kinds.
    """
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

    def part(hidden, rows, kinds, wanted):
        rows, wanted = rows.reshape(-1, books), wanted.reshape(-1, 1)
        logits = model.head(hidden.reshape(len(rows), -1), rows)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, rows)
        nats, square = (jnp.where(wanted, x, 0.0) for x in (nats, jnp.square(logits.max(-1))))
        kinds = kinds.reshape(-1)
        of_kinds = _by_kind(nats.sum(1), kinds), books * _by_kind(wanted[:, 0], kinds)
        return nats.sum(0), square.sum(), of_kinds

    kinds = jnp.take_along_axis(batch["kinds"], place, axis=1)
    return pieces(part, wanted, (hidden, rows, kinds))


def _by_kind(values, kinds):
    """Sums values of positions by the kinds of their samples, (P,) float32, for people alone."""
    values = jax.lax.stop_gradient(values.astype(jnp.float32))[..., None]
    alike = kinds[..., None] == jnp.arange(len(KINDS))
    return jnp.where(alike, values, 0.0).sum(tuple(range(kinds.ndim)))


def _in_pieces(part, wanted, arrays, *, chunk, shards):
    """Sums part(*arrays, wanted) over pieces of the positions; those that are wanted come first.

    Args:
      part: function of arrays (S, n, ...) and `wanted` (S, n) of a piece.
      wanted: (B, N) bool; a piece without any is not computed.
      arrays: each (B, N, ...).
      chunk: n is this for each row.
      shards: S.
    """
    size = chunk * (len(wanted) // shards)

    def regroup(x):
        return x.reshape(shards, -1, *x.shape[2:])

    order = jnp.argsort(~regroup(wanted), axis=1, stable=True)
    more = -order.shape[1] % size

    def split(x):
        x = jnp.take_along_axis(regroup(x), order.reshape(*order.shape, *[1] * (x.ndim - 2)), 1)
        x = jnp.pad(x, [(0, 0), (0, more)] + [(0, 0)] * (x.ndim - 2))
        return x.reshape(shards, -1, size, *x.shape[2:]).swapaxes(0, 1)

    pieces = tuple(split(x) for x in (*arrays, wanted))
    first = jax.eval_shape(part, *(x[0] for x in pieces))
    start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), first)

    @jax.checkpoint
    def step(total, piece):
        # By a number, none or some: what a conditional by a boolean takes and gives, the compiler
        # of GPUs gathers on every device.
        found = jax.lax.switch(piece[-1].sum(), (lambda: start, lambda: part(*piece)))
        return jax.tree.map(jnp.add, total, found), None

    return jax.lax.scan(step, start, pieces)[0]
