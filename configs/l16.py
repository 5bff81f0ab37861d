"""UniTok-L at 256 px, the size of the released weights."""

from configs import default


def get_config():
    """ViTamin-L trunks; everything else as for base."""
    config = default.get_config()
    config.model.size = "large"
    config.model.quant_heads = 16
    return config
