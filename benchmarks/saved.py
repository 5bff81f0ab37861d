"""Bytes that a tokenizer's parts save for the backward pass, by the traced program: nothing runs.

    python -m benchmarks.saved [--config l16] [--batch 32] [--remat none products] [--gpu]

Counted is what the backward pass reads of the forward pass and what grows with the batch: not the
weights. The compiler may keep less, where it computes a value again, and more, where it pads.
`--gpu` takes the form that a program has for an H100, without one.
"""

import argparse
import contextlib
import math
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Var

from benchmarks import timing
from unitok_jax.codes import STRIDE
from unitok_jax.models import gpu, layers, recomputation
from unitok_jax.models.unitok import abstract_model

# The modules of a part, which run one after the other.
PARTS = {
    "encoder, convolutions": lambda m: (
        m.encoder.stem, *m.encoder.stages[0], *m.encoder.stages[1]
    ),
    "encoder, blocks": lambda m: (m.encoder.blocks,),
    "decoder, blocks": lambda m: (m.decoder.blocks,),
    "decoder, convolutions": lambda m: (
        m.decoder.up_conv1, *m.decoder.up_conv2, *m.decoder.up_conv3, m.decoder.up_conv4
    ),
    "text tower, blocks": lambda m: (m.text_encoder.blocks,),
}  # fmt: skip


def saved(function, *args) -> list[jax.core.ShapedArray]:
    """Lists the arrays that the backward pass of a function reads, each once.

    Args:
      function: of arrays or trees of them; all are differentiated.
      *args: its arguments, or their shapes.

    Returns:
      What a loop writes for its backward pass has the rounds in front.
    """
    jaxpr = jax.make_jaxpr(lambda *args: jax.vjp(function, *args)[1])(*args).jaxpr
    return [var.aval for var in dict.fromkeys(v for v in jaxpr.outvars if isinstance(v, Var))]


def by_part(model: dict, batch: int, image_size: tuple[int, int]) -> dict[str, int]:
    """Counts the bytes that the parts of a tokenizer save of a batch: part -> bytes.

    Args:
      model: the keyword arguments of `UniTok`.
      batch: number of images and of texts.
      image_size: height and width.
    """
    once, twice = (_bytes(model, count, image_size) for count in (batch, 2 * batch))
    return {name: twice[name] - once[name] for name in PARTS}


def _bytes(model, batch, image_size):
    graph, params = abstract_model(model)
    convolutions = recomputation.of_convolutions(model["remat"])
    key, whole = jax.random.key(0), nnx.merge(graph, params)
    stream, dtype = jnp.promote_types(model["dtype"], model["residual_dtype"]), model["dtype"]
    (height, width), text = image_size, model["text"]
    grid, channels = (height // STRIDE, width // STRIDE), whole.encoder.norm.scale.shape[0]
    tokens = model["num_query"] + math.prod(grid), channels
    inputs = {
        "encoder, convolutions": ((height, width, 3), dtype),
        "encoder, blocks": (tokens, stream),
        "decoder, blocks": (tokens, stream),
        "decoder, convolutions": ((*grid, channels), dtype),
        "text tower, blocks": ((text["context_length"], text["width"]), stream),
    }
    found = {}
    for name, (shape, dtype) in inputs.items():

        def run(params, x, name=name):
            for module in PARTS[name](nnx.merge(graph, params)):
                looped = isinstance(module, layers.Stack)
                x = module(x, key) if looped else layers.call(module, x, convolutions)
            return x

        arrays = saved(run, params, jax.ShapeDtypeStruct((batch, *shape), dtype))
        found[name] = sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays)
    return found


@contextlib.contextmanager
def as_on_a_gpu():
    """Traces programs as on a machine with an H100."""
    from jax._src.cudnn import fused_attention_stablehlo

    # JAX asks for the library when cuDNN's attention is traced.
    version = mock.patch.object(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    with version, mock.patch.object(gpu, "capability", lambda: (9, 0)):
        yield


def main() -> None:
    """Counts, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="l16", help="a name in configs/")
    parser.add_argument("--batch", type=int, default=32)
    names = recomputation.TOKENIZER
    parser.add_argument("--remat", nargs="+", choices=names, default=names)
    parser.add_argument("--gpu", action="store_true", help="in the form for an H100")
    arguments = parser.parse_args()
    config = timing.configuration(arguments.config, None)
    columns = {}
    with as_on_a_gpu() if arguments.gpu else contextlib.nullcontext():
        for remat in arguments.remat:
            model = config.model.to_dict() | {"remat": remat}
            columns[remat] = by_part(model, arguments.batch, config.data.image_size)
    rows = [[name, *(found[name] / 2**20 for found in columns.values())] for name in PARTS]
    rows.append(["all", *(sum(found.values()) / 2**20 for found in columns.values())])
    print(f"{arguments.config}, {config.model.dtype}, batch {arguments.batch}, MiB")
    print(timing.table(["saved by", *columns], rows))


if __name__ == "__main__":
    main()
