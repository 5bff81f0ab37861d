"""Autoregressive generator on multi-codebook codes (arXiv 2502.20321, section 4; arXiv 2406.06525).

A causal trunk over the tokens of an image in raster order, and for each token a small causal
decoder over its K codes, the depth head (as RQ-Transformer's, arXiv 2203.01941).

Symbols beside those of `layers`: T prompt tokens, N tokens of the grid, K codebooks, V entries of
one codebook.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unitok_jax.models import layers, recomputation
from unitok_jax.models.code_heads import DepthHead, IndependentHead
from unitok_jax.models.transformer import Decoder, Dropout, Sizes, drop, grid_rope, linear


class Trunk(NamedTuple):
    """Sizes of a trunk."""

    width: int
    heads: int
    depth: int


SIZES = {
    "nano": Trunk(64, 4, 2),
    "tiny": Trunk(128, 4, 4),
    "small": Trunk(256, 4, 6),
    "b": Trunk(768, 12, 12),
    "l": Trunk(1024, 16, 24),
    "xl": Trunk(1280, 20, 36),
    "xxl": Trunk(1536, 24, 48),
    "xxxl": Trunk(2560, 40, 48),
    "1b": Trunk(2048, 32, 22),
    "3b": Trunk(3200, 32, 24),
    "7b": Trunk(4096, 32, 32),
}
PROMPTS = ("class", "text")
PROMPT_ROPES = ("zero", "identity")


class ClassPrompt(nnx.Module):
    """Table of a vector for each class, and one, the last, for the null class if there is one."""

    def __init__(self, classes: int, null_class: bool, width: int, rngs: nnx.Rngs):
        shape = (classes + null_class, width)
        self.table = nnx.Param(layers.linear_init(rngs.params(), shape, jnp.float32))

    def __call__(self, labels: jax.Array) -> jax.Array:
        """Embeds labels (B,) to prompts (B, 1, D)."""
        return self.table[...][labels][:, None]


class TextPrompt(nnx.Module):
    """Projection of the features of a text, and the features of a dropped one."""

    def __init__(self, tokens: int, features: int, width: int, *, dtype, rngs: nnx.Rngs):
        null = nnx.initializers.normal(features**-0.5)(rngs.params(), (tokens, features))
        self.null = nnx.Param(null)
        self.fc1 = linear(features, width, dtype, rngs)
        self.fc2 = linear(width, width, dtype, rngs)

    def __call__(self, features: jax.Array, dropped: jax.Array) -> jax.Array:
        """Embeds features (B, T, F) to prompts (B, T, D); those of `dropped` (B,) are replaced."""
        features = jnp.where(dropped[:, None, None], self.null[...], features)
        x = self.fc2(jax.nn.gelu(self.fc1(features), approximate=True))
        return x.astype(jnp.float32)  # as the stream that it begins


class Generator(nnx.Module):
    """Generator of codes; the keyword arguments are exactly the keys of `config.model`."""

    def __init__(
        self,
        *,
        size: str,
        num_codebooks: int,
        vocab_size: int,
        grid: tuple[int, int],
        prompt: str,
        prompt_rope: str,
        classes: int,
        null_class: bool,
        text_tokens: int,
        text_features: int,
        head_depth: int,
        head_width: int,
        dropout: float,
        drop_path: float,
        remat: str,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        """Builds a fresh generator, whose logits are zero.

        Args:
          size: a row of `SIZES`.
          num_codebooks: K.
          vocab_size: entries of all codebooks together, K V, as of a tokenizer.
          grid: rows and columns of tokens.
          prompt: 'class' or 'text'.
          prompt_rope: rotary positions of the prompt: 'zero', where its keys and queries vanish, as
            in the reference; or 'identity', where they are not turned.
          classes: number of classes; not read for text.
          null_class: a class more, number `classes`, stands for a dropped label, which guidance
            needs; not read for text, which always has a null prompt.
          text_tokens, text_features: T and width of the features of a text; not read for classes.
          head_depth: blocks of the depth head; 0: a linear layer for each codebook, by which the
            codes of a token do not depend on each other.
          head_width: width of the depth head; 0: the trunk's.
          dropout: rate on the input, and behind attention and MLP unless `drop_path` is positive.
          drop_path: rate of stochastic depth in the trunk's last block.
          remat: activations of trunk and head recomputed in the backward pass: one of
            `recomputation.BLOCKS`, or a bool of older files.
          dtype: compute dtype; parameters, stream and logits are float32.
          rngs: the stream `params`.

        Raises:
          ValueError: a value that is unknown or does not fit another.
        """
        if size not in SIZES:
            raise ValueError(f"model.size={size!r} is none of {', '.join(SIZES)}")
        if prompt not in PROMPTS:
            raise ValueError(f"model.prompt={prompt!r} is none of {', '.join(PROMPTS)}")
        if prompt_rope not in PROMPT_ROPES:
            raise ValueError(
                f"model.prompt_rope={prompt_rope!r} is none of {', '.join(PROMPT_ROPES)}"
            )
        if num_codebooks < 1 or vocab_size % num_codebooks:
            raise ValueError(
                f"model.num_codebooks={num_codebooks} does not divide model.vocab_size={vocab_size}"
            )
        width, heads, depth = SIZES[size]
        head_width = head_width or width
        if head_width % (width // heads):
            raise ValueError(
                f"model.head_width={head_width} must be a multiple of {width // heads}, the width "
                f"of one attention head of model.size={size!r}"
            )
        self.num_codebooks, self.entries = num_codebooks, vocab_size // num_codebooks
        self.grid, self.rate, self.dtype = tuple(grid), dropout, jnp.dtype(dtype)
        dtype, inits = self.dtype, layers.linear_init
        what = dict(remat=recomputation.find(remat), dtype=dtype, rngs=rngs)

        def table(*shape):
            return nnx.Param(inits(rngs.params(), shape, jnp.float32))

        if prompt == "class":
            self.prompt = ClassPrompt(classes, null_class, width, rngs)
            self.prompt_tokens = 1
        else:
            self.prompt = TextPrompt(text_tokens, text_features, width, dtype=dtype, rngs=rngs)
            self.prompt_tokens = text_tokens
        self.embedding = table(num_codebooks, self.entries, width)
        self.trunk = Decoder(
            _sizes(width, heads, depth),
            dropout=Dropout(0.0 if drop_path else dropout, drop_path),
            **what,
        )
        self._rope = (self.prompt_tokens, self.grid, width // heads, prompt_rope)
        if head_depth:
            self.head = DepthHead(
                width,
                _sizes(head_width, head_width // (width // heads), head_depth),
                num_codebooks,
                self.entries,
                dropout=Dropout(0.0 if drop_path else dropout),
                **what,
            )
        else:
            self.head = IndependentHead(width, num_codebooks, self.entries, dtype=dtype)

    @property
    def rope(self) -> np.ndarray:
        """Rotary positions (T + N, d / 2, 2) float32, the prompt's first."""
        return _rope(*self._rope)

    def embed(self, codes: jax.Array) -> jax.Array:
        """Embeds tokens (B, K, N) to the sum of their codes' vectors (B, N, D)."""
        rows = jax.vmap(lambda table, index: table[index], (0, 1), 1)(self.embedding[...], codes)
        return rows.sum(1)

    def inputs(self, codes: jax.Array, prompt: jax.Array, key=None) -> jax.Array:
        """Builds the trunk's input (B, T + N - 1, D): the prompt and all tokens but the last."""
        x = jnp.concatenate([prompt, self.embed(codes[..., :-1])], axis=1)
        return drop(x, self.rate, key)

    def mask(self, valid: jax.Array | None, length: int) -> jax.Array | None:
        """Returns what each of the first `length` positions sees, (B, length, length) bool.

        Causal; a token of the prompt that is not `valid` (B, T) is seen by itself alone.
        """
        if valid is None:
            return None
        seen = jnp.ones((valid.shape[0], length - valid.shape[1]), bool)
        seen = jnp.concatenate([valid.astype(bool), seen], axis=1)
        return jnp.tril(jnp.broadcast_to(seen[:, None], (len(seen), length, length))) | jnp.eye(
            length, dtype=bool
        )

    def hidden(self, codes, prompt, valid=None, key=None) -> jax.Array:
        """Computes what the codes of each token are predicted from, given the codes before.

        Args:
          codes: (B, K, N) int32.
          prompt: (B, T, D), as `self.prompt` returns it.
          valid: (B, T) bool, which tokens of a text there are; None: all.
          key: for dropout; None: nothing is dropped.

        Returns:
          (B, N, D).
        """
        keys = (None, None) if key is None else jax.random.split(key)
        x = self.inputs(codes, prompt, keys[0])
        length = x.shape[1]
        out, _ = self.trunk(x, rope=self.rope[:length], mask=self.mask(valid, length), key=keys[1])
        return out[:, self.prompt_tokens - 1 :]

    def logits(self, hidden: jax.Array, codes: jax.Array, key=None) -> jax.Array:
        """Computes float32 logits (M, K, V) of the codes (M, K) of tokens, from `hidden` (M, D)."""
        return self.head(hidden, codes, key)


def _sizes(width, heads, depth):
    hidden = -(-int(8 * width / 3) // 256) * 256
    return Sizes(width, heads, hidden, depth, groups=heads, head_width=width // heads)


@functools.lru_cache(maxsize=8)
def _rope(prompt: int, grid: tuple[int, int], head_width: int, kind: str) -> np.ndarray:
    tokens = grid_rope(*grid, head_width)
    first = np.zeros((prompt, *tokens.shape[1:]), np.float32)
    if kind == "identity":
        first[..., 0] = 1
    return np.concatenate([first, tokens])
