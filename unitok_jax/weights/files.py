"""Reads and writes named arrays in .safetensors and PyTorch files; never executes a file's code."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from unitok_jax.system import foreign_json
from unitok_jax.system.foreign_files import ConversionError, check_file
from unitok_jax.system.outputs import replacing
from unitok_jax.system.paths import expand, printable
from unitok_jax.weights import torch_files
from unitok_jax.weights.strangers import describe
from unitok_jax.weights.torch_files import Content

TORCH = (".pth", ".pt", ".ckpt", ".bin")
# Wrappers in the names of modules after training: DistributedDataParallel, torch.compile, FSDP.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_DTYPES = {
    "BF16": ml_dtypes.bfloat16,
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "BOOL": np.dtype(bool),
}


def read_state(path) -> tuple[Mapping | None, dict[str, np.ndarray]]:
    """Reads the release's options, if the file has them, and name -> array: see `read_content`."""
    return read_content(path)[:2]


def read_content(path, weights: str | None = None) -> Content:
    """Reads a file of weights.

    The file may be of any network: a state dict, bare, under `state_dict` or `model`, or a file
    saved by the release of UniTok. Prefixes that training wrappers add to names are removed:
    `module.`, `_orig_mod.`.

    Args:
      path: a .pth, .pt, .ckpt, .bin or .safetensors file.
      weights: of a training checkpoint with an average: 'ema', the average, or 'raw'; None: the
        average if there is one.

    Raises:
      FileNotFoundError: the file does not exist.
      ConversionError: unknown suffix, a file of another kind than its suffix, or one that has no
        choice of weights.
      ImportError: a PyTorch file without PyTorch.
    """
    path = expand(path)
    head = check_file(path)
    if path.suffix not in (*TORCH, ".safetensors"):
        raise ConversionError(f"{printable(path)} seems to be {describe(path)}: {kinds()}")
    if path.suffix in TORCH:
        content = torch_files.read(path, head, weights)
    elif weights is not None:
        raise ConversionError(torch_files.ONE_SET.format(path=printable(path), weights=weights))
    else:
        content = Content(*_read_safetensors(path), None)
    return content._replace(state=_unwrap(content.state, printable(path)))


def write_safetensors(arrays: Mapping[str, np.ndarray], path, metadata=None) -> None:
    """Writes name -> array, C-contiguous, atomically; an existing file is replaced.

    Raises:
      OSError: the file cannot be written; the disk may be full.
    """
    with replacing(path) as partial:
        try:
            safetensors.numpy.save_file(dict(arrays), partial, metadata)
        except safetensors.SafetensorError as error:
            raise OSError(f"{printable(path)} cannot be written: {error}") from error


def kinds() -> str:
    """Returns the known suffixes, for messages."""
    return (
        f"the suffix names no kind of weights; known: {', '.join(TORCH)}, .safetensors, and no "
        "suffix for a folder"
    )


def _unwrap(state, path):
    out = {}
    for name, array in state.items():
        bare = ".".join(word for word in name.split(".") if word not in _WRAPPERS)
        if bare in out:
            raise ConversionError(
                f"{path}: two entries are {printable(bare)} once the words of wrappers "
                f"({', '.join(_WRAPPERS)}) are left out"
            )
        out[bare] = array
    return out


def _read_safetensors(path):
    name = printable(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            for key in file.keys():
                _check_dtype(name, key, file.get_slice(key).get_dtype())
            state = {key: file.get_tensor(key) for key in file.keys()}
    # NumPy raises its own errors for shapes that it does not support, such as over 64 axes.
    except (safetensors.SafetensorError, ValueError, OverflowError) as error:
        if isinstance(error, ConversionError):
            raise
        raise ConversionError(f"{name} is not a safetensors file: {error}") from error
    if "args" not in metadata:
        return None, state
    try:
        return foreign_json.parse_object(
            metadata["args"], f"{name}: the metadata entry 'args'"
        ), state
    except ValueError as error:
        raise ConversionError(str(error)) from error


def _check_dtype(path, name, dtype):
    if dtype not in _DTYPES:
        hint = ", without their scales" if dtype.startswith("F8") else ""
        raise ConversionError(
            f"{path}: {printable(name)} has the dtype {dtype}{hint}; known: {', '.join(_DTYPES)}: "
            "convert it to float16 or float32 where it was made"
        )
