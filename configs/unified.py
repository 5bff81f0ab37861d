"""Smaller model that reads and draws shapes, for `make unified`, on `unified_tokenizer`'s codes."""

from ml_collections import ConfigDict

from configs import multimodal, multimodal_shapes, unified_tokenizer


def get_config() -> ConfigDict:
    """Returns the configuration: 1.1 million parameters, on words instead of a language model."""
    config = multimodal_shapes.get_config()
    config.steps = 5000
    model = config.model
    multimodal.set_codes(model, unified_tokenizer.get_config())
    model.width, model.depth, model.hidden = 128, 4, 344
    model.heads, model.groups, model.head_width = 4, 2, 32
    model.head_depth = 0  # draws better at this size: docs/explanation/results.md
    data = config.data
    folders = (f"unified/codes/{split}" for split in ("train", "held_out", "edits"))
    multimodal_shapes.set_mixtures(config, *folders)
    data.tokenizer = "unified/tokenizer"
    data.batch_size = 8  # rows, of three samples in the mean
    config.optim.kind = "muon"
    config.optim.learning_rate = 2e-3
    config.eval.every = 2000
    config.eval.max_rows = 64
    config.eval.shapes = 32
    config.log.every = 100
    return config
