"""Layouts of CLIP checkpoints (open_clip, timm): tables of names to UniTok's public layout.

Three layouts are known: open_clip with a timm image tower (`visual.trunk.*`, `text.*`), open_clip
and OpenAI with the text tower at top level (`transformer.resblocks.*`), and a bare ViTamin trunk of
timm. ViTamin: arXiv 2404.02132.
"""

import re
from collections.abc import Iterable, Mapping

from unitok_jax.models.vitamin import SIZES

# (pattern of a name in the file, UniTok's public name, tower of the parameter)
ROWS = (
    (
        r"(?:visual\.trunk\.)?(patch_embed\.backbone\..*|blocks\..*|norm\..*|reg_token)",
        r"encoder.\1",
        "image",
    ),
    # The norm and the projection of pooled tokens have the same role in UniTok.
    (r"(?:visual\.trunk\.)?(fc_norm\..*)", r"\1", "image"),
    (r"(?:visual\.head\.proj|head)\.(weight|bias)", r"projection.\1", "image"),
    (
        r"(?:text\.)?(transformer\.resblocks\..*|token_embedding\.weight|positional_embedding"
        r"|ln_final\..*|text_projection)",
        r"text_encoder.\1",
        "text",
    ),
    (r"logit_scale", r"logit_scale", "both"),
    (r"logit_bias", r"logit_bias", "both"),
)

# Blocks of any ViT have the same names as ViTamin's; only this name identifies a ViTamin tower.
_VITAMIN = re.compile(r"(visual\.trunk\.)?patch_embed\.backbone\.stem\.conv1\.weight")

# (pattern of a name in the file, reason why UniTok has no such parameter)
NO_COUNTERPART = (
    (
        r"(?:visual\.trunk\.)?pos_embed",
        "no counterpart: UniTok has no position table, its public layout keeps a frozen zero",
    ),
    (r"(?:text\.)?attn_mask", "no counterpart: the causal mask is computed"),
)

# (pattern of any name in a file, probable kind of the file); the first row that matches decides
KINDS = (
    (r"visual\.trunk\.patch_embed\.backbone\.stem\.conv1\.", "a CLIP with a ViTamin image tower"),
    (r"patch_embed\.backbone\.stem\.conv1\.", "a ViTamin trunk of timm, without a text tower"),
    (r"visual\.trunk\.", "an open_clip CLIP whose image tower, of timm, is no ViTamin"),
    (r"visual\.(conv1|layer1|transformer)\.", "a CLIP whose image tower is a plain ViT or ResNet"),
    (r"(text|vision)_model\.", "a CLIP in the layout of transformers; open_clip's is wanted"),
    (r"(text\.)?transformer\.resblocks\.", "a CLIP's text tower alone"),
    (r"(module\.)?(blocks\.0\.|cls_token$)", "a plain ViT, of timm or DINO"),
    (r"layer1\.0\.", "a ResNet"),
    (r"quantize\.", "a VQGAN"),
)

# key of the model -> (UniTok's public name, axis) whose length is the value
_LENGTHS = {
    "embed_dim": ("text_encoder.text_projection", 1),
    "text.width": ("text_encoder.token_embedding.weight", 1),
    "text.vocab_size": ("text_encoder.token_embedding.weight", 0),
    "text.context_length": ("text_encoder.positional_embedding", 0),
}


def translate(names: Iterable[str]) -> dict[str, tuple[str | None, str]]:
    """Maps each name in the file to (UniTok's public name, ''), or to (None, reason for none)."""
    names = list(names)
    vitamin = any(_VITAMIN.fullmatch(name) for name in names)
    return {name: _translate(name, vitamin) for name in names}


def is_clip(names: Iterable[str]) -> bool:
    """Returns True for names of a CLIP or a ViTamin trunk, of which UniTok can use a tower."""
    names = list(names)
    vitamin = any(_VITAMIN.fullmatch(name) for name in names)
    text = any(re.match(r"(text\.)?transformer\.resblocks\.", name) for name in names)
    return vitamin or text


def describe(names: Iterable[str]) -> str:
    """Describes the probable kind of a file with these names, in words."""
    names = sorted(names)
    for pattern, words in KINDS:
        if any(re.match(pattern, name) for name in names):
            return words
    return f"no CLIP, with entries such as {', '.join(names[:4])}"


def sizes(shapes: Mapping[str, tuple]) -> dict[str, int | str]:
    """Infers keys of the model and their values from UniTok's public names and their shapes.

    Shapes do not determine the number of heads of the text tower: CLIP's heads have width 64.
    """
    out = {}
    stem = _length(shapes, "encoder.patch_embed.backbone.stem.conv1.weight", 0)
    blocks = _count(shapes, "encoder.blocks.")
    for name, size in SIZES.items():
        if (size.stem, size.blocks) == (stem, blocks):
            out["size"] = name
    for key, (name, axis) in _LENGTHS.items():
        if _length(shapes, name, axis):
            out[key] = _length(shapes, name, axis)
    if out.get("text.width", 1) % 64 == 0:
        out["text.heads"] = out["text.width"] // 64
    layers = _count(shapes, "text_encoder.transformer.resblocks.")
    return out | ({"text.layers": layers} if layers else {})


def _length(shapes, name, axis):
    """Returns the length of an array's axis; 0 without the array or the axis."""
    return (*shapes.get(name, ()), 0, 0)[axis]


def _count(shapes, prefix):
    dots = prefix.count(".")
    return len({name.split(".")[dots] for name in shapes if name.startswith(prefix)})


def _translate(name, vitamin):
    for pattern, why in NO_COUNTERPART:
        if re.fullmatch(pattern, name):
            return None, why
    for pattern, target, tower in ROWS:
        match = re.fullmatch(pattern, name)
        if match and tower == "image" and not vitamin:
            return None, "no counterpart: the image tower is no ViTamin"
        if match:
            return match.expand(target), ""
    return None, "no counterpart"
