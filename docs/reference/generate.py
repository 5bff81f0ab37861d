"""Writes the pages of this folder that follow from the code: `python docs/reference/generate.py`.

A test compares each page with what the code says now.
"""

import ast
import functools
import io
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import textwrap
import tokenize
from collections.abc import Iterator

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
CONFIGS = {
    "config.md": "configs/default.py",
    "generator_config.md": "configs/generate.py",
    "multimodal_config.md": "configs/multimodal.py",
}
PRODUCTS = {"multimodal": "multimodal model"}  # in a title, where the key's value says too little
# Prints {command: its --help}, all in one process: only one import of what takes long.
HELPS = """
import contextlib, importlib, io, json, sys
from unitok_jax.__main__ import COMMANDS
helps = {}
for name in COMMANDS:
    sys.argv = ["unitok", "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        importlib.import_module("unitok_jax.commands." + name.replace(" ", "_")).main()
    helps[name] = [COMMANDS[name], out.getvalue()]
print(json.dumps(helps))
"""


def config_page(file: str) -> str:
    """Every key of a file in configs/ as Markdown: a table for each group of keys."""
    text = (ROOT / file).read_text()
    lines, comments = text.splitlines(), _comments(text)
    defaults = runpy.run_path(str(ROOT / file))["get_config"]()
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
        f"# Keys of a configuration of a {PRODUCTS.get(defaults.product, defaults.product)}",
        "",
        f"Every key of [{file}](../../{file}), which others start from, with its",
        "default. Any can be set on the command line: `--config.optim.learning_rate=1e-3`.",
        "Written by `python docs/reference/generate.py` from that file.",
    ]
    for group, cells in rows.items():
        page += ["", f"## `{group}`" if group else "## The run", ""]
        page += [textwrap.fill(words[group], 100), ""] if words[group] else []
        page += ["| key | default | meaning |", "|---|---|---|", *cells]
    return "\n".join(page) + "\n"


def commands_page() -> str:
    """The --help of every command as Markdown, without the line of usage that repeats the flags."""
    environment = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HELPS], env=environment, capture_output=True, text=True, check=True
    )
    helps = json.loads(done.stdout)
    page = [
        "# Commands",
        "",
        "The flags that `--help` of each command prints. `unitok COMMAND` is `python -m unitok_jax",
        "COMMAND`; `~` is a home folder in every path. `train`, `fit`, `inspect` and `data` take",
        "keys of a configuration too, as `--config.KEY=VALUE`: [config.md](config.md).",
        "",
        "Ctrl-C ends a command with one line and the exit code 130; a second one does not wait for",
        "what the first has left to do. `tokenize`, `detokenize`, `generate`, `data pack`,",
        "`data text` and `data teacher` go on where they were when the same command comes again. A",
        "command whose output nobody reads any more (`| head`) ends without a word, with 141.",
        "Written by `python docs/reference/generate.py`.",
    ]
    for name, (makes, text) in helps.items():
        page += ["", f"## `unitok {name}`", "", f"{makes[0].upper()}{makes[1:]}.", ""]
        if name != "train" and text == helps["train"][1]:
            page.append("It has the flags of `unitok train`.")
        else:
            page += ["```text", _flags(text), "```"]
    return "\n".join(page) + "\n"


def _flags(text: str) -> str:
    """A --help without usage, the flags of absl itself and what depends on the machine."""
    text = re.sub(r"\Ausage:.*?\n\n", "", text, flags=re.DOTALL)
    text = re.sub(r"\nabsl\.flags:\n.*|\nTry --helpfull.*", "", text, flags=re.DOTALL)
    text = re.sub(r"\n+(/\S+/main\.py|unitok_jax\.commands\.\w+):\n", "\n\n", text)
    text = re.sub(r"(--workers: .*\n    \(default: )'\d+'", r"\1one per core", text)
    return text.strip("\n")


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


PAGES = {"commands.md": commands_page} | {
    page: functools.partial(config_page, file) for page, file in CONFIGS.items()
}


if __name__ == "__main__":
    for name, make in PAGES.items():
        (HERE / name).write_text(make())
