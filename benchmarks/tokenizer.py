"""What `Tokenizer` costs above its compiled programs, and how many codes lower precision moves.

    python -m benchmarks.tokenizer [--size tiny] [--side 256] [--batches 1 8 32] [--rounds 5]
    python -m benchmarks.tokenizer --checkpoint=DIR

Everything runs in one process in turns, because on a shared machine only ratios of neighbouring
measurements mean anything. Weights are random for the speed, as they do not change it; for codes
they must be trained ones: the images are the built-in photographs.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import timing
from configs import default
from unitok_jax import load
from unitok_jax.data.sources import open_source
from unitok_jax.data.specs import data_config
from unitok_jax.data.transforms import decode_image, resize_center_crop, to_float
from unitok_jax.models.unitok import abstract_model
from unitok_jax.step import init_params
from unitok_jax.tokenizer import Tokenizer

PIECES = 4  # batches of the comparison of prefetching with waiting for each


def speed(size: str, side: int, batch: int, rounds: int) -> list[dict]:
    """A row for 'encode' and 'decode' at one batch size.

    Returns:
      dicts of size, side, batch, method, `images/s` through the public API, from uint8 arrays on
      the host and back to it; `compiled images/s` of the program alone, from and to the device;
      `API / compiled`, the ratio of the seconds; and for 'encode' `ahead / waiting`, the ratio of
      the seconds of `encode_batches` to those of `encode` of each of the batches.
    """
    config = default.get_config()
    config.model.size, config.model.quant_heads = size, timing.HEADS[size]
    config.model.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    config.data.image_size = (side, side)
    params = init_params(config.model.to_dict(), jax.random.key(0))
    tokenizer = Tokenizer(config, params, batch)
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
    graph, _ = abstract_model(tokenizer.config.model.to_dict())
    rest = (grid,) if method == "decode" else ()

    def run(params, rows):
        return getattr(nnx.merge(graph, params), method)(rows, *rest)

    rows = jax.device_put(rows)
    program = jax.jit(run).lower(tokenizer.params, rows).compile()
    return lambda: jax.block_until_ready(program(tokenizer.params, rows))


def _ratio(seconds, above, below):
    pairs = zip(seconds[above], seconds[below], strict=True)
    return statistics.median(a / b for a, b in pairs)


def precision(checkpoint, side: int | None = None) -> list[dict]:
    """How many codes of the photographs differ from those in float32, image by image.

    Args:
      checkpoint: as for `unitok_jax.load`.
      side: of the images; by default the model's.

    Returns:
      dicts of `what`, `codes`, `differ` and `share`: float32 in one batch; bfloat16 as
      `load(dtype='bfloat16')` is; the same in one batch, beside itself one by one; and bfloat16
      everywhere, projection, codebooks and lookup too, which no option of the package is.
    """
    exact = load(checkpoint, 1, dtype="float32")
    size = exact.image_size if side is None else (side, side)
    source = open_source(data_config("photos", image_size=size, context_length=8))
    records = (source[index] for index in range(len(source)))
    images = np.stack(
        [resize_center_crop(decode_image(r["image"], r["name"]), size) for r in records]
    )
    base = exact.encode(images)
    half = load(checkpoint, 1, dtype="bfloat16")
    alone = half.encode(images)
    compared = {
        "float32 in one batch": (_together(checkpoint, "float32", images), base),
        "bfloat16": (alone, base),
        "bfloat16 in one batch, beside one by one": (
            _together(checkpoint, "bfloat16", images),
            alone,
        ),
        "everything in bfloat16": (_all_in_bfloat16(half, images), base),
    }
    rows = []
    for what, (ours, theirs) in compared.items():
        differ = int(np.count_nonzero(np.asarray(ours) != np.asarray(theirs)))
        rows.append({"what": what, "codes": base.size, "differ": differ})
        rows[-1]["share"] = differ / base.size
    return rows


def _together(checkpoint, dtype, images):
    return load(checkpoint, len(images), dtype=dtype).encode(images)


def _all_in_bfloat16(tokenizer, images):
    graph, _ = abstract_model(tokenizer.config.model.to_dict())
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
    """Prints a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="tiny", choices=timing.HEADS)
    parser.add_argument("--side", type=int, help="of images; default: 256, or the checkpoint's")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", help="count its codes instead of measuring speed")
    args = parser.parse_args()
    if args.checkpoint:
        _print(precision(args.checkpoint, args.side))
        return
    side = args.side or 256
    _print([r for n in args.batches for r in speed(args.size, side, n, args.rounds)])


if __name__ == "__main__":
    main()
