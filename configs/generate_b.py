"""Generator of classes, size B: 12 blocks of width 768, with the schedule of XXL."""

from configs import generate


def get_config():
    """Returns the configuration; `data.path` is to be set."""
    config = generate.get_config()
    config.model.size = "b"
    return config
