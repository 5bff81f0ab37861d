"""UniTok-B at 256 px on one GPU, `--config=configs/b16_gpu.py:24` or `:80` by its GB of memory."""

from configs import default

# More GPUs take proportionally fewer micro-batches.
VARIANTS = {"24": {"optim.accumulation": 64}, "80": {"optim.accumulation": 16}}


def get_config(name: str = ""):
    """Returns the base recipe with batches of 1024, 16 or 64 images at a time.

    `docs/guides/plan_a_pod.md` tells what such a step needs.

    Args:
      name: GB of memory of a GPU, one of `VARIANTS`.

    Raises:
      ValueError: unknown variant.
    """
    config = default.get_config()
    config.model.remat = "products"
    config.data.batch_size = 1024
    config.optim.learning_rate = 1.25e-4  # the recipe's, by the square root of the batch
    return default.variant(config, VARIANTS, name, "b16_gpu")
