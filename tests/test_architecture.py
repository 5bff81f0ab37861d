"""The arrows of the house: a layer imports only layers below it, and no files in a circle."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

from unitok_jax.__main__ import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "unitok_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the top down. A room imports rooms of lower layers, and none of its own but itself.
LAYERS = [
    {"__main__", "main"},
    {"commands"},
    {"planning", "demo"},
    {"tokenizer", "generate", "multimodal"},
    {"training", "evaluation"},
    {"weights"},
    {"checkpoints"},
    {"data", "models", "runtime"},
    {"pictures"},
    {"codes", "trees"},
    {"system"},
]
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
# Folder or file -> the packages that it may import from outside, where that is its promise.
OUTSIDE = {
    "codes": {"numpy"},
    "demo/editing": {"numpy"},
    "evaluation/metrics": {"jax", "numpy", "scipy"},
    "generate/compiled": {"jax", "flax", "numpy"},
    "generate/inputs": {"numpy"},
    "generate/model": {"jax", "flax", "numpy"},
    "generate/objective": {"jax", "optax"},
    "generate/sampling": {"jax"},
    "checkpoints/differences": set(),
    "models": {"jax", "flax", "numpy"},
    "multimodal/compiled": {"jax", "flax", "numpy"},
    "multimodal/model": {"jax", "flax"},
    "multimodal/objective": {"jax", "optax"},
    "multimodal/prompt": {"numpy"},
    "multimodal/release": set(),
    "multimodal/sampling": {"jax"},
    "pictures": {"numpy", "PIL"},
    "system/console": set(),
    "system/extras": set(),
    "system/foreign_json": set(),
    "system/paths": set(),
    "system/signals": set(),
    "tokenizer/augment": {"jax", "numpy"},
    "tokenizer/batching": {"jax", "numpy"},
    "tokenizer/compiled": {"jax", "numpy"},
    "tokenizer/inputs": {"jax", "numpy", "PIL"},
    "tokenizer/losses": {"jax", "optax"},
    "training/optim": {"jax", "optax", "flax"},
    "trees": {"jax"},
}


def name_of(path):
    """The path of a module below the package, without its suffix."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")


def imported(path):
    """The names that a file imports, at its top and inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inside = PACKAGE.parent / node.module.replace(".", "/") / alias.name
                is_module = inside.is_dir() or inside.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def own(path):
    """The package's own modules among the imports of a file, as paths below the package."""
    for name in imported(path):
        if name.startswith("unitok_jax."):
            yield name.removeprefix("unitok_jax.").replace(".", "/")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arrows_point_down(path):
    here = name_of(path).split("/")[0]
    if here == "__init__":  # the package's own names, imported when they are asked for
        return
    assert here in LAYER, f"{here} is a new room: give it a layer in LAYERS"
    for other in own(path):
        room = other.split("/")[0]
        assert room == here or LAYER[here] < LAYER[room], f"{path} must not import {other}"
    for name in imported(path):
        assert name.split(".")[0] not in ("configs", "tests", "benchmarks", "experiments"), (
            f"{path}: {name}"
        )


def test_no_files_import_each_other_in_a_circle():
    # The packages' own files are left out: Python reads them before anything inside.
    graph = {name_of(path): set(own(path)) for path in FILES if path.stem != "__init__"}
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("place", OUTSIDE)
def test_promises_to_the_outside(place):
    paths = [path for path in FILES if f"{name_of(path)}/".startswith(f"{place}/")]
    assert paths
    for path in paths:
        for name in imported(path):
            top = name.split(".")[0]
            if top != "unitok_jax" and top not in sys.stdlib_module_names:
                assert top in OUTSIDE[place], f"{path} imports {name}"


# tensorboardX is here because it imports PyTorch where that is installed
SLOW = ("torch", "tensorboardX", "tensorflow", "gradio", "skimage", "pyarrow", "scipy")


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
    "generate": ("grain", "orbax"),
    "chat": (),
    "classify": (),
    "retrieve": ("grain", "orbax"),
    "demo": (),
    "convert": (),
    "inspect": ("jax", "numpy", "grain", "orbax"),
    "export": (),
    "data preview": ("jax", "flax", "grain", "orbax"),
    "data pack": ("jax", "flax", "grain", "orbax"),
    "data text": (),
    "data teacher": (),
    "fit": ("jax", "numpy", "grain", "orbax"),
    "goodput": ("flax", "orbax", "grain"),
}


@pytest.mark.slow
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
    outside = [path for path in FILES if name_of(path).split("/")[0] not in ("commands", "main")]
    knows = {name_of(path) for path in outside if "argparse" in set(imported(path))}
    assert knows <= {"tokenizer/export/example"}  # a program of its own, written into exports


def test_configs_are_read_by_attribute():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr == "get" and len(node.args) == 2:
                    assert "config" not in ast.unparse(node.func.value), f"{path}:{node.lineno}"
