"""The options of the public release and our configuration, both ways."""

from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from unitok_jax.models.vitamin import SIZES
from unitok_jax.weight_files import ConversionError

# The release's option name -> our key of `config`, and the values that are called otherwise.
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


def to_config(args: Mapping) -> ConfigDict:
    """Our configuration from the release's options; more of them are ignored."""
    missing = [name for name in _OPTIONS if name not in args]
    if missing:
        raise ConversionError(f"the options 'args' lack {', '.join(missing)}")
    size = str(args["model"]).removeprefix("vitamin_")
    if size not in SIZES or size == args["model"]:
        known = ", ".join(f"vitamin_{name}" for name in SIZES)
        raise ConversionError(f"args.model={args['model']!r} is not one of {known}")
    if args["quant_proj"] not in _QUANT_PROJ:
        raise ConversionError(f"args.quant_proj={args['quant_proj']!r} is not attn or linear")
    model = {
        "size": size,
        "dtype": "float32",
        "residual_dtype": "float32",
        "quantizer": "multi_codebook",  # the only kind of the release
        "quant_proj": _QUANT_PROJ[args["quant_proj"]],
        # The release derives the number of heads; no option of its own says it.
        "quant_heads": SIZES[size].width // args["vocab_width"],
        "remat": "none",
        "text": {},
    }
    for option, key in _OPTIONS.items():
        *parents, name = key.split(".")
        if parents == ["model", "text"]:
            model["text"][name] = args[option]
        elif parents == ["model"] and name not in model:
            model[name] = args[option]
    side = args["img_size"]
    size = tuple(side) if isinstance(side, list | tuple) else (side, side)
    return ConfigDict({"model": model, "data": {"image_size": size}})


def infer_config(state: Mapping[str, np.ndarray], heads: Mapping) -> ConfigDict:
    """Our configuration from shapes, and from `heads`, which no shape tells."""
    try:
        stem = state["encoder.patch_embed.backbone.stem.conv1.weight"].shape[0]
        width = state["encoder.norm.weight"].shape[0]
        text = state["text_encoder.token_embedding.weight"].shape
        context = state["text_encoder.positional_embedding"].shape[0]
        embed_dim = state["projection.weight"].shape[0]
        rows, chunk = state["quantizer.codebooks.0.codebook.weight"].shape
    except KeyError as error:
        raise ConversionError(
            f"not the state dict of a UniTok: there is no entry {error}; the file has "
            f"{', '.join(sorted(state)[:5])}, ..."
        ) from error
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
        "commitment_weight": 0.25,  # of the loss only
        "num_query": state.get("encoder.reg_token", np.empty((1, 0, 0))).shape[1],
        "drop_path": 0.1,  # of training only
        "embed_dim": embed_dim,
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


def check_heads(config, heads):
    """Heads that were given must be those that the weights were made with."""
    model = config.model
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
    """The release's options for a configuration; it must be one that the release can express."""
    model = config.model
    if model.quantizer != "multi_codebook":
        raise ConversionError(
            f"model.quantizer={model.quantizer!r}: the public layout holds multi_codebook models "
            "only; give a path without a suffix for a folder of ours"
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
