"""LLaVA-1.5 on the features of a tokenizer: are they good for understanding?

Codes through the tokenizer's frozen `post_quant_proj` with full attention, an MLP, and a language
model that answers (arXiv 2502.20321, section 4, with the recipe of arXiv 2310.03744).
`--config=configs/llava_probe.py:align`, then `:finetune` with `init.path` naming the workdir of the
first; `align` begins from `init.language`, Vicuna 1.5 of 13 B as in the release's script (the paper
names no size). docs/guides/evaluate_answers.md names codes and data.
"""

from ml_collections import ConfigDict

from configs import default, multimodal

_ROW = 4  # conversations that a row of 2048 holds, about
_TOWER = ("image.projection.*", "head.*")
# Changes of each stage; one epoch each.
VARIANTS = {
    # 558 thousand captions as conversations, 256 at a time; the MLP alone.
    "align": {
        "steps": 558_000 // 256,
        "data.batch_size": 256 // _ROW,
        "optim.learning_rate": 1e-3,
        "optim.frozen": ("language.*", *_TOWER),
    },
    # 665 thousand conversations, 128 at a time; the MLP and the language model.
    "finetune": {
        "steps": 665_000 // 128,
        "data.batch_size": 128 // _ROW,
        "optim.learning_rate": 2e-5,
        "optim.frozen": _TOWER,
    },
}


def get_config(name: str = "") -> ConfigDict:
    """Returns the configuration of one stage.

    Raises:
      ValueError: unknown stage; the message lists all.
    """
    config = multimodal.get_config()
    model = config.model
    model.projection = "full"
    model.head_depth = 0  # nothing is drawn
    model.vocabulary = 32_000  # Llama 2's, of which <0x00> and <0x01> stand around images
    model.width, model.depth, model.hidden = 5120, 40, 13_824
    model.heads, model.groups, model.head_width = 40, 40, 128
    config.data.bare_images = True
    config.data.template = "vicuna"
    return default.variant(config, VARIANTS, name, "llava_probe")
