"""Converts weights between files: ours, and the public PyTorch layout as .pth or .safetensors.

`unitok convert SRC DST` reads and writes whichever kind the two paths are; `--format=hub` makes DST
a folder for the Hugging Face hub. The file of a frozen network (LPIPS, DINOv2, Inception) becomes a
.safetensors, so that training needs no PyTorch.
"""

import argparse
import os

import jax
import numpy as np

from unitok_jax.commands import arguments
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.paths import expand, printable
from unitok_jax.weights import clip_layout, files, hub, load, pretrained
from unitok_jax.weights.report import collapse, subtrees


def _write_frozen(source, target, kind, state) -> str:
    if target.suffix != ".safetensors":
        raise ConversionError(
            f"{source} is {pretrained.NETWORKS[kind].what}, which is written as .safetensors only, "
            f"not as {target}"
        )
    state = pretrained.public_state(kind, source, state)
    arrays = {name: np.asarray(array, order="C") for name, array in state.items()}
    files.write_safetensors(arrays, target, {"kind": kind})
    count = sum(array.size for array in arrays.values())
    return f"{printable(target)}: {pretrained.NETWORKS[kind].what}, {count:,} parameters"


def _write_clip(source, target, state) -> str:
    """Writes a CLIP under its own parameter names, so that starting from it needs no PyTorch."""
    what = clip_layout.describe(state)
    if target.suffix != ".safetensors":
        raise ConversionError(
            f"{source} seems to be {what}, which is written as .safetensors only, not as {target}"
        )
    names = clip_layout.translate(state)
    unused = {name: why for name, (public, why) in names.items() if not public}
    arrays = {name: np.asarray(state[name], order="C") for name in state}
    files.write_safetensors(arrays, target, {"kind": "clip"})
    lines = [
        f"{printable(target)}: {what}, {sum(array.size for array in arrays.values()):,} parameters",
        f"{len(names) - len(unused)} of {len(names)} arrays have a place in UniTok; what fits a "
        f"configuration: unitok inspect {target} --config=...",
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
    """Converts a file or folder and returns a line that describes it.

    Args:
      source: a UniTok (see `loading.read`), or the file of a frozen network.
      target: what to write: see `loading.write`; a .safetensors file for a frozen network.
        The path must not exist, or be an empty folder.
      weights: 'ema' or 'raw': see `tokenizer.load`.
      format: 'hub' makes of `target` a folder for the Hugging Face hub: see `hub.write`.
      **heads: see `tokenizer.load`.

    Raises:
      ValueError, OSError, ImportError: as `loading.read`, `loading.write` and `frozen.load`;
        the target exists.
    """
    if format not in (None, "hub"):
        raise ValueError(f"format={format!r} is not 'hub'")
    target = expand(target)
    _check_new(source, target)
    if source.startswith(hub.SCHEME) or expand(source).is_dir() or weights:
        config, params = load.read(source, weights, **heads)
    else:
        args, state = pretrained.read_files(source)
        kind, what = pretrained.recognise(state)
        if format and (kind or clip_layout.is_clip(state)):
            raise ConversionError(f"{source} is no UniTok; --format={format} is for one")
        if kind:
            return _write_frozen(source, target, kind, state)
        if clip_layout.is_clip(state):
            return _write_clip(source, target, state)
        if what not in (pretrained.UNITOK, pretrained.UNKNOWN):
            raise ConversionError(
                f"{source} seems to be {what}; known: {pretrained.UNITOK}, "
                + ", ".join(network.what for network in pretrained.NETWORKS.values())
            )
        config, params = load.from_state(source, args, state, heads)
    (hub.write if format else load.write)(target, config, params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"{printable(target)}: {config.model.size}, {count:,} parameters"


def _check_new(source, target):
    """Refuses to overwrite an existing target, before the work."""
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if target.exists() and expand(source).exists() and os.path.samefile(expand(source), target):
        raise ConversionError(f"{printable(target)} is what is read; give another path to write")
    what = "not empty" if target.is_dir() else "a file"
    raise ConversionError(
        f"{printable(target)} is there and {what}, and is not written over; give a new path, or "
        "remove it first"
    )


def main() -> None:
    """Runs `unitok convert SRC DST`."""
    parser = arguments.make_parser("convert", __doc__)
    parser.add_argument(
        "source",
        type=arguments.place,
        help="folder, hf://owner/name, .pth, .pt, .ckpt, .bin or .safetensors; a.pth,b.pth joins "
        "files",
    )
    parser.add_argument(
        "target",
        type=arguments.place,
        help="the same kinds; nothing that is there is written over",
    )
    parser.add_argument("--format", choices=("hub",), help="a folder for the Hugging Face hub")
    arguments.add_weights(parser)
    arguments.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    options = {"weights": args.weights, "format": args.format, **arguments.heads(args)}
    print(convert(args.source, args.target, **options))
