"""Shared parts of commands: arguments for weights, data and jobs, and the handling of errors."""

import argparse
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from unitok_jax.commands.config_flags import parse_or_exit
from unitok_jax.data.images.transforms import check_size
from unitok_jax.data.specs import data_config
from unitok_jax.models.precision import PRECISIONS
from unitok_jax.runtime import discovery
from unitok_jax.system import console, paths
from unitok_jax.system.passing import TryAgainError, may_pass, with_text
from unitok_jax.weights.torch_options import HEADS, WEIGHTS


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """Returns the parser of `unitok COMMAND`."""
    return argparse.ArgumentParser(
        prog=f"unitok {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def path(text: str) -> pathlib.Path:
    """Converts an argument to a path, expanding `~`."""
    try:
        return paths.expand(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def place(text: str) -> str:
    """Expands `~` at the beginning of each path in an argument that may name paths.

    Examples are comma-separated paths, SOURCE:PATH, hf://owner/name and words such as `photos`.
    """
    parts = (re.fullmatch(r"(\w+:)?(.*)", part, re.DOTALL) for part in text.split(","))
    return ",".join((part[1] or "") + os.path.expanduser(part[2]) for part in parts)


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments for weights, and for head counts."""
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="of a run with optim.ema_decay: the average, or those trained; default: as evaluated",
    )
    add_heads(parser)


def add_heads(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments for head counts of a tokenizer, which some bare files do not record."""
    for name in HEADS:
        parser.add_argument(f"--{name}", type=int, help="for a file without a configuration")


def heads(args: argparse.Namespace) -> dict[str, int]:
    """Returns the given head counts, as arguments of `tokenizer.load`."""
    return {name: getattr(args, name) for name in HEADS if getattr(args, name) is not None}


def add_checkpoint(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds the arguments for the weights and their computation."""
    parser.add_argument(
        "--checkpoint",
        required=required,
        type=place,
        help="workdir (gs:// too), folder, .pth, .safetensors or hf://owner/name",
    )
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="float32",
        help="docs/guides/use_from_python.md",
    )
    add_weights(parser)


def load_tokenizer(args: argparse.Namespace, **options):
    """Loads the `Tokenizer` that `add_checkpoint`'s arguments name.

    options: as for `tokenizer.load`.
    """
    from unitok_jax.tokenizer.api import load  # --help does not wait for JAX

    given = {"precision": args.precision, "weights": args.weights}
    return load(args.checkpoint, **given, **options, **heads(args))


def add_tokenizer(parser: argparse.ArgumentParser, description: str) -> None:
    """Adds --tokenizer, the tokenizer of a model's codes, as `find_tokenizer` reads it."""
    parser.add_argument("--tokenizer", type=place, help=description)


class FoundTokenizer(NamedTuple):
    """Tokenizer of a model's codes that the arguments or the model's run name."""

    path: str
    read: Any = None  # the run's, as `multimodal.loading.tokenizer_of` has read it

    def load(self, heads: Mapping[str, int] | None = None, **options):
        """Loads the `Tokenizer`; what was read is not read again.

        heads: head counts, as for `tokenizer.load`; options: as for `Tokenizer`.
        """
        from unitok_jax.tokenizer.api import Tokenizer, load  # --help does not wait for JAX

        if self.read is None or heads:
            return load(self.path, **options, **(heads or {}))
        tokenizer = Tokenizer(self.read.config, self.read.params, **options)
        tokenizer.hash = self.read.hash  # hashing all weights takes seconds
        return tokenizer


def find_tokenizer(args: argparse.Namespace) -> FoundTokenizer | None:
    """Returns the tokenizer that --tokenizer or else a multimodal model's run names.

    That of the run is told. None: it names none, or one that is no longer that of its codes.
    """
    from unitok_jax.multimodal.loading import tokenizer_of  # --help does not wait for JAX

    if args.tokenizer:
        return FoundTokenizer(args.tokenizer)
    named = tokenizer_of(args.checkpoint)
    if named is None:
        return None
    print(f"--tokenizer={paths.printable(named.path)}, as the run names it", file=sys.stderr)
    return FoundTokenizer(named.path, named)


def add_images(parser: argparse.ArgumentParser, path: str = "an image, a folder of images") -> None:
    """Adds the argument for image files, as `data.inputs` reads it; `path` describes a path."""
    parser.add_argument(
        "--data",
        required=True,
        type=place,
        help=f"{path}, folder:PATH, labelled:PATH, or photos: the built-in photographs",
    )
    parser.add_argument("--input", type=_renamed, help=argparse.SUPPRESS)


def _renamed(_: str) -> NoReturn:
    console.refuse("--input is now --data")


def add_data(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds the arguments for images, as `data.specs` reads them."""
    parser.add_argument(
        "--data",
        required=required,
        type=place,
        help="SOURCE:PATH, as labelled:/data/val or tar:/data/{00..99}.tar; a path; or photos",
    )
    parser.add_argument("--captions", default="", type=place, help="as data.captions of a run")
    parser.add_argument("--index", default="", type=place, help="as data.index of a run")
    parser.add_argument(
        "--num_threads", type=int, default=0, help="that read and decode; default: all cores"
    )
    parser.add_argument("--num_workers", type=int, default=0, help="processes that do so instead")


def data(args: argparse.Namespace, tokenizer, image_size: Sequence[int], **keys) -> ConfigDict:
    """Builds the `data` config from `add_data`'s arguments, for a `Tokenizer`'s text tower.

    keys: further arguments of `data_config`.
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
    """Parses the (height, width) of `--size=N` or `--size=HEIGHTxWIDTH`.

    Raises:
      ValueError: another form, or not multiples of a token's pixels.
    """
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise ValueError(f"--size={text}: expected N or HEIGHTxWIDTH")
    return check_size((int(match[1]), int(match[2] or match[1])), key="--size")


def check_new(path: pathlib.Path, flag: str) -> None:
    """Refuses a result file that exists or cannot be written, before the work begins.

    Raises:
      ValueError: the file exists.
      OSError: it lies where nothing can be written.
    """
    if os.path.lexists(path) and not path.is_dir():
        raise ValueError(f"--{flag}={path} is there; name a new file, or remove it")
    check_writable(path, flag)


def check_writable(path: pathlib.Path, flag: str) -> None:
    """Refuses a result file that cannot be written, before the work begins.

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
        raise with_text(error, f"--{flag}={path} cannot be written: {error}") from error


def write_new(path: pathlib.Path, content: bytes, flag: str) -> None:
    """Writes a file that passed `check_new`, whole or not at all.

    Raises:
      OSError: the file appeared meanwhile, or writing failed.
    """
    try:
        with path.open("xb") as file:
            try:
                file.write(content)
                file.flush()
            except BaseException:
                path.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise with_text(error, f"--{flag}={path} cannot be written: {error}") from error


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments by which the processes of a job connect, as in `unitok train`."""
    parser.add_argument("--cluster", default="auto", choices=discovery.CLUSTERS)
    parser.add_argument("--coordinator", help="HOST:PORT of process 0")
    parser.add_argument("--processes", type=int, help="how many the job has")
    parser.add_argument("--process", type=int, help="which of them this is, from 0")
    parser.add_argument("--connect_timeout", type=int, default=300, help="seconds")


def connect(args: argparse.Namespace) -> None:
    """Joins the job that `add_cluster`'s arguments name; before any other use of JAX.

    Raises:
      ClusterError, TryAgainError: the job cannot be joined.
    """
    from unitok_jax.runtime import processes

    processes.connect(
        args.cluster, args.coordinator, args.processes, args.process, args.connect_timeout
    )


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], None],
    continues: bool = False,
    config: bool = False,
) -> None:
    """Runs a command's work; an error in its input ends as one line.

    Compiled programs are cached for later commands, and stderr tells of those that compile for
    long. Exit codes: 2, or 1 if rerunning may work later; those of `console.command`.

    Args:
      parser: parser of its arguments.
      work: function of the parsed arguments.
      continues: as for `console.command`.
      config: whether the command takes --config, and keys beside it, as `args.config`.
    """
    args = _with_config(parser) if config else parser.parse_args()
    from unitok_jax.runtime import compilation_cache, compiling, processes

    def tell(line):
        if processes.is_lead():
            print(line, file=sys.stderr, flush=True)

    with processes.ExitTogether():
        try:
            with console.command(continues), compiling.notices(tell):
                compilation_cache.enable()
                work(args)
        except (ValueError, OSError, ImportError, TryAgainError) as error:
            console.refuse(error, 1 if may_pass(error) else 2)
        except (MemoryError, RuntimeError) as error:
            # XLA reports an out-of-memory error of a device only in the message text.
            if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            first = str(error).partition("\n")[0]
            console.refuse(f"out of memory, fewer or smaller images at once may fit: {first}")


def _with_config(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses a command's own arguments, and gives the others to --config and its keys."""
    args, others = parser.parse_known_args()
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    parse_or_exit([parser.prog, *others], values)
    args.config = values.config
    return args
