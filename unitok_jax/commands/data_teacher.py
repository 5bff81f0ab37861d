"""Stores a teacher's features of every image of a data set, for runs that learn from a teacher.

`unitok data teacher --config=FILE --config.data.path=PATH --config.frozen.teacher=WEIGHTS
--output=DIR` takes the configuration of the run, whose data.crop_scale and data.crop_ratio must be
(1, 1), and writes shards of what its loss.teacher_* ask for; the same command again continues. Any
number of hosts may share the work, started as those of a training run with one shared --output. A
run with --config.teacher.features=DIR reads them in place of the teacher.
"""

import argparse
import pathlib

from unitok_jax.commands import arguments, storing
from unitok_jax.data.teacher_features import KIND


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = storing.make_parser("data teacher", __doc__, rows="images", shard_size=1_000)
    arguments.run(parser, _run, continues=True, config=True)


def store(
    config,
    output: pathlib.Path,
    *,
    precision: str = "float32",
    batch_size: int | None = None,
    shard_size: int = 1_000,
) -> dict:
    """Writes this process's shards, and the manifest once all are written; otherwise waits for it.

    Args:
      config: the configuration of the run that will read the features.
      output: a folder that is new, or of the same arguments.
      precision: name of the precision that the teacher computes in.
      batch_size: images at once on all devices of a process; None: as for a `Tokenizer`.
      shard_size: samples per file.

    Returns:
      the manifest.

    Raises:
      ValueError, OSError: the configuration, the teacher, the data or the folder does not fit, or
        writing failed.
    """
    import jax

    from unitok_jax.data.sources import check_no_class, open_source
    from unitok_jax.data.writing import features, teacher_features
    from unitok_jax.data.writing.folders import claim
    from unitok_jax.models.precision import find
    from unitok_jax.tokenizer import config_checks
    from unitok_jax.tokenizer.batching import Batcher
    from unitok_jax.tokenizer.compiled import CompiledModel
    from unitok_jax.tokenizer.frozen_networks import load_teacher
    from unitok_jax.tokenizer.teaching import Teaching
    from unitok_jax.weights import teachers

    if config.product != "tokenizer":
        raise ValueError(f"product={config.product}: teachers are for training a tokenizer")
    config_checks.check(config)
    check_no_class(output, "--output", config.data)
    config_checks.check_stored_teacher(config, f"--output={output}")
    data, devices = config.data, jax.local_devices()
    found = find(precision, devices[0].platform)
    teaching = Teaching(
        *(config.teacher, config.loss),
        size=config.model.size,
        dtype=found.dtype,
        stream="float32",
    )
    params = load_teacher(teaching, config.frozen.teacher)
    digests, source = teachers.digests(params), open_source(data)
    teacher = CompiledModel(teaching, params, Batcher(batch_size, devices))
    settings = features.plan(
        *(KIND, data, source),
        shard_size=shard_size,
        precision=precision,
        more={
            **teaching.settings(data),
            "arrays": teaching.arrays(data.image_size),
            "teacher": digests,
        },
    )
    claim(output, settings, KIND.command)

    def run(method, rows):
        with jax.default_matmul_precision(found.matmul_precision):
            return teacher.run(method, rows)

    return features.write(
        *(source, settings, output),
        teacher_features.work(
            lambda images: run("of_images", images),
            (lambda tokens: run("of_texts", tokens)) if teaching.relation else None,
            tuple(data.image_size),
            data.context_length,
        ),
        threads=data.num_threads,
        max_bad=data.max_bad,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def _run(args: argparse.Namespace) -> None:
    arguments.connect(args)
    manifest = store(
        *(args.config, args.output),
        precision=args.precision,
        batch_size=args.batch_size,
        shard_size=args.shard_size,
    )
    storing.report(manifest, "features of a teacher", args.output)
