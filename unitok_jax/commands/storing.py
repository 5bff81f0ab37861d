"""What the commands have in common that store features of a data set."""

import argparse
import pathlib
import sys

from unitok_jax.commands import arguments
from unitok_jax.data.health import Tally
from unitok_jax.models.precision import PRECISIONS
from unitok_jax.system.paths import printable


def make_parser(command: str, doc: str, *, rows: str, shard_size: int) -> argparse.ArgumentParser:
    """Returns the parser of such a command.

    Args:
      command: its name.
      doc: the text of `--help`.
      rows: what the network computes at once.
      shard_size: samples per file by default.
    """
    parser = arguments.make_parser(command, doc)
    parser.add_argument(
        "--output", required=True, type=arguments.path, help="folder for the features"
    )
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="float32",
        help="of the network's computation: docs/guides/use_from_python.md",
    )
    parser.add_argument(
        "--batch_size", type=int, help=f"{rows} at once on all devices of a process"
    )
    parser.add_argument("--shard_size", type=int, default=shard_size, help="samples per file")
    arguments.add_cluster(parser)
    return parser


def report(manifest: dict, what: str, output: pathlib.Path) -> None:
    """Prints what was written, and to stderr what was left out."""
    samples, files = manifest["settings"]["samples"], len(manifest["shards"])
    print(f"{what} of {samples} samples in {files} files in {printable(output)}")
    left_out = Tally.from_json(manifest["skipped"])
    if left_out.total:
        print(f"{left_out.total} left out:\n{left_out}", file=sys.stderr)
