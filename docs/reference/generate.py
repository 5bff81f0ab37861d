"""Writes the pages of this folder that follow from the code: `python docs/reference/generate.py`.

A test compares each page with what the code says now.
"""

import ast
import io
import pathlib
import runpy
import tokenize
from collections.abc import Iterator

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
CONFIG = "configs/default.py"


def config_page() -> str:
    """Every key of `configs/default.py` as Markdown: a table for each group of keys."""
    text = (ROOT / CONFIG).read_text()
    lines, comments = text.splitlines(), _comments(text)
    defaults = runpy.run_path(str(ROOT / CONFIG))["get_config"]()
    words, rows = {"": ""}, {"": []}  # of each group
    for node, key in _assignments(text):
        if _is_call(node.value, "ConfigDict"):
            line = node.lineno - 1
            while lines[line - 1].lstrip().startswith("#"):
                line -= 1
            words[key] = " ".join(comments[above] for above in range(line + 1, node.lineno))
            rows[key] = []
        else:
            value = ast.get_source_segment(text, node.value)
            if isinstance(node.value, ast.Call):  # a reference to another key
                value = repr(_find(defaults, key))
            meaning = comments.get(node.end_lineno, "").replace("|", "\\|")
            rows[key.rpartition(".")[0]].append(f"| `{key}` | `{value}` | {meaning} |")
    page = [
        "# Keys of a configuration",
        "",
        f"Every key of [{CONFIG}](../../{CONFIG}), which the other configurations start from, with",
        "its default. Any can be set on the command line: `--config.optim.learning_rate=1e-3`.",
        "Written by `python docs/reference/generate.py` from that file.",
    ]
    for group, cells in rows.items():
        page += ["", f"## `{group}`" if group else "## The run", ""]
        page += [words[group], ""] if words[group] else []
        page += ["| key | default | meaning |", "|---|---|---|", *cells]
    return "\n".join(page) + "\n"


def _assignments(text: str) -> Iterator[tuple[ast.Assign, str]]:
    """The assignments of `get_config` to keys, in their order, and the dotted name of each key."""
    (function,) = (
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == "get_config"
    )
    prefixes = {"config": ""}  # variable -> what the names of its keys begin with
    for node in function.body:
        if not isinstance(node, ast.Assign):
            continue
        attributes = [target for target in node.targets if isinstance(target, ast.Attribute)]
        if not attributes:
            continue
        variable, _, rest = ast.unparse(attributes[0]).partition(".")
        key = prefixes[variable] + rest
        for target in node.targets:
            if isinstance(target, ast.Name):
                prefixes[target.id] = key + "."
        yield node, key


def _comments(text: str) -> dict[int, str]:
    """Number of a line -> its comment."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _is_call(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == name


def _find(config, key: str):
    for name in key.split("."):
        config = config[name]
    return config


PAGES = {"config.md": config_page}


if __name__ == "__main__":
    for name, make in PAGES.items():
        (HERE / name).write_text(make())
