"""The whole recipe at the size of `tiny`, to see it run: every loss, both players, EMA.

LPIPS and DINOv2 are seeded stand-ins: the adversary and the perceptual loss work, but their figures
mean nothing against published ones. Give `frozen.lpips` and `frozen.dinov2` for real ones.
"""

from configs import tiny


def get_config():
    """As `tiny`, with what it leaves out."""
    config = tiny.get_config()
    config.loss.perceptual = 1.0
    config.gan.weight = 0.4
    config.frozen.lpips = "seeded"
    config.frozen.dinov2 = "seeded"
    config.optim.ema_decay = 0.99
    return config
