"""Seeded weights for numeric-parity tests, keyed by parameter name.

A manifest (manifest_*.json) lists every entry of a reference PyTorch state dict as
``name -> shape``.  `reference_state` fills each entry from its own name and a seed, so
the same weights exist wherever NumPy does, and no weight file has to be shipped.

The stream is NumPy's legacy `RandomState`, which is frozen for good.
"""

import json
import zlib

import numpy as np


def _is_norm(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and any(key in parts[-2] for key in ("norm", "ln_", "ln1", "ln2"))


def reference_array(name: str, shape, seed: int = 0) -> np.ndarray:
    """float32 array for one state-dict entry.

    Matrices and kernels are N(0, 1/fan_in), norm scales 1 + N(0, 0.1^2), biases and other
    vectors N(0, 0.02^2), codebooks uniform(-1, 1), position tables N(0, 0.02^2); layer
    scales are 0.5 + N(0, 0.1^2).  Entries that the reference holds fixed
    (``zero_k_bias``, ``encoder.pos_embed``, ``vocab_usage``) are zero; ``logit_scale`` is
    ln(1/0.07).  Names under ``lpips.`` and ``inception.`` keep the signal alive through a
    ReLU network: kernels are scaled by sqrt(2), the LPIPS heads are non-negative, and
    batch-norm statistics are valid.
    """
    out = _draw(name, tuple(shape), seed)
    leaf = name.split(".")[-1]
    if name.startswith(("lpips.lins", "lpips.lin")):
        return np.abs(out)
    if name.startswith("inception.") and leaf == "running_var":
        return 1 + np.abs(5 * out)
    if name.startswith("inception.") and name.endswith("bn.weight"):
        return 1 + 5 * out
    if name.startswith(("lpips.", "inception.")) and out.ndim == 4:
        return (out * np.sqrt(2.0)).astype(np.float32)
    return out


def _draw(name: str, shape: tuple, seed: int) -> np.ndarray:
    rng = np.random.RandomState((zlib.crc32(name.encode()) + 7919 * seed) % (2**32))
    leaf = name.split(".")[-1]
    if leaf in ("zero_k_bias", "vocab_usage") or name == "encoder.pos_embed":
        return np.zeros(shape, np.float32)
    if leaf == "logit_scale":
        return np.full(shape, np.log(1 / 0.07), np.float32)
    if leaf == "gamma":
        out = 0.5 + 0.1 * rng.standard_normal(shape)
    elif ".codebook." in name:
        out = rng.uniform(-1.0, 1.0, shape)
    elif _is_norm(name) and leaf == "weight":
        out = 1.0 + 0.1 * rng.standard_normal(shape)
    elif leaf in ("positional_embedding", "pos_embed", "cls_token"):
        out = 0.02 * rng.standard_normal(shape)
    elif leaf == "text_projection":
        out = rng.standard_normal(shape) / np.sqrt(shape[0])
    elif "token_embedding" in name:
        out = 0.5 * rng.standard_normal(shape)
    elif len(shape) < 2:
        out = 0.02 * rng.standard_normal(shape)
    else:
        out = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return np.asarray(out, np.float32)


def load_manifest(path) -> dict:
    with open(path) as f:
        return json.load(f)


def reference_state(manifest: dict, seed: int = 0) -> dict:
    """``{name: float32 array}`` for every entry of ``manifest['state']``."""
    return {name: reference_array(name, shape, seed) for name, shape in manifest["state"].items()}


def reference_images(batch: int, size: int, seed: int = 0) -> np.ndarray:
    """(batch, size, size, 3) float32 images in [-1, 1].

    Every 16-pixel block has a colour and a grating of its own, so that tokens differ.
    """
    rng = np.random.RandomState(1234 + seed)
    blocks = -(-size // 16)
    yy, xx = np.meshgrid(np.arange(16), np.arange(16), indexing="ij")
    images = np.zeros((batch, blocks * 16, blocks * 16, 3))
    for b in range(batch):
        for i in range(blocks):
            for j in range(blocks):
                colour = rng.uniform(-0.8, 0.8, 3)
                amplitude = rng.uniform(-0.6, 0.6, 3)
                fy, fx = rng.uniform(-0.3, 0.3, 2)
                wave = np.sin(2 * np.pi * (fy * yy + fx * xx) + rng.uniform(0, 6.28))
                block = colour + amplitude * wave[..., None]
                images[b, 16 * i : 16 * i + 16, 16 * j : 16 * j + 16] = block
    images = images[:, :size, :size] + 0.1 * rng.standard_normal((batch, size, size, 3))
    return np.clip(images, -1, 1).astype(np.float32)


def reference_text(batch: int, length: int, vocab: int, seed: int = 0) -> np.ndarray:
    """(batch, length) int32 token ids: sot, words, eot (the largest id), zero padding."""
    rng = np.random.RandomState(4321 + seed)
    out = np.zeros((batch, length), np.int32)
    for b in range(batch):
        n = int(rng.randint(2, length - 2))
        out[b, 0] = vocab - 2
        out[b, 1 : 1 + n] = rng.randint(1, vocab - 2, n)
        out[b, 1 + n] = vocab - 1
    return out
