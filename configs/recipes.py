"""Recipes beyond the paper, each by its name: `--config=configs/recipes.py:rotation`.

`docs/guides/recipes.md` says what each is for, what it costs and where it comes from.
"""

from ml_collections import ConfigDict

from configs import default

# Differences from configs/default.py. Each recipe changes only its own keys.
VARIANTS = {
    "rotation": {"codebook.gradient": "rotation"},
    # A chunk keeps its 8 values: more codebooks widen the latent.
    "books16": {
        "model.num_codebooks": 16,
        "model.vocab_size": 16 * 4096,
        "model.latent_width": 16 * 8,
        "model.quant_heads": 6,
    },
    "entries16384": {"model.vocab_size": 8 * 16_384},
    # AToken's discrete codes: 8 groups of 6 channels with 4 levels, 8 x 4096 codes
    "fsq_groups": {
        "model.quantizer": "fsq",
        "model.fsq_levels": (4,) * 6,
        "model.latent_width": 8 * 6,
        "model.quant_heads": 16,
    },
    "wrong_codes": {"codebook.wrong_share": 0.1},
    "quant_causal": {"model.quant_causal": True},
    "ema_codebooks": {"codebook.learning": "ema"},
}


def get_config(name: str = "") -> ConfigDict:
    """Returns the base recipe with the changes of one recipe.

    Raises:
      ValueError: unknown recipe; the message lists all.
    """
    return default.variant(default.get_config(), VARIANTS, name, "recipes")
