"""Groups of devices that a collective joins, read from its attributes in HLO text."""

import math
import re

import numpy as np

_LISTS = r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}"
_IOTA = r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
_MESH = (
    r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? *"
    r"\{([^{}]*)\}"
)


def groups(attributes: str, devices: int) -> list[list[int]]:
    """Parses the groups of devices that exchange with each other, as partition numbers.

    Args:
      attributes: what follows the operands of a collective. Every pair of a permutation is a group.
      devices: of the program; a collective without groups is over all of them.

    Raises:
      ValueError: the groups are written in an unknown way.
    """
    if found := re.search(_LISTS, attributes):
        return [_numbers(group) for group in re.findall(r"\{([\d,]+)\}", found[1])]
    if found := re.search(_IOTA, attributes):
        return _iota(found[2], found[3]).reshape(_numbers(found[1])).tolist()
    if found := re.search(_MESH, attributes):
        axes, sides, order, along = found.groups()
        return _along(axes, _iota(sides, order) if sides else None, along)
    if re.search(r"replica_groups=(?!\{\})", attributes):
        raise ValueError(f"not known in HLO: {attributes[:200]}")
    return [list(range(devices))]


def nodes(joined: list[list[int]], node: int) -> int:
    """Returns how many nodes of `node` neighbouring devices the widest group reaches over."""
    return max(len({device // node for device in group}) for group in joined)


def _iota(sides, order):
    """Expands '2,4', '1,0' to 0 to 7 as 2 x 4, transposed."""
    ids = np.arange(math.prod(_numbers(sides))).reshape(_numbers(sides))
    return ids.transpose(_numbers(order)) if order else ids


def _along(axes, ids, along):
    """Lists groups along mesh axes or parts of them: 'x':(4)2 is the 2 in an 'x' of 4 x 2 x ..."""
    sides = {name: [int(side)] for name, side in re.findall(r"'(\w+)'=(\d+)", axes)}
    parts = {}  # axis -> the one of its sides that a group goes along
    for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along):
        (whole,), parts[name] = sides[name], 0
        if size:
            sides[name] = [int(before), int(size), whole // (int(before) * int(size))]
            parts[name] = 1
    shape, picked = [], []
    for name, lengths in sides.items():
        if name in parts:
            picked.append(len(shape) + parts[name])
        shape += lengths
    ids = np.arange(math.prod(shape)) if ids is None else ids
    ids = np.moveaxis(ids.reshape(shape), picked, range(-len(picked), 0))
    return ids.reshape(-1, math.prod(shape[axis] for axis in picked)).tolist()


def _numbers(text):
    return [int(number) for number in text.split(",")]
