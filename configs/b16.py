"""UniTok-B at 256 px, the published recipe: set `data.path`, or `data.source=photos` to try it."""

from configs import default


def get_config():
    """Returns the defaults, which are this recipe."""
    return default.get_config()
