"""The command `unitok`: what it lists, what it runs, and that the pages name the same commands."""

import multiprocessing
import pathlib
import re
import signal
import subprocess
import sys
import tomllib

import pytest

import unitok_jax
from unitok_jax import __main__ as door
from unitok_jax.__main__ import COMMANDS

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
# every file that may name a command
FOLDERS = ("benchmarks", "configs", "docs", "launch", "tests", "unitok_jax")
KINDS = ("", ".dockerignore", ".md", ".py", ".sh", ".yaml")
FILES = [ROOT / "Makefile", ROOT / "README.md"] + [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and path.suffix in KINDS
]

DATA = "data preview, data pack, data text, data teacher"


def run(*arguments):
    """Exit code, what is printed, and errors, of a process that cannot load what takes long."""
    code = "import runpy, sys\nfor name in ('jax', 'numpy', 'absl', 'etils'): "
    code += "sys.modules[name] = None\n"
    code += "runpy.run_module('unitok_jax', run_name='__main__', alter_sys=True)\n"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


class TestWithoutAnyImport:
    @pytest.mark.parametrize("flag", ["--help", "-h"])
    def test_help_lists_every_command(self, flag):
        code, printed, error = run(flag)
        assert (code, error) == (0, "")
        listed = dict(re.findall(r"^  (\S+(?: \w+)?) {2,}(.+)$", printed, re.M))
        assert listed == COMMANDS

    def test_alone_it_lists_them_too(self):
        assert run() == (2, "", run("--help")[1])

    def test_version(self):
        assert run("--version") == (0, f"unitok {unitok_jax.__version__}\n", "")

    @pytest.mark.parametrize(
        "given, told",
        [
            ("tokenise", "there is no command 'tokenise'; did you mean tokenize or detokenize?"),
            ("evalute --checkpoint=x", "there is no command 'evalute'; did you mean evaluate?"),
            ("data", f"data wants one more word: {DATA}"),
            (
                "data pak",
                f"data wants one more word: {DATA}",
            ),
            ("dta pack", "there is no command 'dta'; did you mean data pack or data teacher?"),
            ("xyz", "there is no command 'xyz'; unitok --help lists all"),
            ("--config=a.py", "there is no command '--config=a.py'; unitok --help lists all"),
            ("\x1b[2J", "there is no command '\\x1b[2J'; unitok --help lists all"),
        ],
    )
    def test_one_that_is_not_there(self, given, told):
        assert run(*given.split()) == (2, "", f"error: {told}\n")


class TestModules:
    def test_each_command_has_one(self):
        shared = {"__init__", "arguments", "config_flags", "storing"}
        there = {path.stem for path in (ROOT / "unitok_jax/commands").glob("*.py")} - shared
        assert there == {name.replace(" ", "_") for name in COMMANDS}

    def test_the_script_is_the_module(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        assert project["project"]["scripts"] == {"unitok": "unitok_jax.__main__:main"}
        folders = {path.parent for path in (ROOT / "unitok_jax").rglob("*.py")}
        assert project["tool"]["setuptools"]["packages"]["find"] == {"include": ["unitok_jax*"]}
        assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


class TestTraining:
    """`unitok train` is `python -m unitok_jax.main`, which launch scripts start."""

    @pytest.mark.parametrize("flags", [["--help"], ["--config=configs/tiny.py", "--stepz=1"]])
    def test_it_is_the_same_module(self, flags):
        found = [
            subprocess.run(
                [sys.executable, "-m", *command, *flags], capture_output=True, text=True, cwd=ROOT
            )
            for command in (["unitok_jax", "train"], ["unitok_jax.main"])
        ]
        assert len({(done.returncode, done.stdout, done.stderr) for done in found}) == 1
        assert "--workdir" in found[0].stdout or found[0].stderr.count("\n") == 1

    def test_fit_is_its_mode(self, monkeypatch):
        ran = []

        def run_module(module, **_):
            ran.append((module, sys.argv))

        monkeypatch.setattr("runpy.run_module", run_module)
        monkeypatch.setattr(sys, "argv", ["unitok", "fit", "--config=a.py", "--topology=host:8"])
        door.main()
        flags = ["--mode=compile", "--config=a.py", "--topology=host:8"]
        assert ran == [("unitok_jax.main", [door.__file__, *flags])]


def deaf():
    """Whether this process ignores SIGINT once it has the package."""
    import unitok_jax  # noqa: F401

    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_workers_leave_an_interrupt_to_the_command(monkeypatch, capsys, tmp_path):
    """They see by sys.argv whose they are, also where a script elsewhere was started."""
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/unitok", "goodput", str(tmp_path)])
    with pytest.raises(SystemExit):
        door.main()
    assert sys.argv == [door.__file__, str(tmp_path)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(deaf)


class TestPages:
    def test_the_table_of_the_readme(self):
        table, text = {}, (ROOT / "README.md").read_text()
        for command, makes in re.findall(r"^\| `unitok (.+?)` \| (.+?) \|$", text, re.M):
            name = next(name for name in COMMANDS if f"{command} ".startswith(f"{name} "))
            table[name] = makes.partition(": [")[0]
        assert list(table.items()) == list(COMMANDS.items())

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_every_command_of_a_page_is_there(self, page):
        named = re.findall(r"(?:^\$? *|`)unitok ([a-z]+(?: [a-z]+)?)", page.read_text(), re.M)
        for command in named:
            assert {command, command.split()[0]} & COMMANDS.keys(), command

    def test_no_other_module_is_a_command(self):
        """`unitok_jax.main` stays for the scripts that start it."""
        doors = set()
        for path in FILES:
            text, name = path.read_text(), str(path.relative_to(ROOT))
            found = set(re.findall(r"-m[\", ]+unitok_jax\.([\w.]+)", text))
            assert found <= {"main"}, f"{path}: {found}"
            if re.match(r"unitok_jax/.*\.py$", name) and '\nif __name__ == "__main__":' in text:
                doors.add(name)
        # the example is not run here: an export holds a copy
        names = ("__main__.py", "tokenizer/export/example.py", "main.py")
        assert doors == {f"unitok_jax/{name}" for name in names}
