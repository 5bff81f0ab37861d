"""The arrows of the house: a lower room never imports an upper one."""

import ast
import pathlib
import subprocess
import sys

import pytest

from unitok_jax.__main__ import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "unitok_jax"

# room -> the rooms of the package it may import (itself always)
ARROWS = {
    "__init__": {"data", "tokenizer"},
    "__main__": set(),
    "main": {
        "cluster",
        "commands/config_flags",
        "compilation_cache",
        "fit",
        "membership",
        "train",
    },
    "compilation_cache": set(),
    "membership": set(),
    "cluster": {"membership"},
    "train": {
        "boards",
        "cluster",
        "overview",
        "run_protocol",
        "sharding",
        "checkpoint",
        "differences",
        "goodput",
        "metrics",
        "profiling",
        "timing",
        "workdir",
    },
    "boards": {"workdir"},
    "overview": set(),
    "run_protocol": set(),
    "timing": {"workdir"},
    "profiling": {"timing"},
    "goodput": {"timing"},
    "run": {
        "checks",
        "cluster",
        "differences",
        "frozen",
        "initialize",
        "sharding",
        "checkpoint",
        "data",
        "evaluation",
        "pictures",
        "programs",
        "step",
        "suite",
    },
    "fit": {
        "data",
        "checks",
        "exchange",
        "flops",
        "frozen",
        "hlo",
        "sharding",
        "step",
        "topology",
    },
    "exchange": {"hlo", "topology"},
    "checks": {"data", "losses", "models", "optim"},
    "step": {"adversary", "generator", "models", "optim", "trees"},
    "generator": {"adversary", "losses", "trees", "models"},
    "adversary": {"augment", "losses", "optim", "models"},
    "augment": set(),
    "flops": set(),
    "hlo": {"groups"},
    "groups": set(),
    "topology": set(),
    "losses": set(),
    "measures": set(),
    "optim": set(),
    "sharding": set(),
    "checkpoint": {"cluster", "differences", "preservation", "stored", "workdir"},
    "stored": {"differences", "trees"},
    "differences": set(),
    "preservation": set(),
    "workdir": {"cluster"},
    "metrics": {"editing", "workdir"},
    "models": set(),
    "data": set(),
    "evaluate": {"models"},
    "foreign_files": set(),
    "outputs": {"foreign_files"},
    "strangers": set(),
    "torch_layout": {"trees"},
    "torch_files": {"foreign_files", "outputs"},
    "weight_files": {"foreign_files", "outputs", "strangers", "torch_files"},
    "torch_options": {"data", "foreign_files", "models"},
    "clip_layout": {"models"},
    "trees": set(),
    "report": set(),
    "frozen": {"foreign_files", "torch_layout", "weight_files", "models"},
    "hub": {
        "codes",
        "foreign_files",
        "models",
        "outputs",
        "stored",
        "torch_layout",
        "torch_options",
        "trees",
        "weight_files",
    },
    "loading": {
        "data",
        "foreign_files",
        "hub",
        "outputs",
        "strangers",
        "torch_files",
        "torch_layout",
        "torch_options",
        "weight_files",
        "checkpoint",
        "models",
    },
    "initialize": {
        "clip_layout",
        "differences",
        "loading",
        "models",
        "report",
        "trees",
        "torch_layout",
        "weight_files",
    },
    "arguments": {"codes", "data"},
    "batching": set(),
    "codes": set(),
    "compiled": {"batching", "models"},
    "tokenizer": {
        "arguments",
        "batching",
        "codes",
        "compiled",
        "data",
        "evaluate",
        "functions",
        "loading",
        "models",
        "stored",
    },
    "export": {"differences", "models", "outputs", "precision", "weight_files"},
    "export_example": set(),
    "editing": set(),
    "actions": {"data", "editing", "evaluate"},
    "examples": {"data"},
    "visitors": set(),
    "refusals": {"visitors"},
    "page": {"actions", "editing", "examples", "refusals"},
    "demo": {"visitors"},
    "evaluation": {
        "data",
        "evaluate",
        "frozen",
        "functions",
        "losses",
        "measures",
        "models",
        "pixels",
        "sharding",
        "step",
    },
    "reference": {"data", "evaluate", "foreign_files", "outputs"},
    "card_pictures": {"codes", "pictures"},
    "training_images": set(),
    "card_page": set(),
    "card_settings": set(),
    "suite": {"data", "evaluate", "evaluation"},
    "fid": {"card_settings", "cluster", "data", "evaluate", "evaluation", "reference", "suite"},
    "measuring": {
        "card_pictures",
        "card_settings",
        "cluster",
        "commands/arguments",
        "data",
        "evaluate",
        "evaluation",
        "fid",
        "frozen",
        "sharding",
        "suite",
        "tokenizer",
        "training_images",
    },
    "comparison": {"data", "editing"},
    "commands/__init__": set(),
    "commands/arguments": {
        "cluster",
        "compilation_cache",
        "data",
        "membership",
        "precision",
        "tokenizer",
        "torch_options",
    },
    "commands/config_flags": set(),
    "commands/classify": {"commands/arguments", "data"},
    "commands/convert": {
        "clip_layout",
        "commands/arguments",
        "foreign_files",
        "frozen",
        "hub",
        "loading",
        "report",
        "weight_files",
    },
    "commands/data_pack": {"commands/config_flags", "data"},
    "commands/data_preview": {"commands/config_flags", "data"},
    "commands/demo": {"actions", "commands/arguments", "demo", "page"},
    "commands/detokenize": {"commands/arguments", "data", "models"},
    "commands/evaluate": {
        "card_page",
        "card_settings",
        "card_writing",
        "cluster",
        "commands/arguments",
        "measuring",
        "outputs",
        "reference",
    },
    "commands/export": {"commands/arguments", "export"},
    "commands/fit": {"commands/train"},
    "commands/goodput": {"goodput"},
    "commands/inspect": {"commands/config_flags", "initialize", "models"},
    "commands/reconstruct": {
        "commands/arguments",
        "comparison",
        "data",
        "evaluate",
        "models",
        "tokenizer",
    },
    "commands/retrieve": {"commands/arguments", "data", "metrics"},
    "commands/tokenize": {"commands/arguments", "data", "models"},
    "commands/train": set(),
}
# what every room may import: the standard library, the system and its console, below the data
EVERYWHERE = {"console", "extras", "foreign_json", "paths", "signals"}
ARROWS |= {name: set() for name in EVERYWHERE}
# what a room may import from outside, where that is part of its promise
OUTSIDE = {
    "console": set(),
    "extras": set(),
    "foreign_json": set(),
    "paths": set(),
    "signals": set(),
    "arguments": {"jax", "numpy", "PIL"},
    "batching": {"jax", "numpy"},
    "codes": {"numpy"},
    "compiled": {"jax", "numpy"},
    "models": {"jax", "flax", "numpy"},
    "losses": {"jax", "optax"},
    "measures": {"jax"},
    "optim": {"jax", "optax", "flax"},
    "augment": {"jax", "numpy"},
    "trees": {"jax"},
    "differences": set(),
    "evaluate": {"numpy", "scipy"},
    "editing": {"numpy"},
    "pictures": {"numpy", "PIL"},
}


# tensorboardX is here because it imports PyTorch where that is installed
SLOW = ("torch", "tensorboardX", "tensorflow", "gradio", "skimage", "pyarrow", "scipy")


def room(path):
    """The folder of a module or the module itself, as each of the commands is."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "/".join(parts) if parts[0] == "commands" else parts[0]


def imports(path):
    """(module, lazily) for every import of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_down(path):
    here = room(path)
    assert here in ARROWS, f"{here} is a new room: say in ARROWS what it may import"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "unitok_jax" and len(parts) > 1:
            other = "/".join(parts[1:3] if parts[1] == "commands" else parts[1:2])
            exists = (PACKAGE / other).is_dir() or (PACKAGE / f"{other}.py").exists()
            if exists and other not in (here, "commands"):
                allowed = ARROWS[here] | EVERYWHERE
                assert other in allowed, f"{path.name} ({here}) must not import {other}"
        assert parts[0] not in ("configs", "tests", "benchmarks"), f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_promises_to_the_outside(path):
    allowed = OUTSIDE.get(room(path))
    if allowed is None:
        return
    for name in imports(path):
        top = name.split(".")[0]
        if top != "unitok_jax" and top not in sys.stdlib_module_names:
            assert top in allowed, f"{path} imports {name}"


def test_the_core_needs_neither_torch_nor_tensorflow():
    code = (
        "import sys, pkgutil, importlib, unitok_jax\n"
        "for name in ('torch', 'tensorflow', 'skimage', 'gradio'): sys.modules[name] = None\n"
        "for m in pkgutil.walk_packages(unitok_jax.__path__, 'unitok_jax.'):\n"
        "    importlib.import_module(m.name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_importing_the_package_loads_no_jax():
    code = "import sys, unitok_jax; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# what --help of a command does not wait for, beside SLOW; those without JAX tell their flags alone
HELP = {
    "train": ("jax", "numpy", "grain", "orbax"),
    "evaluate": (),
    "reconstruct": ("grain",),
    "tokenize": (),
    "detokenize": (),
    "classify": (),
    "retrieve": ("grain", "orbax"),
    "demo": (),
    "convert": (),
    "inspect": ("jax", "numpy", "grain", "orbax"),
    "export": (),
    "data preview": ("jax", "flax", "grain", "orbax"),
    "data pack": ("jax", "flax", "grain", "orbax"),
    "fit": ("jax", "numpy", "grain", "orbax"),
    "goodput": ("flax", "orbax", "grain"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_wait_for_what_it_does_not_need(command):
    code = (
        "import runpy, sys\n"
        f"for name in {(*SLOW, *HELP[command])}: sys.modules[name] = None\n"
        "runpy.run_module('unitok_jax', run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-c", code, *command.split(), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 1) and done.stdout and not done.stderr  # 1 is absl's


def test_loading_a_tokenizer_does_not_wait_for_what_it_does_not_need():
    code = f"import sys\nfor name in {(*SLOW, 'grain', 'cv2')}: sys.modules[name] = None\n"
    code += "import unitok_jax; unitok_jax.load"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_only_commands_know_the_command_line():
    """Library functions take arguments of their own, not a parser's."""
    for path in FILES:
        if room(path) != "commands" and {"argparse", "unitok_jax.commands"} & set(imports(path)):
            tree = ast.parse(path.read_text())
            functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
            assert "main" in [function.name for function in functions], f"{path} is no command"
            for function in functions:
                if not function.name.startswith("_"):
                    assert "Namespace" not in ast.unparse(function.args), f"{path}: {function.name}"


def test_configs_are_read_by_attribute():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr == "get" and len(node.args) == 2:
                    assert "config" not in ast.unparse(node.func.value), f"{path}:{node.lineno}"
