"""Flag --config of a command: a Python file with get_config(), and keys set beside it."""

import contextlib
import difflib
import inspect
import re
import runpy
import sys
import traceback
import types
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from unitok_jax.checkpoints.differences import walk
from unitok_jax.system import console, paths

_HOME = Path(__file__).resolve().parents[2]  # parent of this package's configs
# Keys of other projects -> ours.
SYNONYMS = {
    "accum": ("optim.accumulation",),
    "amp": ("model.dtype",),
    "batch": ("data.batch_size",),
    "batchsize": ("data.batch_size",),
    "bf16": ("model.dtype",),
    "bs": ("data.batch_size",),
    "clip": ("optim.clip_norm",),
    "codebooks": ("model.num_codebooks",),
    "codebooksize": ("model.vocab_size",),
    "datadir": ("data.path",),
    "dataset": ("data.source", "data.path"),
    "discweight": ("gan.weight",),
    "ema": ("optim.ema_decay",),
    "epochs": ("steps",),
    "fp16": ("model.dtype",),
    "gradaccumsteps": ("optim.accumulation",),
    "gradclip": ("optim.clip_norm",),
    "gradientaccumulationsteps": ("optim.accumulation",),
    "gradientcheckpointing": ("model.remat",),
    "imgsize": ("data.image_size",),
    "iterations": ("steps",),
    "iters": ("steps",),
    "lpips": ("loss.perceptual", "frozen.lpips"),
    "lr": ("optim.learning_rate",),
    "maxsteps": ("steps",),
    "mixedprecision": ("model.dtype",),
    "numepochs": ("steps",),
    "numsteps": ("steps",),
    "precision": ("model.dtype",),
    "pretrained": ("init.path",),
    "project": ("log.wandb",),
    "res": ("data.image_size",),
    "resolution": ("data.image_size",),
    "threads": ("data.num_threads",),
    "tensorboarddir": ("log.tensorboard",),
    "trainsteps": ("steps",),
    "vocab": ("model.vocab_size",),
    "warmup": ("optim.warmup_fraction",),
    "warmupsteps": ("optim.warmup_fraction",),
    "wd": ("optim.weight_decay",),
    "weights": ("init.path",),
    "workers": ("data.num_workers",),
}


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses flags with absl, for a command with `config_flags.DEFINE_config_file`'s --config.

    Returns:
      The command's name and the arguments that are not flags.

    Raises:
      flags.Error: of one line: the file cannot be read, a flag or a key does not exist, or a value
        is of another type; the message names similar keys and expected types.
    """
    argv = list(argv)
    given = _given(argv)
    chosen = given.pop("config", "")
    if not chosen:
        return _parse(argv, values, given, {})
    path, colon, variant = chosen.partition(":")
    expanded = str(paths.expand(path)) + colon + variant
    argv = [arg.replace(chosen, expanded) if re.match(r"--?config=", arg) else arg for arg in argv]
    argv = [
        expanded if before in ("--config", "-config") else arg
        for before, arg in zip(["", *argv], argv, strict=False)
    ]
    with _importable(Path(expanded.partition(":")[0])):
        return _parse(argv, values, given, key_types(read(expanded)))


def parse_or_exit(
    argv: Sequence[str],
    values: flags.FlagValues = flags.FLAGS,
    *,
    usage: str = "",
    example: str = "configs/b16.py",
    beside: int = 0,
    required: bool = True,
) -> list[str]:
    """Returns the result of `parse`; prints an error as one line and exits with code 2.

    Args:
      argv: the command's name and its arguments.
      values: flags of a command that defines --config.
      usage: text that --help prints before the flags, for a command that defines --help.
      example: a file for --config, for the message that none was given.
      beside: the number of positional arguments of the command.
      required: whether --config must be given.
    """
    try:
        rest = parse(argv, values)
    except flags.Error as error:
        console.refuse(error)
    if usage and values.help:
        print(f"{usage}\n{values.get_help()}")
        sys.exit(0)
    if rest[1 + beside :]:
        unknown = " ".join(rest[1 + beside :])
        console.refuse(f"unexpected arguments: {unknown}; keys are set by --config.KEY=VALUE")
    if required and values.config is None:
        console.refuse(f"--config is missing; for example --config={example}")
    return rest


def read(chosen: str) -> ConfigDict:
    """Returns the config of a file: `FILE`, or `FILE:VARIANT` for get_config(VARIANT).

    Raises:
      flags.Error: of one line; an exception in the file is reported with its line number.
    """
    path, *variant = chosen.split(":", 1)
    file, told = Path(path), f"--config={paths.printable(chosen)}"
    if not paths.is_regular(file):
        near = file.with_name(file.name + ".py")
        hint = f"; did you mean {near}?" if near.is_file() else ""
        raise flags.Error(f"{told}: there is no such file{hint}")
    with _importable(file):
        try:
            module = runpy.run_path(str(file))
            if not callable(module.get("get_config")):
                raise flags.Error(f"{told}: the file defines no function get_config()")
            function = module["get_config"]
            _check_variant(function, path, variant, told)
            config = function(*variant)
        except flags.Error:
            raise
        except Exception as error:  # a user's own code may raise anything
            raise flags.Error(f"{told}: {_in_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise flags.Error(f"{told}: get_config() returns {type(config).__name__}, no ConfigDict")
    return config


def key_types(config: ConfigDict) -> dict[str, type]:
    """Returns the type of every key of a configuration, under dotted names."""
    return {key: type(value) for key, value in walk(config.to_dict())}


def near_keys(key: str, known: Sequence[str]) -> list[str]:
    """Returns up to three similar known keys: synonyms, keys of other sections, typos."""
    leaf = key.rpartition(".")[2]
    plain = re.sub(r"[^a-z0-9]", "", leaf.lower())
    room = key.rpartition(".")[0]
    found = [name for name in SYNONYMS.get(plain, ()) if name in known]
    # gan.lr means the discriminator's
    found = [f"{room}.{name.rpartition('.')[2]}" for name in found] + found
    found += [name for name in known if name.rpartition(".")[2] == leaf]
    found += difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return [name for name in dict.fromkeys(found) if name in known][:3]


def _parse(argv, values, given, types_of_keys) -> list[str]:
    try:
        return values(argv)
    except flags.UnrecognizedFlagError as error:
        if error.flagname.startswith("config."):
            raise flags.Error(_explain(given, types_of_keys) or str(error)) from error
        near = near_keys(error.flagname, list(types_of_keys))
        hint = f"; keys are set as --config.{near[0]}=..." if near else ""
        raise flags.Error(f"{_one_line(str(error))}{hint}") from error
    # ml_collections raises any of these for unknown keys and unsuitable values.
    except (AttributeError, KeyError, TypeError, IndexError, ValueError, flags.Error) as error:
        raise flags.Error(_explain(given, types_of_keys) or _one_line(str(error))) from error


def _given(argv: Sequence[str]) -> dict[str, str]:
    """Returns config and config.KEY of a command line with their values."""
    joined = re.sub(r"^(--?config[\w.]*)\n(?!-)", r"\1=", "\n".join(argv), flags=re.M)
    return dict(re.findall(r"^--?(?:no)?(config(?:\.[^=\n]+)?)=?(.*)$", joined, re.M))


def _explain(given, types_of_keys) -> str:
    """Explains the first --config.key=value that does not fit its config."""
    for name, value in given.items():
        key = name.removeprefix("config.")
        if types_of_keys and key not in types_of_keys:
            near = near_keys(key, list(types_of_keys))
            hint = f"; near: {', '.join(near)}" if near else ""
            if any(known.startswith(key + ".") for known in types_of_keys):
                hint = f"; it holds keys: --config.{key}.KEY=VALUE"
            return f"--{name}: the config has no key {key!r}{hint}"
        if not types_of_keys:
            return "--config is missing; for example --config=configs/tiny.py"
        kind = types_of_keys[key]
        try:
            if kind is bool and value.lower() not in ("", "true", "false", "t", "f", "1", "0"):
                raise ValueError
            if kind in (int, float):
                kind(value)
        except ValueError:
            return f"--{name}={value}: expected a value of type {kind.__name__}"
        if kind is tuple and re.search(r"[(\[,]", value):
            try:
                compile(value, "", "eval")
            except SyntaxError:
                return f"--{name}={value}: no tuple; write it as --{name}='(1, 2)'"
    return ""


def _check_variant(function, path, variant, told):
    try:
        inspect.signature(function).bind(*variant)
    except TypeError as error:
        if variant:
            raise flags.Error(f"{told}: {path} has no variants; leave :{variant[0]} out") from error
        raise flags.Error(f"{told}: get_config() needs a variant: {path}:NAME") from error


@contextlib.contextmanager
def _importable(file: Path):
    """Lets a config file import its neighbours and this package's configs within the block.

    `from configs import NAME` looks into the file's own folder, then into this package's; `import
    NAME` finds a neighbour. The working folder plays no part, whatever `configs` it holds.
    """
    folder = str(file.absolute().parent)
    package = types.ModuleType("configs")
    package.__path__ = [folder, str(_HOME / "configs")]
    before = {name: sys.modules.pop(name) for name in _configs()}
    sys.modules["configs"] = package
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in _configs():
            del sys.modules[name]
        sys.modules.update(before)


def _configs() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "configs"]


def _in_one_line(error: BaseException) -> str:
    """Formats an exception of a config file on one line, with its line number."""
    name, where = type(error).__name__, ""
    if isinstance(error, SyntaxError):
        return f"{name}: {error.msg} ({error.filename}, line {error.lineno})"
    libraries = ("ml_collections", "runpy", "importlib")
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename != __file__ and not any(part in frame.filename for part in libraries):
            where = f" ({frame.filename}, line {frame.lineno})"
    # A ValueError is the file's own message, such as for an unknown variant.
    kind = "" if type(error) is ValueError else f"{name}: "
    return f"{kind}{_one_line(str(error))}{where}"


def _one_line(text: str, most: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most] + " ..."
