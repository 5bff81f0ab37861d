"""The list of mutations applies to the code as it is, and the command tells survivors."""

import pathlib
import re

import pytest

from mutations import Mutation
from mutations.__main__ import ALL, BROKEN, KILLED, ROOT, STALE, SURVIVED, copy, verdict

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mutation", ALL, ids=lambda m: m.name)
def test_every_mutation_applies(mutation):
    text = (ROOT / mutation.file).read_text()
    changed = mutation.apply(text)
    assert changed != text
    compile(changed, mutation.file, "exec")
    file, _, words = mutation.tests.partition(" -k ")
    tests = (ROOT / file).read_text()
    names = re.findall(r"def (test_\w+)", tests)
    word = words.split("[")[0]
    assert any(word in name for name in names) or f"class Test{word}" in tests, mutation.tests


def test_the_list_is_long_and_says_nothing_twice():
    assert len(ALL) >= 47
    assert len({m.name for m in ALL}) == len({(m.file, m.old, m.new) for m in ALL}) == len(ALL)


@pytest.fixture
def tree(tmp_path):
    """A checkout of one function and its tests, copied as the command does."""
    root = tmp_path / "root"
    for name in ("unitok_jax", "tests"):
        (root / name).mkdir(parents=True)
    (root / "unitok_jax" / "__init__.py").touch()  # or the real package would be found
    (root / "unitok_jax" / "double.py").write_text("def double(x):\n    return 2 * x\n")
    (root / "tests" / "test_double.py").write_text(
        "from unitok_jax.double import double\n"
        "def test_two():\n    assert double(2) == 4\n"
        "def test_three():\n    assert double(3) == 6\n"
        "def test_wrong():\n    assert double(3) == 7\n"
    )
    copy(root, target := tmp_path / "copy")
    return target


@pytest.mark.parametrize(
    "old, new, tests, expected",
    [
        ("2 * x", "x * x", "-k three", KILLED),
        ("2 * x", "x * x", "-k two", SURVIVED),
        ("2 * x", "x + x", "-k two", SURVIVED),
        ("3 * x", "x", "-k two", STALE),
        ("2 * x", "x", "-k wrong", BROKEN),
        ("2 * x", "x", "-k no_such_test", BROKEN),
        ("2 * x", "2 x", "-k two", BROKEN),
    ],
)
def test_verdicts(tree, old, new, tests, expected):
    file = tree / "unitok_jax" / "double.py"
    before = file.read_text()
    mutation = Mutation("name", "unitok_jax/double.py", old, new, f"tests/test_double.py {tests}")
    assert verdict(tree, mutation, 60, {}) == expected
    assert file.read_text() == before


def test_a_test_that_does_not_end_has_noticed(tree):
    new, tests = "[x for _ in iter(int, 1)]", "tests/test_double.py -k two"
    loop = Mutation("name", "unitok_jax/double.py", "2 * x", new, tests)
    assert verdict(tree, loop, 5, {tests: True}) == KILLED


def test_the_copy_is_what_is_tested(tmp_path):
    copy(ROOT, tmp_path)
    assert [m.file for m in ALL if not (tmp_path / m.file).is_file()] == []
    assert not list(pathlib.Path(tmp_path).rglob("__pycache__"))
