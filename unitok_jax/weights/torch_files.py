"""Reads and writes tensors of PyTorch files, without executing any code of a file.

Reading takes no more memory than the size of the file allows."""

import os
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unitok_jax.system.extras import how_to_install
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.outputs import replacing
from unitok_jax.system.paths import printable

EXPANSION = 8
"""Maximum size of a file's arrays as float32, as a multiple of its size; int8 weights take 4."""

ONE_SET = (
    "weights={weights}: {path} holds one set of weights and does not say whether they are an "
    "average; leave the choice out"
)
"""Message for a choice of weights where a file or folder has none."""

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_MAGIC = (
    b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # start of files before PyTorch 1.6, after the protocol
)


class Content(NamedTuple):
    """Content of a file of weights."""

    args: Mapping | None  # the options that it was made with, if it has them
    state: dict[str, np.ndarray]  # name -> array
    weights: str | None  # 'ema' or 'raw', for a training checkpoint that may hold both


class _Options:
    """Stand-in for argparse.Namespace, whose attributes PyTorch fills without running any code."""


def _import_torch(path: pathlib.Path):
    """Imports PyTorch, or raises an ImportError that names `path`."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: {path.suffix} files need PyTorch, a .safetensors file does not; "
            f"{how_to_install('torch')}"
        ) from error
    return torch


def read(path: pathlib.Path, head: bytes, weights: str | None = None) -> Content:
    """Reads a PyTorch file, as `files.read_content`.

    Args:
      path: path of the file.
      head: first bytes of the file, from `check_file`.
      weights: 'ema' or 'raw': the one of a training checkpoint's; None: its average if it has one.

    Raises:
      ConversionError: the file is not a PyTorch file, contains other objects than tensors, or
        tensors that take over `EXPANSION` times its size, or lacks the weights that were asked for.
      ImportError: PyTorch is not installed.
    """
    torch, name, size = _import_torch(path), printable(path), os.path.getsize(path)
    if head.startswith(_ZIP):
        _check_archive(path, name, size)
    elif not (head.startswith(_PICKLE) and _MAGIC in head[:32]):
        raise ConversionError(
            f"{name} is not a PyTorch file: it begins neither as a zip archive nor as torch.save's "
            "older format"
        )
    # Mapped, so that the optimizer's arrays and other weights beside those taken are never read.
    content = _load(torch, path, name, mmap=head.startswith(_ZIP))
    args, tensors, weights = _split(content, name, weights)
    strangers = [
        k for k, v in tensors.items() if not (isinstance(k, str) and isinstance(v, torch.Tensor))
    ]
    if strangers or not tensors:
        raise ConversionError(
            f"{name} is not a state dict: {strangers[:5] or 'it is empty'}; expected names and "
            "tensors, the same under 'state_dict' or 'model', or "
            "{'args': ..., 'trainer': {'unitok': ...}}"
        )
    for key, tensor in tensors.items():
        _check_tensor(torch, f"{name}: {printable(key)}", tensor, size)
    total = 4 * sum(tensor.numel() for tensor in tensors.values())
    if total > EXPANSION * size:
        raise ConversionError(
            f"{name} has {size:,} bytes, and its tensors would take {total:,} as float32, over "
            f"{EXPANSION} times as many: they repeat what is stored once"
        )
    state = {key: tensor.detach().float().numpy() for key, tensor in tensors.items()}
    return Content(args, state, weights)


def write(
    path: pathlib.Path,
    args: Mapping,
    state: Mapping[str, np.ndarray],
    under: Sequence[str] = ("trainer", "unitok"),
) -> None:
    """Writes a file in the format of UniTok's release, atomically; an existing file is replaced.

    Args:
      path: path of the file.
      args: the release's options, which become the entry 'args'.
      state: name -> float32 array.
      under: keys of the entry that the arrays become.

    Raises:
      ImportError: PyTorch is not installed.
      OSError: the file cannot be written; the disk may be full.
    """
    torch = _import_torch(path)
    # A copy: torch cannot hold the read-only views of JAX arrays.
    content = {key: torch.from_numpy(array.copy()) for key, array in state.items()}
    for key in reversed(under):
        content = {key: content}
    with replacing(path) as partial:
        try:
            torch.save({"args": args, **content}, partial)
        except RuntimeError as error:  # PyTorch raises this for a full disk
            raise OSError(f"{printable(path)} cannot be written: {error}") from error


def _check_archive(path, name, size):
    """Rejects members that unpack to more bytes than the file, before PyTorch unpacks them."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    # For a damaged directory the standard library raises more than BadZipFile.
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError) as error:
        raise ConversionError(f"{name} is a damaged zip archive: {error}") from error
    names = [member.filename for member in members]
    if any(member.endswith("/constants.pkl") for member in names):
        raise ConversionError(
            f"{name} is a TorchScript program, not weights; save its state dict: "
            "torch.save(module.state_dict(), path)"
        )
    if not any(member.endswith("/data.pkl") for member in names):
        raise ConversionError(f"{name} is a zip archive, but not one that torch.save wrote")
    if sum(member.file_size for member in members) > size:
        raise ConversionError(
            f"{name} holds compressed members, which torch.save does not write: unpack it and "
            "save the state dict again"
        )


def _load(torch, path, name, mmap):
    try:
        # The generator's options are an argparse.Namespace.
        with torch.serialization.safe_globals([(_Options, "argparse.Namespace")]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except OSError:
        raise
    # The file determines the calls and arguments, so any exception is possible. PyTorch's message
    # advises to switch safe loading off, so neither the message nor its cause is shown.
    except Exception as error:
        raise ConversionError(f"{name} {_reason(error)}") from None


def _reason(error):
    what = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", str(error))
    if what:
        return (
            f"cannot be loaded safely: it holds {what[1]}, which is no tensor, and to make one "
            "could run code. Where it was made, save the weights alone: "
            "torch.save(model.state_dict(), path)"
        )
    return (
        "cannot be loaded safely: it is damaged, or holds more than tensors "
        f"({type(error).__name__})"
    )


def _split(content, name, weights):
    """Returns options, tensors, and which of two sets of weights they are, if the file has sets."""
    if not isinstance(content, Mapping):
        raise ConversionError(f"{name} holds a {type(content).__name__}, not a state dict")
    args = content.get("args")
    args = vars(args) if isinstance(args, _Options) else args
    if "trainer" not in content and isinstance(content.get("model"), Mapping):
        return _split_training(content, args, name, weights)
    if weights is not None:
        raise ConversionError(ONE_SET.format(path=name, weights=weights))
    if "trainer" in content:
        trainer = content["trainer"]
        if not isinstance(trainer, Mapping) or "unitok" not in trainer:
            raise ConversionError(f"{name} has no entry 'trainer.unitok', the tokenizer's weights")
        if not isinstance(args, Mapping):
            raise ConversionError(f"{name} has no entry 'args', the options of the release")
        content = trainer["unitok"]
    else:
        args, content = None, content.get("state_dict", content)
    if not isinstance(content, Mapping):
        raise ConversionError(f"{name}: 'trainer.unitok' or 'state_dict' is no state dict")
    return args, content, None


def _split_training(content, args, name, weights):
    """Splits {'model': ..., 'ema': ..., 'args': ...} and what else a training script saves."""
    averaged = isinstance(content.get("ema"), Mapping)
    if weights == "ema" and not averaged:
        raise ConversionError(
            f"weights=ema: {name} holds no average, which is an entry 'ema'; its weights are those "
            "of weights=raw"
        )
    if args is not None and not isinstance(args, Mapping):
        raise ConversionError(f"{name}: 'args' is a {type(args).__name__}, not options")
    chosen = "ema" if averaged and weights != "raw" else "raw"
    return args, content["ema" if chosen == "ema" else "model"], chosen


def _check_tensor(torch, name, tensor, size):
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        kind = f"of the kind {type(tensor).__name__}"
    elif tensor.layout != torch.strided:
        kind = "sparse"
    elif tensor.is_quantized:
        kind = "quantized"
    elif tensor.device.type != "cpu":
        kind = f"without values, on the device {tensor.device.type}"
    elif tensor.dtype not in _dtypes(torch):
        kind = f"of {str(tensor.dtype).removeprefix('torch.')}"
    # The file declares the length of a storage, and PyTorch does not check it.
    elif tensor.untyped_storage().nbytes() > size:
        kind = "larger than the file"
    else:
        return
    raise ConversionError(
        f"{name} is {kind}; dense tensors of float16, bfloat16, float32, float64 or integers are "
        "read: convert it where it was made"
    )


def _dtypes(torch):
    return (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    )
