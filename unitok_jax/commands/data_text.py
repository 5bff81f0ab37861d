"""Stores the text features of every caption of a data set, for runs whose text tower is frozen.

`unitok data text --config=FILE --config.data.path=PATH --config.init.path=CLIP --output=DIR` takes
the configuration of the run and the text tower that it starts from, and writes shards of features;
the same command again continues. Any number of hosts may share the work, started as those of a
training run with one shared --output. A run with --config.data.text_features=DIR reads them in
place of the tower.
"""

import argparse
import sys

from unitok_jax.commands import arguments
from unitok_jax.data.health import Tally
from unitok_jax.data.text_features import COMMAND, DTYPES
from unitok_jax.models.precision import PRECISIONS
from unitok_jax.system.paths import printable


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("data text", __doc__)
    parser.add_argument(
        "--output", required=True, type=arguments.path, help="folder for the features"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the stored numbers; default: float32",
    )
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="float32",
        help="of the tower's computation: docs/guides/use_from_python.md",
    )
    parser.add_argument(
        "--batch_size", type=int, help="captions at once on all devices of a process"
    )
    parser.add_argument("--shard_size", type=int, default=10_000, help="samples per file")
    arguments.add_cluster(parser)
    arguments.run(parser, _run, continues=True, config=True)


def _run(args: argparse.Namespace) -> None:
    import jax

    from unitok_jax.data.sources import open_source
    from unitok_jax.data.writing import text_features
    from unitok_jax.data.writing.folders import claim
    from unitok_jax.weights.text_tower import load_tower, tower_hash

    config, output = args.config, args.output
    if config.product != "tokenizer":
        raise ValueError(f"product={config.product}: text features are for training a tokenizer")
    if args.shard_size < 1:
        raise ValueError(f"--shard_size={args.shard_size} must be at least 1 sample")
    arguments.connect(args)
    model, data = config.model.to_dict(), config.data
    params = load_tower(config.init.path, model, config.init.include)
    source = open_source(data)
    settings = text_features.plan(
        data,
        source,
        shard_size=args.shard_size,
        dtype=args.dtype,
        precision=args.precision,
        tower={
            "tower": tower_hash(model, params),
            "text": model["text"],
            "width": model["embed_dim"],
        },
    )
    claim(output, settings, COMMAND)
    manifest = text_features.write(
        source,
        settings,
        output,
        _encoder(model, params, args),
        threads=data.num_threads,
        max_bad=data.max_bad,
        process=jax.process_index(),
        processes=jax.process_count(),
    )
    left_out = Tally.from_json(manifest["skipped"])
    files = len(manifest["shards"])
    print(f"text features of {len(source)} samples in {files} files in {printable(output)}")
    if left_out.total:
        print(f"{left_out.total} left out:\n{left_out}", file=sys.stderr)


def _encoder(model, params, args):
    """Returns the function from token ids to features, on all devices of this process."""
    import jax

    from unitok_jax.models.functions import TextTower
    from unitok_jax.tokenizer.batching import Batcher
    from unitok_jax.tokenizer.compiled import CompiledModel

    devices = jax.local_devices()
    tower = TextTower(model, args.precision, devices[0].platform)
    compiled = CompiledModel(tower, params, Batcher(args.batch_size, devices))
    return lambda tokens: compiled.run("encode_text", tokens)
