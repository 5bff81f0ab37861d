"""The tables of CLIP's layouts, at the size of the public ViTamin-B."""

import re

import pytest

from helpers import parity
from unitok_jax.weights import clip_layout

STATE = {name: tuple(shape) for name, shape in parity.manifest("base")["state"].items()}
IMAGE = [n for n in STATE if re.match(r"encoder\.(patch_embed|blocks|norm)\b", n)]
TEXT = [name for name in STATE if name.startswith("text_encoder.")]


@pytest.mark.parametrize("trunk, text", [("visual.trunk.", "text."), ("", "")])
def test_every_name_of_both_towers_has_its_counterpart(trunk, text):
    names = {trunk + name.removeprefix("encoder."): name for name in IMAGE}
    names |= {text + name.removeprefix("text_encoder."): name for name in TEXT}
    assert len(IMAGE) == 60 + 14 * 16 + 2 and len(TEXT) == 12 * 12 + 5
    found = clip_layout.translate(names)
    assert {name: target for name, (target, _) in found.items()} == names


def test_sizes_of_the_towers():
    shapes = {name: STATE[name] for name in IMAGE + TEXT}
    assert clip_layout.sizes(shapes) == {
        "size": "base",
        "embed_dim": 768,
        "text.width": 768,
        "text.vocab_size": 49408,
        "text.context_length": 77,
        "text.heads": 12,
        "text.layers": 12,
    }
    assert clip_layout.sizes({}) == {}


def test_image_names_of_another_tower_have_none():
    names = ["visual.trunk.blocks.0.norm1.weight", "visual.head.proj.weight", "visual.proj"]
    for target, why in clip_layout.translate(names).values():
        assert target is None and why.startswith("no counterpart")


@pytest.mark.parametrize(
    "name, words",
    [
        ("visual.trunk.patch_embed.backbone.stem.conv1.weight", "CLIP with a ViTamin"),
        ("patch_embed.backbone.stem.conv1.weight", "ViTamin trunk of timm"),
        ("visual.trunk.blocks.0.norm1.weight", "is no ViTamin"),
        ("visual.layer1.0.conv1.weight", "plain ViT or ResNet"),
        ("vision_model.embeddings.class_embedding", "layout of transformers"),
        ("text.transformer.resblocks.0.ln_1.weight", "text tower alone"),
        ("cls_token", "plain ViT, of timm or DINO"),
        ("quantize.embedding.weight", "a VQGAN"),
        ("fc.weight", "no CLIP, with entries such as fc.weight"),
    ],
)
def test_what_a_file_seems_to_be(name, words):
    assert words in clip_layout.describe([name])
