"""Overhead of `Tokenizer` over its compiled programs, and codes changed by lower precision.

    python -m benchmarks.tokenizer [--size tiny] [--side 256] [--batches 1 8 32] [--rounds 5]
    python -m benchmarks.tokenizer --checkpoint=DIR
    python -m benchmarks.tokenizer --checkpoint=seeded --size=base

Everything runs in one process in turns, because on a shared machine only ratios of neighbouring
measurements are meaningful. Weights are random for the speed, which does not depend on them; codes
of random weights change more often than those of trained weights. The images of --checkpoint are
the built-in photographs.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import emulated, timing
from benchmarks.emulated import EMULATED
from configs import default
from unitok_jax import load
from unitok_jax.data.images.transforms import decode_image, resize_center_crop, to_float
from unitok_jax.data.sources import open_source
from unitok_jax.data.specs import data_config
from unitok_jax.evaluation.metrics.agreement import CodeAgreement
from unitok_jax.models.functions import Functions
from unitok_jax.models.precision import PRECISIONS, available
from unitok_jax.models.unitok import abstract_model
from unitok_jax.tokenizer.api import Tokenizer
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights.pretrained import SEEDED

PIECES = 4  # batches of the comparison of prefetching with waiting for each


def speed(size: str, side: int, batch: int, rounds: int) -> list[dict]:
    """Measures a row for 'encode' and 'decode' at one batch size.

    Returns:
      dicts of size, side, batch, method, `images/s` through the public API, from uint8 arrays on
      the host and back to it; `compiled images/s` of the program alone, from and to the device;
      `API / compiled`, the ratio of the seconds; and for 'encode' `ahead / waiting`, the ratio of
      the seconds of `encode_batches` to those of `encode` of each of the batches.
    """
    tokenizer = seeded(size, side, batch)
    images = np.random.default_rng(0).integers(0, 256, (PIECES, batch, side, side, 3), np.uint8)
    codes = tokenizer.encode(images[0])
    tokenizer.compile(batch_sizes=[batch])
    rows = []
    for method, given, on_device in (
        ("encode", images[0], to_float(images[0])),
        ("decode", codes, np.asarray(codes)),
    ):
        calls = {
            "API": functools.partial(getattr(tokenizer, method), given),
            "compiled": _compiled(tokenizer, method, on_device, codes.grid),
        }
        if method == "encode":
            calls["ahead"] = lambda: list(tokenizer.encode_batches(images))
            calls["waiting"] = lambda: [tokenizer.encode(piece) for piece in images]
        seconds = timing.in_turns(calls, rounds)
        row = {"size": size, "side": side, "batch": batch, "method": method}
        row["images/s"] = batch / statistics.median(seconds["API"])
        row["compiled images/s"] = batch / statistics.median(seconds["compiled"])
        row["API / compiled"] = _ratio(seconds, "API", "compiled")
        row["ahead / waiting"] = _ratio(seconds, "ahead", "waiting") if "ahead" in calls else None
        rows.append(row)
    return rows


def _compiled(tokenizer, method, rows, grid):
    rest = (grid,) if method == "decode" else ()
    function = getattr(tokenizer.functions, method)
    rows = jax.device_put(rows)
    program = jax.jit(lambda p, x: function(p, x, *rest)).lower(tokenizer.params, rows).compile()
    return lambda: jax.block_until_ready(program(tokenizer.params, rows))


def _ratio(seconds, above, below):
    pairs = zip(seconds[above], seconds[below], strict=True)
    return statistics.median(a / b for a, b in pairs)


def seeded(size: str, side: int, batch: int = 1) -> Tokenizer:
    """Builds a tokenizer of the recipe's model with random weights."""
    config = default.get_config()
    config.model.size, config.model.quant_heads = size, timing.HEADS[size]
    config.data.image_size = (side, side)
    params = init_params(config.model.to_dict(), jax.random.key(0))
    return Tokenizer(config, params, batch)


def precision(tokenizer: Tokenizer, side: int | None = None, rounds: int = 3) -> list[dict]:
    """Counts the codes of the photographs that differ from those in float32, image by image.

    Args:
      tokenizer: tokenizer with the weights to test.
      side: side of the images in pixels; by default the model's.
      rounds: number of rounds of the speed measurement.

    Returns:
      dicts of `what`, the numbers `codes` and `tokens`, the fractions `codes changed` and `tokens
      changed`, and `time / float32's` of encoding: every precision of this platform against float32
      one by one; those of other platforms, emulated (`benchmarks.emulated`); float32 and bfloat16
      in one batch, against themselves one by one; and bfloat16 everywhere, projection, codebooks
      and lookup too, which the package does not offer as an option.
    """
    config, params = tokenizer.config, jax.device_get(tokenizer.params)
    size = tokenizer.image_size if side is None else (side, side)
    source = open_source(data_config("photos", image_size=size, context_length=8))
    records = (source[index] for index in range(len(source)))
    images = np.stack(
        [resize_center_crop(decode_image(r["image"], r["name"]), size) for r in records]
    )

    def make(name, batch_size=1):
        return Tokenizer(config, params, batch_size, precision=name)

    names = available(jax.default_backend())
    native = {name: make(name) for name in names}
    alone = {name: np.asarray(each.encode(images)) for name, each in native.items()}
    calls = {n: functools.partial(each.encode, images[:4]) for n, each in native.items()}
    seconds = timing.in_turns(calls, rounds)
    rows = [_row(name, alone[name], alone["float32"]) for name in names[1:]]
    for row, name in zip(rows, names[1:], strict=True):
        row["time / float32's"] = _ratio(seconds, name, "float32")
    for name in sorted(EMULATED.keys() - set(names)):
        rows.append(
            _row(f"{name}, emulated", _emulated(config, name, params, images), alone["float32"])
        )
    for name in ("float32", "bfloat16"):
        together = make(name, len(images)).encode(images)
        rows.append(_row(f"{name} in one batch, beside one by one", together, alone[name]))
    everything = _all_in_bfloat16(native["bfloat16"], images)
    return [*rows, _row("everything in bfloat16", everything, alone["float32"])]


def _row(what, ours, theirs):
    measure = CodeAgreement()
    measure.update(np.asarray(ours), np.asarray(theirs))
    found, (images, _, tokens) = measure.result(), theirs.shape
    return {
        "what": what,
        "codes": theirs.size,
        "tokens": images * tokens,
        "codes changed": f"{found['codes_changed']:.3%}",
        "tokens changed": f"{found['tokens_changed']:.3%}",
        "time / float32's": None,
    }


def _emulated(config, name, params, images):
    platform = PRECISIONS[name].platforms[0]
    with emulated.products(name):
        encode = jax.jit(Functions(config.model.to_dict(), name, platform).encode)
        return np.concatenate([encode(params, image[None]) for image in images])


def _all_in_bfloat16(tokenizer, images):
    graph, _ = abstract_model(tokenizer.config.model.to_dict() | {"dtype": "bfloat16"})
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), tokenizer.params)

    @jax.jit
    def run(params, rows):
        model = nnx.merge(graph, params)
        for _, module in nnx.iter_graph(model.quant_proj):
            if isinstance(module, nnx.Linear | nnx.LayerNorm):
                module.dtype = jnp.bfloat16
        latent = model.quant_proj(model.encoder(rows))
        assert latent.dtype == model.quantizer.rows().dtype == jnp.bfloat16
        return model.quantizer.indices(latent)

    return np.concatenate([run(params, to_float(image[None])) for image in images])


def _print(rows):
    print(timing.table(list(rows[0]), [list(row.values()) for row in rows]))


def main() -> None:
    """Measures, and prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="tiny", choices=timing.HEADS)
    parser.add_argument("--side", type=int, help="of images; default: 256, or the checkpoint's")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", help="count its codes instead; seeded: random weights")
    args = parser.parse_args()
    side = args.side or 256
    if args.checkpoint:
        random = args.checkpoint == SEEDED
        tokenizer = seeded(args.size, side) if random else load(args.checkpoint, 1)
        _print(precision(tokenizer, args.side, args.rounds))
        return
    _print([r for n in args.batches for r in speed(args.size, side, n, args.rounds)])


if __name__ == "__main__":
    main()
