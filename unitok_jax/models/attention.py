"""Softmax attention in the form that is fast on each platform."""

import functools
import logging

import jax
import jax.numpy as jnp
from jax import lax

from unitok_jax.models import gpu
from unitok_jax.models.elementwise import recomputed

log = logging.getLogger(__name__)
# cuDNN works on tiles of at least so many queries; the scores of shorter sequences are small.
TILE = 64

_cudnn = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask=None) -> jax.Array:
    """Computes softmax attention of (B, N, heads, head width), scaled by head width ** -0.5.

    mask: (N, M) bool, which of the M keys each of the N queries sees; None: all.

    The softmax is float32. Heads come first in the products: on a CPU the library's form takes up
    to twice the time (docs/explanation/precision_and_convolutions.md).
    """
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
    scores *= q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return (jax.nn.softmax(scores).astype(v.dtype) @ v).swapaxes(1, 2)


def self_attention(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool = False) -> jax.Array:
    """Computes `attend` of as many queries as keys, on GPUs by cuDNN where it takes them.

    On GPUs the backward pass computes scores again, by cuDNN or not.

    causal: a query sees the keys up to its own.
    """

    def plain(q, k, v):
        return attend(q, k, v, jnp.tri(q.shape[1], dtype=bool) if causal else None)

    if by_cudnn(q):
        return fused(plain, q, k, v, causal)
    if gpu.capability() is not None:
        # XLA may merge this with what recomputes a whole block. It cannot merge both passes, which
        # would save the scores: blocks run in loops, one a pass.
        plain = jax.checkpoint(plain, prevent_cse=False)
    return plain(q, k, v)


def by_cudnn(q: jax.Array) -> bool:
    """Returns whether cuDNN computes the attention of queries (B, N, heads, head width) here.

    Asked when a program is traced. Where there is an NVIDIA GPU but not for this attention, the
    log says why, once for each reason.
    """
    capability = gpu.capability()
    if capability is None:
        return False
    reason = _refusal(q, capability)
    if reason:
        _log_once(reason)
    return reason is None


def fused(plain, q: jax.Array, k: jax.Array, v: jax.Array, causal: bool) -> jax.Array:
    """Computes attention by cuDNN, which stores no scores, where the program is lowered for a GPU.

    Args:
      plain: function of q, k and v with the same result, for devices of other kinds.
      q: (B, N, heads, head width).
      k, v: (B, N, G, head width), G a divisor of the heads.
      causal: as for `self_attention`.
    """
    # All forms save the same arrays for the backward pass, so that the plain one must save no
    # scores; and from a loop over blocks JAX would hoist its mask, for all forms too, but for the
    # checkpoint.
    plain = recomputed(jax.checkpoint(plain))
    cudnn = functools.partial(_cudnn, is_causal=causal)
    return lax.platform_dependent(q, k, v, cuda=cudnn, default=plain)


def _refusal(q, capability):
    """Returns why cuDNN does not compute this attention, or None."""
    tokens = q.shape[1]
    if capability < gpu.AMPERE:
        return f"a GPU of compute capability {'.'.join(map(str, capability))} is older than Ampere"
    if tokens < TILE:
        return f"{tokens} tokens are fewer than {TILE}"
    # JAX knows what this GPU and its cuDNN take of dtypes, head widths and lengths, and whether
    # there is a cuDNN. It asks only when attention is traced: so this traces one and its gradient.
    x = jax.ShapeDtypeStruct(q.shape, q.dtype)
    try:
        jax.eval_shape(jax.grad(lambda x: jnp.sum(_cudnn(x, x, x), dtype=jnp.float32)), x)
    except RuntimeError as error:  # NotImplementedError is one
        return f"JAX refuses {q.dtype}, {tokens} tokens, heads of width {q.shape[-1]}: {error}"
    return None


@functools.cache
def _log_once(reason):
    log.info("attention is not computed by cuDNN: %s", reason)
