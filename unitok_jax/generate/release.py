"""Options of the generators of UniTok's release: a model inferred from a checkpoint, and back."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from unitok_jax.generate.model import SIZES
from unitok_jax.models.limits import show
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.weights.torch_options import shape_of

_IMAGENET = 1000  # rows of its table are classes alone, as published, or one more with a null class
_GRID = (16, 16)  # of an image of 256 pixels
_FEATURES = "those of the release"  # T5's, of its generators of texts


class Inferred(NamedTuple):
    """Model of a checkpoint of the release."""

    model: dict[str, Any]  # the keyword arguments of `Generator`
    tokenizer_hash: str | None  # in a file that this package wrote
    notes: tuple[str, ...]  # what the checkpoint lacks, a line each
    stored_features: str | None  # of texts, if they are stored ones: T5's, or as this package wrote


def infer(
    state: Mapping[str, np.ndarray],
    args: Mapping | None,
    *,
    grid: tuple[int, int] | None = None,
    classes: int | None = None,
) -> Inferred:
    """Infers a model from shapes and options.

    Args:
      state: name -> array, of `generator_layout`.
      args: the options of the training script or the model, if the file has them.
      grid: rows and columns of tokens, which no shape tells.
      classes: number of classes, without the null class, which no shape tells apart.

    Raises:
      ConversionError: an entry is missing, or sizes are of no known model.
    """
    args = args or {}
    if "tok_embeddings.weight" in state:
        raise ConversionError(
            "a generator on one codebook without a depth head (tok_embeddings.weight), as "
            "LlamaGen's own are; those of UniTok have a table for each codebook"
        )
    entries, width = _shape(state, "tok_embeddings.codebooks.0.weight", 2)
    books = _count(state, "tok_embeddings.codebooks.")
    depth, head_depth = _count(state, "layers."), _count(state, "output.layers.")
    grid, notes = _grid(args, grid)
    model = {
        "size": _size(width, depth, args),
        "num_codebooks": books,
        "vocab_size": books * entries,
        "grid": grid,
        "prompt": "class",
        "prompt_rope": "zero",
        "classes": args.get("num_classes", _IMAGENET),
        "null_class": True,
        "text_tokens": 77,
        "text_features": 768,
        "head_depth": head_depth,
        "head_width": 0,
        # used in training only
        "dropout": args.get("token_dropout_p", 0.1),
        "drop_path": args.get("drop_path_rate", 0.0),
        "remat": "none",
        "dtype": "float32",
    }
    if "cls_embedding.uncond_embedding" in state:
        tokens, features = _shape(state, "cls_embedding.uncond_embedding", 2)
        model |= {"prompt": "text", "text_tokens": tokens, "text_features": features}
    else:
        count, null = _classes(state, args, classes)
        model |= {"classes": count, "null_class": null}
        if not null:
            notes += (
                f"it has {count} rows for {count} classes: no null class, so that guidance is "
                "refused (model.null_class=False)",
            )
    notes += ("it has no rotary positions: they are computed (model.prompt_rope=zero)",)
    written = args.get("tokenizer"), args.get("stored_features", _FEATURES)
    tokenizer, features = (value if isinstance(value, str) else None for value in written)
    return Inferred(model, tokenizer, notes, features if model["prompt"] == "text" else None)


def _size(width, depth, args):
    sizes = {(size.width, size.depth): name for name, size in SIZES.items()}
    if (width, depth) not in sizes:
        known = ", ".join(f"{name} {size.width} x {size.depth}" for name, size in SIZES.items())
        raise ConversionError(f"width {width} and {depth} blocks are no known size; known: {known}")
    name = sizes[width, depth]
    if args.get("n_head", SIZES[name].heads) != SIZES[name].heads:
        raise ConversionError(
            f"args.n_head={show(args['n_head'])}: generators of width {width} have "
            f"{SIZES[name].heads} heads (model.size={name!r})"
        )
    return name


def _grid(args, given):
    """Returns the grid, and a note if nothing tells it."""
    side = None
    if "block_size" in args:
        tokens = args["block_size"]
        if not isinstance(tokens, int) or tokens < 1 or math.isqrt(tokens) ** 2 != tokens:
            raise ConversionError(f"args.block_size={show(tokens)} is no square of a whole number")
        side = math.isqrt(tokens)
    elif "image_size" in args and "downsample_size" in args:
        pixels, stride = args["image_size"], args["downsample_size"]
        if not all(isinstance(n, int) and n > 0 for n in (pixels, stride)) or pixels % stride:
            raise ConversionError(
                f"args.image_size={show(pixels)} is no multiple of "
                f"args.downsample_size={show(stride)}"
            )
        side = pixels // stride
    if side and given and tuple(given) != (side, side):
        raise ConversionError(f"grid={given} was given, but the file tells ({side}, {side})")
    if side or given:
        return tuple(given or (side, side)), ()
    note = f"no array tells the grid of tokens: {_GRID} is assumed; unitok convert --grid sets it"
    return _GRID, (note,)


def _classes(state, args, given):
    """Returns the number of classes, and whether the table has a null class behind them."""
    rows, _ = _shape(state, "cls_embedding.embedding_table.weight", 2)
    told = args.get("num_classes")
    if told is not None and given is not None and told != given:
        raise ConversionError(f"classes={given} was given, but the file tells {show(told)}")
    count = given if told is None else told
    if count is None and rows - _IMAGENET in (0, 1):
        count = _IMAGENET
    if count is None:
        raise ConversionError(
            f"the table has {rows} rows, and nothing tells if the last is the null class: give "
            f"--classes={rows - 1} if it is, --classes={rows} if not"
        )
    if count not in (rows, rows - 1) or count < 1:
        raise ConversionError(
            f"classes={show(count)} does not fit the table of {rows} rows: a row for each class, "
            "and perhaps one for the null class"
        )
    return count, count == rows - 1


def _count(state, prefix):
    place = prefix.count(".")
    return len({name.split(".")[place] for name in state if name.startswith(prefix)})


def _shape(state, name, axes):
    return shape_of(state, name, axes, "a generator")


def to_args(
    model: Mapping[str, Any], tokenizer_hash: str | None, stored_features: str | None = _FEATURES
) -> dict[str, Any]:
    """Returns the options by which the release's code builds a model, and what it belongs to.

    Args:
      model: the keyword arguments of `Generator`.
      tokenizer_hash, stored_features: as of `loading.Weights`; the release's files have neither.

    Raises:
      ConversionError: the release cannot build it; the message names the key.
    """
    size, (rows, columns) = SIZES[model["size"]], model["grid"]
    impossible = {
        "num_codebooks": model["num_codebooks"] == 1,
        "head_depth": model["head_depth"] == 0,
        "head_width": model["head_width"] not in (0, size.width),
        "prompt_rope": model["prompt_rope"] != "zero",
        "grid": rows != columns,
    }
    for key, found in impossible.items():
        if found:
            raise ConversionError(
                f"model.{key}={model[key]!r}: the release's code builds no such generator; give a "
                ".safetensors file, or a path without a suffix for a folder of ours"
            )
    args = {
        "dim": size.width,
        "n_layer": size.depth,
        "n_head": size.heads,
        "n_output_layer": model["head_depth"],
        "vocab_size": model["vocab_size"],
        "num_codebooks": model["num_codebooks"],
        "num_classes": model["classes"],
        "block_size": rows * columns,
        # Above 0 it stands for a null class.
        "class_dropout_prob": 0.1 if model["null_class"] else 0.0,
        "token_dropout_p": model["dropout"],
        "attn_dropout_p": 0.0,
        "resid_dropout_p": model["dropout"],
        "ffn_dropout_p": model["dropout"],
        "drop_path_rate": model["drop_path"],
        "model_type": "c2i",
        "cls_token_num": 1,
    }
    if model["prompt"] == "text":
        text = {"cls_token_num": model["text_tokens"], "caption_dim": model["text_features"]}
        args |= {"model_type": "t2i", **text}
        args |= {"stored_features": stored_features} if stored_features != _FEATURES else {}
    return args | ({"tokenizer": tokenizer_hash} if tokenizer_hash else {})
