"""Files in the layouts of CLIP and timm, made from the reference's seeded tiny weights."""

import numpy as np
import pytest
import safetensors.numpy

from helpers import parity

TRUNK = ("encoder.patch_embed.backbone.", "encoder.blocks.")
TEXT = "text_encoder."


def vitamin(prefix="visual.trunk."):
    """A ViTamin of timm: learned positions, and a norm of the pooled tokens only."""
    state = parity.state("tiny")
    out = {
        prefix + name.removeprefix("encoder."): array
        for name, array in state.items()
        if name.startswith(TRUNK)
    }
    out |= {f"{prefix}fc_norm.{key}": state[f"fc_norm.{key}"] for key in ("weight", "bias")}
    return out | {prefix + "pos_embed": np.ones((1, 16, 128), np.float32)}


def text(prefix="text."):
    state = parity.state("tiny")
    out = {
        prefix + name.removeprefix(TEXT): array
        for name, array in state.items()
        if name.startswith(TEXT)
    }
    return out | {prefix + "attn_mask": np.zeros((16, 16), np.float32)}


def vitamin_clip(text_prefix="text."):
    """open_clip's CustomTextCLIP: its image projection has no bias."""
    state = parity.state("tiny")
    head = {"visual.head.proj.weight": state["projection.weight"]}
    return vitamin() | head | text(text_prefix) | {"logit_scale": state["logit_scale"]}


def vit_clip():
    """open_clip's CLIP with a plain ViT, whose blocks are called as the text tower's."""
    tower = {
        "visual." + name: array for name, array in text("").items() if name.startswith("transf")
    }
    return tower | text("") | {"visual.conv1.weight": np.ones((128, 3, 16, 16), np.float32)}


def timm_vit(prefix=""):
    """A ViT whose attention has ViTamin's names and shapes."""
    blocks = {
        prefix + name.removeprefix("encoder."): array
        for name, array in parity.state("tiny").items()
        if name.startswith("encoder.blocks") and ".mlp." not in name
    }
    return blocks | {prefix + "cls_token": np.ones((1, 1, 128), np.float32)}


def write(path, state, wrap=lambda state: state):
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file({k: np.array(v) for k, v in state.items()}, path)
    else:
        torch = pytest.importorskip("torch")
        torch.save(wrap({name: torch.tensor(array) for name, array in state.items()}), path)
    return path
