"""Recipes that the paper does not have, each by its name: `--config=configs/recipes.py:teacher`.

`docs/guides/recipes.md` has what each is for, its keys and what it costs.
"""

from ml_collections import ConfigDict

from configs import default

# Differences from configs/default.py; the files that they need are named by the user.
VARIANTS = {
    # The image's tokens predict those of SigLIP 2, which has one for each of them at 256 px.
    "teacher": {"teacher.kind": "siglip2_b16", "loss.teacher_token": 1.0},
    # The similarities of the batch follow those of a CLIP.
    "teacher_relation": {"teacher.kind": "clip_b16", "loss.teacher_relation": 1.0},
}


def get_config(name: str = "") -> ConfigDict:
    """Returns the base recipe with the changes of one variant.

    Raises:
      ValueError: unknown variant; the message lists all.
    """
    return default.variant(default.get_config(), VARIANTS, name, "recipes")
