"""Named arrays in .safetensors and PyTorch files. Nothing in a file is ever executed."""

import json
import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy

TORCH = (".pth", ".pt", ".ckpt", ".bin")


class ConversionError(ValueError):
    """A file is not what it should be; the message names it and what to do."""


def read_state(path) -> tuple[dict | None, dict[str, np.ndarray]]:
    """The release's options, where the file carries them, and name -> array.

    It may be any network's: a state dict, bare or under `state_dict`, with or without the prefix
    `module.` of a training run, or what the release of UniTok saves.

    Args:
      path: a .pth, .pt, .ckpt, .bin or .safetensors file.

    Raises:
      ConversionError: a suffix that is not known, a file that is not what its suffix says.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        args, state = _read_safetensors(path)
    elif path.suffix in TORCH:
        args, state = _read_torch(path)
    else:
        raise ConversionError(f"{path}: {kinds()}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): array for name, array in state.items()}
    return args, state


def write_safetensors(arrays: Mapping[str, np.ndarray], path, metadata=None) -> None:
    """Writes name -> array, C-contiguous, as a file whose mode follows the umask.

    Raises:
      OSError: it cannot be written; the disk may be full.
    """
    try:
        safetensors.numpy.save_file(dict(arrays), path, metadata)
    except safetensors.SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    # It was made by the library for its owner alone, and nobody else could be served from it.
    mask = os.umask(0o077)
    os.umask(mask)
    pathlib.Path(path).chmod(0o666 & ~mask)


def kinds() -> str:
    """What a suffix may be, for messages."""
    return (
        f"the suffix names no kind of weights; known: {', '.join(TORCH)}, .safetensors, and no "
        "suffix for a folder"
    )


def import_torch(path):
    """PyTorch, or an ImportError that says what `path` needs it for."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: {path.suffix} files need PyTorch (the extra 'torch'); a .safetensors file "
            "does not"
        ) from error
    return torch


def _read_safetensors(path):
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ConversionError(f"{path} is not a safetensors file: {error}") from error
    if "args" not in metadata:
        return None, state
    try:
        return json.loads(metadata["args"]), state
    except json.JSONDecodeError as error:
        raise ConversionError(f"{path}: the metadata entry 'args' is not JSON: {error}") from error


def _read_torch(path):
    torch = import_torch(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise ConversionError(
            f"{path} is not a checkpoint that can be loaded safely, with weights only: {error}"
        ) from error
    if not isinstance(content, Mapping):
        raise ConversionError(f"{path} holds a {type(content).__name__}, not a state dict")
    args = None
    if "trainer" in content:
        args, trainer = content.get("args"), content["trainer"]
        if not isinstance(trainer, Mapping) or "unitok" not in trainer:
            raise ConversionError(f"{path} has no entry 'trainer.unitok', the tokenizer's weights")
        if not isinstance(args, Mapping):
            raise ConversionError(f"{path} has no entry 'args', the options of the release")
        content = trainer["unitok"]
    elif "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ConversionError(f"{path}: 'trainer.unitok' or 'state_dict' is no state dict")
    strangers = [k for k, v in content.items() if not isinstance(v, torch.Tensor)]
    if strangers or not content:
        raise ConversionError(
            f"{path} is not a state dict: {strangers[:5] or 'it is empty'}; expected names and "
            "tensors, the same under 'state_dict', or {'args': ..., 'trainer': {'unitok': ...}}"
        )
    return args, {name: tensor.float().numpy() for name, tensor in content.items()}
