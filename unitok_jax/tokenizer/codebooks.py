"""Learning of the codebooks by `config.codebook`: its checks."""

from ml_collections import ConfigDict

from unitok_jax.models.quantizers.base import GRADIENTS

_WITH_ROWS = ("multi_codebook", "residual")  # quantizers that have codebooks to learn


def check(config: ConfigDict) -> None:
    """Checks `config.codebook`.

    Raises:
      ValueError: the message names the key, its value and a remedy.
    """
    codebook, quantizer = config.codebook, config.model.quantizer
    if codebook.gradient not in GRADIENTS:
        raise ValueError(
            f"codebook.gradient={codebook.gradient!r} is not one of {', '.join(GRADIENTS)}"
        )
    if codebook.gradient != "straight_through" and quantizer not in _WITH_ROWS:
        raise ValueError(
            f"codebook.gradient={codebook.gradient} turns gradients from rows to vectors, and "
            f"model.quantizer={quantizer} has no rows; set codebook.gradient=straight_through"
        )
