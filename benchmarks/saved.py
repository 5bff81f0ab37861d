"""Bytes that a block saves for its backward pass: `python -m benchmarks.saved`.

Nothing is computed, only traced: bfloat16, the sizes of l16 at 256 px, 32 images, a float32
residual stream. On a machine with an NVIDIA GPU attention is in its form for that.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from unitok_jax.models import convolutions, layers, text_encoder, transformer, vitamin

BATCH = 32
NARROW, WIDE = jnp.bfloat16, jnp.float32


def blocks():
    """Yields (name, maker of the module from keys, call of module and input, shape, dtype)."""
    sizes = transformer.Sizes(1024, 16, 2816, 1, 16, 64)
    causal = jnp.tri(256, dtype=bool)[None]

    def residual(module, x):
        return module(x, 0.0, None)

    def decode(module, x):
        return module(x, None, causal, (lambda y: y,) * 2)[0]

    yield (
        "block of the trunk",
        lambda rngs: layers.Block(1024, 16, dtype=NARROW, stream=WIDE, rngs=rngs),
        residual,
        (256, 1024),
        WIDE,
    )
    yield (
        "block of the text tower",
        lambda rngs: text_encoder.TextBlock(768, 12, 12, dtype=NARROW, rngs=rngs),
        residual,
        (77, 768),
        WIDE,
    )
    yield (
        "block of a decoder, with a mask",
        lambda rngs: transformer.Block(sizes, dtype=NARROW, rngs=rngs),
        decode,
        (256, 1024),
        WIDE,
    )
    yield (
        "MBConv",
        lambda rngs: vitamin.MBConv(
            160, 160, "keep", init=convolutions.fan_out_init, dtype=NARROW, rngs=rngs
        ),
        lambda module, x: module(x),
        (128, 128, 160),
        NARROW,
    )


def saved(make, call, shape, dtype) -> tuple[int, int]:
    """Counts bytes and arrays, of a batch's samples, that the backward pass of a module reads."""
    graph, params = nnx.split(nnx.eval_shape(lambda: make(layers.Keys(0))))

    def pullback(params, x):
        return jax.vjp(lambda params, x: call(nnx.merge(graph, params), x), params, x)[1]

    x = jax.ShapeDtypeStruct((BATCH, *shape), dtype)
    leaves = jax.tree.leaves(jax.eval_shape(pullback, nnx.to_pure_dict(params), x))
    sizes = [a.size * a.dtype.itemsize for a in leaves if a.ndim > 2 and a.shape[0] == BATCH]
    return sum(sizes), len(sizes)


def main():
    """Prints a table."""
    print("| saved by a | MiB | arrays |\n|---|---|---|")
    for name, *block in blocks():
        size, count = saved(*block)
        print(f"| {name} | {size / 2**20:.0f} | {count} |")


if __name__ == "__main__":
    main()
