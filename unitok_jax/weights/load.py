"""Reads and writes weights: checkpoints, hub folders, and files of the public PyTorch layout."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Sequence

import jax
from etils import epath
from ml_collections import ConfigDict

from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.data.images.transforms import check_size
from unitok_jax.models.unitok import abstract_model
from unitok_jax.runtime import workdir
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.outputs import new_folder
from unitok_jax.system.passing import with_text
from unitok_jax.system.paths import expand, is_remote, printable
from unitok_jax.weights import (
    document,
    files,
    generator_layout,
    hub,
    torch_files,
    torch_layout,
    torch_options,
)
from unitok_jax.weights.strangers import describe


def read(path, weights: str | None = None, **heads: int) -> tuple[ConfigDict, dict]:
    """Reads configuration and parameters from `path`, of any kind.

    Args:
      path: a workdir or a checkpoint folder, which may lie in a bucket (gs://), a folder for the
        Hugging Face hub, `hf://owner/name`, or a .pth, .pt, .ckpt, .bin or .safetensors file.
      weights: 'ema' or 'raw', for a run's checkpoint; see `tokenizer.load`.
      **heads: `heads`, `quant_heads`, `text_heads`: see `tokenizer.load`.

    Returns:
      A ConfigDict with the keys `model` and `data`, and the parameters as a nested dict of float32
      arrays.

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: the path is of another kind, which the message names, or the weights do not fit
        their configuration.
      ImportError: a PyTorch file without PyTorch.
    """
    path = local(path)
    unknown = heads.keys() - set(torch_options.HEADS)
    if unknown:
        raise TypeError(
            f"unknown arguments {sorted(unknown)}; known: {', '.join(torch_options.HEADS)}"
        )
    check_choice(path, weights)
    if path.is_dir() and not hub.is_folder(path):
        return _read_folder(path, weights, heads)
    if path.is_dir():
        return hub.read(path, heads)
    args, state, _ = files.read_content(path, weights)
    return from_state(path, args, state, heads)


def local(path, patterns: Sequence[str] = hub.FILES) -> pathlib.Path | epath.Path:
    """Returns the path of a file or folder on this machine, or of a workdir in a bucket.

    Of `hf://owner/name`, the files that `patterns` name are fetched.

    Raises:
      FileNotFoundError: there is no such folder in the bucket.
      ValueError: the bucket cannot be read, or its folder is no workdir.
    """
    if str(path).startswith(hub.SCHEME):
        return hub.fetch(path, patterns)
    return _in_bucket(path) if is_remote(path) else expand(path)


def is_folder(path) -> bool:
    """Returns True for a folder, on a disk or in a bucket, and for a model of the hub."""
    return str(path).startswith(hub.SCHEME) or local(path).is_dir()


def _in_bucket(path) -> epath.Path:
    """Returns the path of a workdir in a bucket, or of what lies in its folder `checkpoints`."""
    folder = workdir.open_folder(path)
    if not folder.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if "checkpoints" not in folder.parts[-2:] and not (folder / "checkpoints").is_dir():
        raise ConversionError(
            f"{path} is no workdir, it has no folder 'checkpoints': of a bucket only a run's "
            "checkpoints are read; copy other weights to a disk"
        )
    return folder


def check_choice(path: pathlib.Path, weights: str | None) -> None:
    """Checks that a path exists, and that a choice of weights is possible there.

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: the choice is unknown, or the path is a folder for the hub, which has none.
    """
    if not path.exists():
        raise FileNotFoundError(f"{printable(path)} does not exist")
    if weights not in (None, *torch_options.WEIGHTS):
        raise ValueError(f"weights={weights!r} is not one of {', '.join(torch_options.WEIGHTS)}")
    if weights is not None and path.is_dir() and hub.is_folder(path):
        raise ConversionError(torch_files.ONE_SET.format(path=path, weights=weights))


def read_maker(path, wanted: str, codes: str) -> tuple[ConfigDict, dict]:
    """Reads the tokenizer that made some codes: `read`.

    Args:
      path: `data.tokenizer`.
      wanted: `Tokenizer.hash` of the tokenizer that made the codes; '' if there are none.
      codes: key of the codes in messages.

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: it holds no tokenizer, or another than made the codes.
    """
    try:
        config, params = read(path)
    except (ValueError, OSError) as error:
        raise with_text(error, f"data.tokenizer={path}: {error}") from error
    found = weights_hash(config.model.to_dict(), params)
    if wanted and found != wanted:
        raise ValueError(
            f"data.tokenizer={path} is tokenizer {found}, and the codes of {codes} were made by "
            f"{wanted}: name that one"
        )
    return config, params


def from_state(path, args, state, heads) -> tuple[ConfigDict, dict]:
    """Converts the result of `files.read_state` for a UniTok's file to the result of `read`."""
    if args and "product" in args:
        document.check_product(path, "tokenizer", args["product"])
    elif generator_layout.is_generator(args, state):
        document.check_product(path, "tokenizer", "generator")
    try:
        config = torch_options.to_config(args) if args else torch_options.infer_config(state, heads)
        torch_options.check_heads(config.model, heads)
        return config, torch_layout.from_torch(state, abstract_model(config.model.to_dict())[1])
    except ValueError as error:
        raise ConversionError(f"{printable(path)}: {error}") from error


def write(path, config: ConfigDict, params) -> None:
    """Writes `params` atomically, in the format that `path` implies; see `read`.

    Args:
      path: an existing file is replaced, an existing folder must be empty.
      config: with the keys `model` and `data`.
      params: as `read` returns them.

    Raises:
      ValueError: unknown suffix, a model that the file's layout cannot express, or a folder that is
        not empty.
      OSError: the path cannot be written; the disk may be full.
      ImportError: a PyTorch file without PyTorch.
    """
    path = expand(path)
    if path.suffix == ".safetensors":
        metadata = {"args": json.dumps(torch_options.from_config(config))}
        files.write_safetensors(torch_layout.to_torch(params), path, metadata)
    elif path.suffix in files.TORCH:
        args = torch_options.from_config(config)
        torch_files.write(path, args, torch_layout.to_torch(params))
    elif path.suffix:
        raise ConversionError(f"{printable(path)}: {files.kinds()}")
    else:
        with new_folder(path) as folder, Checkpoints(folder, create=True) as checkpoints:
            checkpoints.save(0, {"params": params}, config, {})


def _read_folder(path, weights, heads):
    with open_run(path) as (checkpoints, step):
        saved = checkpoints.meta(step)["config"]
        where = checkpoints.folder if step is None else checkpoints.folder / str(step)
        document.check_product(where, "tokenizer", differences.value(saved, "product"))
        try:
            abstract = abstract_model(saved["model"])[1]
            check_size(saved["data"].get("image_size"))
            config = ConfigDict({"model": saved["model"], "data": saved["data"]})
            torch_options.check_heads(config.model, heads)
        except ValueError as error:
            raise ConversionError(f"{printable(where)}: {error}") from error
        return config, restore_params(checkpoints, step, abstract, weights)


@contextlib.contextmanager
def open_run(path: pathlib.Path) -> Iterator[tuple[Checkpoints, int | None]]:
    """Opens the checkpoints of a workdir, or one step of them.

    Args:
      path: a workdir, its folder `checkpoints`, or `checkpoints/<step>` in it.

    Yields:
      the checkpoints, and the step; None for the newest.

    Raises:
      ConversionError: the folder is of another kind, which the message names.
    """
    step, whole = None, path if is_remote(path) else path.resolve()
    if whole.parent.name == "checkpoints" and path.name.isdigit():
        path, step = whole.parent, int(path.name)
    if path.name != "checkpoints" and not (path / "checkpoints").is_dir():
        raise ConversionError(
            f"{printable(path)} seems to be {describe(path)}. It is no workdir: it has no folder "
            "'checkpoints'; and no folder for the hub. One of these is wanted, or a .safetensors "
            "or .pth file"
        )
    with Checkpoints(path) as checkpoints:
        yield checkpoints, step


def restore_params(checkpoints: Checkpoints, step: int | None, abstract, weights: str | None):
    """Restores the parameters of a model, as arrays of NumPy: a device may not hold all of them.

    Args:
      checkpoints: of a run, or of a converted model.
      step: of the checkpoint; None: the newest.
      abstract: tree of the parameters' shapes and dtypes.
      weights: 'ema', the average, 'raw', or None: the average if there is one.

    Raises:
      ConversionError: the run kept no such weights.
      CheckpointError: as `Checkpoints.restore`.
    """
    path, digests = checkpoints.folder, checkpoints.meta(step)["digests"]
    sharding = jax.sharding.SingleDeviceSharding(_host())
    params = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), abstract
    )
    if weights is not None and "training" not in digests:
        raise ConversionError(torch_files.ONE_SET.format(path=path, weights=weights))
    # A run with an average keeps the trained weights beside it, for resuming.
    averaged = any(name.startswith("params.") for name in digests.get("training", {}))
    if weights == "ema" and not averaged:
        raise ConversionError(
            f"weights=ema: the run of {path} kept no average (optim.ema_decay=0); its weights "
            "are those of weights=raw"
        )
    if weights == "raw" and averaged:
        targets = {"training": {"params": params}}
        restored = checkpoints.restore(targets, step=step, partial=True, alone=True)["training"]
    else:
        restored = checkpoints.restore({"params": params}, step=step, alone=True)
    return jax.device_get(restored["params"])


def _host() -> jax.Device:
    """Returns the CPU; the first device, if `JAX_PLATFORMS` leaves the CPU out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def product(path) -> str:
    """Tells what a folder holds the weights of, without reading them: see `hub.product_of`.

    Args:
      path: a workdir, a checkpoint folder, a folder for the Hugging Face hub or `hf://owner/name`.

    Raises:
      ValueError: the folder is of another kind.
    """
    path = local(path)
    if hub.is_folder(path):
        return hub.product_of(path)
    with open_run(path) as (checkpoints, step):
        return differences.value(checkpoints.meta(step)["config"], "product")
