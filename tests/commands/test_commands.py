"""What all commands share: paths of their arguments, files and folders that are new, errors."""

import importlib
import json
import os

import jax
import numpy as np
import pytest
from PIL import Image

from helpers import in_process
from unitok_jax.commands import arguments, classify, retrieve
from unitok_jax.data.formats.labels import label_set
from unitok_jax.system import console

NEEDED = {
    "classify": ("checkpoint", "data", "labels"),
    "data_teacher": ("output",),
    "data_text": ("output",),
    "demo": ("checkpoint",),
    "detokenize": ("checkpoint", "codes", "output"),
    "evaluate": ("output",),
    "export": ("checkpoint", "output"),
    "reconstruct": ("checkpoint", "data", "output"),
    "retrieve": ("checkpoint", "data", "query"),
    "tokenize": ("checkpoint", "data", "output"),
}
# every argument of a command that can name a path; labels and templates: see below
PATHS = {
    "classify": ("checkpoint", "data", "output"),
    "data_teacher": ("output",),
    "data_text": ("output",),
    "demo": ("checkpoint", "generator", "multimodal"),
    "detokenize": ("checkpoint", "codes", "output"),
    "evaluate": (
        *("checkpoint", "data", "captions", "index", "output", "inception", "lpips"),
        *("reference", "save_reference", "cache", "probe", "samples", "tokenizer", "questions"),
        *("annotations", "images"),
    ),
    "export": ("checkpoint", "output"),
    "reconstruct": ("checkpoint", "data", "output"),
    "retrieve": ("checkpoint", "data", "output"),
    "tokenize": ("checkpoint", "data", "captions", "index", "output"),
}
# those that name none, so that a new argument is thought of here
WORDS = {
    *("help", "weights", "heads", "quant_heads", "text_heads", "precision", "num_threads"),
    *("num_workers", "labels", "templates", "top", "query", "size", "max_images", "batch_size"),
    *("max_bad", "probe_method", "no_text", "cluster", "coordinator", "processes", "process"),
    *("connect_timeout", "port", "host", "keys", "limit", "view", "platforms", "format"),
    *("shard_size", "views", "crop_scale", "input", "vqa", "instruction", "shapes", "scales"),
    *("dtype", "temperature"),
}


def parser_of(module, monkeypatch):
    """The parser of a command, which is not run."""
    found = []
    monkeypatch.setattr(arguments, "run", lambda parser, *_, **__: found.append(parser))
    importlib.import_module(f"unitok_jax.commands.{module}").main()
    return found[0]


@pytest.mark.parametrize("module", PATHS)
def test_a_tilde_is_a_home_folder_in_every_path(module, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/me")
    parser = parser_of(module, monkeypatch)
    for flag in PATHS[module]:
        given = [f"--{name}=x" for name in NEEDED[module] if name != flag]
        args = parser.parse_args([*given, f"--{flag}=~/some/thing"])
        assert str(getattr(args, flag)) == "/home/of/me/some/thing", flag
    others = {action.dest for action in parser._actions} - set(PATHS[module])
    assert others <= WORDS, f"{others - WORDS}: is it a path?"


def test_both_sides_of_convert(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    parser = parser_of("convert", monkeypatch)
    args = parser.parse_args(["~/a.pth,~/b.pth", "~/c"])
    assert (args.source, args.target) == ("/h/a.pth,/h/b.pth", "/h/c")


def test_the_workdir_of_goodput(monkeypatch, tmp_path, capsys):
    from unitok_jax.commands import goodput

    monkeypatch.setenv("HOME", str(tmp_path))
    code, _, error = in_process.run(goodput, capsys, monkeypatch, "~/run")
    assert code == 2 and f"{tmp_path}/run" in error
    code, _, error = in_process.run(goodput, capsys, monkeypatch, "foo://x")
    assert code == 2 and "foo://x: no path begins with" in error


@pytest.mark.parametrize(
    "text, expected",
    [
        ("hf://owner/name", "hf://owner/name"),
        ("gs://bucket/~/a", "gs://bucket/~/a"),
        ("photos", "photos"),
        ("labelled:~/val", "labelled:/h/val"),
        ("tar:~/{a,b}.tar", "tar:/h/{a,b}.tar"),
        ("~/a,/b,~/c", "/h/a,/b,/h/c"),
        ("a~b/~", "a~b/~"),
        ("~nobody-of-this-name/a", "~nobody-of-this-name/a"),
        ("", ""),
    ],
)
def test_words_that_may_be_paths(text, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    assert arguments.place(text) == expected


def test_a_home_that_is_not_there_is_told(monkeypatch, capsys):
    parser = parser_of("export", monkeypatch)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--checkpoint=x", "--output=~nobody-of-this-name/a"])
    assert stop.value.code == 2
    assert "argument --output: ~nobody-of-this-name/a: " in capsys.readouterr().err


class TestLabels:
    def test_of_a_file_in_the_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "names").write_text("cat\ndog\n")
        assert label_set("~/names").names == ("cat", "dog")

    def test_that_look_like_a_user(self):
        assert label_set("~nobody-of-this-name,dog").names == ("~nobody-of-this-name", "dog")

    def test_longer_than_the_name_of_a_file(self):
        names = tuple(f"class number {number}" for number in range(1000))
        assert label_set(",".join(names)).names == names


def test_files_that_are_there_are_refused(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("mine", "link"):
        with pytest.raises(ValueError, match=f"--output=.*{name} is there"):
            arguments.check_new(tmp_path / name, "output")
    with pytest.raises(FileExistsError, match="--output=.*mine cannot be written"):
        arguments.write_new(mine, b"other", "output")  # it came after the check
    assert mine.read_text() == "mine" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "error", [MemoryError("100 GiB"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 100 GiB")]
)
def test_memory_that_does_not_suffice_is_one_line(error, monkeypatch, capsys):
    def work(_):
        raise error

    monkeypatch.setattr("sys.argv", ["x"])
    with pytest.raises(SystemExit) as stop:
        arguments.run(arguments.make_parser("x", "x"), work)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: out of memory, fewer or smaller images at once may fit: {error}"
    ]


class Known:
    """A tokenizer that needs no weights."""

    image_size, batch_size = (32, 32), 4

    def class_features(self, names, _):
        return len(names)

    def probabilities(self, images, count):
        return np.full((len(images), count), 1 / count, np.float32)

    def encode_text(self, texts):
        return np.ones((len(texts), 2), np.float32)

    def encode_image(self, images):
        return np.ones((len(images), 2), np.float32)


@pytest.fixture
def latin(tmp_path, monkeypatch):
    """A folder of images, one of whose names is not UTF-8, and a command that knows no weights."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"a.png", b"caf\xe9.png", b"z.png"):
        Image.new("RGB", (32, 32)).save(folder / os.fsdecode(name))
    monkeypatch.setattr(arguments, "load_tokenizer", lambda _: Known())
    return folder


class TestNamesThatAreNotUnicode:
    def test_classify(self, latin, tmp_path, capsys, monkeypatch):
        output = tmp_path / os.fsdecode(b"r\xe9sult.json")
        given = ["--checkpoint=x", f"--data={latin}", "--labels=cat,d\udce9g"]
        code, printed, error = in_process.run(
            classify, capsys, monkeypatch, *given, f"--output={output}"
        )
        assert code == 0, error
        results = json.loads(output.read_bytes().decode())
        assert [result["name"] for result in results] == ["a", r"caf\xe9", "z"]
        assert list(results[0]["classes"]) == ["cat", r"d\xe9g"]
        assert printed.splitlines()[1] == r"caf\xe9  cat 50.0%  d\xe9g 50.0%"

    def test_retrieve(self, latin, tmp_path, capsys, monkeypatch):
        output = tmp_path / os.fsdecode(b"sh\xe9\xe9t.png")
        given = ["--checkpoint=x", f"--data={latin}", "--query=a c\udce9t", f"--output={output}"]
        code, printed, error = in_process.run(retrieve, capsys, monkeypatch, *given)
        assert code == 0, error
        assert [line.split()[-1] for line in printed.splitlines()] == [
            r"c\xe9t", "a", r"caf\xe9", "z", rf"{tmp_path}/sh\xe9\xe9t.png"
        ]  # fmt: skip
        with Image.open(output) as sheet:
            assert sheet.format == "PNG"


@pytest.mark.parametrize("module", [classify, retrieve])
def test_results_are_not_written_over_anything(latin, tmp_path, capsys, monkeypatch, module):
    output = tmp_path / "mine.png"
    output.write_text("mine")
    more = "--labels=a,b" if module is classify else "--query=a"
    given = ["--checkpoint=x", f"--data={latin}", more, f"--output={output}"]
    code, printed, error = in_process.run(module, capsys, monkeypatch, *given)
    assert code == 2 and printed == "" and f"--output={output} is there" in error
    assert output.read_text() == "mine"


@pytest.mark.parametrize("suffix", [".psd", ".h5", ".gif", ""])
def test_a_sheet_of_no_known_kind_is_refused_before_any_work(
    latin, tmp_path, capsys, monkeypatch, suffix
):
    given = ["--checkpoint=x", f"--data={latin}", "--query=a", f"--output={tmp_path}/a{suffix}"]
    code, printed, error = in_process.run(retrieve, capsys, monkeypatch, *given)
    assert code == 2 and printed == "" and ".png, .jpg, .jpeg, .webp" in error


def test_exit_codes_are_those_of_shells():
    assert (console.EXIT_INTERRUPTED, console.EXIT_NO_READER) == (130, 141)
