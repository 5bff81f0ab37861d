"""Generator of classes, size L: 24 blocks of width 1024, with the schedule of XXL."""

from configs import generate


def get_config():
    """Returns the configuration; `data.path` is to be set."""
    config = generate.get_config()
    config.model.size = "l"
    return config
