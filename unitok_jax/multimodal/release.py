"""Multimodal model of UniTok's release: a configuration inferred from its folder."""

from collections.abc import Mapping
from typing import Any

from unitok_jax.weights.llama_options import Options
from unitok_jax.weights.torch_options import shape_of

_GRID = (16, 16)  # of an image of 256 pixels
_IMAGE = "model.multi_embedder"


def infer(
    state: Mapping[str, Any], options: Options, dtype: str, grid: tuple[int, int] | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Infers a model from shapes and config.json.

    Args:
      state: name -> array, of `llama_layout`.
      options: of config.json.
      dtype: compute dtype.
      grid: rows and columns of visual tokens, which nothing tells; 16 x 16 if not given.

    Returns:
      The keyword arguments of `Multimodal`, and notes on what was assumed, a line each.

    Raises:
      ConversionError: an entry is missing.
    """
    entries, chunk = _shape(state, f"{_IMAGE}.quantizer.codebooks.0.codebook.weight")
    books = _count(state, f"{_IMAGE}.quantizer.codebooks.")
    latent, projection = books * chunk, f"{_IMAGE}.attn_projection"
    causal = f"{projection}.weight" not in state
    width = _shape(state, f"{projection}.proj.weight" if causal else f"{projection}.weight")[0]
    note = f"nothing tells the grid of tokens: {_GRID} is assumed; --grid=ROWS,COLUMNS sets it"
    return {
        **options.trunk,
        "num_codebooks": books,
        "vocab_size": books * entries,
        "latent_width": latent,
        "grid": tuple(grid or _GRID),
        "projection": "causal" if causal else "linear",
        "projection_width": width,
        "projection_heads": max(width // latent, 1),
        "head_depth": _count(state, "ar_head.layers."),
        "depth_head_width": 0,
        "remat": "none",
        "dtype": dtype,
    }, () if grid else (note,)


def is_buildable(model: Mapping[str, Any]) -> bool:
    """Returns True for a model that the release's code can build."""
    return (
        model["projection"] == "causal"
        and model["projection_heads"] * model["latent_width"] == model["projection_width"]
        and model["head_depth"] > 0
        and model["depth_head_width"] in (0, model["width"])
        and model["num_codebooks"] > 1
        and model["heads"] * model["head_width"] == model["width"]
        and model["rope_scaling"]["factor"] == 1
        and not (model["tied"] or model["qkv_bias"] or model["qk_norm"])
    )


def _shape(state, name):
    return shape_of(state, name, 2, "a multimodal model")


def _count(state, prefix):
    place = prefix.count(".")
    return len({name.split(".")[place] for name in state if name.startswith(prefix)})
