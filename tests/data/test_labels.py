"""Label sets: names and templates as a command's arguments give them."""

import importlib.util
import os
import subprocess
import sys

import pytest

from unitok_jax.data.formats.labels import CLASS_TEMPLATES, label_set

needs_open_clip = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="the package open_clip_torch"
)


def test_names_with_commas():
    names, templates = label_set("cat, red car ,dog")
    assert names == ("cat", "red car", "dog") and templates == CLASS_TEMPLATES


def test_a_file_keeps_its_order_and_commas(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("zebra\n\n  ant, red \ncafé\n", encoding="utf-8")
    assert label_set(str(path)).names == ("zebra", "ant, red", "café")


def test_templates(tmp_path):
    assert label_set("a,b", "one, two {}.").templates == ("one, two {}.",)
    path = tmp_path / "sentences.txt"
    path.write_text("a {}\nno {}, please\n")
    assert label_set("a,b", str(path)).templates == ("a {}", "no {}, please")


@pytest.mark.parametrize(
    "labels, templates, words",
    [
        ("", "", "no names"),
        ("  ", "", "no names"),
        ("cat", "", "'cat'.*one name only"),
        ("cat,,dog", "", "a name is empty"),
        ("cat,dog,", "", "a name is empty"),
        ("cat,dog,cat", "", "'cat' comes twice"),
        ("a,b", "a photo", "--templates.*'a photo' must hold one {}"),
        ("a,b", "{} and {}", "--templates.*must hold one {}"),
    ],
)
def test_bad_arguments(labels, templates, words):
    with pytest.raises(ValueError, match=words):
        label_set(labels, templates)


def test_files_that_are_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match="--labels=.*none.txt"):
        label_set(str(tmp_path / "none.txt"))
    with pytest.raises(FileNotFoundError, match="--templates=.*none.txt"):
        label_set("a,b", str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="no names"):
        label_set(str(tmp_path / "empty.txt"))
    with pytest.raises(ValueError, match="nothing"):
        label_set("a,b", str(tmp_path / "empty.txt"))


@pytest.mark.parametrize("suffix", [".json", ".JSONL", ".csv"])
def test_files_of_records_are_no_names(tmp_path, suffix):
    path = tmp_path / f"names{suffix}"
    path.write_text('[\n"cat {}",\n"dog {}"]\n')
    for flag, arguments in (("labels", (str(path),)), ("templates", ("a,b", str(path)))):
        with pytest.raises(ValueError, match=f"^--{flag}={path}: a {suffix} file is not read"):
            label_set(*arguments)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for arguments in ((str(tmp_path / "pipe"),), ("a,b", str(tmp_path / "pipe"))):
        with pytest.raises(OSError, match="a pipe, not a file"):
            label_set(*arguments)


def test_names_may_be_longer_than_a_path(tmp_path):
    names = [f"a rather long name of a class {i}" for i in range(200)]
    assert label_set(",".join(names)).names == tuple(names)


@needs_open_clip
class TestImagenet:
    def test_a_thousand_different_names(self):
        names, templates = label_set("imagenet")
        assert len(names) == len(set(names)) == 1000 and len(set(templates)) == 80
        assert names[0] == "tench" and names[999] == "toilet paper"
        assert (names[657], names[744], names[836], names[837]) == (
            *("missile", "projectile", "sunglass", "sunglasses"),
        )
        assert all(template.count("{}") == 1 for template in templates)

    def test_templates_alone(self):
        assert len(label_set("cat,dog", "imagenet").templates) == 80

    def test_imports_neither_torch_nor_open_clip(self):
        code = (
            "import sys; sys.modules['torch'] = None\n"
            "from unitok_jax.data.formats.labels import label_set\n"
            "assert len(label_set('imagenet').names) == 1000\n"
            "assert 'open_clip' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def test_imagenet_without_the_package(tmp_path):
    code = (
        "import importlib.util\n"
        "from unitok_jax.data.formats.labels import label_set\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'open_clip' else found(name)\n"
        "try:\n    label_set('imagenet')\n"
        "except ImportError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install --no-deps open_clip_torch" in run.stdout
