"""Memory traffic and collectives of a compiled program, read from its HLO text.

XLA's own cost analysis counts the body of a loop once. Here a body counts as often as its loop runs
it, and of the branches of a conditional the one that moves the most bytes counts.
"""

import collections
import functools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

from unitok_jax.planning import replica_groups

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")

# Neither read nor write: aliases of existing values, and the ends of asynchronous pairs.
_FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "optimization-barrier",
    "after-all",
    "partition-id",
    "replica-id",
    "iota",
}
_SLICES, _UPDATE = ("dynamic-slice", "slice", "gather"), "dynamic-update-slice"
_BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4, "token": 0, "opaque": 0}


class Collective(NamedTuple):
    """One kind of exchange between a number of devices."""

    kind: str
    devices: int  # that exchange with each other
    nodes: int = 1  # that these devices lie in
    cause: str = ""  # by the function that `traffic` was given


class Traffic(NamedTuple):
    """Data moved by one run of a program, per device."""

    bytes: float  # read from and written to the memory
    collectives: dict[Collective, tuple[int, float]]  # how often, and bytes of results in all


class _Instruction(NamedTuple):
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str  # attributes; the number of a parameter
    root: bool


def traffic(
    text: str,
    devices: int,
    node: int = 0,
    cause: Callable[[str, str], str] = lambda kind, name: "",
) -> Traffic:
    """Computes the memory traffic and collectives of a program.

    Args:
      text: `compiled.as_text()`.
      devices: number of devices of the program; a collective without groups joins all.
      node: devices per node, which are neighbours in the mesh; 0 for all.
      cause: maps a collective's kind and its JAX operation name to its cause.
    """
    return _Program(text, devices, node or devices, cause).total()


def shape_bytes(shape: str) -> int:
    """Returns the bytes of an array or tuple in the device's main memory, without padding."""
    total = 0
    for dtype, sizes, layout in re.findall(r"(\w+)\[([\d,]*)\](\{[^{}]*\})?", shape):
        # S(1) and above are a TPU's memories on the chip.
        if not re.search(r"S\([1-9]\d*\)", layout):
            total += _array_bytes(dtype, sizes)
    return total


def _array_bytes(dtype, sizes):
    digits = re.search(r"\d+", dtype)
    bits = _BITS[dtype] if dtype in _BITS else int(digits[0])
    return math.prod(int(size) for size in sizes.split(",") if size) * bits // 8


def _all_bytes(shape):
    return sum(_array_bytes(*found) for found in re.findall(r"(\w+)\[([\d,]*)\]", shape))


class _Program:
    def __init__(self, text, devices, node, cause):
        self.devices, self.node, self.cause = devices, node, cause
        self.computations, self.entry = _parse(text)
        self.instructions, self.users = {}, collections.defaultdict(list)
        for name, instructions in self.computations.items():
            for instruction in instructions:
                self.instructions[name, instruction.name] = instruction
                for operand in instruction.operands:
                    self.users[name, operand].append(instruction)

    def total(self):
        moved, found = self._cost(self.entry)
        return Traffic(moved, found)

    @functools.cache  # noqa: B019  a program lives as long as its one count
    def _cost(self, computation):
        """Returns bytes, and {collective: (count, bytes)}, of one run of a computation."""
        moved, found = 0.0, {}

        def add(collective, count, size):
            before = found.get(collective, (0, 0.0))
            found[collective] = before[0] + count, before[1] + size

        for instruction in self.computations[computation]:
            opcode, called = instruction.opcode, _called(instruction.rest)
            times = 1
            if opcode == "while":
                inner, times = self._cost(called["body"][0]), self._trips(instruction)
            elif opcode == "conditional":
                branches = [name for names in called.values() for name in names]
                inner = max((self._cost(name) for name in branches), key=lambda cost: cost[0])
            elif opcode in ("call", "async-start"):
                inner = self._cost((called.get("calls") or called["to_apply"])[0])
            elif opcode == "fusion":
                fused = called["calls"][0]
                exchanged = self._fused_collectives(instruction, fused)
                inner = self._fusion_bytes(computation, instruction, fused), exchanged
            else:
                inner = self._plain_bytes(computation, instruction), self._collective(instruction)
            moved += times * inner[0]
            for collective, (count, size) in inner[1].items():
                add(collective, times * count, times * size)
        return moved, found

    def _fused_collectives(self, instruction, fused):
        """Returns {collective: (count, bytes)} that a fusion begins."""
        # A TPU computes while it exchanges: the fusions between start and done name the collective
        # again, also those in loops.
        if fused.startswith("async_collective") or "collective-done" in instruction.name:
            return {}
        found = self._cost(fused)[1]
        if not fused.startswith("all-reduce-scatter"):
            return found
        return {
            all_reduce._replace(kind="reduce-scatter"): (count, size / all_reduce.devices)
            for all_reduce, (count, size) in found.items()
        }

    def _plain_bytes(self, computation, instruction):
        opcode, operands = instruction.opcode, instruction.operands
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return 0
        if "AllocateBuffer" in instruction.rest:
            return 0
        if opcode == "copy-start":  # its result names source and target
            return shape_bytes(instruction.shape)
        if opcode in _SLICES:
            return 2 * shape_bytes(instruction.shape)
        if opcode == "slice-start":
            return 2 * shape_bytes(_elements(instruction.shape)[1])
        if opcode == _UPDATE:
            return 2 * self._bytes(computation, operands[1])
        inputs = sum(self._bytes(computation, name) for name in operands)
        if _kind(opcode):
            return inputs + shape_bytes(_result(instruction))
        return inputs + shape_bytes(instruction.shape)

    def _fusion_bytes(self, computation, instruction, fused):
        """Returns the bytes a fusion reads and writes: only slices of an operand if so used."""
        parameters = self._parameters(fused)
        total = sum(
            min(self._read(fused, parameters[number]), self._bytes(computation, operand))
            for number, operand in enumerate(instruction.operands)
        )
        root = next(inner.name for inner in self.computations[fused] if inner.root)
        return total + min(self._written(fused, root), shape_bytes(instruction.shape))

    def _read(self, fused, name):
        """Returns the bytes of a value that its users inside a fusion read."""
        total = 0
        for user in self.users[fused, name]:
            if user.opcode == "bitcast":
                total += self._read(fused, user.name)
            elif user.opcode == "fusion":
                inner = _called(user.rest)["calls"][0]
                parameters = self._parameters(inner)
                for number, operand in enumerate(user.operands):
                    if operand == name:
                        total += self._read(inner, parameters[number])
            elif user.opcode in _SLICES:
                total += _all_bytes(user.shape)
            elif user.opcode == "tuple" or _kind(user.opcode):
                pass  # handed on, or on the links
            elif user.opcode != _UPDATE or user.operands[0] != name:
                return math.inf
        return total

    def _written(self, fused, name):
        """Returns the bytes of a value inside a fusion that its computation writes."""
        inner = self.instructions[fused, name]
        if inner.opcode == "tuple":
            return sum(self._written(fused, element) for element in inner.operands)
        if inner.opcode == "bitcast":
            return self._written(fused, inner.operands[0])
        if inner.opcode == "parameter" or _kind(inner.opcode):
            return 0
        if inner.opcode == _UPDATE:  # in place
            return _all_bytes(self.instructions[fused, inner.operands[1]].shape)
        return _all_bytes(inner.shape)

    def _parameters(self, computation):
        return {
            int(inner.rest): inner.name
            for inner in self.computations[computation]
            if inner.opcode == "parameter"
        }

    def _bytes(self, computation, name):
        return shape_bytes(self.instructions[computation, name].shape)

    def _collective(self, instruction):
        """Returns {collective: (1, bytes of its result)}, empty for other instructions."""
        kind = _kind(instruction.opcode)
        if kind is None:
            return {}
        joined = replica_groups.groups(instruction.rest, self.devices)
        count = self.devices if kind == "collective-permute" else len(joined[0])
        name = re.search(r'op_name="([^"]*)"', instruction.rest)
        cause = self.cause(kind, name[1] if name else "")
        collective = Collective(kind, count, replica_groups.nodes(joined, self.node), cause)
        return {collective: (1, _all_bytes(_result(instruction)))}

    def _trips(self, instruction):
        """Returns a loop's iterations: XLA's known count, or the bound in its condition."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.rest)
        if known:
            return int(known[1])
        condition = self.computations[_called(instruction.rest)["condition"][0]]
        bounds = [
            int(inner.rest)
            for inner in condition
            if inner.opcode == "constant" and inner.rest.isdecimal()
        ]
        return max(bounds, default=1)


def _kind(opcode):
    base = opcode.removesuffix("-start")
    return base if base in KINDS else None


def _result(instruction):
    """Returns the shape of a collective's result; asynchronous ones list operands too."""
    starts = ("all-gather-start", "collective-permute-start")
    if instruction.opcode in starts:
        return _elements(instruction.shape)[1]
    return instruction.shape


def _called(rest):
    """Maps attribute to names of the computations that it names."""
    out = {}
    pattern = r"\b(body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
    for attribute, name in re.findall(pattern, rest):
        out[attribute] = [name]
    branches = re.search(r"branch_computations=\{([^}]*)\}", rest)
    if branches:
        out["branches"] = [name.strip(" %") for name in branches[1].split(",")]
    return out


def _parse(text):
    """Parses the text to {computation: [instructions]} and the name of the entry."""
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
            continue
        found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$", line)
        if found and current is not None:
            shape, rest = _split_shape(found[3])
            opcode, rest = rest.split("(", 1)
            end = _closing("(" + rest) - 1
            inside, attributes = rest[:end], rest[end + 1 :]
            # The parentheses of these opcodes hold no operands.
            literal = opcode in ("parameter", "constant")
            operands = () if literal else tuple(re.findall(r"%([\w.\-]+)", inside))
            current.append(
                _Instruction(
                    found[2],
                    shape,
                    opcode,
                    operands,
                    inside if literal else attributes,
                    bool(found[1]),
                )
            )
    return computations, entry


def _split_shape(text):
    """Splits '(f32[2], s32[]) tuple(...)' into '(f32[2], s32[])', 'tuple(...)'."""
    end = _closing(text) + 1 if text.startswith("(") else text.index(" ")
    return text[:end], text[end:].lstrip()


def _closing(text):
    """Returns the index of the parenthesis that closes the first one."""
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    raise ValueError(f"not HLO: {text[:80]!r} does not close its parentheses")


def _elements(shape):
    """Splits a tuple's shape into its elements."""
    out, start, depth = [], 1, 0
    for found in re.finditer(r"[()\[\]{},]", shape[1:-1] + ","):
        if found[0] in "([{":
            depth += 1
        elif found[0] in ")]}":
            depth -= 1
        elif not depth:
            out.append(shape[start : found.start() + 1].strip())
            start = found.start() + 2
    return out
