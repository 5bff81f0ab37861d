"""Frozen networks of losses and metrics: their files, parameter names and loading."""

import logging
import math
import pathlib
import re
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from unitok_jax import trees
from unitok_jax.models.layers import Keys
from unitok_jax.models.pretrained import lpips
from unitok_jax.models.pretrained.dinov2 import DEPTH, PATCH, WIDTH, DinoV2
from unitok_jax.models.pretrained.inception import CLASSES, Inception
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.system.paths import expand
from unitok_jax.weights import torch_layout
from unitok_jax.weights.files import read_content
from unitok_jax.weights.generator_layout import is_generator
from unitok_jax.weights.llama_layout import is_multimodal
from unitok_jax.weights.torch_files import Content

log = logging.getLogger(__name__)

SEEDED = "seeded"
"""Path that stands for random weights from a fixed seed."""

UNITOK, GENERATOR, UNKNOWN = "a UniTok tokenizer", "a generator of codes", "an unknown network"
"""Results of `recognise` for a tokenizer, a generator and an unknown network."""

# (pattern of the dotted path, PyTorch's name, axis order): see torch_layout
LPIPS_ROWS = (
    *(
        (rf"slices\.{s}\.{i}\.{ours}", f"net.slice{s + 1}.{2 * i + (s > 0)}.{theirs}", order)
        for s in range(5)
        for i in range(3)
        for ours, theirs, order in (("kernel", "weight", "conv"), ("bias", "bias", "same"))
    ),
    (r"heads\.(\d)", r"lins.\1.model.1.weight", "1x1"),
)
DINOV2_ROWS = (
    (r"cls_token|pos_embed", r"\g<0>", "same"),
    (r"patch_embed\.proj\.kernel", r"patch_embed.proj.weight", "conv"),
    (r"patch_embed\.proj\.bias", r"patch_embed.proj.bias", "same"),
    (r"blocks\.block\.(.*)\.kernel", r"blocks.{i}.\1.weight", "linear"),
    (r"blocks\.block\.(.*)\.scale", r"blocks.{i}.\1.weight", "same"),
    (r"blocks\.block\.(.*\.(?:bias|gamma))", r"blocks.{i}.\1", "same"),
)
INCEPTION_ROWS = (
    (r"(.*)\.conv\.kernel", r"\1.conv.weight", "conv"),
    (r"(.*)\.bn\.scale", r"\1.bn.weight", "same"),
    (r"(.*)\.bn\.(mean|var)", r"\1.bn.running_\2", "same"),
    (r"(.*)\.bn\.bias", r"\1.bn.bias", "same"),
    (r"fc\.kernel", r"fc.weight", "linear"),
    (r"fc\.bias", r"fc.bias", "same"),
)


class Found(NamedTuple):
    """Probable kind of a state dict."""

    kind: str | None  # a key of NETWORKS, or None
    what: str


class Network(NamedTuple):
    """Frozen network and its public file."""

    what: str
    make: Callable[..., nnx.Module]  # keyword arguments dtype, rngs
    rows: tuple
    names: Callable[[Mapping], dict]  # renames the state of a public file to the names of `rows`
    file: str
    project: str


def recognise(state: Mapping[str, np.ndarray]) -> Found:
    """Recognises the network of `state`, name -> array, by names and shapes."""
    looks = (_as_unitok, _as_generator, _as_language, _as_inception, _as_transformer, _as_vgg)
    for look in looks:
        found = look(state)
        if found:
            return found
    return Found(None, UNKNOWN)


def read_files(path: str | pathlib.Path, weights: str | None = None) -> Content:
    """Reads one file, or several joined by commas (`a.pth,b.pth`), as `files.read_content` does.

    Raises:
      FileNotFoundError: a file does not exist.
      ConversionError: a file is of another kind than its suffix, or two files have the same name.
    """
    files = [path] if expand(path).exists() else str(path).split(",")
    state = {}
    for file in files:
        content = read_content(file, weights)
        both = sorted(content.state.keys() & state.keys())
        if both:
            raise ConversionError(f"{path}: {both[0]} is in more than one of the files")
        state |= content.state
    return content._replace(state=state)


def read_named(path: str, key: str, advice: str) -> dict[str, np.ndarray]:
    """Reads the files that a key of the configuration names, as `read_files` does.

    Args:
      path: value of the key.
      key: the key, for messages.
      advice: sentence that says what it must name.

    Raises:
      FileNotFoundError: empty path or missing file.
      ConversionError: a ValueError; the file is of another kind than its suffix.
    """
    try:
        if not path:
            raise FileNotFoundError("no file is named")
        return read_files(path).state
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{key}={path!r}: {error}. {advice}") from error
    except ConversionError as error:
        raise ConversionError(f"{key}={path}: {error}") from error


def first_lines(error: ValueError, count: int = 5) -> str:
    """Formats an error of many lines: head, the first `count` others, the number of the rest."""
    head, *rest = str(error).split("\n")
    more = [f"  and {len(rest) - count} more"] if len(rest) > count else []
    return "\n".join([head, *rest[:count], *more])


def public_state(kind: str, path, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames `state`, read from `path`, to the names of `convert`; drops unused entries.

    Raises:
      ConversionError: `state` is of another network, or incomplete.
    """
    network, found = NETWORKS[kind], recognise(state)
    if found.kind != kind:
        names = f" (with {', '.join(sorted(state)[:3])})" if found.what == UNKNOWN else ""
        raise ConversionError(
            f"{path} seems to be {found.what}{names}; expected {network.what}: {network.file} of "
            f"{network.project}"
        )
    try:
        state = network.names(state)
        # Called only for the list of differences in its error.
        torch_layout.from_torch(state, abstract(kind, jnp.float32)[1], network.rows, fixed={})
    except torch_layout.LayoutError as error:
        raise ConversionError(f"{path}: {first_lines(error)}") from error
    except ValueError as error:
        raise ConversionError(f"{path}: {error}") from error
    return state


def abstract(kind: str, dtype) -> tuple[nnx.GraphDef, dict]:
    """Returns the graph of a network and the shapes of its parameters, without any arrays."""
    make, dtype = NETWORKS[kind].make, jnp.dtype(dtype)
    graph, params = nnx.split(nnx.eval_shape(lambda: make(dtype=dtype, rngs=Keys(0))))
    return graph, nnx.to_pure_dict(params)


def stand_in(shapes) -> dict:
    """Draws the weights of a network that nobody trained.

    NumPy draws them: nothing is compiled for it, and they are the same on every machine. Kernels of
    convolutions keep the size of what passes through them and a ReLU (arXiv 1502.01852), those of
    linear layers and the tables have a transformer's spread; factors are 1, and shifts 0.
    """
    random = np.random.default_rng(0)

    def draw(path, leaf):
        name, shape = trees.dotted(path), leaf.shape
        if re.search(r"\.(scale|var|gamma)$", name):
            return np.ones(shape, np.float32)
        if re.search(r"\.(bias|mean)$", name):
            return np.zeros(shape, np.float32)
        if name.startswith("heads."):  # LPIPS's, whose factors are not negative
            return np.full(shape, 1 / shape[0], np.float32)
        spread = np.float32(0.02 if len(shape) < 4 else (2 / math.prod(shape[:-1])) ** 0.5)
        return spread * random.standard_normal(shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def digest(params) -> int:
    """Returns a checksum of all arrays of a network, in their order."""
    found = 0
    for leaf in jax.tree.leaves(params):
        found = zlib.crc32(np.ascontiguousarray(leaf), found)
    return found


def load(kind: str, path: str, dtype, *, key: str, turn_off: str) -> tuple[nnx.GraphDef, dict]:
    """Loads a frozen network, for `nnx.merge(graph, params)`.

    Args:
      kind: a key of `NETWORKS`.
      path: the network's public file, or as converted by `convert`, several files joined by
        commas, or `seeded` for random weights.
      dtype: compute dtype of the network.
      key: the configuration's key of `path`, for messages.
      turn_off: setting that removes the network, for messages: `loss.perceptual=0`.

    Returns:
      The graph, and the parameters as a nested dict of float32 NumPy arrays.

    Raises:
      FileNotFoundError: empty path or missing file; the message names the place of publication.
      ConversionError: a ValueError; the file is of another network.
      ImportError: a PyTorch file without PyTorch.
    """
    if kind not in NETWORKS:
        raise ValueError(f"unknown frozen network {kind!r}; known: {', '.join(NETWORKS)}")
    network = NETWORKS[kind]
    if path == SEEDED:
        log.warning(
            "%s=%s: %s has random weights; no figure that depends on it can be compared with "
            "published ones",
            key,
            path,
            network.what,
        )
        graph, shapes = abstract(kind, dtype)
        return graph, stand_in(shapes)
    advice = (
        f"It must name the weights of {network.what}: get "
        f"{network.file} of {network.project}, then `unitok convert "
        f"{network.file} {kind}.safetensors` and {key}={kind}.safetensors; without the "
        f"network: {turn_off}; random weights, for trying things out: {key}={SEEDED}"
    )
    state = read_named(path, key, advice)
    graph, shapes = abstract(kind, dtype)
    state = public_state(kind, f"{key}={path}", state)
    return graph, torch_layout.from_torch(state, shapes, network.rows, fixed={})


def _as_unitok(state):
    prefixes = ("quantizer.codebooks.", "encoder.patch_embed.backbone.")
    if any(name.startswith(prefixes) for name in state):
        return Found(None, UNITOK)


def _as_generator(state):
    if is_generator(None, state):
        return Found(None, GENERATOR)


def _as_language(state):
    if is_multimodal(state):
        return Found(None, "part of a multimodal model, which is read as a folder")
    if "model.embed_tokens.weight" in state:
        return Found(None, "part of a language model, which is read as a folder")


def _as_inception(state):
    if "Mixed_7c.branch_pool.conv.weight" not in state:
        return None
    classes = _length(state, "fc.weight", 0)
    if classes == CLASSES:
        return Found("inception", "FID's Inception-v3")
    return Found(None, f"an Inception-v3 with {classes} classes (FID's has {CLASSES})")


def _as_transformer(state):
    if not {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= state.keys():
        return None
    width, patch = _length(state, "cls_token", 2), _length(state, "patch_embed.proj.weight", 3)
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    size = {384: "S", 768: "B", 1024: "L", 1536: "g"}.get(width, "?")
    shape = f"ViT-{size}/{patch} of width {width} and {depth} blocks"
    if "blocks.0.ls1.gamma" not in state:
        return Found(None, f"a {shape} without LayerScale, which is not DINOv2")
    if "register_tokens" in state:
        return Found(None, f"DINOv2 with register tokens, a {shape}")
    known = (width, patch, depth) == (WIDTH, PATCH, DEPTH)
    return Found("dinov2" if known else None, f"DINOv2, a {shape}")


def _as_vgg(state):
    names = {_lpips_name(name): name for name in state}
    convolutions = any(name and name.startswith("net.") for name in names)
    widths = [
        _length(state, names[head], 1)
        for i in range(5)
        if (head := f"lins.{i}.model.1.weight") in names
    ]
    if widths and widths != [width for width, _ in lpips.SLICES]:
        return Found(None, f"LPIPS for another backbone (heads of widths {widths})")
    if any(re.fullmatch(r"features\.\d+\.weight", n) and _lpips_name(n) is None for n in state):
        return Found(None, "a classifier that is not torchvision's VGG16")
    both = "give VGG16 and the heads as two files, a.pth,b.pth"
    if widths and not convolutions:
        return Found(None, f"the heads of LPIPS without VGG16 ({both})")
    if convolutions and not widths:
        return Found(None, f"VGG16 without the heads of LPIPS ({both})")
    return Found("lpips", "LPIPS with VGG16") if widths else None


def _length(state, name, axis):
    """Returns the length of an array's axis; 0 without the array or the axis."""
    shape = state[name].shape if name in state else ()
    return shape[axis] if axis < len(shape) else 0


_SLICE_STARTS = (0, 4, 9, 16, 23)  # layers of torchvision's VGG16 where the slices begin


def _lpips_name(name: str) -> str | None:
    """Renames an entry of any public layout to its name in `LPIPS_ROWS`; None if it has none."""
    match = re.fullmatch(r"(?:lin|lins\.)([0-4])\.model\.1\.weight", name)
    if match:
        return f"lins.{match[1]}.model.1.weight"
    match = re.fullmatch(r"(?:features|net\.slice([1-5]))\.(\d+)\.(weight|bias)", name)
    if not match:
        return None
    layer = int(match[2])
    for i, (start, (_, count)) in enumerate(zip(_SLICE_STARTS, lpips.SLICES, strict=True)):
        inside = range(int(i > 0), 2 * count + int(i > 0), 2)
        if match[1] in (None, str(i + 1)) and layer - start in inside:
            return f"net.slice{i + 1}.{layer - start}.{match[3]}"
        # A slice numbers its layers from 0 or continues from the previous slice.
        if match[1] == str(i + 1) and layer in inside:
            return f"net.slice{i + 1}.{layer}.{match[3]}"
    return None


# buffers of the release and of the LPIPS package -> their required values
_LPIPS_CONSTANTS = {
    "scaling_layer.shift": lpips.SHIFT,
    "scaling_layer.scale": lpips.SCALE,
    "shift": lpips.SHIFT,
    "scale_inv": tuple(1 / value for value in lpips.SCALE),
}


def _lpips_state(state):
    out = {}
    for name, array in state.items():
        if name in _LPIPS_CONSTANTS:
            expected = _LPIPS_CONSTANTS[name]
            if array.size != 3 or not np.allclose(array.ravel(), expected, atol=1e-4):
                raise ValueError(f"{name} is {array.ravel()[:3]}, LPIPS has {expected}")
        elif not name.startswith("classifier."):
            # The state dict of the package contains its heads twice.
            public = _lpips_name(name) or name
            if public in out and not np.array_equal(out[public], array):
                raise ValueError(f"{name} differs from another entry for {public}")
            out[public] = array
    return out


def _dinov2_state(state):
    unused = ("mask_token", "norm.weight", "norm.bias")
    return {name: array for name, array in state.items() if name not in unused}


def _inception_state(state):
    return {name: a for name, a in state.items() if not name.endswith("num_batches_tracked")}


_RELEASE = "huggingface.co/FoundationVision/unitok_external"

NETWORKS = {
    "lpips": Network(
        "LPIPS with VGG16",
        lpips.Lpips,
        LPIPS_ROWS,
        _lpips_state,
        "lpips_with_vgg.pth",
        f"the UniTok release ({_RELEASE})",
    ),
    "dinov2": Network(
        f"DINOv2 ViT-S/14 (width {WIDTH}, no register tokens)",
        DinoV2,
        DINOV2_ROWS,
        _dinov2_state,
        "dinov2_vits14_pretrain.pth",
        f"DINOv2 (github.com/facebookresearch/dinov2; also {_RELEASE})",
    ),
    "inception": Network(
        "FID's Inception-v3",
        Inception,
        INCEPTION_ROWS,
        _inception_state,
        "weights-inception-2015-12-05-6726825d.pth",
        f"torch-fidelity (github.com/toshas/torch-fidelity, release v0.2.0; also {_RELEASE})",
    ),
}
"""Networks by kind."""
