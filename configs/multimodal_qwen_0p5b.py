"""Model on Qwen2.5-0.5B, for one GPU of 80 GB; `data` is to be set."""

from ml_collections import ConfigDict

from configs import multimodal


def get_config() -> ConfigDict:
    """Returns the configuration; Qwen's <|vision_start|> and <|vision_end|> stand around images."""
    config = multimodal.get_config()
    config.steps = 20_000
    model = config.model
    model.vocabulary = 151_936
    model.width, model.depth, model.hidden = 896, 24, 4864
    model.heads, model.groups, model.head_width = 14, 2, 64
    model.epsilon, model.rope_base = 1e-6, 1_000_000.0
    model.qkv_bias, model.tied = True, True
    config.init.language = "hf://Qwen/Qwen2.5-0.5B"
    config.data.text = "hf://Qwen/Qwen2.5-0.5B"
    config.data.length = 1024
    config.data.group_samples = 16
    config.data.batch_size = 64
    config.mesh.data, config.mesh.fsdp = -1, 1
    return config
