"""Trees of arrays with dotted paths: leaves, selection by globs, and differences.

A parameter's dotted path joins its keys, as `encoder.stages.0.1.conv1_1x1.kernel`. A `*` of a glob
matches dots too: `encoder.*` is the whole encoder. Case counts.
"""

import difflib
import fnmatch
from collections.abc import Sequence

import jax


def dotted(path) -> str:
    """Joins a path of `jax.tree_util`, or a sequence of keys, to a dotted path."""
    keys = (getattr(p, "key", getattr(p, "name", getattr(p, "idx", p))) for p in path)
    return ".".join(map(str, keys))


def flatten(tree) -> dict:
    """Returns a dict of dotted path -> leaf, in leaf order."""
    return {dotted(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def name_mask(params, patterns: Sequence[str], key: str = "patterns"):
    """Marks the parameters that any of the globs matches.

    Args:
      params: nested dict of arrays or abstract arrays.
      patterns: globs over dotted paths; an empty sequence matches nothing.
      key: name of the globs in an error, such as `optim.frozen`.

    Returns:
      A tree of bool in the structure of `params`.

    Raises:
      ValueError: a glob matches no parameter; the message names `key`, the glob and near names.
    """
    if isinstance(patterns, str):
        raise ValueError(f"{key}={patterns!r} must be a tuple of patterns: ({patterns!r},)")
    names = list(flatten(params))
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"{key}: {pattern!r} matches no parameter; {_near(pattern, names)}")

    def matches(path, _):
        return any(fnmatch.fnmatchcase(dotted(path), pattern) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(matches, params)


def split(params, patterns: Sequence[str], key: str = "patterns") -> tuple[dict, dict]:
    """Splits into two nested dicts, (matching, rest), that `merge` joins. See `name_mask`."""
    mask = name_mask(params, patterns, key)
    return _keep(params, mask, True), _keep(params, mask, False)


def merge(a: dict, b: dict) -> dict:
    """Joins two nested dicts that share no leaf, with the keys in leaf order.

    Raises:
      ValueError: both hold the same leaf, or one a leaf where the other has a dict.
    """
    return _merge(a, b, "")


def differences(found, target) -> list[str]:
    """Lists differences of `found` from `target` in names and shapes, one line each.

    The leaves may be metadata, with a shape but without values.
    """
    found, target = _shapes(found), _shapes(target)
    lines = [f"missing: {name} {target[name]}" for name in sorted(target.keys() - found.keys())]
    lines += [f"unknown: {name} {found[name]}" for name in sorted(found.keys() - target.keys())]
    for name in sorted(found.keys() & target.keys()):
        if found[name] != target[name]:
            lines.append(f"shape: {name} is {found[name]}, the model has {target[name]}")
    return lines


def _merge(a, b, prefix):
    out = {}
    for key in sorted(a.keys() | b.keys()):
        if key in a and key in b:
            if not (isinstance(a[key], dict) and isinstance(b[key], dict)):
                raise ValueError(f"both parts hold {prefix}{key}")
            out[key] = _merge(a[key], b[key], f"{prefix}{key}.")
        else:
            out[key] = a[key] if key in a else b[key]
    return out


def _keep(tree, mask, wanted):
    out = {}
    for key, value in tree.items():
        if not isinstance(value, dict):
            if mask[key] == wanted:
                out[key] = value
            continue
        part = _keep(value, mask[key], wanted)
        # A dict that was empty from the start belongs to the rest.
        if part or (not value and not wanted):
            out[key] = part
    return out


def _near(pattern, names):
    top = dict.fromkeys(n if "." not in n else n.split(".")[0] + ".*" for n in names)
    inner = {name: None for name in names}
    for name in names:
        keys = name.split(".")
        inner |= {".".join(keys[:depth]) + ".*": None for depth in range(1, len(keys))}
    near = difflib.get_close_matches(pattern, inner, n=3)
    hint = f"near: {', '.join(near)}; " if near else ""
    return f"{hint}top level: {', '.join(top)}"


def _shapes(tree) -> dict[str, tuple]:
    return {name: tuple(getattr(leaf, "shape", ())) for name, leaf in flatten(tree).items()}
