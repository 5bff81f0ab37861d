"""A folder for each class: labels, names, and what is wrong with them."""

import logging
import os
import pickle

import numpy as np
import pytest

from helpers.formats import config, jpeg, take
from unitok_jax.data.formats.labels import CLASS_TEMPLATES
from unitok_jax.data.health import SampleError
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.records import LabelledSource
from unitok_jax.data.sources import open_source


def make(root, *names):
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg(index))


def opened(root, **values):
    return open_source(config("labelled", root, **values))


def test_labels_follow_the_order_of_the_folders(tmp_path):
    make(tmp_path, "n2/a.jpg", "n1/b.JPEG", "n1/deep/c.jpg", "n3/d.png", ".hidden/e.jpg")
    source = opened(tmp_path)
    assert isinstance(source, LabelledSource)
    assert source.class_names == ("n1", "n2", "n3")
    names = [source[i]["name"] for i in range(len(source))]
    assert names == ["n1/b.JPEG", "n1/deep/c.jpg", "n2/a.jpg", "n3/d.png"]
    assert [source.label(i) for i in range(4)] == [0, 0, 1, 2]
    assert source[2]["image"] == (tmp_path / "n2/a.jpg").read_bytes()
    assert source[2]["captions"] == tuple(t.replace("{}", "n2") for t in source.class_templates)


def test_templates_have_one_place_and_differ():
    assert all(template.count("{}") == 1 for template in CLASS_TEMPLATES)
    assert len(set(CLASS_TEMPLATES)) == len(CLASS_TEMPLATES)


def test_names_from_a_file(tmp_path):
    make(tmp_path / "set", "n1/a.jpg", "n 2/b.jpg")
    file = tmp_path / "names.txt"
    file.write_text("\ufeffn1 great white shark\r\n\nn 2\ttench\nn9 not here\n", encoding="utf-8")
    source = opened(tmp_path / "set", captions=str(file))
    assert source.class_names == ("tench", "great white shark")  # of "n 2", "n1"
    assert source[0]["captions"][0] == "a photo of a tench"


@pytest.mark.parametrize(
    "content, message",
    [
        ("n1 a\n", r"data.captions=.* names no n2, n3 \(2 of 3 classes\)"),
        ("n1 crane\nn2 crane\nn3 dog\n", "two classes one name: n1 and n2: crane. Say more"),
        ("n1 a\nn2\nn3 c\n", "line 2: expected FOLDER NAME, got 'n2'"),
        ("n1 a\nn2 b\nn1 c\n", "line 3: n1 has a name already: a"),
    ],
)
def test_bad_files_of_names(tmp_path, content, message):
    make(tmp_path / "set", "n1/a.jpg", "n2/b.jpg", "n3/c.jpg")
    (tmp_path / "names").write_text(content)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "set", captions=str(tmp_path / "names"))


def test_file_of_names_that_is_not_there(tmp_path):
    make(tmp_path, "n1/a.jpg")
    with pytest.raises(FileNotFoundError, match="data.captions=none.txt: there is no such file"):
        opened(tmp_path, captions="none.txt")


def test_empty_class_is_told_and_stays_a_class(tmp_path, caplog):
    make(tmp_path, "n1/a.jpg", "n3/b.jpg")
    (tmp_path / "n2").mkdir()
    with caplog.at_level(logging.WARNING):
        source = opened(tmp_path)
    assert "1 of 3 class folders hold no images: n2" in caplog.text
    assert source.class_names == ("n1", "n2", "n3")
    assert [source.label(i) for i in range(2)] == [0, 2]


def test_links_to_folders_above_end(tmp_path):
    make(tmp_path / "set", "n1/a.jpg")
    make(tmp_path / "elsewhere", "b.jpg")
    (tmp_path / "set/n1/loop").symlink_to(tmp_path / "set")
    (tmp_path / "set/n2").symlink_to(tmp_path / "elsewhere")
    source = opened(tmp_path / "set")
    assert [source[i]["name"] for i in range(len(source))] == ["n1/a.jpg", "n2/b.jpg"]


@pytest.mark.parametrize(
    "names, message",
    [
        (["a.jpg", "n1/b.jpg"], "holds 1 images outside of class folders: a.jpg"),
        (["n1/readme.txt"], "holds no folders with images"),
        ([], "holds no folders with images"),
    ],
)
def test_folders_of_another_form(tmp_path, names, message):
    make(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="data.path is empty"):
        opened("")
    with pytest.raises(FileNotFoundError, match="data.path=.*/none: there is no such folder"):
        opened(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="data.path=.*/file is not a folder"):
        opened(tmp_path / "file")


@pytest.mark.parametrize("workers", [0, 1])
def test_trains(tmp_path, workers):
    make(tmp_path, *(f"n{i % 2}/{i}.jpg" for i in range(8)))
    data = config("labelled", tmp_path, num_workers=workers)
    (batch,) = take(train_batches(data, 0), 1)
    assert batch["image"].shape == (4, 16, 16, 3) and batch["text"].any(axis=1).all()
    source = open_source(data)
    copy = pickle.loads(pickle.dumps(source))
    assert [copy.label(i) for i in range(8)] == [source.label(i) for i in range(8)]
    assert np.unique([copy.label(i) for i in range(8)]).tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file(tmp_path, kind):
    make(tmp_path / "set", "n1/a.jpg", "n1/b.jpg")
    for path in (tmp_path / "set/n1/c.jpg", tmp_path / "names.txt"):
        {
            "pipe": lambda path: os.mkfifo(path),
            "device": lambda path: path.symlink_to("/dev/zero"),
            "folder": lambda path: path.mkdir(),
        }[kind](path)
    source = opened(tmp_path / "set")
    if kind == "folder":
        assert len(source) == 2
    else:
        with pytest.raises(SampleError, match=r"c\.jpg: ") as error:
            source[2]
        assert error.value.reason == "unreadable"
    with pytest.raises(ValueError, match=r"data\.captions=.*names\.txt is not a file"):
        opened(tmp_path / "set", captions=str(tmp_path / "names.txt"))


def test_folders_whose_names_are_not_utf8(tmp_path):
    make(tmp_path, os.fsdecode(b"caf\xe9/a.jpg"), "b/b.jpg")
    (batch,) = take(train_batches(config("labelled", tmp_path, batch_size=2), 0), 1)
    assert batch["text"].any(axis=1).all()
