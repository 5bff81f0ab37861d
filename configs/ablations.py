"""Ablations of the paper, each by its name: `--config=configs/ablations.py:books4`.

`docs/explanation/ablations.md` has the purpose of each ablation and the paper's figures.
"""

from ml_collections import ConfigDict

from configs import default
from unitok_jax.tokenizer.losses import PIXEL_TERMS

_WIDTH = 768  # width of the base trunk


def _latent(width: int) -> dict[str, int]:
    """Returns the keys of a latent of `width` with its projection heads."""
    return {"model.latent_width": width, "model.quant_heads": _WIDTH // width}


def _books(count: int) -> dict[str, int]:
    # A chunk keeps its 8 values: more codebooks widen the latent, which is the paper's point.
    size = {"model.vocab_size": 16_384, "model.num_codebooks": count}
    return size | _latent(8 * count)


# Differences from configs/default.py. Each variant changes only the compared keys.
VARIANTS = {
    "books1": _books(1),
    "books2": _books(2),
    "books4": _books(4),
    "books8": _books(8),
    "attention": {"model.quant_proj": "attention"},
    "linear": {"model.quant_proj": "linear"},
    "both": {},
    "reconstruction": {"loss.contrastive": 0.0},
    # The VQ loss stays: it belongs to no task, and no other loss trains the codebooks.
    "contrastive": {
        **{f"loss.{name}": 0.0 for name in PIXEL_TERMS},
        "gan.weight": 0.0,
        "checkpoint.best_metric": "eval/image_to_text",
    },
    # CLIP initialisation, against none in `both`; init.path names the file.
    "clip": {"init.include": ("encoder.*", "text_encoder.*", "logit_scale")},
    "multi_codebook": {"model.quantizer": "multi_codebook"},
    "residual": {"model.quantizer": "residual"},
    # 4096 codes per chunk as 8 x 8 x 8 x 8 levels
    "fsq": {"model.quantizer": "fsq"} | _latent(8 * 4),
    # 4096 codes per chunk as 12 bits; BSQ is designed for an entropy loss
    "bsq": {"model.quantizer": "bsq", "loss.entropy": 0.1} | _latent(8 * 12),
}


def get_config(name: str = "") -> ConfigDict:
    """Returns the base recipe with the changes of one variant.

    Raises:
      ValueError: unknown variant; the message lists all.
    """
    return default.variant(default.get_config(), VARIANTS, name, "ablations")
