"""Tables of PyTorch layouts: names, axis orders and fixed entries, both ways. `ROWS` is UniTok's.

A row maps parameters whose dotted path matches the pattern to a PyTorch name and an axis order.
`{i}` in a PyTorch name is the parameter's leading axis here (a block or a codebook). A mapping in
place of the name splits the parameter's last axis: name -> its columns, in this order.
`fixed_entries` has the buffers that PyTorch stores and this package does not use.
"""

import itertools
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from unitok_jax import trees

# axis orders: conversion of an array to PyTorch's order, and back
_TO_TORCH = {
    "same": lambda x: x,
    "linear": lambda x: x.T,  # (in, out) -> (out, in)
    "1x1": lambda x: x.T[:, :, None, None],  # (in, out) -> (out, in, 1, 1)
    "conv": lambda x: x.transpose(3, 2, 0, 1),  # HWIO -> OIHW
    "conv1d": lambda x: x.transpose(2, 1, 0),  # WIO -> OIW
}
_FROM_TORCH = {
    "same": lambda x: x,
    "linear": lambda x: x.T,
    "1x1": lambda x: x[:, :, 0, 0].T,
    "conv": lambda x: x.transpose(2, 3, 1, 0),
    "conv1d": lambda x: x.transpose(2, 1, 0),
}

# (pattern of the dotted path, PyTorch's name, axis order); the first row that matches decides
ROWS = (
    (r"logit_scale", r"logit_scale", "same"),
    # encoder
    (r"encoder\.query", r"encoder.reg_token", "same"),
    (
        r"encoder\.(stages\..*\.(?:conv1_1x1|conv3_1x1|expand))\.kernel",
        r"encoder.patch_embed.backbone.\1.weight",
        "1x1",
    ),
    (
        r"encoder\.((?:stem|stages|pool)\..*)\.kernel",
        r"encoder.patch_embed.backbone.\1.weight",
        "conv",
    ),
    (
        r"encoder\.((?:stem|stages|pool)\..*)\.scale",
        r"encoder.patch_embed.backbone.\1.weight",
        "same",
    ),
    (
        r"encoder\.((?:stem|stages|pool)\..*)\.bias",
        r"encoder.patch_embed.backbone.\1.bias",
        "same",
    ),
    # transformer trunks of the encoder and the decoder
    (r"(encoder|decoder)\.blocks\.block\.(.*)\.kernel", r"\1.blocks.{i}.\2.weight", "linear"),
    (r"(encoder|decoder)\.blocks\.block\.(.*)\.scale", r"\1.blocks.{i}.\2.weight", "same"),
    (r"(encoder|decoder)\.blocks\.block\.(.*)\.bias", r"\1.blocks.{i}.\2.bias", "same"),
    # decoder
    (r"decoder\.(.*\.(?:conv1_1x1|conv3_1x1))\.kernel", r"decoder.\1.weight", "1x1"),
    (
        r"decoder\.(up_conv1|.*\.(?:shortcut|up)|up_conv4\.conv1)\.kernel",
        r"decoder.\1.conv.weight",
        "conv",
    ),
    (
        r"decoder\.(up_conv1|.*\.(?:shortcut|up)|up_conv4\.conv1)\.bias",
        r"decoder.\1.conv.bias",
        "same",
    ),
    (r"decoder\.(up_conv.*)\.kernel", r"decoder.\1.weight", "conv"),
    # quantizer
    (r"quantizer\.codebook", r"quantizer.codebooks.{i}.codebook.weight", "same"),
    # text tower
    (r"text_encoder\.(text_projection|positional_embedding)", r"text_encoder.\1", "same"),
    (r"text_encoder\.token_embedding", r"text_encoder.token_embedding.weight", "same"),
    (
        r"text_encoder\.blocks\.block\.attn\.qkv\.kernel",
        r"text_encoder.transformer.resblocks.{i}.attn.in_proj_weight",
        "linear",
    ),
    (
        r"text_encoder\.blocks\.block\.attn\.qkv\.bias",
        r"text_encoder.transformer.resblocks.{i}.attn.in_proj_bias",
        "same",
    ),
    (
        r"text_encoder\.blocks\.block\.attn\.proj\.kernel",
        r"text_encoder.transformer.resblocks.{i}.attn.out_proj.weight",
        "linear",
    ),
    (
        r"text_encoder\.blocks\.block\.attn\.proj\.bias",
        r"text_encoder.transformer.resblocks.{i}.attn.out_proj.bias",
        "same",
    ),
    (
        r"text_encoder\.blocks\.block\.(.*)\.kernel",
        r"text_encoder.transformer.resblocks.{i}.\1.weight",
        "linear",
    ),
    (
        r"text_encoder\.blocks\.block\.(.*)\.scale",
        r"text_encoder.transformer.resblocks.{i}.\1.weight",
        "same",
    ),
    (
        r"text_encoder\.blocks\.block\.(.*)\.bias",
        r"text_encoder.transformer.resblocks.{i}.\1.bias",
        "same",
    ),
    # projections, norms and whatever keeps its name
    (r"(.*)\.kernel", r"\1.weight", "linear"),
    (r"(.*)\.scale", r"\1.weight", "same"),
    (r"(.*(?:bias|q_bias|v_bias))", r"\1", "same"),
)

# the discriminator's heads, in the release's nesting of nn.Sequential
DISCRIMINATOR_ROWS = tuple(
    (rf"heads\.(\d+)\.{ours}\.{leaf}", rf"heads.\1.{theirs}.{name}", order)
    for ours, theirs in (
        ("conv1", "0.0"),
        ("norm1", "0.1"),
        ("conv2", "1.fn.0"),
        ("norm2", "1.fn.1"),
        ("conv3", "2"),
    )
    for leaf, name, order in (
        ("kernel", "weight", "conv1d"),
        ("scale", "weight", "same"),
        ("bias", "bias", "same"),
    )
)


class Entry(NamedTuple):
    """Array of a PyTorch state dict and its place in the parameters."""

    path: tuple  # keys into the nested dict of parameters
    index: int | None  # position on the parameter's leading axis, or None for the whole array
    order: str  # a key of the axis orders
    shape: tuple  # PyTorch's shape
    columns: slice | None = None  # part of the parameter's last axis, or None for all of it

    @property
    def place(self) -> tuple:
        """Index of the entry's elements in the parameter."""
        leading = () if self.index is None else (self.index,)
        return leading if self.columns is None else (*leading, ..., self.columns)


class LayoutError(ValueError):
    """Error of a state dict that does not fit the model; the message lists every difference."""


def entries(params, rows=ROWS) -> dict[str, Entry]:
    """Returns PyTorch name -> Entry for a nested dict of arrays (or of anything with a shape)."""
    table = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = tuple(key.key for key in keys)
        for name, columns, order in _translate(trees.dotted(path), rows):
            stacked = "{i}" in name
            shape = leaf.shape[1:] if stacked else leaf.shape
            if columns is not None:
                shape = (*shape[:-1], columns.stop - columns.start)
            shape = _TO_TORCH[order](np.broadcast_to(np.float32(0), shape)).shape
            for i in range(leaf.shape[0]) if stacked else (None,):
                table[name.replace("{i}", str(i))] = Entry(path, i, order, shape, columns)
    return table


def fixed_entries(params) -> dict[str, np.ndarray]:
    """Returns the entries that UniTok stores but never changes: name -> zeros of their shape."""
    width = params["encoder"]["norm"]["scale"].shape[0]
    if "codebook" not in params.get("quantizer", {}):
        raise LayoutError("the layout holds multi-codebook quantizers only; this is another kind")
    books, rows, _ = params["quantizer"]["codebook"].shape
    fixed = {"encoder.pos_embed": np.zeros((1, 1, width), np.float32)}
    for book in range(books):
        fixed[f"quantizer.codebooks.{book}.vocab_usage"] = np.zeros((rows,), np.float32)
    for name in ("quant_proj", "post_quant_proj"):
        if "attn" in params[name]:
            bias = params[name]["attn"]["q_bias"]
            fixed[f"{name}.attn.zero_k_bias"] = np.zeros(bias.shape, np.float32)
    return fixed


class View:
    """Array of a PyTorch state dict that is converted when NumPy asks for its values."""

    def __init__(self, array, entry: Entry):
        """Takes the whole parameter, and the entry's place in it."""
        self._array, self._entry, self.shape = array, entry, entry.shape

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        array = np.asarray(self._array)[self._entry.place]
        return np.asarray(_TO_TORCH[self._entry.order](array).reshape(self.shape), dtype)


def views(params, rows=ROWS, fixed=None) -> dict[str, View | np.ndarray]:
    """Returns the state dict of `to_torch`, whose arrays take no memory until they are read."""
    out = fixed_entries(params) if fixed is None else dict(fixed)
    for name, entry in entries(params, rows).items():
        out[name] = View(_get(params, entry.path), entry)
    return out


def to_torch(params, rows=ROWS, fixed=None) -> dict[str, np.ndarray]:
    """Converts parameters to a PyTorch state dict of NumPy arrays, fixed entries included.

    `rows` and `fixed` are those of the network; `fixed=None` means UniTok's `fixed_entries`.
    """
    return {k: np.array(view, order="C") for k, view in views(params, rows, fixed).items()}


def from_torch(state: Mapping[str, np.ndarray], abstract, rows=ROWS, fixed=None):
    """Converts a PyTorch state dict to parameters.

    Args:
      state: name -> array, with exactly the names of the layout.
      abstract: nested dict of `jax.ShapeDtypeStruct` of the target model.
      rows: the network's name table.
      fixed: name -> zeros, the entries that must be zero; None means UniTok's.

    Returns:
      The nested dict of float32 NumPy arrays.

    Raises:
      LayoutError: missing or unknown names, different shapes, nonzero fixed entries; the message
        lists all. Or an array with values that are not finite.
    """
    table = entries(abstract, rows)
    fixed = fixed_entries(abstract) if fixed is None else fixed
    shapes = {name: entry.shape for name, entry in table.items()}
    shapes |= {name: array.shape for name, array in fixed.items()}
    problems = [f"missing: {name} {shapes[name]}" for name in sorted(shapes.keys() - state.keys())]
    problems += [
        f"unknown: {name} {np.shape(state[name])}" for name in sorted(state.keys() - shapes.keys())
    ]
    for name in sorted(shapes.keys() & state.keys()):
        if tuple(np.shape(state[name])) != tuple(shapes[name]):
            problems.append(
                f"shape: {name} is {tuple(np.shape(state[name]))}, the model has {shapes[name]}"
            )
        elif name in fixed and not name.endswith("vocab_usage") and np.any(state[name]):
            problems.append(f"not zero: {name} is fixed at zero in this model")
    if problems:
        raise LayoutError(
            f"{len(problems)} entries do not fit the model:\n  " + "\n  ".join(problems)
        )
    out = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.float32), abstract)
    for name, entry in table.items():
        _get(out, entry.path)[entry.place] = from_entry(name, entry, state[name])
    return out


def from_entry(name: str, entry: Entry, array) -> np.ndarray:
    """Converts PyTorch's array of an entry to a float32 parameter, or one position of one.

    Raises:
      LayoutError: as of `finite`.
    """
    return _FROM_TORCH[entry.order](finite(name, array))


def finite(name: str, array) -> np.ndarray:
    """Returns the array of a file as float32.

    Raises:
      LayoutError: NaN or infinite values, of which a model would make outputs without an error.
    """
    array = np.asarray(array, np.float32)
    if not np.isfinite(array).all():
        raise LayoutError(
            f"{name} holds values that are not finite: is the file whole, and did none overflow "
            "where it was converted to another dtype?"
        )
    return array


def _translate(path: str, rows) -> list[tuple[str, slice | None, str]]:
    """Returns (PyTorch's name, columns, axis order) of each part of a parameter."""
    for pattern, name, order in rows:
        match = re.fullmatch(pattern, path)
        if match and isinstance(name, str):
            return [(match.expand(name), None, order)]
        if match:
            ends = [0, *itertools.accumulate(name.values())]
            columns = itertools.starmap(slice, itertools.pairwise(ends))
            return [
                (match.expand(part), each, order) for part, each in zip(name, columns, strict=True)
            ]
    raise LayoutError(f"no row of the layout names the parameter {path}")


def _get(tree, path):
    for key in path:
        tree = tree[key]
    return tree
