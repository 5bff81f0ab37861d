"""Stores the text features of every caption of a data set, for runs whose text tower is frozen.

`unitok data text --config=FILE --config.data.path=PATH --config.init.path=CLIP --output=DIR` takes
the configuration of the run and the text tower that it starts from, and writes shards of features;
the same command again continues. Any number of hosts may share the work, started as those of a
training run with one shared --output. A run with --config.data.text_features=DIR reads them in
place of the tower.
"""

import argparse
import functools
import pathlib

from unitok_jax.commands import arguments, storing
from unitok_jax.data.text_features import DTYPES, KIND


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = storing.make_parser("data text", __doc__, rows="captions", shard_size=10_000)
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of the stored numbers; default: float32",
    )
    arguments.run(parser, _run, continues=True, config=True)


def store(
    config,
    output: pathlib.Path,
    *,
    dtype: str = "float32",
    precision: str = "float32",
    batch_size: int | None = None,
    shard_size: int = 10_000,
) -> dict:
    """Writes this process's shards, and the manifest once all are written; otherwise waits for it.

    Args:
      config: the configuration of the run that will read the features.
      output: a folder that is new, or of the same arguments.
      dtype: of the stored numbers.
      precision: name of the precision that the tower computes in.
      batch_size: captions at once on all devices of a process; None: as for a `Tokenizer`.
      shard_size: samples per file.

    Returns:
      the manifest.

    Raises:
      ValueError, OSError: the configuration, the tower, the data or the folder does not fit, or
        writing failed.
    """
    import jax

    from unitok_jax.data.sources import check_no_class, open_source
    from unitok_jax.data.writing import features, text_features
    from unitok_jax.data.writing.folders import claim
    from unitok_jax.models.functions import TextTower
    from unitok_jax.tokenizer import config_checks
    from unitok_jax.tokenizer.batching import Batcher
    from unitok_jax.tokenizer.compiled import CompiledModel
    from unitok_jax.weights.text_tower import load_tower, tower_hash

    if config.product != "tokenizer":
        raise ValueError(f"product={config.product}: text features are for training a tokenizer")
    config_checks.check(config)
    check_no_class(output, "--output", config.data)
    model, data, devices = config.model.to_dict(), config.data, jax.local_devices()
    params = load_tower(config.init.path, model, config.init.include)
    functions = TextTower(model, precision, devices[0].platform)
    tower = CompiledModel(functions, params, Batcher(batch_size, devices))
    source = open_source(data)
    more = {"tower": tower_hash(model, params), "text": model["text"], "width": model["embed_dim"]}
    settings = features.plan(
        *(KIND, data, source),
        shard_size=shard_size,
        precision=precision,
        more={"--dtype": dtype, **more},
    )
    claim(output, settings, KIND.command)
    encode = functools.partial(tower.run, "encode_text")
    return features.write(
        *(source, settings, output),
        text_features.work(encode, model["text"]["context_length"], dtype),
        threads=data.num_threads,
        max_bad=data.max_bad,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def _run(args: argparse.Namespace) -> None:
    arguments.connect(args)
    manifest = store(
        *(args.config, args.output),
        dtype=args.dtype,
        precision=args.precision,
        batch_size=args.batch_size,
        shard_size=args.shard_size,
    )
    storing.report(manifest, "text features", args.output)
