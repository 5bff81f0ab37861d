"""Bytes that each block keeps for the backward pass, by the traced program: nothing runs.

    python -m benchmarks.residuals [--config l16] [--batch 32]

What a loop over blocks keeps is stacked by its forward pass and read by its backward pass. The
compiler may keep less, where it computes a value again, and more, where it pads.
"""

import argparse
import math

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import timing
from unitok_jax.codes import STRIDE
from unitok_jax.models.recomputation import BLOCKS
from unitok_jax.models.unitok import abstract_model


def stacked(function, *args) -> list[jax.core.ShapedArray]:
    """Lists what the loops of a function stack for its backward pass.

    Args:
      function: of arrays or trees of them; all are differentiated.
      *args: its arguments, or their shapes.

    Returns:
      What each loop writes once a round and the backward pass reads, with the rounds in front.
    """
    jaxpr = jax.make_jaxpr(lambda *args: jax.vjp(function, *args)[1])(*args).jaxpr
    loops = [equation for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    written = [
        outer
        for loop in loops
        for outer, inner in zip(loop.outvars, loop.params["jaxpr"].jaxpr.outvars, strict=True)
        if outer.aval.shape != inner.aval.shape  # not carried from round to round
    ]
    return [var.aval for var in written if var in jaxpr.outvars]


def per_block(model: dict, batch: int, tokens: int) -> dict[str, tuple[int, float]]:
    """Counts what the blocks of a tokenizer keep: name -> (blocks, bytes that each keeps).

    Args:
      model: the keyword arguments of `UniTok`.
      batch: number of images and of texts.
      tokens: of an image, without registers.
    """
    graph, params = abstract_model(model)
    stream, key = jnp.promote_types(model["dtype"], model["residual_dtype"]), jax.random.key(0)
    width = nnx.merge(graph, params).encoder.norm.scale.shape[0]
    image = batch, tokens + model["num_query"], width
    text = batch, model["text"]["context_length"], model["text"]["width"]
    found = {}
    for name, shape in {"encoder": image, "decoder": image, "text_encoder": text}.items():
        depth = getattr(nnx.merge(graph, params), name).blocks.depth

        def run(params, x, name=name):
            return getattr(nnx.merge(graph, params), name).blocks(x, key)

        kept = stacked(run, params, jax.ShapeDtypeStruct(shape, stream))
        found[name] = depth, sum(math.prod(a.shape) * a.dtype.itemsize for a in kept) / depth
    return found


def main() -> None:
    """Counts, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="l16", help="a name in configs/")
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    config = timing.configuration(arguments.config, None)
    height, width = config.data.image_size
    rows = []
    for remat in BLOCKS:
        model = config.model.to_dict() | {"remat": remat}
        found = per_block(model, arguments.batch, height * width // STRIDE**2)
        whole = sum(depth * size for depth, size in found.values())
        rows.append([remat, *(size / 2**20 for _, size in found.values()), whole / 2**30])
    print(f"{arguments.config}, {config.model.dtype}, batch {arguments.batch}")
    print(timing.table(["remat", *(f"{name}, MiB a block" for name in found), "all, GiB"], rows))


if __name__ == "__main__":
    main()
