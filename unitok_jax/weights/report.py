"""Report on the use of a file's arrays for a model's parameters."""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple


class Used(NamedTuple):
    """Array of the file that became a parameter, or part of one."""

    path: str  # dotted path of the model's parameter
    index: int | None  # position on the parameter's leading axis, or None for the whole parameter
    size: int  # number of elements


@dataclasses.dataclass(frozen=True)
class Report:
    """Report on the parameters taken from a file, and on those that stayed fresh.

    Attributes:
      path: the file or folder.
      kind: kind of the file, in words.
      used: name in the file -> Used.
      unused: name in the file -> reason; shapes are in the file's order of axes.
      sizes: dotted path -> number of elements, for every parameter of the model.
      fresh: dotted path -> rows of the leading axis that stayed fresh, or None for all rows.
      notes: further remarks for the user.
    """

    path: str
    kind: str
    used: dict[str, Used]
    unused: dict[str, str]
    sizes: dict[str, int]
    fresh: dict[str, int | None]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.kind}", *self._summary(), "used:", *self._used()]
        for title, block in (
            ("in the file, not used:", self.unused_lines()),
            ("fresh:", self._fresh()),
            ("notes:", [f"  {note}" for note in self.notes]),
        ):
            if block:
                lines += [title, *block]
        return "\n".join(lines)

    def _summary(self):
        whole, taken = {}, {}
        for name, size in self.sizes.items():
            top = name.split(".")[0]
            whole[top] = whole.get(top, 0) + size
        for used in self.used.values():
            top = used.path.split(".")[0]
            taken[top] = taken.get(top, 0) + used.size
        total = f"{_count(sum(taken.values()))} of {_count(sum(whole.values()))}"
        each = [f"  {top:16}{_count(taken.get(top, 0))} of {_count(n)}" for top, n in whole.items()]
        return [f"takes {total} parameters:", *each]

    def _used(self):
        same = {name for name, used in self.used.items() if name == used.path}
        lines = [f"  {name}" for name in subtrees(same, self.sizes)]
        groups = {}
        for name, used in self.used.items():
            if name not in same:
                groups.setdefault(_pattern(name), {})[name] = used.path
        for group in groups.values():
            sources, targets = collapse(group), collapse(set(group.values()))
            lines.append(f"  {', '.join(sources)} -> {', '.join(targets)}")
        return lines

    def lacks(self, names: Iterable[str]) -> str:
        """Says what the file does not give of some parameters, or has deeper, and the notes.

        Args:
          names: dotted paths of the model.

        Returns:
          One line; empty if the file gives all of them.
        """
        names = list(names)
        parts = {name.split(".")[0] for name in names}
        ends = tuple(f"has no {part}." for part in parts)
        missing = [name for name in names if name in self.fresh]
        deeper = [name for name, why in self.unused.items() if any(end in why for end in ends)]
        if missing:
            what = f"{len(missing)} of its arrays are missing, such as {missing[0]}"
        elif deeper:
            what = f"it is deeper: {len(deeper)} of its arrays are left out, such as {deeper[0]}"
        else:
            return ""
        return "; ".join((what, *self.notes))

    def unused_lines(self) -> list[str]:
        """Lists unused arrays with the reason: one line for a subtree, or for all blocks."""
        groups, every = {}, [*self.used, *self.unused]
        for name, why in self.unused.items():
            groups.setdefault(why, set()).add(name)
        return [
            f"  {name}: {why}"
            for why, names in groups.items()
            for name in collapse(subtrees(names, every))
        ]

    def _fresh(self):
        whole = {name for name, rows in self.fresh.items() if rows is None}
        partly = {name: rows for name, rows in self.fresh.items() if rows is not None}
        lines = [f"  {name}" for name in collapse(subtrees(whole, self.sizes))]
        return lines + [f"  {name}, {rows} of its blocks" for name, rows in partly.items()]


def collapse(names: Iterable[str]) -> list[str]:
    """Groups names by their last number: `blocks.0.w`, `blocks.1.w` -> `blocks.{0..1}.w`."""
    groups = {}
    for name in names:
        numbers, position = groups.setdefault(_pattern(name), []), _position(name)
        if position is not None:
            numbers.append(int(name.split(".")[position]))
    out = []
    for pattern, numbers in groups.items():
        out.append(pattern.replace("{}", _numbers(sorted(numbers))) if numbers else pattern)
    return out


def subtrees(chosen: Iterable[str], every: Iterable[str]) -> list[str]:
    """Returns the fewest names, `encoder.*` for a subtree, that cover exactly `chosen`."""
    return list(_subtrees("", set(chosen), list(every)))


def _subtrees(prefix, chosen, names):
    inside = [name for name in names if name in chosen]
    if inside and len(inside) == len(names):
        yield f"{prefix}*" if names != [prefix.rstrip(".")] else names[0]
    elif inside:
        groups = {}
        for name in names:
            groups.setdefault(name[len(prefix) :].split(".")[0], []).append(name)
        for key, group in groups.items():
            yield from _subtrees(f"{prefix}{key}.", chosen, group)


def _position(name):
    """Returns the position of the last number among a name's keys, or None."""
    keys = name.split(".")
    return max((i for i, key in enumerate(keys) if key.isdigit()), default=None)


def _pattern(name):
    keys, position = name.split("."), _position(name)
    if position is not None:
        keys[position] = "{}"
    return ".".join(keys)


def _numbers(numbers):
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return "{" + ",".join(map(str, numbers)) + "}"


def _count(number):
    return f"{number / 1e6:.2f} M" if number >= 1e4 else f"{number:,}"
