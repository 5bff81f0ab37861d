"""What commands have in common: their arguments for weights, data and jobs, and how errors end."""

import argparse
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict

from unitok_jax import membership
from unitok_jax.data.specs import data_config
from unitok_jax.data.transforms import check_size
from unitok_jax.precision import PRECISIONS
from unitok_jax.torch_options import HEADS

WEIGHTS = ("ema", "raw")


def make_parser(module: str, description: str) -> argparse.ArgumentParser:
    """The parser of `python -m unitok_jax.MODULE`."""
    return argparse.ArgumentParser(
        prog=f"python -m unitok_jax.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Which weights, and the numbers of attention heads, which some bare files do not tell."""
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="of a run with optim.ema_decay: the average, or those trained; default: as evaluated",
    )
    for name in HEADS:
        parser.add_argument(f"--{name}", type=int, help="for a file without a configuration")


def heads(args: argparse.Namespace) -> dict[str, int]:
    """Those numbers of heads that were given, as `tokenizer.load` takes them."""
    return {name: getattr(args, name) for name in HEADS if getattr(args, name) is not None}


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The weights, and how they compute."""
    parser.add_argument(
        "--checkpoint", required=True, help="workdir, folder, .pth, .safetensors or hf://owner/name"
    )
    parser.add_argument(
        "--precision", choices=tuple(PRECISIONS), default="float32", help="docs/inference.md"
    )
    add_weights(parser)


def load_tokenizer(args: argparse.Namespace, **options):
    """The `Tokenizer` that `add_checkpoint`'s arguments name.

    options: as for `tokenizer.load`.
    """
    from unitok_jax.tokenizer import load  # --help does not wait for JAX

    given = {"precision": args.precision, "weights": args.weights}
    return load(args.checkpoint, **given, **options, **heads(args))


def add_input(
    parser: argparse.ArgumentParser, images: str = "an image, a folder of images"
) -> None:
    """The images, as `data.inputs.Inputs` reads them; `images` says which kinds make sense."""
    parser.add_argument(
        "--input",
        required=True,
        type=pathlib.Path,
        help=f"{images}, or photos: the built-in photographs",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """The images, as `data.specs` reads them."""
    parser.add_argument(
        "--data",
        required=True,
        help="SOURCE:PATH, as labelled:/data/val or tar:/data/{00..99}.tar; a path; or photos",
    )
    parser.add_argument("--captions", default="", help="as data.captions of a run")
    parser.add_argument("--index", default="", help="as data.index of a run")
    parser.add_argument(
        "--num_threads", type=int, default=0, help="that read and decode; default: all cores"
    )
    parser.add_argument("--num_workers", type=int, default=0, help="processes that do so instead")


def data(args: argparse.Namespace, tokenizer, image_size: Sequence[int], **keys) -> ConfigDict:
    """The `data` config that `add_data`'s arguments name, for a `Tokenizer`'s text tower.

    keys: others of `data_config`.
    """
    return data_config(
        args.data,
        image_size=image_size,
        context_length=tokenizer.config.model.text.context_length,
        captions=args.captions,
        index=args.index,
        num_threads=args.num_threads,
        num_workers=args.num_workers,
        **keys,
    )


def image_size(text: str) -> tuple[int, int]:
    """The (height, width) of `--size=N` or `--size=HEIGHTxWIDTH`.

    Raises:
      ValueError: another form, or not multiples of a token's pixels.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise ValueError(f"--size={text}: expected N or HEIGHTxWIDTH")
    return check_size((int(match[1]), int(match[2] or match[1])), key="--size")


def check_writable(path: pathlib.Path, flag: str) -> None:
    """Refuses a file that cannot be written, before the work whose results it is for.

    Raises:
      OSError: it is a folder, or lies where nothing can be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder; name a file")
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise type(error)(f"--{flag}={path} cannot be written: {error}") from error


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """How the processes of a job find each other; as those of `unitok_jax.main`."""
    parser.add_argument("--cluster", default="auto", choices=membership.CLUSTERS)
    parser.add_argument("--coordinator", help="HOST:PORT of process 0")
    parser.add_argument("--processes", type=int, help="how many the job has")
    parser.add_argument("--process", type=int, help="which of them this is, from 0")
    parser.add_argument("--connect_timeout", type=int, default=300, help="seconds")


def connect(args: argparse.Namespace) -> None:
    """Joins the job that `add_cluster`'s arguments name; before any other use of JAX.

    Raises:
      ClusterError, TryAgainError: the job cannot be joined.
    """
    from unitok_jax import cluster

    member = membership.find(
        args.cluster,
        os.environ,
        coordinator=args.coordinator,
        processes=args.processes,
        process=args.process,
    )
    cluster.connect(member, args.connect_timeout)


def run(work: Callable[[], None]) -> None:
    """Does a command's work; what is wrong with its input ends as one line.

    What it compiles is kept for later commands. Exit codes: 2, and 1 if the same command may work
    later.
    """
    from unitok_jax import cluster, compilation_cache

    with cluster.Departure():
        try:
            compilation_cache.enable()
            work()
        except (ValueError, OSError, ImportError, cluster.TryAgainError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1 if cluster.may_pass(error) else 2)
