"""Applies the mutations one at a time and tells which of them no test notices.

Each is put into a copy of the checkout, never into the checkout, and the tests that the list names
are run there. Takes about ten seconds each. Exit code 1: one survived, or does not apply any more,
or its tests fail without it.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from . import (
    Mutation,
    answers,
    asking,
    codebooks,
    drawing,
    experiments,
    generators,
    inputs,
    language_files,
    lost_work,
    measures,
    multimodals,
    networks,
    prices,
    sequences,
    shape_scores,
    steps,
    stored_text,
    teaching,
    watching,
)

ROOT = pathlib.Path(__file__).parents[2]
COPIED = ("benchmarks", "configs", "docs", "experiments", "launch", "tests", "unitok_jax")
FILES = ("Makefile", "README.md", "pyproject.toml", "requirements.txt")
LISTS = (
    steps,
    watching,
    networks,
    inputs,
    measures,
    drawing,
    generators,
    multimodals,
    sequences,
    shape_scores,
    language_files,
    lost_work,
    answers,
    asking,
    prices,
    codebooks,
    teaching,
    stored_text,
    experiments,
)
ALL = tuple(mutation for room in LISTS for mutation in room.MUTATIONS)
KILLED, SURVIVED = "killed", "SURVIVED"
STALE, BROKEN = "NO LONGER APPLIES", "TESTS FAIL WITHOUT IT"


def copy(root: pathlib.Path, target: pathlib.Path) -> None:
    """Copies what tests need; compiled files stay behind, which a changed source may match."""
    for name in COPIED:
        if (root / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(root / name, target / name, ignore=ignore)
    for name in FILES:
        if (root / name).exists():
            shutil.copy(root / name, target)


def passes(tree: pathlib.Path, tests: str, limit: float) -> bool | None:
    """Whether tests pass in a tree; None if they could not be run. Too slow is not passed."""
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    # The tree comes first on the path: an installed package of this name would be tested instead.
    env = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        result = subprocess.run(words, cwd=tree, env=env, capture_output=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return False
    return {0: True, 1: False}.get(result.returncode)


def verdict(tree: pathlib.Path, mutation: Mutation, limit: float, sound: dict) -> str:
    """Applies a mutation in a tree of its own, runs its tests, and takes it back.

    Args:
      tree: a copy.
      mutation: what is applied.
      limit: seconds for its tests.
      sound: {tests: whether they pass without a mutation}; filled.
    """
    path = tree / mutation.file
    text = path.read_text() if path.exists() else ""
    try:
        changed = mutation.apply(text)
    except ValueError:
        return STALE
    if mutation.tests not in sound:
        sound[mutation.tests] = passes(tree, mutation.tests, limit)
    if not sound[mutation.tests]:
        return BROKEN
    path.write_text(changed)
    try:
        passed = passes(tree, mutation.tests, limit)
    finally:
        path.write_text(text)
    return {True: SURVIVED, False: KILLED, None: BROKEN}[passed]


def main(arguments=None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("part", nargs="*", help="of a name or a file: these alone")
    parser.add_argument("--limit", type=float, default=300, help="seconds for the tests of one")
    args = parser.parse_args(arguments)
    chosen = [m for m in ALL if not args.part or any(part in m.name + m.file for part in args.part)]
    counts, sound = dict.fromkeys((KILLED, SURVIVED, STALE, BROKEN), 0), {}
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = pathlib.Path(folder)
        copy(ROOT, tree)
        for mutation in chosen:
            found = verdict(tree, mutation, args.limit, sound)
            counts[found] += 1
            print(f"{found:22} {mutation.file}: {mutation.name}", flush=True)
    print(", ".join(f"{count} {name.lower()}" for name, count in counts.items()))
    return int(not chosen or counts[KILLED] < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
