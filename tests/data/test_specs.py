"""Data named in one argument of a command."""

import numpy as np
import pytest
from PIL import Image

from unitok_jax.data.formats.array_records import MANIFEST
from unitok_jax.data.sources import open_source
from unitok_jax.data.specs import data_config


def named(spec, **keys):
    config = data_config(spec, image_size=(64, 64), context_length=16, **keys)
    return config.source, config.path


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("photos", ("photos", "")),
        ("shapes", ("shapes", "")),
        ("shapes:train", ("shapes", "train")),
        ("emoji", ("emoji", "")),
        ("emoji:/fonts/a.ttf@held_out", ("emoji", "/fonts/a.ttf@held_out")),
        ("labelled:/data/val", ("labelled", "/data/val")),
        ("tfds:mnist:3.0.1:test", ("tfds", "mnist:3.0.1:test")),
        ("tar:gs://bucket/{00..99}.tar", ("tar", "gs://bucket/{00..99}.tar")),
        ("gs://bucket/{00..99}.tar", ("tar", "gs://bucket/{00..99}.tar")),
        ("part-*.parquet", ("parquet", "part-*.parquet")),
        ("000.array_record", ("array_record", "000.array_record")),
        ("/nowhere", ("folder", "/nowhere")),
    ],
)
def test_what_a_text_names(spec, expected):
    assert named(spec) == expected


@pytest.mark.parametrize(
    "file, source",
    [
        ("0.tar", "tar"),
        ("0.parquet", "parquet"),
        (MANIFEST, "array_record"),
        ("0.array_record", "array_record"),
        ("a.png", "folder"),
    ],
)
def test_what_a_folder_holds(tmp_path, file, source):
    (tmp_path / file).write_bytes(b"")
    assert named(str(tmp_path)) == (source, str(tmp_path))


def test_a_folder_with_a_colon_is_a_folder(tmp_path):
    folder = tmp_path / "tarr:2024"
    folder.mkdir()
    assert named(str(folder)) == ("folder", str(folder))


@pytest.mark.parametrize(
    "spec, message",
    [
        ("", "--data is empty"),
        ("labeled:/data", "did you mean labelled"),
        ("mixture:", "name one"),
        ("mixture", "name one"),
    ],
)
def test_what_names_nothing(spec, message):
    with pytest.raises(ValueError, match=message):
        named(spec)


def test_it_opens(tmp_path):
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    config = data_config(str(tmp_path), image_size=(32, 32), context_length=16)
    assert open_source(config, require_captions=False)[0]["name"] == "a.png"
    assert config.num_threads >= 1
