"""Converts weights between files: ours, and the public PyTorch layout as .pth or .safetensors.

`unitok convert SRC DST` reads and writes whichever kind the two paths are; `--format=hub` makes DST
a folder for the Hugging Face hub. A generator, of ours or of the release, is converted as a
tokenizer is; `--tokenizer=PATH` binds the tokenizer of its codes to it. So is a multimodal model,
whose files are folders; `--format=language` writes its language model alone, as transformers reads
it. The file of a frozen network (LPIPS, DINOv2, Inception) becomes a .safetensors, so that training
needs no PyTorch.
"""

import argparse
import os
import re

import jax
import numpy as np

from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.commands import arguments
from unitok_jax.generate import loading
from unitok_jax.multimodal import loading as multimodal
from unitok_jax.multimodal import trunk
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.paths import expand, printable
from unitok_jax.weights import clip_layout, files, hub, load, pretrained
from unitok_jax.weights.generator_layout import is_generator
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
    *,
    tokenizer: str | None = None,
    grid: tuple[int, int] | None = None,
    classes: int | None = None,
    text_tokenizer: str | None = None,
    **heads: int,
) -> str:
    """Converts a file or folder and returns lines that describe it.

    Args:
      source: a UniTok (see `load.read`), a generator (see `generate.loading.read`), a multimodal
        model (see `multimodal.loading.read`), or the file of a frozen network.
      target: what to write: see `load.write`; a .safetensors file for a frozen network.
        The path must not exist, or be an empty folder.
      weights: 'ema' or 'raw': see `tokenizer.load`.
      format: 'hub' makes of `target` a folder for the Hugging Face hub: see `hub.write`;
        'language' one of the language model of a multimodal model alone: see `trunk.write`.
      tokenizer: of a generator or a multimodal model, the path of the tokenizer of its codes.
      grid, classes: of a generator: see `generate.loading.read`; `grid` of a multimodal model too.
      text_tokenizer: of a multimodal model, a folder with the tokenizer of its text.
      **heads: see `tokenizer.load`; of `tokenizer` where that is given.

    Raises:
      ValueError, OSError, ImportError: as `load.read`, `load.write` and `pretrained.load`;
        the target exists.
    """
    if format not in (None, *FORMATS):
        raise ValueError(f"format={format!r} is not one of {', '.join(FORMATS)}")
    target = expand(target)
    _check_new(source, target)
    options = {
        "tokenizer": tokenizer,
        "grid": grid,
        "classes": classes,
        "text_tokenizer": text_tokenizer,
    }
    if load.is_folder(source):
        product = load.product(source)
        _check_unused(source, product, options, format)
        if product == "generator":
            found = loading.read(source, weights, grid=grid, classes=classes)
            return _write_generator(found, source, target, format, tokenizer, heads)
        if product == "multimodal":
            found = multimodal.read(source, weights, text=text_tokenizer, grid=grid)
            return _write_multimodal(found, source, target, format, tokenizer, heads)
        config, params = load.read(source, weights, **heads)
    else:
        content = pretrained.read_files(source, weights)
        product = "generator" if is_generator(content.args, content.state) else "tokenizer"
        _check_unused(source, product, options, format)
        if product == "generator":
            found = loading.from_content(source, content, grid=grid, classes=classes)
            return _write_generator(found, source, target, format, tokenizer, heads)
        kind, what = pretrained.recognise(content.state)
        if format and (kind or clip_layout.is_clip(content.state)):
            raise ConversionError(f"{source} is no UniTok; --format={format} is for one")
        if kind:
            return _write_frozen(source, target, kind, content.state)
        if clip_layout.is_clip(content.state):
            return _write_clip(source, target, content.state)
        if what not in (pretrained.UNITOK, pretrained.UNKNOWN):
            raise ConversionError(
                f"{source} seems to be {what}; known: {pretrained.UNITOK}, {pretrained.GENERATOR}, "
                + ", ".join(network.what for network in pretrained.NETWORKS.values())
            )
        config, params = load.from_state(source, content.args, content.state, heads)
    (hub.write if format else load.write)(target, config, params)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"{printable(target)}: {config.model.size}, {count:,} parameters"


FORMATS = ("hub", "language")
"""Formats that no path implies."""

# option -> products that it is of
_OF = {
    "tokenizer": ("generator", "multimodal"),
    "grid": ("generator", "multimodal"),
    "classes": ("generator",),
    "text_tokenizer": ("multimodal",),
}
_WORDS = {"generator": "a generator", "multimodal": "a multimodal model"}


def _check_unused(source, product, options, format):
    """Refuses options of another product."""
    for name, value in options.items():
        if value is not None and product not in _OF[name]:
            words = " or ".join(_WORDS[each] for each in _OF[name])
            raise ConversionError(f"--{name} is for {words}, which {source} is not: omit it")
    if format == "language" and product != "multimodal":
        raise ConversionError(
            f"--format=language is for a multimodal model, which {source} is not: omit it"
        )


def _write_multimodal(found, source, target, format, tokenizer, heads) -> str:
    if tokenizer is not None:
        found = multimodal.bind(found, *load.read(tokenizer, **heads), tokenizer)
    elif heads:
        raise ConversionError(f"--{next(iter(heads))} is of a tokenizer: omit it without one")
    lines = [f"{source}: {note}" for note in found.notes if not found.tokenizer_hash]
    params = found.params
    if format == "language":
        params, model = params["language"], found.config.model.to_dict()
        trunk.write(target, model, params, found.text, found.positions, "float32")
        lines = []
    else:
        (multimodal.write_hub if format else multimodal.write)(target, found)
    what = "its language model" if format == "language" else "a multimodal model"
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    lines = [f"{printable(target)}: {what}, {count:,} parameters", *lines]
    if found.tokenizer_hash and format != "language":
        lines.append(f"its codes are of the tokenizer {found.tokenizer_hash}")
    return "\n".join(lines)


def _write_generator(weights, source, target, format, tokenizer, heads) -> str:
    if tokenizer is not None:
        weights = _bind(weights, source, tokenizer, heads)
    elif heads:
        raise ConversionError(f"--{next(iter(heads))} is of a tokenizer: omit it for a generator")
    (loading.write_hub if format else loading.write)(target, weights)
    count = sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    lines = [f"{printable(target)}: a generator, {weights.config.model.size}, {count:,} parameters"]
    lines += [f"{source}: {note}" for note in weights.notes]
    if weights.tokenizer_hash:
        lines.append(f"its codes are of the tokenizer {weights.tokenizer_hash}")
    else:
        lines.append("its tokenizer is not known; --tokenizer=PATH binds one")
    return "\n".join(lines)


def _bind(weights, source, path, heads):
    """Binds a tokenizer to a generator; another than it has, or one of other codes, is refused."""
    config, params = load.read(path, **heads)
    for key in ("num_codebooks", "vocab_size"):
        if config.model[key] != weights.config.model[key]:
            raise ConversionError(
                f"--tokenizer={path} has model.{key}={config.model[key]}, and the generator "
                f"{source} {weights.config.model[key]}: its codes are of another"
            )
    hash = weights_hash(config.model.to_dict(), params)
    if weights.tokenizer_hash not in (None, hash):
        raise ConversionError(
            f"--tokenizer={path} has the hash {hash}, and {source} draws codes of the tokenizer "
            f"{weights.tokenizer_hash}"
        )
    return weights._replace(tokenizer_hash=hash)


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
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="hub: a folder for the Hugging Face hub; language: of a multimodal model, a folder of "
        "its language model for transformers",
    )
    arguments.add_weights(parser)
    parser.add_argument(
        "--tokenizer",
        type=arguments.place,
        help="of a generator or a multimodal model: the tokenizer of its codes",
    )
    parser.add_argument(
        "--grid",
        type=_grid,
        metavar="ROWS,COLUMNS",
        help="of such a model whose files do not tell it: its grid of tokens; default: 16,16",
    )
    parser.add_argument(
        "--classes", type=int, help="of a generator whose file does not tell it: without null class"
    )
    parser.add_argument(
        "--text_tokenizer",
        type=arguments.place,
        metavar="FOLDER",
        help="of a multimodal model without tokenizer.json: a folder that has it",
    )
    arguments.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    options = ("weights", "format", "tokenizer", "grid", "classes", "text_tokenizer")
    given = {name: getattr(args, name) for name in options}
    print(convert(args.source, args.target, **given, **arguments.heads(args)))


def _grid(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4}),(\d{1,4})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not ROWS,COLUMNS, such as 16,16")
    return int(match[1]), int(match[2])
