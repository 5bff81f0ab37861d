"""Model of 7 B parameters on Llama-2-7B, in the stages of the paper (arXiv 2502.20321, section 4).

`--config=configs/multimodal_7b.py:align`, then `:pretrain` and `:finetune`, each with `init.path`
naming the workdir of the stage before; `align` begins from `init.language`. Of the first stage
neither data nor rate are published: they are LLaVA's (arXiv 2310.03744). `:lora`, in place of
`finetune`, trains adapters of the rank and rate of LLaVA's.
"""

from ml_collections import ConfigDict

from configs import default, multimodal

_ROW = 4  # samples that a row of 2048 holds, about
_TRUNK = ("language.*", "head.*", "image.projection.*")
# Changes of each stage against configs/multimodal.py; one epoch each.
VARIANTS = {
    # 558 thousand captions; the MLP alone.
    "align": {
        "steps": 558_000 // (256 * _ROW),
        "data.batch_size": 256,
        "optim.learning_rate": 1e-3,
        "optim.frozen": _TRUNK,
    },
    # 10 M texts and 30 M pairs of images and captions.
    "pretrain": {"steps": 40_000_000 // (1024 * _ROW)},
    # 1.5 M drawings and 1.5 M instructions.
    "finetune": {"steps": 3_000_000 // (1024 * _ROW), "optim.learning_rate": 2e-5},
    # The same on one GPU of 80 GB, with a batch that is smaller.
    "lora": {
        "steps": 3_000_000 // (128 * _ROW),
        "data.batch_size": 128,
        "optim.accumulation": 64,
        "optim.learning_rate": 2e-4,
        "optim.lora_rank": 128,
    },
}


def get_config(name: str = "") -> ConfigDict:
    """Returns the configuration of one stage.

    Raises:
      ValueError: unknown stage; the message lists all.
    """
    config = multimodal.get_config()
    config.model.vocabulary = 32_000  # Llama 2's, of which <0x00> and <0x01> stand around images
    config.loss.chunk = 256  # the depth head is gathered once for each
    return default.variant(config, VARIANTS, name, "multimodal_7b")
