"""Small model that reads and draws shapes, on codes of `configs/shapes.py`'s tokenizer.

`codes/unified` are those of `shapes:train`, `codes/unified_held_out` of `shapes:held_out`, whose
pairs of colour and form the training never joins, and `codes/unified_edits` of `shapes:edits`.
"""

from ml_collections import ConfigDict

from configs import multimodal, shapes

_KINDS = ((0.45, "draw"), (0.25, "caption"), (0.3, "questions"))


def get_config() -> ConfigDict:
    """Returns the configuration: three million parameters, on words instead of a language model."""
    config = multimodal.get_config()
    config.steps = 4000
    model = config.model
    multimodal.set_codes(model, shapes.get_config())
    model.vocabulary = 93  # words of shapes
    model.width, model.depth, model.hidden = 192, 4, 512
    model.heads, model.groups, model.head_width = 6, 3, 32
    model.head_depth = 2
    model.dtype = "float32"
    model.remat = "none"
    data = config.data
    set_mixtures(config, "codes/unified", "codes/unified_held_out", "codes/unified_edits")
    data.text = "shapes"
    data.template = "plain"  # the words of vicuna's system sentence are none of shapes
    data.tokenizer = "runs/shapes"
    data.length = 128
    data.questions = 6  # three of a picture in the mean: an answer is a word, its picture 18 places
    data.group_rows, data.group_samples = 8, 32
    data.batch_size = 16  # rows, of three samples in the mean
    data.num_threads = 2
    config.loss.chunk = 12  # most positions have no label, and pieces without any cost nothing
    optim = config.optim
    optim.learning_rate = 1e-3
    optim.betas = (0.9, 0.95)
    optim.weight_decay = 0.05
    optim.warmup_fraction = 0.05
    optim.accumulation = 1
    config.mesh.data, config.mesh.fsdp = -1, 1
    config.eval.every = 500
    config.eval.batch_size, config.eval.max_rows = 32, 128
    config.eval.shapes, config.eval.temperature = 64, 0.3
    return config


def set_mixtures(config: ConfigDict, train: str, held_out: str, edits: str) -> None:
    """Sets the mixtures of a training and of its evaluation, which has no edits.

    Args:
        config: the whole configuration.
        train, held_out, edits: folders of the codes of these splits of `shapes`.
    """
    mixture = tuple((weight, kind, train) for weight, kind in _KINDS)
    config.data.mixture = (*mixture, (0.1, "edit", edits))
    config.eval.mixture = tuple((weight, kind, held_out) for weight, kind in _KINDS)
