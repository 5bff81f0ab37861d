"""UniTok-L at 256 px on eight GPUs of 80 GB; on one, with `--config.optim.accumulation=32`."""

from configs import default


def get_config():
    """Returns the base recipe with ViTamin-L trunks, 32 images a GPU at a time.

    `docs/guides/plan_a_pod.md` tells what such a step needs.
    """
    config = default.get_config()
    config.model.size = "large"
    config.model.quant_heads = 16
    config.model.remat = "products"
    config.data.batch_size = 1024
    config.optim.accumulation = 4
    config.optim.learning_rate = 1.25e-4  # the recipe's, by the square root of the batch
    return config
