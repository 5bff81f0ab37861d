"""Speed of a user's own checkout of UniTok's PyTorch release, if `UNITOK_RELEASE` names one."""

import importlib
import os
import pathlib
import sys
import time
import types

import numpy as np

VARIABLE = "UNITOK_RELEASE"
# Options of its training, at the values that change nothing here.
_MORE = {"le": 0.0, "e_temp": 0.01, "grad_ckpt": False, "device": "cpu"}


def folder() -> pathlib.Path:
    """Returns the checkout.

    Raises:
      ValueError: the variable is not set, or names no checkout of the release.
    """
    given = os.environ.get(VARIABLE, "")
    if not given:
        raise ValueError(f"{VARIABLE} is not set: it names a checkout of the PyTorch release")
    path = pathlib.Path(given).expanduser().absolute()
    if not (path / "models" / "unitok.py").is_file():
        raise ValueError(f"{VARIABLE}={given} has no models/unitok.py: it is not the release")
    return path


def options(config) -> types.SimpleNamespace:
    """Returns the release's options of a configuration, by its own names."""
    model, text = config.model, config.model.text
    return types.SimpleNamespace(
        model=f"vitamin_{model.size}",
        img_size=config.data.image_size[0],
        vocab_size=model.vocab_size,
        vocab_width=model.latent_width,
        num_codebooks=model.num_codebooks,
        num_query=model.num_query,
        quant_proj={"attention": "attn"}.get(model.quant_proj, model.quant_proj),
        embed_dim=model.embed_dim,
        drop_path=model.drop_path,
        text_width=text.width,
        text_heads=text.heads,
        text_layers=text.layers,
        text_vocab_size=text.vocab_size,
        text_context_length=text.context_length,
        vq_beta=model.commitment_weight,
        **_MORE,
    )


def measure(config, method: str, batch: int, rounds: int) -> dict:
    """Measures `encode` or `decode` of the release, eager, in the dtype of the configuration.

    Returns:
      `seconds`, the median, and `images_per_second`.

    Raises:
      ValueError: there is no checkout, or it cannot do what is asked.
      ImportError: PyTorch, or a package that the release imports, is missing.
    """
    network, torch = _network(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = {"encode": "img_to_idx", "decode": "idx_to_img"}[method]
    call = getattr(network, name, None)
    if call is None:
        raise ValueError(f"{VARIABLE}={folder()}: its UniTok has no method {name}")
    network.eval().to(device)
    height, width = config.data.image_size
    if method == "encode":
        given = torch.rand(batch, 3, height, width, device=device) * 2 - 1
    else:
        entries = config.model.vocab_size // config.model.num_codebooks
        shape = batch, config.model.num_codebooks, height * width // 256
        given = torch.randint(0, entries, shape, device=device)
    dtype = getattr(torch, config.model.dtype)

    def once():
        begun = time.perf_counter()
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype.itemsize < 4):
            call(given)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    once()
    once()
    seconds = float(np.median([once() for _ in range(rounds)]))
    return {"seconds": seconds, "images_per_second": batch / seconds, "torch": torch.__version__}


def _network(config):
    path = folder()
    import torch

    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    sys.path.insert(0, str(path))
    try:
        kind = importlib.import_module("models.unitok").UniTok
        return kind(options(config)), torch
    except AttributeError as error:
        raise ValueError(f"{VARIABLE}={path}: its UniTok is another one: {error}") from error
    finally:
        sys.path.remove(str(path))
