"""Which source reads what a path holds."""

import pytest

from unitok_jax.data.codes import files
from unitok_jax.data.formats.recognise import _CODES, other_format
from unitok_jax.data.writing.folders import MANIFEST

HOLDS = {
    "a/000.tar": "It holds tars: set data.source=tar",
    "000.TAR.GZ": "It holds tars: set data.source=tar",
    "x.parquet/part-0.parquet": "It holds Parquet files: set data.source=parquet",
    "000000.array_record": "It holds packed samples: set data.source=array_record",
    "a/b/1.JPEG": "It holds images: set data.source=folder",
    "set/1.0.0/dataset_info.json": (
        "It holds a dataset of tensorflow-datasets: set data.source=tfds"
    ),
    "set-train.array_record-00000-of-00002": (
        "It holds a dataset of tensorflow-datasets: set data.source=tfds"
    ),
    "data-00000-of-00001.arrow": (
        "It holds Arrow files, which no source reads: write them as Parquet"
    ),
    "notes.md": "",
    ".cache/a.tar": "",
    "._a.parquet": "",
}


@pytest.mark.parametrize("name", HOLDS)
def test_folders(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    assert other_format(tmp_path) == HOLDS[name]


def test_paths_that_need_not_be_there(tmp_path, monkeypatch):
    assert other_format("gs://b/{000..127}.tar") == "It names tars: set data.source=tar"
    assert other_format(tmp_path / "*.parquet").startswith("It names Parquet files")
    assert other_format(tmp_path / "nothing") == ""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.tar").write_bytes(b"")
    assert other_format("~/set") == "It holds tars: set data.source=tar"


@pytest.mark.parametrize(
    "name, source", [("a.tar", "tar"), ("a.png", "folder"), ("c/a.png", "labelled")]
)
def test_the_format_of_the_asking_source_is_no_news(tmp_path, name, source):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"")
    assert other_format(tmp_path, source) == ""


def test_the_first_format_counts(tmp_path):
    """Tars of a crawl come with tables of their links, and with pictures that show some."""
    for name in ("0.tar", "0.parquet", "0.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert other_format(tmp_path) == "It holds tars: set data.source=tar"


def test_codes(tmp_path):
    assert _CODES.decode() == f'"{files.FORMAT}"'
    (tmp_path / "000000.array_record").write_bytes(b"")
    (tmp_path / MANIFEST).write_text(f'{{"format": "{files.FORMAT}"}}')
    found = other_format(tmp_path)
    assert found == "It holds codes of images, which unitok_jax.open_codes reads and no source"


def test_looks_at_a_bounded_number_of_names(tmp_path, monkeypatch):
    monkeypatch.setattr("unitok_jax.data.formats.recognise._LOOKED_AT", 3)
    for name in ("0.md", "1.md", "2.md", "3.tar"):
        (tmp_path / name).write_bytes(b"")
    assert other_format(tmp_path) == ""
