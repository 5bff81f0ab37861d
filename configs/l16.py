"""UniTok-L at 256 px, the size of the released weights."""

from configs import default


def get_config():
    """Returns the base recipe with ViTamin-L trunks, for 256 chips of 16 GiB.

    `docs/guides/plan_a_pod.md` tells what such a step needs.
    """
    config = default.get_config()
    config.model.size = "large"
    config.model.quant_heads = 16
    config.model.remat = "everything"
    config.optim.accumulation = 4
    config.mesh.data, config.mesh.fsdp = 1, -1  # state sharded over all devices
    return config
