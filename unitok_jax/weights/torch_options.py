"""Converts the options of the public release to a configuration, and back."""

from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from unitok_jax.checkpoints import differences
from unitok_jax.data.images.transforms import check_size
from unitok_jax.models import limits
from unitok_jax.models.vitamin import SIZES
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.paths import printable

# The release's option name -> key of `config`, and the values with other names.
_OPTIONS = {
    "model": "model.size",
    "img_size": "data.image_size",
    "vocab_size": "model.vocab_size",
    "vocab_width": "model.latent_width",
    "num_codebooks": "model.num_codebooks",
    "quant_proj": "model.quant_proj",
    "embed_dim": "model.embed_dim",
    "num_query": "model.num_query",
    "drop_path": "model.drop_path",
    "vq_beta": "model.commitment_weight",
    "text_width": "model.text.width",
    "text_heads": "model.text.heads",
    "text_layers": "model.text.layers",
    "text_vocab_size": "model.text.vocab_size",
    "text_context_length": "model.text.context_length",
}
_QUANT_PROJ = {"attn": "attention", "linear": "linear"}
HEADS = ("heads", "quant_heads", "text_heads")
WEIGHTS = ("ema", "raw")  # weights of a run: the average, and the trained ones


def to_config(args: Mapping) -> ConfigDict:
    """Converts the release's options to a configuration; other options are ignored.

    Raises:
      ValueError: an option is missing, or its value is not allowed; the message names both.
    """
    missing = [name for name in _OPTIONS if name not in args]
    if missing:
        raise ConversionError(f"the options 'args' lack {', '.join(missing)}")
    size = _choice(args, "model", {f"vitamin_{name}": name for name in SIZES})
    quant_proj = _choice(args, "quant_proj", _QUANT_PROJ)
    names = {key.removeprefix("model."): f"args.{option}" for option, key in _OPTIONS.items()}
    limits.check_one("latent_width", args["vocab_width"], names["latent_width"])
    # The release derives the number of heads, which has no option.
    heads = SIZES[size].width // args["vocab_width"]
    model = {
        "size": size,
        "dtype": "float32",
        "residual_dtype": "float32",
        "quantizer": "multi_codebook",  # the only kind of the release
        "contrastive_kind": "softmax",  # and of this
        "quant_proj": quant_proj,
        "quant_heads": heads if quant_proj == "attention" else max(heads, 1),
        "remat": "none",
        "text": {},
    }
    for option, key in _OPTIONS.items():
        *parents, name = key.split(".")
        if parents == ["model", "text"]:
            model["text"][name] = args[option]
        elif parents == ["model"] and name not in model:
            model[name] = args[option]
    limits.check(model, names | {"quant_heads": f"{SIZES[size].width} / args.vocab_width"})
    side = args["img_size"]
    sides = tuple(side) if isinstance(side, list | tuple) else (side, side)
    return ConfigDict({"model": model, "data": {"image_size": image_size(sides, "args.img_size")}})


def image_size(sides, name: str):
    """Checks an image size (height, width) and returns it unchanged.

    Args:
      sides: value to check, from a file.
      name: name of the value in messages.

    Raises:
      ConversionError: `sides` is not two integers.
      ValueError: a side is not a multiple of 16, or too large.
    """
    whole = isinstance(sides, list | tuple) and len(sides) == 2
    if not whole or not all(type(side) is int for side in sides):
        raise ConversionError(f"{name}={limits.show(sides)} must be [height, width], two integers")
    check_size(sides, key=name)
    return sides


def _choice(args, option, choices):
    value = args[option]
    if not isinstance(value, str) or value not in choices:
        raise ConversionError(
            f"args.{option}={limits.show(value)} is not one of {', '.join(choices)}"
        )
    return choices[value]


def infer_config(state: Mapping[str, np.ndarray], heads: Mapping) -> ConfigDict:
    """Infers a configuration from shapes, and from `heads`, which shapes do not determine."""
    stem = shape_of(state, "encoder.patch_embed.backbone.stem.conv1.weight", 4)[0]
    width = shape_of(state, "encoder.norm.weight", 1)[0]
    text = shape_of(state, "text_encoder.token_embedding.weight", 2)
    context = shape_of(state, "text_encoder.positional_embedding", 2)[0]
    embed_dim = shape_of(state, "projection.weight", 2)[0]
    rows, chunk = shape_of(state, "quantizer.codebooks.0.codebook.weight", 2)
    query = "encoder.reg_token"
    num_query = shape_of(state, query, 3)[1] if query in state else 0
    blocks, layers, books = (
        len({name.split(".")[prefix.count(".")] for name in state if name.startswith(prefix)})
        for prefix in (
            "encoder.blocks.",
            "text_encoder.transformer.resblocks.",
            "quantizer.codebooks.",
        )
    )
    rows_of_table = {(s.stem, s.width, s.blocks): name for name, s in SIZES.items()}
    if (stem, width, blocks) not in rows_of_table:
        raise ConversionError(
            f"stem width {stem}, trunk width {width} and {blocks} blocks are no known size; known "
            f"(stem, width, blocks): {rows_of_table}"
        )
    linear = "quant_proj.weight" in state
    needed = [name for name in HEADS if not (linear and name == "quant_heads")]
    missing = [name for name in needed if name not in heads]
    if missing:
        raise ConversionError(
            "the file carries no configuration, and no shape tells "
            f"{', '.join(missing)}; give {' '.join(f'--{name}=N' for name in missing)} "
            f"(in Python {', '.join(f'{name}=N' for name in missing)})"
        )
    size = rows_of_table[stem, width, blocks]
    model = {
        "size": size,
        "dtype": "float32",
        "residual_dtype": "float32",
        "quantizer": "multi_codebook",
        "vocab_size": books * rows,
        "num_codebooks": books,
        "latent_width": books * chunk,
        "quant_proj": "linear" if linear else "attention",
        "quant_heads": heads.get("quant_heads", 1),
        "commitment_weight": 0.25,  # used by the loss only
        "num_query": num_query,
        "drop_path": 0.1,  # used in training only
        "embed_dim": embed_dim,
        "contrastive_kind": "softmax",
        "text": {
            "width": text[1],
            "heads": heads["text_heads"],
            "layers": layers,
            "vocab_size": text[0],
            "context_length": context,
        },
        "remat": "none",
    }
    return ConfigDict({"model": model, "data": {"image_size": (256, 256)}})


def shape_of(state, name: str, axes: int, network: str = "a UniTok") -> tuple[int, ...]:
    """Returns the shape of an entry of a state dict.

    Raises:
      ConversionError: there is none, or it has another number of axes: not the state of `network`.
    """
    if name not in state:
        raise ConversionError(
            f"not the state dict of {network}: there is no entry {name!r}; the file has "
            f"{', '.join(map(printable, sorted(state)[:5]))}, ..."
        )
    shape = state[name].shape
    if len(shape) != axes:
        raise ConversionError(f"{name} has the shape {shape}, not one of {axes} axes")
    return shape


def check_heads(model, heads):
    """Checks that the given heads are equal to those of the weights' `config.model`."""
    carried = {
        "heads": SIZES[model.size].heads,
        "quant_heads": model.quant_heads,
        "text_heads": model.text.heads,
    }
    for name, value in heads.items():
        if value != carried[name]:
            raise ConversionError(
                f"{name}={value} was given, but these weights (size {model.size}) have "
                f"{name}={carried[name]}"
            )


def from_config(config: ConfigDict) -> dict:
    """Converts a configuration that the release can express to the release's options."""
    model = config.model
    if model.quantizer != "multi_codebook":
        raise ConversionError(
            f"model.quantizer={model.quantizer!r}: the public layout holds multi_codebook models "
            "only; give a path without a suffix for a folder of ours"
        )
    if differences.value(config, "model.quant_causal"):
        raise ConversionError(
            "model.quant_causal=True: the public layout has no place for it, its readers mask "
            "nothing; give a path without a suffix for a folder of ours"
        )
    kind = differences.value(config, "model.contrastive_kind")
    if kind != "softmax":
        raise ConversionError(
            f"model.contrastive_kind={kind!r}: the public layout has no place for its logit_bias; "
            "give a path without a suffix for a folder of ours"
        )
    expected = SIZES[model.size].width // model.latent_width
    if model.quant_proj == "attention" and model.quant_heads != expected:
        raise ConversionError(
            f"model.quant_heads={model.quant_heads}: the public layout has no place for it, its "
            f"readers use trunk width / latent width = {expected}"
        )
    args = {}
    for option, key in _OPTIONS.items():
        value = config
        for name in key.split("."):
            value = value[name]
        args[option] = value
    args["model"] = f"vitamin_{model.size}"
    args["quant_proj"] = {ours: theirs for theirs, ours in _QUANT_PROJ.items()}[model.quant_proj]
    height, width = config.data.image_size
    args["img_size"] = height if height == width else [height, width]
    return args
