"""Whole recipe at the size of `tiny`, for a trial run: every loss, both players, EMA.

LPIPS and DINOv2 are seeded stand-ins: the adversary and the perceptual loss work, but their values
are not comparable with published ones. Set `frozen.lpips` and `frozen.dinov2` for real weights.
"""

from configs import tiny


def get_config():
    """Returns `tiny` with the losses that `tiny` leaves out."""
    config = tiny.get_config()
    config.loss.perceptual = 1.0
    config.gan.weight = 0.4
    config.frozen.lpips = "seeded"
    config.frozen.dinov2 = "seeded"
    config.optim.ema_decay = 0.99
    return config
