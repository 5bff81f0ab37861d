"""Generator of classes, size XXL: 48 blocks of width 1536, as the published one.

The published recipe drops no labels, and cannot be guided: `--config.loss.drop_prompt=0.0
--config.model.null_class=False` is that.
"""

from configs import generate


def get_config():
    """Returns the configuration; `data.path` is to be set."""
    config = generate.get_config()
    config.model.size = "xxl"
    return config
