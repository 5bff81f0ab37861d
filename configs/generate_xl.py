"""Generator of classes, size XL: 36 blocks of width 1280, with the schedule of XXL."""

from configs import generate


def get_config():
    """Returns the configuration; `data.path` is to be set."""
    config = generate.get_config()
    config.model.size = "xl"
    return config
