"""The arrows of the house: a lower room never imports an upper one."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "unitok_jax"

# room -> the rooms of the package it may import (itself always)
ARROWS = {
    "__init__": {"data", "tokenizer"},
    "config_flag": set(),
    "main": {"cluster", "compilation_cache", "config_flag", "fit", "membership", "train"},
    "compilation_cache": set(),
    "membership": set(),
    "cluster": {"membership"},
    "train": {
        "boards",
        "cluster",
        "overview",
        "run",
        "sharding",
        "checkpoint",
        "differences",
        "goodput",
        "metrics",
        "profiling",
        "step",
        "timing",
        "workdir",
    },
    "boards": {"workdir"},
    "overview": {"step"},
    "timing": {"workdir"},
    "profiling": {"timing"},
    "goodput": {"timing"},
    "run": {
        "checks",
        "differences",
        "frozen",
        "initialize",
        "sharding",
        "checkpoint",
        "data",
        "evaluation",
        "metrics",
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
        "programs",
        "sharding",
        "step",
        "topology",
    },
    "exchange": {"hlo", "topology"},
    "programs": {"sharding", "step"},
    "checks": {"data", "losses", "models", "optim"},
    "step": {"adversary", "generator", "losses", "optim", "parts", "pixels", "models"},
    "generator": {"adversary", "losses", "parts", "models"},
    "adversary": {"augment", "losses", "optim", "models"},
    "augment": set(),
    "pixels": set(),
    "flops": set(),
    "hlo": {"groups"},
    "groups": set(),
    "topology": set(),
    "losses": set(),
    "measures": set(),
    "optim": set(),
    "sharding": set(),
    "checkpoint": {"cluster", "differences", "preservation", "stored", "workdir"},
    "stored": {"differences"},
    "differences": set(),
    "preservation": set(),
    "workdir": {"cluster"},
    "metrics": {"editing", "workdir"},
    "models": set(),
    "data": {"config_flag"},
    "evaluate": {"models"},
    "foreign_files": set(),
    "outputs": {"foreign_files"},
    "strangers": set(),
    "torch_layout": set(),
    "torch_files": {"foreign_files", "outputs"},
    "weight_files": {"foreign_files", "outputs", "strangers", "torch_files"},
    "torch_options": {"data", "foreign_files", "models"},
    "clip_layout": {"models"},
    "parts": set(),
    "report": set(),
    "frozen": {"foreign_files", "torch_layout", "weight_files", "models"},
    "hub": {
        "differences",
        "foreign_files",
        "models",
        "outputs",
        "stored",
        "torch_layout",
        "torch_options",
        "weight_files",
    },
    "convert": {
        "clip_layout",
        "commands",
        "data",
        "foreign_files",
        "frozen",
        "hub",
        "outputs",
        "report",
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
        "config_flag",
        "differences",
        "convert",
        "models",
        "parts",
        "report",
        "torch_layout",
        "weight_files",
    },
    "arguments": {"data", "models"},
    "batching": set(),
    "codes": set(),
    "precision": set(),
    "functions": {"models", "pixels", "precision"},
    "compiled": {"batching", "functions", "pixels"},
    "tokenizer": {
        "arguments",
        "batching",
        "codes",
        "compiled",
        "convert",
        "data",
        "evaluate",
        "functions",
        "models",
        "stored",
    },
    "commands": {
        "cluster",
        "compilation_cache",
        "data",
        "membership",
        "precision",
        "tokenizer",
        "torch_options",
    },
    "tokenize": {"commands", "data", "models"},
    "detokenize": {"commands", "data", "models"},
    "export": {"commands", "differences", "models", "outputs", "precision", "weight_files"},
    "export_example": set(),
    "classify": {"commands", "data"},
    "retrieve": {"commands", "data", "metrics"},
    "editing": set(),
    "actions": {"data", "editing", "evaluate"},
    "examples": {"data"},
    "visitors": set(),
    "refusals": {"visitors"},
    "page": {"actions", "editing", "examples", "refusals"},
    "demo": {"actions", "commands", "page", "visitors"},
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
    "card_pictures": {"metrics"},
    "training_images": set(),
    "card_page": set(),
    "card_settings": set(),
    "suite": {"data", "evaluate", "evaluation"},
    "fid": {"card_settings", "cluster", "data", "evaluate", "evaluation", "reference", "suite"},
    "measuring": {
        "card_pictures",
        "card_settings",
        "cluster",
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
    "card_writing": {"card_page", "card_pictures", "measuring"},
    "card": {
        "card_page",
        "card_settings",
        "card_writing",
        "cluster",
        "commands",
        "data",
        "measuring",
        "outputs",
        "reference",
    },
    "evaluate/__main__": {"card"},
    "comparison": {"data", "editing"},
    "reconstruct": {"commands", "comparison", "data", "evaluate", "models", "tokenizer"},
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
    "precision": set(),
    "functions": {"jax", "flax"},
    "compiled": {"jax", "numpy"},
    "models": {"jax", "flax", "numpy"},
    "losses": {"jax", "optax"},
    "measures": {"jax"},
    "optim": {"jax", "optax", "flax"},
    "augment": {"jax", "numpy"},
    "pixels": {"jax", "numpy"},
    "parts": {"jax"},
    "evaluate": {"numpy", "scipy"},
    "editing": {"numpy"},
}


# tensorboardX is here because it imports PyTorch where that is installed
SLOW = ("torch", "tensorboardX", "tensorflow", "gradio", "skimage", "pyarrow", "scipy")


def room(path):
    if path == PACKAGE / "evaluate" / "__main__.py":  # a door, not one of the measures
        return "evaluate/__main__"
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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
            other = parts[1]
            exists = (PACKAGE / other).is_dir() or (PACKAGE / f"{other}.py").exists()
            if exists and other != here:
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


HELP = [  # main and the data's commands tell their flags without JAX, the others not
    ("convert", ()),
    ("classify", ()),
    ("demo", ()),
    ("detokenize", ()),
    ("evaluate", ()),
    ("export", ()),
    ("goodput", ("flax", "orbax", "grain")),
    ("main", ("jax", "numpy", "grain", "orbax")),
    ("reconstruct", ("grain",)),
    ("retrieve", ("grain", "orbax")),
    ("tokenize", ()),
    ("data.pack", ("jax", "flax", "grain", "orbax")),
    ("data.preview", ("jax", "flax", "grain", "orbax")),
]


@pytest.mark.parametrize(("command", "more"), HELP, ids=[command for command, _ in HELP])
def test_help_does_not_wait_for_what_it_does_not_need(command, more):
    code = (
        "import runpy, sys\n"
        f"for name in {(*SLOW, *more)}: sys.modules[name] = None\n"
        f"runpy.run_module('unitok_jax.{command}', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, "--help"]
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
