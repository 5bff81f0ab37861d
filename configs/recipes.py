"""Recipes beyond the paper, each by its name: `--config=configs/recipes.py:gram`.

`docs/guides/recipes.md` tells what each is for, what it costs and where it comes from.
"""

from ml_collections import ConfigDict

from configs import default

_RECONSTRUCTION = 0.2  # AToken's factor of all losses of the reconstruction

# Differences from configs/default.py.
VARIANTS = {
    # The ablation of arXiv 2412.02632: an adversarial loss of one weight from the first step on.
    "gan_constant": {
        "gan.weight": 0.1,
        "gan.adaptive": False,
        "gan.start_fraction": 0.0,
        "gan.ramp_fraction": 0.0,
        "gan.generator_loss": "non_saturating",
        "gan.betas": (0.9, 0.99),
        "gan.weight_decay": 0.05,
        "gan.clip_norm": 2.0,
        "optim.schedule": "constant",
        "optim.betas": (0.9, 0.99),
        "optim.weight_decay": 0.05,
        "optim.clip_norm": 2.0,
        # Its figures are the average's, which takes the place of a decay.
        "optim.ema_decay": 0.999,
    },
    # The losses of arXiv 2509.14476, without a discriminator.
    "gram": {
        "loss.l1": 1.0 * _RECONSTRUCTION,
        "loss.l2": 0.0,
        "loss.perceptual": 10.0 * _RECONSTRUCTION,
        "loss.gram": 1e3 * _RECONSTRUCTION,
        "gan.weight": 0.0,
        "optim.ema_decay": 0.9999,
    },
}


def get_config(name: str = "") -> ConfigDict:
    """Returns the base recipe with the changes of one variant.

    Raises:
      ValueError: unknown variant; the message lists all.
    """
    return default.variant(default.get_config(), VARIANTS, name, "recipes")
