"""Files of the frozen networks: every public layout, and every wrong file."""

import logging
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import nnx

from helpers import parity
from unitok_jax import trees
from unitok_jax.commands import convert
from unitok_jax.models.pretrained import lpips
from unitok_jax.weights import load as loading
from unitok_jax.weights import pretrained, torch_layout

pytestmark = pytest.mark.slow

KINDS = tuple(pretrained.NETWORKS)
SECTIONS = {"lpips": "lpips", "dinov2": "dino", "inception": "inception"}
STARTS = (0, 4, 9, 16, 23)  # of the slices in torchvision's VGG16


def public(kind):
    """The seeded weights as the public file has them."""
    return parity.network_state(SECTIONS[kind])


def load(kind, path, dtype=jnp.float32):
    return pretrained.load(kind, str(path), dtype, key=f"frozen.{kind}", turn_off="loss.it=0")


def rows(kind):
    return pretrained.NETWORKS[kind].rows


def save(path, state):
    arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
    safetensors.numpy.save_file(arrays, path)
    return path


def save_torch(path, state):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.tensor(array) for name, array in state.items()}, path)
    return path


def assert_is(kind, params):
    """`params` are the seeded weights."""
    ours = torch_layout.to_torch(params, rows(kind), fixed={})
    theirs = public(kind)
    assert ours.keys() <= theirs.keys()
    assert len(ours) > 0.9 * len(theirs)
    for name, array in ours.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def vgg16():
    """The layout of torchvision, of which LPIPS leaves the classifier aside."""
    state = {"classifier.6.weight": np.zeros((10, 4), np.float32)}
    for name, array in public("lpips").items():
        match = re.fullmatch(r"net\.slice(\d)\.(\d+)\.(\w+)", name)
        if match:
            layer = STARTS[int(match[1]) - 1] + int(match[2])
            state[f"features.{layer}.{match[3]}"] = array
    return state


def heads():
    """The layout of the LPIPS package's own file."""
    state = public("lpips")
    return {f"lin{i}.model.1.weight": state[f"lins.{i}.model.1.weight"] for i in range(5)}


def package():
    """The state dict of the LPIPS package: slices go on counting, heads twice, and buffers."""
    state = {
        "scaling_layer.shift": np.float32(lpips.SHIFT).reshape(1, 3, 1, 1),
        "scaling_layer.scale": np.float32(lpips.SCALE).reshape(1, 3, 1, 1),
    }
    for name, array in public("lpips").items():
        match = re.fullmatch(r"net\.slice(\d)\.(\d+)\.(\w+)", name)
        if match:
            layer = STARTS[int(match[1]) - 1] + int(match[2])
            state[f"net.slice{match[1]}.{layer}.{match[3]}"] = array
        else:
            state[name] = array
    return state | heads()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """kind -> .safetensors file of the public names."""
    folder = tmp_path_factory.mktemp("frozen")
    return {kind: save(folder / f"{kind}.safetensors", public(kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
class TestEveryNetwork:
    def test_safetensors(self, kind, files):
        graph, params = load(kind, files[kind])
        assert_is(kind, params)
        assert type(nnx.merge(graph, params)).__name__.lower().startswith(kind[:4])

    def test_torch_file_through_convert(self, kind, tmp_path):
        source, target = save_torch(tmp_path / "a.pth", public(kind)), tmp_path / "a.safetensors"
        assert_is(kind, load(kind, source)[1])
        line = convert.convert(str(source), str(target))
        params = load(kind, target)[1]
        assert_is(kind, params)
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        assert pretrained.NETWORKS[kind].what in line and f"{count:,} parameters" in line
        with safetensors.safe_open(target, framework="numpy") as file:
            assert file.metadata() == {"kind": kind}

    def test_seeded(self, kind, caplog):
        with caplog.at_level(logging.WARNING):
            _, params = load(kind, pretrained.SEEDED, "bfloat16")
        assert "random weights" in caplog.text and f"frozen.{kind}" in caplog.text
        shapes = pretrained.abstract(kind, jnp.float32)[1]
        jax.tree.map(lambda a, s: np.testing.assert_equal(a.shape, s.shape), params, shapes)
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))
        jax.tree.map(np.testing.assert_array_equal, params, load(kind, pretrained.SEEDED)[1])

    def test_seeded_weights_keep_the_signal_alive(self, kind):
        for name, leaf in trees.flatten(load(kind, pretrained.SEEDED)[1]).items():
            if name.endswith(("scale", "var", "gamma")):
                assert (leaf == 1).all(), name
            elif name.endswith(("bias", "mean")):
                assert (leaf == 0).all(), name
            elif name.startswith("heads."):  # a mean over channels
                assert leaf.sum() == pytest.approx(1), name
            else:
                kept = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if leaf.ndim == 4 else 0.02
                assert leaf.std() == pytest.approx(kept, rel=5 / leaf.size**0.5), name

    @pytest.mark.parametrize("path", ["", "nowhere.pth"])
    def test_no_file(self, kind, path):
        with pytest.raises(FileNotFoundError) as error:
            load(kind, path)
        network = pretrained.NETWORKS[kind]
        for words in (
            f"frozen.{kind}={path!r}",
            network.file,
            network.project,
            f"unitok convert {network.file} {kind}.safetensors",
            "loss.it=0",
            f"frozen.{kind}=seeded",
        ):
            assert words in str(error.value)

    def test_file_that_lacks_much(self, kind, tmp_path):
        state = {n: array for n, array in public(kind).items() if not n.endswith("bias")}
        names = torch_layout.entries(pretrained.abstract(kind, jnp.float32)[1], rows(kind))
        dropped = [name for name in names if name.endswith("bias")]
        state["surplus"] = np.zeros(3, np.float32)
        with pytest.raises(loading.ConversionError) as error:
            load(kind, save(tmp_path / "x.safetensors", state))
        text = str(error.value)
        assert f"{len(dropped) + 1} entries do not fit" in text and "missing" in text
        assert len(text.splitlines()) <= 7


class TestLpipsLayouts:
    def test_package(self, tmp_path):
        assert_is("lpips", load("lpips", save(tmp_path / "a.safetensors", package()))[1])

    def test_vgg16_and_heads(self, tmp_path):
        one = save_torch(tmp_path / "vgg16.pth", vgg16())
        two = save(tmp_path / "vgg.safetensors", heads())
        assert_is("lpips", load("lpips", f"{one},{two}")[1])
        target = tmp_path / "lpips.safetensors"
        run = subprocess.run(
            [sys.executable, "-m", "unitok_jax", "convert", f"{two},{one}", str(target)],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        assert "LPIPS with VGG16, 14,716,160 parameters" in run.stdout
        assert_is("lpips", load("lpips", target)[1])

    def test_name_in_both_files(self, tmp_path):
        one = save(tmp_path / "a.safetensors", heads())
        with pytest.raises(loading.ConversionError, match="lin0.model.1.weight is in more than"):
            load("lpips", f"{one},{one}")

    @pytest.mark.parametrize(
        "change, words",
        [
            ({"scaling_layer.shift": np.zeros((1, 3, 1, 1), np.float32)}, "scaling_layer.shift"),
            ({"lin3.model.1.weight": np.zeros((1, 512, 1, 1), np.float32)}, "lins.3.model.1"),
        ],
    )
    def test_contradictions(self, tmp_path, change, words):
        with pytest.raises(loading.ConversionError, match=words):
            load("lpips", save(tmp_path / "x.safetensors", package() | change))


def test_counters_of_batch_norm_are_left_aside(tmp_path):
    counters = {
        name.replace("running_var", "num_batches_tracked"): np.zeros((), np.int64)
        for name in public("inception")
        if name.endswith("running_var")
    }
    path = save_torch(tmp_path / "pt_inception.pth", public("inception") | counters)
    assert_is("inception", load("inception", path)[1])


def transformer(width, depth=12, patch=14, **more):
    """As much of a vision transformer as tells what it is."""
    state = {
        "cls_token": np.zeros((1, 1, width)),
        "pos_embed": np.zeros((1, 2, width)),
        "patch_embed.proj.weight": np.zeros((width, 1, 1, patch)),
    }
    for i in range(depth):
        state[f"blocks.{i}.norm1.weight"] = np.zeros(width)
        state[f"blocks.{i}.ls1.gamma"] = np.zeros(width)
    return {name: array.astype(np.float32) for name, array in (state | more).items()}


def without_layer_scale(state):
    return {name: array for name, array in state.items() if "ls1" not in name}


def conv(*shape):
    return np.zeros(shape, np.float32)


WRONG = {
    "unitok": (lambda: parity.state("tiny"), "a UniTok tokenizer"),
    "dinov2 base": (lambda: transformer(768), "ViT-B/14 of width 768 and 12 blocks"),
    "dinov2 large": (lambda: transformer(1024, depth=24), "ViT-L/14 of width 1024 and 24 blocks"),
    "registers": (
        lambda: transformer(384, register_tokens=np.zeros((1, 4, 384))),
        "DINOv2 with register tokens, a ViT-S/14",
    ),
    "dino": (lambda: without_layer_scale(transformer(384, patch=16)), "ViT-S/16 .*not DINOv2"),
    "heads": (heads, "heads of LPIPS without VGG16.*a.pth,b.pth"),
    "vgg16": (vgg16, "VGG16 without the heads.*a.pth,b.pth"),
    "vgg19": (lambda: {"features.34.weight": conv(4, 4, 3, 3)}, "not torchvision's VGG16"),
    "alexnet": (
        lambda: {
            f"lin{i}.model.1.weight": conv(1, w, 1, 1)
            for i, w in enumerate((64, 192, 384, 256, 256))
        },
        "another backbone",
    ),
    "torchvision's inception": (
        lambda: {
            "Mixed_7c.branch_pool.conv.weight": conv(192, 4, 1, 1),
            "fc.weight": conv(1000, 4),
        },
        "Inception-v3 with 1000 classes",
    ),
    "resnet": (lambda: {"conv1.weight": conv(4, 3)}, "an unknown network .with conv1.weight"),
}
PAIRS = [(kind, other) for kind in KINDS for other in (*KINDS, *WRONG) if kind != other]


@pytest.fixture(scope="module")
def wrong_files(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wrong")
    made = {}
    for name, (make, words) in WRONG.items():
        made[name] = save(folder / f"{len(made)}.safetensors", make()), words
    words = {
        "lpips": "LPIPS with VGG16",
        "dinov2": "DINOv2, a ViT-S/14",
        "inception": "FID's Inception-v3",
    }
    return made | {kind: (path, words[kind]) for kind, path in files.items()}


@pytest.mark.parametrize("kind, other", PAIRS)
def test_wrong_file(kind, other, wrong_files):
    path, words = wrong_files[other]
    with pytest.raises(ValueError, match=f"frozen.{kind}=.* seems to be .*{words}") as error:
        load(kind, path)
    text = str(error.value)
    assert f"expected {pretrained.NETWORKS[kind].what}: {pretrained.NETWORKS[kind].file}" in text
    assert len(text) < 600 + len(str(path))


@pytest.mark.parametrize("other", [name for name in WRONG if name not in ("unitok", "resnet")])
def test_convert_says_what_it_does_not_know(other, wrong_files, tmp_path):
    path, words = wrong_files[other]
    with pytest.raises(loading.ConversionError, match=f"seems to be .*{words}"):
        convert.convert(str(path), str(tmp_path / "x.safetensors"))


def test_frozen_networks_are_written_as_safetensors_only(files, tmp_path):
    with pytest.raises(loading.ConversionError, match="safetensors only"):
        convert.convert(str(files["lpips"]), str(tmp_path / "folder"))


def test_unknown_network():
    with pytest.raises(ValueError, match="'vgg'.*lpips, dinov2"):
        load("vgg", "x.pth")


@pytest.mark.parametrize(
    "name", ["cls_token", "patch_embed.proj.weight", "fc.weight", "lins.0.model.1.weight"]
)
def test_arrays_without_axes_are_another_network(name):
    state = {"cls_token": np.ones((1, 1, 384)), "pos_embed": np.ones((1, 2, 384))}
    state |= {"patch_embed.proj.weight": np.ones((384, 3, 14, 14)), name: np.ones(())}
    if name == "fc.weight":
        state["Mixed_7c.branch_pool.conv.weight"] = np.ones(1)
    assert pretrained.recognise(state).kind is None


def test_a_pointer_of_git_lfs_is_named_with_its_key(tmp_path):
    path = tmp_path / "lpips.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(loading.ConversionError, match="^frozen.lpips=.*pointer of Git LFS"):
        load("lpips", path)


def test_files_in_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        save(tmp_path / f"{name}.safetensors", {name: np.ones(1)})
    assert pretrained.read_files("~/a.safetensors,~/b.safetensors")[1].keys() == {"a", "b"}
