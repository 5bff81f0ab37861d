"""Turns any data source into ArrayRecord shards, in parallel; the same command again continues.

`unitok data pack --config=FILE --config.data.source=SOURCE --config.data.path=PATH
--output=FOLDER` writes what `data.source=array_record` reads.
"""

import concurrent.futures
import os
import sys

from absl import flags
from ml_collections import config_flags

from unitok_jax.commands.config_flags import parse_or_exit
from unitok_jax.data.health import Health, Tally, TooManyBadSamples
from unitok_jax.data.sources import check_no_class, open_source
from unitok_jax.data.writing.folders import claim
from unitok_jax.data.writing.packing import pack, plan
from unitok_jax.system import console, paths


def main() -> None:
    """Runs the command.

    Exit codes: 0 when all is written; 1 when writing failed, or too much of the source is bad: the
    same command continues; 2 when the flags or the input are wrong, which may show while writing;
    those of `console.command`.
    """
    with console.command(continues=True):
        _run(_parse(sys.argv))


def _parse(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "A file with get_config(); --config.data.* says what to read.",
        flag_values=values,
    )
    flags.DEFINE_string("output", None, "Folder to write to.", flag_values=values)
    flags.DEFINE_integer(
        "shard_size", 10_000, "Samples per file.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "workers", os.cpu_count() or 1, "Processes.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_bool(
        "check", False, "Decode every image and leave out those that are bad.", flag_values=values
    )
    flags.DEFINE_bool(
        "require_captions",
        True,
        "Whether a sample without a caption is bad.",
        flag_values=values,
    )
    flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=values)
    parse_or_exit(argv, values, usage=__doc__)
    if not values.output:
        console.refuse("--output is missing: the folder to write to")
    return values


def _run(values: flags.FlagValues) -> None:
    try:
        product, output = values.config.product, paths.expand(values.output)
        if product != "tokenizer":
            raise ValueError(f"product={product}: images are packed for training a tokenizer")
        data = values.config.data
        Health(data.max_bad)  # refuses a share that is none
        check_no_class(output, "--output", data)
        source = open_source(data, require_captions=values.require_captions)
        settings = plan(
            data,
            source,
            shard_size=values.shard_size,
            check=values.check,
            require_captions=values.require_captions,
        )
        claim(output, settings, "unitok data pack")
        if data.source == "mixture":
            print("warning: the weights of data.mixture are not packed", file=sys.stderr)
    except (ValueError, OSError, ImportError) as error:
        console.refuse(error)
    try:
        manifest = pack(source, settings, output, workers=values.workers, max_bad=data.max_bad)
    except (TooManyBadSamples, OSError, concurrent.futures.BrokenExecutor) as error:
        console.refuse(error, 1)
    except ValueError as error:
        console.refuse(error)
    left_out = Tally.from_json(manifest["skipped"])
    files = len(manifest["shards"])
    print(f"{manifest['count']} samples in {files} files in {paths.printable(output)}")
    if left_out.total:
        print(f"{left_out.total} left out:\n{left_out}", file=sys.stderr)
