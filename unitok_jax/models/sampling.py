"""Draws from logits: filters, guidance, and the K codes of one token."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unitok_jax.models.code_heads import DepthHead, IndependentHead


class Filters(NamedTuple):
    """Changes of logits before a code is drawn, in this order; numbers or traced scalars."""

    temperature: float = 1.0  # 0, no traced one: the largest logit is taken
    top_k: int = 0  # entries below the k-th largest logit are left out; 0: none
    top_p: float = 1.0  # entries behind this much probability are left out; 1: none
    most: int = 0  # a traced top_k is at most this number; 0: top_k is a number

    def split(self) -> tuple["Filters", dict[str, float]]:
        """Returns filters that a program is compiled for, and numbers that it is called with.

        What changes nothing, and temperature 0, is compiled in. The numbers of the others are
        arguments: `filters._replace(**numbers)` has them, traced.
        """
        fixed = {"temperature": (0.0, 1.0), "top_k": (0,), "top_p": (1.0,)}
        numbers = {key: getattr(self, key) for key in fixed if getattr(self, key) not in fixed[key]}
        # The k-th largest is looked for among a power of two, so that there are few programs.
        most = 1 << (self.top_k - 1).bit_length() if self.top_k else 0
        return self._replace(**dict.fromkeys(numbers), most=most), numbers


def filter_logits(logits: jax.Array, filters: Filters) -> jax.Array:
    """Divides by the temperature and sets what is left out to -inf; ties of the k-th stay.

    Args:
      logits: (..., V) float32.
      filters: temperature, top-k, top-p (arXiv 1904.09751).
    """
    if not _is(filters.temperature, 1):
        logits = logits / jnp.maximum(filters.temperature, 1e-5)
    if not _is(filters.top_k, 0):
        entries = logits.shape[-1]
        largest = lax.top_k(logits, min(filters.most or filters.top_k, entries))[0]
        last = jnp.minimum(filters.top_k, entries) - 1
        least = lax.dynamic_slice_in_dim(largest, last, 1, axis=-1)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if not _is(filters.top_p, 1):
        order = jnp.argsort(-logits, axis=-1, stable=True)
        ranked = jnp.take_along_axis(logits, order, axis=-1)
        before = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1)
        # What precedes an entry; the first always stays.
        before = jnp.pad(before, [(0, 0)] * (before.ndim - 1) + [(1, 0)])[..., :-1]
        ranked = jnp.where(before > filters.top_p, -jnp.inf, ranked)
        logits = jnp.take_along_axis(ranked, jnp.argsort(order, axis=-1), axis=-1)
    return logits


def _is(value, number) -> bool:
    return not isinstance(value, jax.Array) and value == number


def guide(logits: jax.Array, scale: jax.Array, guided: bool) -> jax.Array:
    """Moves logits (2 B, V) of prompts and of null prompts to (B, V), null + scale (given - null).

    Classifier-free guidance (arXiv 2207.12598). Not `guided`: the logits are of prompts alone.
    """
    if not guided:
        return logits
    given, null = jnp.split(logits, 2)
    return null + scale * (given - null)


def choose(logits: jax.Array, keys: jax.Array, number: jax.Array, filters: Filters) -> jax.Array:
    """Draws codes (B,) from logits (B, V), by the keys (B,) of the samples and the draw's number.

    Equal keys and logits give equal codes, whatever else is in the batch.
    """
    logits = filter_logits(logits, filters)
    if _is(filters.temperature, 0):
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def draw(key, row):
        return jax.random.categorical(jax.random.fold_in(key, number), row)

    return jax.vmap(draw)(keys, logits).astype(jnp.int32)


def sample_keys(seed, index: jax.Array) -> jax.Array:
    """Returns the key of each sample, a function of the seed and its index (B,) uint32 alone."""
    root = jax.random.key(seed, impl="threefry2x32")
    return jax.vmap(lambda number: jax.random.fold_in(root, number))(index)


class Token(NamedTuple):
    """Codes of one token, and the logits that they were drawn from."""

    codes: jax.Array  # (B, K)
    logits: jax.Array  # (B, K, V), or (B, K, 0)


def draw_token(
    head: DepthHead | IndependentHead, steps, hidden, keys, number, scale, filters, guided
) -> Token:
    """Draws the K codes of a token, one after the other.

    Args:
      head: of the model.
      steps: of the head, `head.steps()`, made outside of the loop over tokens.
      hidden: (B, D), or (2 B, D) with guidance, the trunk's output.
      keys: (B,) keys of the samples.
      number: scalar, the token's.
      scale: (K,) scales of guidance.
      filters: temperature and filters.
      guided: the second half of `hidden` is that of null prompts.
    """
    books = head.num_codebooks
    if steps is None:
        logits = jax.vmap(lambda row, s: guide(row, s, guided), (1, 0), 1)(head(hidden), scale)
        codes = jax.vmap(
            lambda row, book: choose(row, keys, number * books + book, filters), (1, 0), 1
        )(logits, jnp.arange(books))
        return Token(codes, logits)

    def one(carry, book):
        x, cache = carry
        rope = None if steps.rope is None else lax.dynamic_slice_in_dim(steps.rope, book, 1)
        out, cache = head.decoder.extend(steps.blocks, x[:, None], cache, rope=rope)
        logits = jnp.matmul(out[:, 0], steps.kernel, preferred_element_type=jnp.float32)
        logits = guide(logits + head.bias[...], scale[book], guided)
        code = choose(logits, keys, number * books + book, filters)
        if books > 1:  # (What follows the last code is not read.)
            row = steps.rows[jnp.minimum(book, books - 2) * head.entries + code].astype(x.dtype)
            x = jnp.concatenate([row, row]) if guided else row
        return (x, cache), (code, logits)

    first = head.first(hidden).astype(jnp.float32)
    cache = head.decoder.empty_cache(len(hidden), books)
    _, (codes, logits) = lax.scan(one, (first, cache), jnp.arange(books))
    return Token(codes.T, logits.transpose(1, 0, 2))
