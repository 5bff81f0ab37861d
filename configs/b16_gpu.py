"""UniTok-B at 256 px on one GPU, `--config=configs/b16_gpu.py:24` or `:80` by its GB of memory."""

from configs import default

# Differences by GB of memory. Learning rates are the recipe's, by the square root of the batch.
VARIANTS = {
    "24": {"data.batch_size": 256, "optim.learning_rate": 6.25e-5},
    "80": {"data.batch_size": 1024, "optim.learning_rate": 1.25e-4},
}


def get_config(name: str = ""):
    """Returns the base recipe with 16 or 64 images at a time; fewer micro-batches for more GPUs.

    `docs/guides/plan_a_pod.md` tells what such a step needs.

    Args:
      name: GB of memory of a GPU, one of `VARIANTS`.

    Raises:
      ValueError: unknown variant.
    """
    config = default.get_config()
    config.model.remat = "products"
    config.optim.accumulation = 16
    return default.variant(config, VARIANTS, name, "b16_gpu")
