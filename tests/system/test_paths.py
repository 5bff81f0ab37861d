"""Paths, foreign JSON and hints to install: what every room may use."""

import os
import socket
import tomllib
from pathlib import Path

import pytest

from unitok_jax.system import extras, foreign_json, paths


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.expand("~/out") == tmp_path / "out"
    assert paths.expand(Path("~/out")) == tmp_path / "out"
    assert paths.expand("a/~") == Path("a/~")


def test_paths_that_cannot_be_are_value_errors():
    with pytest.raises(ValueError, match="nobody_here"):
        paths.expand("~nobody_here/out")
    with pytest.raises(ValueError, match="NUL"):
        paths.expand("a\0b")
    with pytest.raises(ValueError, match="^gs://b/x: only a path of this machine"):
        paths.expand("gs://b/x")


def test_names_print_on_one_line_of_any_console():
    assert paths.printable(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
    assert paths.printable("a\nb\x1b[2J") == "a\\nb\\x1b[2J"
    assert paths.printable("Käse 猫.png") == "Käse 猫.png"


def test_only_regular_files_are_regular(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "device").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    found = [name for name in os.listdir(tmp_path) if paths.is_regular(tmp_path / name)]
    assert sorted(found) == ["a", "link"]
    assert not paths.is_regular(tmp_path) and not paths.is_regular(tmp_path / "nothing")


UNREADABLE = {
    "digits": b'{"n": ' + b"1" * 5000 + b"}",
    "nesting": b"[" * 200_000 + b"]" * 200_000,
    "not UTF-8": b"\xff",
    "cut off": "{",
    "empty": "",
    "single quotes": b"{'a': 1}",
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_json_that_cannot_be_read_names_its_place(text):
    with pytest.raises(ValueError, match="^a.jsonl, line 3: "):
        foreign_json.parse(text, "a.jsonl, line 3")


def test_json_that_can_be_read():
    assert foreign_json.parse(b"\xef\xbb\xbf[1]", "a") == [1]
    assert foreign_json.parse_object('{"a": 1}', "a") == {"a": 1}
    with pytest.raises(ValueError, match="a: expected a JSON object, found list"):
        foreign_json.parse_object("[]", "a")


@pytest.mark.parametrize(
    "text, key",
    [
        ('{"a": 1, "b": 2, "a": 3}', "'a'"),
        ('{"a": 1, "b": 2, "c": 2, "b": 2, "c": 1}', "'b'"),
        ('[{"a": [{"b": {}, "\\u0062": {}}]}]', "'b'"),
        (f'{{"{"long" * 99}": 1, "{"long" * 99}": 1}}', f"'{'long' * 24}lon"),
    ],
    ids=["at the top", "of two the first", "below and escaped", "long"],
)
def test_json_whose_object_repeats_a_key_is_refused(text, key):
    """All but its last value would be lost."""
    with pytest.raises(ValueError) as caught:
        foreign_json.parse(text, "a.json")
    assert str(caught.value) == f"a.json: the key {key} comes twice in an object; keep one"


def test_the_same_key_in_different_objects_is_none_that_is_repeated():
    assert foreign_json.parse('[{"a": {"a": 1}}, {"a": 1}]', "a") == [{"a": {"a": 1}}, {"a": 1}]


def test_hints_name_extras_that_exist():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    for extra in project["project"]["optional-dependencies"]:
        assert f"'.[{extra}]'" in extras.how_to_install(extra)


def test_opening_reads_files_and_links_to_them(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with paths.open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
    assert paths.read_regular(tmp_path / "link", 3) == b"abc"
    with pytest.raises(ValueError, match="/a: 3 bytes are more than 2"):
        paths.read_regular(tmp_path / "a", 2)
    with pytest.raises(FileNotFoundError):
        paths.open_regular(tmp_path / "nothing")


@pytest.mark.parametrize("kind", ["a pipe", "a socket", "a device", "a folder"])
def test_opening_refuses_what_is_no_file_and_never_waits(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        {
            "a pipe": lambda: os.mkfifo("x"),
            "a socket": lambda: listener.bind("x"),
            "a device": lambda: os.symlink("/dev/zero", "x"),
            "a folder": lambda: os.mkdir("x"),
        }[kind]()
        before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        os.symlink("x", "link")
        for name in ("x", "link"):
            # opening a socket fails by itself
            message = "'x'|'link'" if kind == "a socket" else f"{kind}, not a file: '{name}'"
            with pytest.raises(OSError, match=message):
                paths.open_regular(name)
        after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        assert after == before
