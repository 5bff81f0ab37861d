"""Recipes beyond the paper, each by its name: `--config=configs/recipes.py:curriculum`.

`docs/guides/recipes.md` says what each is for, what it costs and where it comes from.
"""

from ml_collections import ConfigDict

from configs import default

# Differences from configs/default.py.
VARIANTS = {
    "curriculum": {"data.size_schedule": ((0.0, 128), (0.85, 256))},
    "sigmoid": {"loss.contrastive_kind": "sigmoid"},
}


def get_config(name: str = "") -> ConfigDict:
    """Returns the base recipe with the changes of one variant.

    Raises:
      ValueError: unknown variant; the message lists all.
    """
    return default.variant(default.get_config(), VARIANTS, name, "recipes")
