"""Answers and drawings: each one program of prefill and loop, with no host between.

Prompts are padded on the left, so that all rows of a batch go on at the same place of the cache.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from unitok_jax.models.sampling import Filters, Token, choose, draw_token
from unitok_jax.models.transformer import Block, Cache, segment_mask
from unitok_jax.multimodal.model import Multimodal


class Prompt(NamedTuple):
    """Rows of text and images that end where the model goes on."""

    ids: jax.Array  # (B, T) int32, as for `Multimodal.embed`, padded on the left
    image_at: jax.Array  # (B, T) int32, the same
    codes: jax.Array  # (B, M, K, L) int32, the same
    valid: jax.Array  # (B, T) bool, False is padding; the last of each row is True


class Answer(NamedTuple):
    """Ids of an answer, and the logits that they were drawn from."""

    ids: jax.Array  # (B, limit) int32, the stop id included; 0 behind it
    count: jax.Array  # (B,) int32, ids before the stop id
    stopped: jax.Array  # (B,) bool, False: the limit was reached before
    logits: jax.Array  # (B, limit, vocabulary), or (B, limit, 0)


def answer(
    model: Multimodal,
    prompt: Prompt,
    keys: jax.Array,
    *,
    filters: Filters,
    stops: tuple[int, ...],
    limit: int,
    keep_logits: bool = False,
) -> Answer:
    """Goes on in text; to be compiled as a whole.

    Args:
      model: with its parameters.
      prompt: B rows.
      keys: (B,) keys of the answers; one is a function of its key and its prompt.
      filters: temperature and filters; temperature 0: the likeliest ids.
      stops: ids that end an answer.
      limit: maximum number of ids, the stop id included.
      keep_logits: return the logits that each id was drawn from.
    """
    start = _prefill(model, prompt, limit)
    language, blocks = model.language, model.language.decoder.one_by_one()
    kernel = language.output_kernel(model.dtype)
    count, ends = len(keys), jnp.asarray(stops, jnp.int32)
    ids = jnp.zeros((count, limit), jnp.int32)
    kept = jnp.zeros((count, limit, kernel.shape[1] if keep_logits else 0))

    def unfinished(state):
        number, _, _, _, done, _ = state
        return (number < limit) & ~done.all()

    def step(state):
        number, x, cache, ids, done, kept = state
        hidden, cache = _extend(model, blocks, x, cache, start, number)
        logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
        chosen = jnp.where(done, 0, choose(logits, keys, number, filters))
        if keep_logits:
            kept = lax.dynamic_update_index_in_dim(kept, logits, number, 1)
        ids = lax.dynamic_update_index_in_dim(ids, chosen, number, 1)
        done |= (chosen[:, None] == ends).any(1)
        return number + 1, language.embed(chosen)[:, None], cache, ids, done, kept

    state = (jnp.int32(0), start.x, start.cache, ids, jnp.zeros(count, bool), kept)
    _, _, _, ids, stopped, kept = lax.while_loop(unfinished, step, state)
    ended = (ids[..., None] == ends).any(-1)
    length = jnp.where(stopped, ended.argmax(1), limit)
    return Answer(ids, length.astype(jnp.int32), stopped, kept)


def draw(
    model: Multimodal,
    prompt: Prompt,
    keys: jax.Array,
    *,
    filters: Filters,
    scale: jax.Array | None = None,
    released: bool = False,
    keep_logits: bool = False,
):
    """Draws an image behind each prompt; to be compiled as a whole.

    Args:
      model: with its parameters.
      prompt: B rows that end with the id that begins an image; with guidance 2 B, the unconditional
        ones behind.
      keys: (B,) keys of the images; one is a function of its key and its prompts.
      filters: temperature and filters.
      scale: (L, K) scales of guidance, which acts in the depth head, code by code; None: none.
      released: each token enters the model as if it stood alone, as in UniTok's released loop: that
        is not what the model is trained with. Else the projection sees the tokens before.
      keep_logits: return the logits that each code was drawn from.

    Returns:
      codes (B, K, L) int32, and logits (B, K, L, V), or V = 0.
    """
    count, tokens, books = len(keys), model.tokens, model.num_codebooks
    guided = scale is not None
    scale = scale if guided else jnp.ones((tokens, books))
    start = _prefill(model, prompt, tokens)
    blocks, head = model.language.decoder.one_by_one(), model.head.steps()

    def step(carry, number):
        x, cache, past = carry
        hidden, cache = _extend(model, blocks, x, cache, start, number)
        token = draw_token(model.head, head, hidden, keys, number, scale[number], filters, guided)
        codes = token.codes[..., None]
        if released:
            x = model.image(codes)
        else:
            x, past = model.image.extend(codes, past, number)
        x = jnp.concatenate([x, x]) if guided else x
        kept = token.logits if keep_logits else token.logits[..., :0]
        return (x, cache, past), Token(token.codes, kept)

    carry = (start.x, start.cache, model.image.empty(count, tokens))
    _, (codes, logits) = lax.scan(step, carry, jnp.arange(tokens))
    return codes.transpose(1, 2, 0), logits.transpose(1, 2, 0, 3)


class _Start(NamedTuple):
    """State behind a prompt but its last position, which the first round of a loop runs."""

    x: jax.Array  # (B, 1, W), the last position
    cache: Cache
    seen: jax.Array  # (B, S) bool, places of the cache that are no padding
    last: jax.Array  # (B, 1) int32, the last position's number


def _prefill(model: Multimodal, prompt: Prompt, more: int) -> _Start:
    """Runs prompts, and makes room for so many positions more."""
    valid, decoder = prompt.valid.astype(bool), model.language.decoder
    x = model.embed(prompt.ids, prompt.image_at, prompt.codes)
    length = x.shape[1] - 1
    positions = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
    filled = None
    if length:
        rope = model.language.rope(positions[:, :length])
        mask = segment_mask(valid[:, :length].astype(jnp.int32))
        _, filled = decoder(x[:, :length], rope=rope, mask=mask)
    cache = decoder.empty_cache(len(x), length + more, filled)
    seen = jnp.pad(valid[:, :length], [(0, 0), (0, more)], constant_values=True)
    return _Start(x[:, length:], cache, seen, positions[:, length:])


def _extend(model: Multimodal, blocks: list[Block], x, cache: Cache, start: _Start, number):
    """Runs the position that is `number` behind the last of the prompts: (B, W), and the cache."""
    rope = model.language.rope(start.last + number)
    decoder = model.language.decoder
    hidden, cache = decoder.extend(blocks, x, cache, rope=rope, seen=start.seen)
    return hidden[:, 0], cache
