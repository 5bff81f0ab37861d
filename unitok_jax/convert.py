"""Weights between files: our checkpoints, and the public PyTorch layout as .pth or .safetensors.

`python -m unitok_jax.convert SRC DST` reads and writes whichever kind the two paths are;
`--format=hub` makes DST a folder for the Hugging Face hub. The file of a frozen network (LPIPS,
DINOv2, Inception) becomes a .safetensors, so that training needs no PyTorch.
"""

import argparse
import json
import pathlib

import jax
import numpy as np
from ml_collections import ConfigDict

from unitok_jax import (
    clip_layout,
    commands,
    frozen,
    hub,
    torch_layout,
    torch_options,
    weight_files,
)
from unitok_jax.checkpoint import Checkpoints
from unitok_jax.models.unitok import abstract_model
from unitok_jax.report import collapse, subtrees
from unitok_jax.weight_files import ConversionError

_ONE_SET = (
    "weights={weights}: {path} holds one set of weights and does not say whether they are an "
    "average; leave the choice out"
)


def read(path, weights: str | None = None, **heads: int) -> tuple[ConfigDict, dict]:
    """Configuration and parameters of whatever `path` is.

    Args:
      path: a folder of ours or for the Hugging Face hub, `hf://owner/name`, or a .pth, .pt, .ckpt,
        .bin or .safetensors file.
      weights: 'ema' or 'raw', of a run's checkpoint; see `tokenizer.load`.
      **heads: `heads`, `quant_heads`, `text_heads`: see `tokenizer.load`.

    Returns:
      A ConfigDict with the keys `model` and `data`, and the parameters as a nested dict of float32
      arrays.
    """
    path = _local(path)
    unknown = heads.keys() - set(torch_options.HEADS)
    if unknown:
        raise TypeError(
            f"unknown arguments {sorted(unknown)}; known: {', '.join(torch_options.HEADS)}"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if weights not in (None, *commands.WEIGHTS):
        raise ValueError(f"weights={weights!r} is not one of {', '.join(commands.WEIGHTS)}")
    if path.is_dir() and not hub.is_folder(path):
        return _read_folder(path, weights, heads)
    if weights is not None:
        raise ConversionError(_ONE_SET.format(path=path, weights=weights))
    if path.is_dir():
        return hub.read(path, heads)
    return from_state(path, *weight_files.read_state(path), heads)


def _local(path) -> pathlib.Path:
    return hub.fetch(path) if str(path).startswith(hub.SCHEME) else pathlib.Path(path)


def from_state(path, args, state, heads) -> tuple[ConfigDict, dict]:
    """What `read` returns, from what `weight_files.read_state` returns of a UniTok's file."""
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
        weight_files.write_safetensors(torch_layout.to_torch(params), path, metadata)
    elif path.suffix in weight_files.TORCH:
        torch, args = weight_files.import_torch(path), torch_options.from_config(config)
        # A copy: torch cannot hold the read-only views of JAX arrays.
        state = {k: torch.from_numpy(v.copy()) for k, v in torch_layout.to_torch(params).items()}
        torch.save({"args": args, "trainer": {"unitok": state}}, path)
    elif path.suffix:
        raise ConversionError(f"{path}: {weight_files.kinds()}")
    else:
        if path.exists() and any(path.iterdir()):
            raise ConversionError(f"{path} is not empty; give a new folder")
        with Checkpoints(path, create=True) as checkpoints:
            checkpoints.save(0, {"params": params}, config, {})


def _read_folder(path, weights, heads):
    step = None
    if path.resolve().parent.name == "checkpoints" and path.name.isdigit():
        path, step = path.resolve().parent, int(path.name)
    with Checkpoints(path) as checkpoints:
        meta = checkpoints.meta(step)
        saved, digests = meta["config"], meta["digests"]
        config = ConfigDict({"model": saved["model"], "data": saved["data"]})
        torch_options.check_heads(config, heads)
        shardings = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        params = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=shardings),
            abstract_model(config.model.to_dict())[1],
        )
        if weights is not None and "training" not in digests:
            raise ConversionError(_ONE_SET.format(path=path, weights=weights))
        # A run with an average keeps the trained weights beside it, to go on from.
        averaged = any(name.startswith("params.") for name in digests.get("training", {}))
        if weights == "ema" and not averaged:
            raise ConversionError(
                f"weights=ema: the run of {path} kept no average (optim.ema_decay=0); its weights "
                "are those of weights=raw"
            )
        if weights == "raw" and averaged:
            targets = {"training": {"params": params}}
            read = checkpoints.restore(targets, step=step, partial=True)
            return config, read["training"]["params"]
        return config, checkpoints.restore({"params": params}, step=step)["params"]


def _write_frozen(source, target, kind, state) -> str:
    target = pathlib.Path(target)
    if target.suffix != ".safetensors":
        raise ConversionError(
            f"{source} is {frozen.NETWORKS[kind].what}, which is written as .safetensors only, "
            f"not as {target}"
        )
    state = frozen.public_state(kind, source, state)
    target.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    weight_files.write_safetensors(arrays, target, {"kind": kind})
    count = sum(array.size for array in arrays.values())
    return f"{target}: {frozen.NETWORKS[kind].what}, {count:,} parameters"


def _write_clip(source, target, state) -> str:
    """A CLIP under its own names, so that starting from it needs no PyTorch."""
    what = clip_layout.describe(state)
    target = pathlib.Path(target)
    if target.suffix != ".safetensors":
        raise ConversionError(
            f"{source} seems to be {what}, which is written as .safetensors only, not as {target}"
        )
    names = clip_layout.translate(state)
    unused = {name: why for name, (public, why) in names.items() if not public}
    target.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(state[name], order="C") for name in state}
    weight_files.write_safetensors(arrays, target, {"kind": "clip"})
    lines = [
        f"{target}: {what}, {sum(array.size for array in arrays.values()):,} parameters",
        f"{len(names) - len(unused)} of {len(names)} arrays have a place in UniTok; what fits a "
        f"configuration: python -m unitok_jax.initialize {target} --config=...",
    ]
    for why in sorted(set(unused.values())):
        chosen = [name for name in unused if unused[name] == why]
        lines += [f"not used: {name}: {why}" for name in collapse(subtrees(chosen, names))]
    return "\n".join(lines)


def convert(
    source: str,
    target: str,
    weights: str | None = None,
    format: str | None = None,
    **heads: int,
) -> str:
    """Converts a file or folder and returns a line that says what it is.

    Args:
      source: a UniTok (see `read`), or the file of a frozen network.
      target: what to write: see `write`; a .safetensors file for a frozen network.
      weights: 'ema' or 'raw': see `tokenizer.load`.
      format: 'hub' makes of `target` a folder for the Hugging Face hub: see `hub.write`.
      **heads: see `tokenizer.load`.

    Raises:
      ConversionError, FileNotFoundError, ImportError: as `read`, `write` and `frozen.load`.
    """
    if format not in (None, "hub"):
        raise ValueError(f"format={format!r} is not 'hub'")
    if source.startswith(hub.SCHEME) or pathlib.Path(source).is_dir() or weights:
        config, params = read(source, weights, **heads)
    else:
        args, state = frozen.read_files(source)
        kind, what = frozen.recognise(state)
        if format and (kind or clip_layout.is_clip(state)):
            raise ConversionError(f"{source} is no UniTok; --format={format} is for one")
        if kind:
            return _write_frozen(source, target, kind, state)
        if clip_layout.is_clip(state):
            return _write_clip(source, target, state)
        if what not in (frozen.UNITOK, frozen.UNKNOWN):
            raise ConversionError(
                f"{source} seems to be {what}; known: {frozen.UNITOK}, "
                + ", ".join(network.what for network in frozen.NETWORKS.values())
            )
        config, params = from_state(source, args, state, heads)
    (hub.write if format else write)(target, config, params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"{target}: {config.model.size}, {count:,} parameters"


def main() -> None:
    """`python -m unitok_jax.convert SRC DST`."""
    parser = commands.make_parser("convert", __doc__)
    parser.add_argument(
        "source",
        type=commands.place,
        help="folder, hf://owner/name, .pth, .pt, .ckpt, .bin or .safetensors; a.pth,b.pth joins "
        "files",
    )
    parser.add_argument(
        "target", type=commands.place, help="the same kinds; an existing file is replaced"
    )
    parser.add_argument("--format", choices=("hub",), help="a folder for the Hugging Face hub")
    commands.add_weights(parser)
    commands.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    options = {"weights": args.weights, "format": args.format, **commands.heads(args)}
    print(convert(args.source, args.target, **options))


if __name__ == "__main__":
    main()
