"""Turns any data source into ArrayRecord shards, in parallel; the same command again continues.

`python -m unitok_jax.data.pack --config=FILE --config.data.source=SOURCE --config.data.path=PATH
--output=FOLDER` writes what `data.source=array_record` reads.
"""

import concurrent.futures
import os
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from unitok_jax import config_flag, console, paths
from unitok_jax.data.health import Tally, TooManyBadSamples
from unitok_jax.data.packing import pack, plan
from unitok_jax.data.shard_files import claim
from unitok_jax.data.sources import open_source

# Flags of its own: unitok_jax.main defines a --config too, and one process may import both.
FLAGS = flags.FlagValues()
CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file with get_config(); --config.data.* says what to read.",
    flag_values=FLAGS,
)
OUTPUT = flags.DEFINE_string("output", None, "Folder to write to.", flag_values=FLAGS)
SHARD_SIZE = flags.DEFINE_integer(
    "shard_size", 10_000, "Samples per file.", lower_bound=1, flag_values=FLAGS
)
WORKERS = flags.DEFINE_integer(
    "workers", os.cpu_count() or 1, "Processes.", lower_bound=1, flag_values=FLAGS
)
CHECK = flags.DEFINE_bool(
    "check", False, "Decode every image and leave out those that are bad.", flag_values=FLAGS
)
NEED_CAPTIONS = flags.DEFINE_bool(
    "require_captions", True, "Whether a sample without a caption is bad.", flag_values=FLAGS
)
HELP = flags.DEFINE_bool("help", False, "Show this.", short_name="h", flag_values=FLAGS)


def _parse(argv: Sequence[str]) -> None:
    """Raises flags.Error for flags that are not there, missing or of another type."""
    rest = config_flag.parse(argv, FLAGS)[1:]
    if HELP.value:
        return
    if rest:
        raise flags.Error(f"unexpected arguments: {' '.join(rest)}")
    if CONFIG.value is None:
        raise flags.Error("--config is missing; for example --config=configs/b16.py")
    if not OUTPUT.value:
        raise flags.Error("--output is missing: the folder to write to")


def main(argv: Sequence[str]) -> int:
    """The command.

    Returns:
        0 when all is written; 1 when writing failed, or too much of the source is bad: the same
        command continues; 2 when the flags or the input are wrong, which may show while writing.

    Raises:
        SystemExit: as of `console.command`.
    """
    with console.command(continues=True):
        return _run(argv)


def _run(argv: Sequence[str]) -> int:
    try:
        _parse(argv)
        if HELP.value:
            print(f"{__doc__}\n{FLAGS.get_help()}")
            return 0
        data, output = CONFIG.value.data, paths.expand(OUTPUT.value)
        source = open_source(data, require_captions=NEED_CAPTIONS.value)
        settings = plan(
            data,
            source,
            shard_size=SHARD_SIZE.value,
            check=CHECK.value,
            require_captions=NEED_CAPTIONS.value,
        )
        claim(output, settings, "python -m unitok_jax.data.pack")
        if data.source == "mixture":
            print("warning: the weights of data.mixture are not packed", file=sys.stderr)
    except (flags.Error, ValueError, OSError, ImportError) as error:
        console.complain(error)
        return 2
    try:
        manifest = pack(source, settings, output, workers=WORKERS.value, max_bad=data.max_bad)
    except (TooManyBadSamples, OSError, concurrent.futures.BrokenExecutor) as error:
        console.complain(error)
        return 1
    except ValueError as error:
        console.complain(error)
        return 2
    left_out = Tally.from_json(manifest["skipped"])
    files = len(manifest["shards"])
    print(f"{manifest['count']} samples in {files} files in {paths.printable(output)}")
    if left_out.total:
        print(f"{left_out.total} left out:\n{left_out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
