"""Teachers: files of every public layout against PyTorch's outputs, and files that do not fit."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import teacher_files
from unitok_jax import trees
from unitok_jax.models.pretrained import vit
from unitok_jax.models.pretrained.teachers import KINDS
from unitok_jax.weights import pretrained, teachers

pytestmark = pytest.mark.slow

FILES = [(name, layout) for name, made in teacher_files.LAYOUTS.items() for layout in made]
IDS = [layout.__name__ for _, layout in FILES]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    teacher_files.install(monkeypatch)


def load(kind, path, relation=False):
    keys = dict(key="frozen.teacher", turn_off="loss.teacher_token=0")
    return teachers.load(kind, str(path), relation=relation, **keys)


def merge(kind, params, relation, dtype="float32"):
    return nnx.merge(teachers.abstract(kind, dtype, "float32", relation)[0], params)


def inputs(shape):
    """Images of the trained size; of rotary positions, which have none, not square ones."""
    rng, side = np.random.default_rng(0), teacher_files.TABLE * shape.patch
    size = side, side if shape.table else side - shape.patch
    images = rng.uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    return images, rng.integers(1, teacher_files.TEXT.vocab_size, (2, 6)).astype(np.int32)


@pytest.mark.parametrize("name, layout", FILES, ids=IDS)
def test_parity_with_pytorch_from_a_file_of_the_layout(name, layout, tmp_path):
    pytest.importorskip("torch")
    kind, theirs = f"small_{name}", teacher_files.TorchTeacher(name)
    relation = KINDS[kind].text is not None
    path = teacher_files.write(tmp_path / "model.safetensors", layout())
    params = load(kind, path, relation)
    images, text = inputs(KINDS[kind].image)
    first = KINDS[kind].image.before

    @jax.jit
    def forward(params, images, text):
        model = merge(kind, params, relation)
        found, pooled = model.tokens(images, shallow=2)
        if relation:
            found |= {"image": model.image_vectors(pooled), "text": model.text_vectors(text)}
        return found

    found = forward(params, images, text)
    outputs, last = theirs.outputs(images)
    np.testing.assert_allclose(found["deep"], last[:, first:], atol=2e-5, rtol=1e-5)
    shallow = outputs[1][:, first:]
    shallow = (shallow - shallow.mean(-1, keepdims=True)) / shallow.std(-1, keepdims=True)
    np.testing.assert_allclose(found["shallow"], shallow, atol=5e-5, rtol=1e-4)
    if relation:
        scale = np.exp(teacher_files.state(name)["logit_scale"])
        image, words = theirs.image_features(images), theirs.text_features(text)
        np.testing.assert_allclose(found["image"], scale * image, atol=1e-4)
        np.testing.assert_allclose(found["text"], words, atol=2e-5)


def test_a_relation_is_not_read_where_it_is_not_wanted(tmp_path):
    path = teacher_files.write(tmp_path / "a.safetensors", teacher_files.clip_of_open_clip())
    assert load("small_clip", path).keys() == {"image", "norm"}
    assert load("small_clip", path, True).keys() > {"projection", "text_encoder", "logit_scale"}


@pytest.mark.parametrize("rows, columns", [(2, 3), (4, 4), (6, 9)])
def test_a_position_table_is_resized_as_timm_does(rows, columns):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((4, 4, 8)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(table.transpose(2, 0, 1))[None],
        (rows, columns),
        mode="bicubic",
        antialias=True,
    )[0]
    ours = vit.resample(jnp.asarray(table), rows, columns, 0.0)
    np.testing.assert_allclose(ours, theirs.numpy().transpose(1, 2, 0), atol=2e-5)


# Parameters without SigLIP 2's pooling head, CLIP's projection and DINO's mask token; with zeros
# for the biases of DINOv3's keys.
COUNTS = {
    "dinov2_b14": 86_579_712,
    "dinov2_l14": 304_367_616,
    "dinov2_b14_reg": 86_582_784,
    "dinov2_l14_reg": 304_371_712,
    "dinov3_s16": 21_600_768,
    "dinov3_s16plus": 28_697_088,
    "dinov3_b16": 85_668_864,
    "dinov3_l16": 303_153_152,
    "dinov3_h16plus": 840_632_320,
    "siglip2_b16": 85_843_200,
    "siglip2_l16": 303_361_024,
    "siglip2_so400m": 412_649_712,
    "clip_b16": 85_799_424,
    "clip_l14": 303_179_776,
    "clip_b16_quick": 85_799_424,
    "clip_l14_quick": 303_179_776,
}


@pytest.mark.parametrize("name", KINDS)
def test_published_sizes(name):
    shapes = teachers.abstract(name, "bfloat16", "float32", False)[1]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == COUNTS[name]


def test_both_towers_of_a_clip_have_one_gelu():
    rows = {name: row for name, row in KINDS.items() if row.text is not None}
    assert {row.image.gelu for row in rows.values()} == {"exact", "quick"}
    for name, row in rows.items():
        assert row.text.gelu == row.image.gelu == ("quick" if "quick" in name else "exact")


def test_random_weights_say_so(caplog):
    with caplog.at_level(logging.WARNING):
        params = load("small_clip", pretrained.SEEDED, True)
    assert "frozen.teacher=seeded" in caplog.text and "random" in caplog.text
    shapes = teachers.abstract("small_clip", "float32", "float32", True)[1]
    assert not trees.differences(params, shapes)


class TestFilesThatDoNotFit:
    @pytest.mark.parametrize("path", ["", "nowhere.safetensors"])
    def test_none(self, path):
        with pytest.raises(FileNotFoundError) as error:
            load("siglip2_b16", path)
        for words in (
            f"frozen.teacher='{path}'",
            "teacher.kind=siglip2_b16",
            "siglip2-base-patch16",
        ):
            assert words in str(error.value)

    def refuse(self, kind, arrays, tmp_path, *words, relation=False):
        path = teacher_files.write(tmp_path / "a.safetensors", arrays)
        with pytest.raises(ValueError) as error:
            load(kind, path, relation)
        assert str(error.value).startswith(f"frozen.teacher={path}: ")
        for each in words:
            assert each in str(error.value)

    def test_another_architecture(self, tmp_path):
        words = "width 32 and 3 blocks, patches of 16 px, a position table of 4x4, no class token"
        wanted = (
            "expected teacher.kind=small_dinov2",
            "patches of 14 px",
            "a class token, LayerScale",
        )
        arrays = teacher_files.siglip2_of_transformers()
        self.refuse(
            "small_dinov2", arrays, tmp_path, words, *wanted, "set teacher.kind=small_siglip2"
        )

    @pytest.mark.parametrize(
        "kind, layout, have, want",
        [
            ("dinov2", "dinov2_reg", "2 register tokens, LayerScale", "small_dinov2_reg"),
            ("dinov2_reg", "dinov2", "a class token, LayerScale;", "small_dinov2"),
            ("dinov3", "dinov3_gated", "rotary positions, .*gated MLPs", "small_dinov3_gated"),
            ("siglip2", "clip_quick", "a norm before", "small_clip or small_clip_quick"),
        ],
    )
    def test_another_of_the_family(self, tmp_path, kind, layout, have, want):
        """Of CLIPs that differ in their GELU alone, both are named."""
        path = tmp_path / "a.safetensors"
        teacher_files.write(path, teacher_files.LAYOUTS[layout][0]())
        with pytest.raises(ValueError, match=f"it is .*{have}.* set teacher.kind={want}$"):
            load(f"small_{kind}", path)

    def test_another_width(self, tmp_path):
        arrays = teacher_files.dinov2_of_project()
        wanted = "expected teacher.kind=dinov2_b14, a vision transformer of width 768 and 12 blocks"
        self.refuse("dinov2_b14", arrays, tmp_path, "width 32 and 3 blocks", wanted)

    def test_another_network(self, tmp_path):
        arrays = {"Mixed_7c.branch_pool.conv.weight": np.zeros((1, 1, 1, 1), np.float32)}
        wanted = "an Inception-v3", "expected teacher.kind=small_clip", "hub/clip"
        self.refuse("small_clip", arrays, tmp_path, *wanted)

    def test_an_entry_that_is_missing_or_unknown(self, tmp_path):
        arrays = teacher_files.dinov2_of_transformers()
        del arrays["encoder.layer.1.attention.attention.key.bias"]
        missing = "missing: image.blocks.1.attn.qkv.bias"
        self.refuse("small_dinov2", arrays, tmp_path, missing)
        arrays = teacher_files.dinov2_of_project() | {"fourth_tokens": np.zeros((1, 4, 32), "f")}
        self.refuse("small_dinov2", arrays, tmp_path, "unknown: fourth_tokens")

    def test_a_clip_without_its_text_tower(self, tmp_path):
        arrays = {
            name: array
            for name, array in teacher_files.clip_of_open_clip().items()
            if name.startswith("visual.")
        }
        words = "no text tower, which loss.teacher_relation needs"
        self.refuse("small_clip", arrays, tmp_path, words, relation=True)
