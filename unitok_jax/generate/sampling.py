"""Sampling of codes: one program of prefill, tokens and codebooks, with no host between."""

import jax
import jax.numpy as jnp
from jax import lax

from unitok_jax.generate.model import Generator
from unitok_jax.models.sampling import Filters, Token, draw_token


def sample(
    model: Generator,
    prompt: jax.Array,
    keys: jax.Array,
    *,
    filters: Filters,
    scale: jax.Array | None = None,
    until: int | None = None,
    valid: jax.Array | None = None,
    given: jax.Array | None = None,
    known: jax.Array | None = None,
    keep_logits: bool = False,
):
    """Samples codes; to be compiled as a whole.

    Args:
      model: generator.
      prompt: (B, T, D) embedded prompts; with guidance (2 B, T, D), null prompts behind.
      keys: (B,) keys of the samples.
      filters: temperature and filters.
      scale: (N, K) scales of guidance; None: no guidance.
      until: number of first tokens that are guided; None: all.
      valid: as for `Generator.hidden`, of all prompts.
      given: (B, K, N) codes to keep where `known` (N,) bool is true; None: nothing is given.
      known: see `given`.
      keep_logits: return the logits that each code was drawn from; 0 of known tokens.

    Returns:
      codes (B, K, N) int32, and logits (B, K, N, V), or V = 0.
    """
    count, (rows, columns) = len(keys), model.grid
    tokens, books = rows * columns, model.num_codebooks
    guided = scale is not None
    until = tokens if until is None or not guided else min(until, tokens)
    scale = jnp.ones((tokens, books)) if scale is None else scale
    length = prompt.shape[1]

    # The prompt but its last position, which the first round of the loop runs.
    before, x = prompt[:, :-1], prompt[:, -1:]
    filled = None
    if length > 1:
        mask = model.mask(None if valid is None else valid[:, :-1], length - 1)
        _, filled = model.trunk(before, rope=model.rope[: length - 1], mask=mask)
    cache = model.trunk.empty_cache(len(prompt), length + tokens - 1, filled)
    # Positions of the prompt that are no text are not seen.
    seen = (
        None
        if valid is None
        else jnp.pad(valid.astype(bool), [(0, 0), (0, tokens - 1)], constant_values=True)
    )
    trunk, head = model.trunk.one_by_one(), model.head.steps()
    rope = jnp.asarray(model.rope)[length - 1 :]

    def step(guided):
        def one(carry, number):
            x, cache, seen = carry
            place = lax.dynamic_slice_in_dim(rope, number, 1)
            hidden, cache = model.trunk.extend(trunk, x, cache, rope=place, seen=seen)

            def draw():
                token = draw_token(
                    model.head, head, hidden[:, 0], keys, number, scale[number], filters, guided
                )
                return token if keep_logits else Token(token.codes, token.logits[..., :0])

            def keep():
                codes = given[..., number]
                return Token(codes, jnp.zeros((*codes.shape, model.entries * keep_logits)))

            # The predicate is one for the batch: the head is not run for a known token.
            token = draw() if known is None else lax.cond(known[number], keep, draw)
            x = model.embed(token.codes[..., None])
            x = jnp.concatenate([x, x]) if guided else x
            return (x, cache, seen), token

        return one

    carry, parts = (x, cache, seen), []
    if guided:
        carry, part = lax.scan(step(True), carry, jnp.arange(until))
        parts.append(part)
    if until < tokens or not guided:
        if guided:  # the null prompts are no longer needed
            x, cache, seen = carry
            seen = None if seen is None else seen[:count]
            carry = (x[:count], cache.first(count), seen)
        first = until if guided else 0
        _, part = lax.scan(step(False), carry, jnp.arange(first, tokens))
        parts.append(part)
    codes, logits = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    return codes.transpose(1, 2, 0), logits.transpose(1, 2, 0, 3)
