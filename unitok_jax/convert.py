"""Weights between files: our checkpoints, and the public PyTorch layout as .pth or .safetensors.

`python -m unitok_jax.convert SRC DST` reads and writes whichever kind the two paths are.
"""

import argparse
import json
import pathlib
import pickle
import sys
import zipfile
from collections.abc import Mapping

import jax
import safetensors
import safetensors.numpy
from ml_collections import ConfigDict

from unitok_jax import torch_layout, torch_options
from unitok_jax.checkpoint import Checkpoints
from unitok_jax.models.unitok import abstract_model
from unitok_jax.torch_options import ConversionError

_TORCH = (".pth", ".pt", ".ckpt", ".bin")


def read(path, **heads: int) -> tuple[ConfigDict, dict]:
    """Configuration and parameters of whatever `path` is.

    Args:
      path: a folder of ours, or a .pth, .pt, .ckpt, .bin or .safetensors file.
      **heads: `heads`, `quant_heads`, `text_heads`: see `tokenizer.load`.

    Returns:
      A ConfigDict with the keys `model` and `data`, and the parameters as a nested dict of float32
      arrays.
    """
    path = pathlib.Path(path)
    unknown = heads.keys() - set(torch_options.HEADS)
    if unknown:
        raise TypeError(
            f"unknown arguments {sorted(unknown)}; known: {', '.join(torch_options.HEADS)}"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        return _read_folder(path, heads)
    if path.suffix == ".safetensors":
        args, state = _read_safetensors(path)
    elif path.suffix in _TORCH:
        args, state = _read_torch(path)
    else:
        raise ConversionError(f"{path}: {_kinds()}")
    try:
        config = torch_options.to_config(args) if args else torch_options.infer_config(state, heads)
        torch_options.check_heads(config, heads)
        return config, torch_layout.from_torch(state, abstract_model(config.model.to_dict())[1])
    except ValueError as error:
        raise ConversionError(f"{path}: {error}") from error


def write(path, config: ConfigDict, params) -> None:
    """Writes `params` as whatever `path` is: see `read`. An existing file is replaced."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        metadata = {"args": json.dumps(torch_options.from_config(config))}
        safetensors.numpy.save_file(torch_layout.to_torch(params), path, metadata)
    elif path.suffix in _TORCH:
        torch, args = _torch(path), torch_options.from_config(config)
        # A copy: torch cannot hold the read-only views of JAX arrays.
        state = {k: torch.from_numpy(v.copy()) for k, v in torch_layout.to_torch(params).items()}
        torch.save({"args": args, "trainer": {"unitok": state}}, path)
    elif path.suffix:
        raise ConversionError(f"{path}: {_kinds()}")
    else:
        if path.exists() and any(path.iterdir()):
            raise ConversionError(f"{path} is not empty; give a new folder")
        with Checkpoints(path, create=True) as checkpoints:
            checkpoints.save(0, {"params": params}, config, {})


def _kinds() -> str:
    return (
        f"the suffix names no kind of weights; known: {', '.join(_TORCH)}, .safetensors, and no "
        "suffix for a folder"
    )


def _read_folder(path, heads):
    step = None
    if path.resolve().parent.name == "checkpoints" and path.name.isdigit():
        path, step = path.resolve().parent, int(path.name)
    with Checkpoints(path) as checkpoints:
        saved = checkpoints.meta(step)["config"]
        config = ConfigDict({"model": saved["model"], "data": saved["data"]})
        torch_options.check_heads(config, heads)
        shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=shardings),
            abstract_model(config.model.to_dict())[1],
        )
        return config, checkpoints.restore({"params": abstract}, step=step)["params"]


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
    torch = _torch(path)
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
    if not isinstance(content, Mapping):
        raise ConversionError(f"{path}: 'trainer.unitok' is no state dict")
    strangers = [k for k, v in content.items() if not isinstance(v, torch.Tensor)]
    if strangers or not content:
        raise ConversionError(
            f"{path} is not a state dict: {strangers[:5] or 'it is empty'}; expected names and "
            "tensors, or {'args': ..., 'trainer': {'unitok': ...}}"
        )
    return args, {name: tensor.float().numpy() for name, tensor in content.items()}


def _torch(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: {path.suffix} files need PyTorch (the extra 'torch'); a .safetensors file "
            "does not"
        ) from error
    return torch


def main() -> None:
    """`python -m unitok_jax.convert SRC DST`."""
    parser = argparse.ArgumentParser(prog="python -m unitok_jax.convert", description=__doc__)
    parser.add_argument("source", help="folder, .pth, .pt, .ckpt, .bin or .safetensors")
    parser.add_argument("target", help="the same kinds; an existing file is replaced")
    for name in torch_options.HEADS:
        parser.add_argument(f"--{name}", type=int, help="for a file without a configuration")
    arguments = vars(parser.parse_args())
    heads = {name: arguments[name] for name in torch_options.HEADS if arguments[name] is not None}
    try:
        config, params = read(arguments["source"], **heads)
        write(arguments["target"], config, params)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"{arguments['target']}: {config.model.size}, {count:,} parameters")


if __name__ == "__main__":
    main()
