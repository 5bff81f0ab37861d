"""Weights in several files with an index, as the Hugging Face hub has them."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.weights import shards

STATE = {
    f"model.layers.{i}.weight": np.arange(6, dtype=np.float32).reshape(2, 3) + i for i in range(5)
}
FIRST, SECOND, THIRD = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))


@pytest.fixture
def folder(tmp_path):
    """Five arrays in three files."""
    shards.write(tmp_path, STATE, "float32", most=48)
    return tmp_path


def read(folder):
    """name -> values."""
    with shards.open_folder(folder) as arrays:
        return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def refused(folder, error=ConversionError):
    """The one line that a folder is refused with."""
    with pytest.raises(error) as caught:
        read(folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def edit(folder, **changes):
    """Puts names elsewhere in the index; None: nowhere."""
    path = folder / shards.INDEX
    content = json.loads(path.read_text())
    table = content["weight_map"] | changes
    content["weight_map"] = {name: file for name, file in table.items() if file is not None}
    path.write_text(json.dumps(content))


def test_what_is_written_is_read(folder):
    assert sorted(path.name for path in folder.iterdir()) == [FIRST, SECOND, THIRD, shards.INDEX]
    index = json.loads((folder / shards.INDEX).read_text())
    assert index["metadata"] == {"total_size": 5 * 24}
    assert list(index["weight_map"].values()) == [FIRST, FIRST, SECOND, SECOND, THIRD]
    found = read(folder)
    assert found.keys() == STATE.keys()
    for name, array in STATE.items():
        np.testing.assert_array_equal(found[name], array)


def test_what_fits_one_file_is_one_file(tmp_path):
    shards.write(tmp_path, STATE, "float32")
    assert [path.name for path in tmp_path.iterdir()] == [shards.WEIGHTS]
    assert read(tmp_path).keys() == STATE.keys()


def test_an_array_larger_than_a_file_has_one_of_its_own(tmp_path):
    shards.write(tmp_path, STATE, "float32", most=1)
    assert len(list(tmp_path.glob("model-*-of-00005.safetensors"))) == 5


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_floats_of_any_width_become_float32(tmp_path, dtype):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    arrays = {name: array.astype(kind) for name, array in STATE.items()}
    safetensors.numpy.save_file(arrays, tmp_path / shards.WEIGHTS)
    for name, array in read(tmp_path).items():
        np.testing.assert_array_equal(array, STATE[name])


def test_bfloat16_is_half_as_large(tmp_path):
    shards.write(tmp_path, STATE, "bfloat16", most=48)
    assert json.loads((tmp_path / shards.INDEX).read_text())["metadata"] == {"total_size": 60}
    with shards.open_folder(tmp_path) as arrays:
        assert {(array.kind, array.shape) for array in arrays.values()} == {("BF16", (2, 3))}


def test_arrays_are_read_when_they_are_asked_for(folder, monkeypatch):
    with shards.open_folder(folder) as arrays:
        asked = []
        for array in arrays.values():
            tensor = array._file.get_tensor
            assert np.shape(array) == (2, 3)

            class File:
                def get_tensor(self, name, tensor=tensor):
                    asked.append(name)
                    return tensor(name)

            array._file = File()
        name = next(iter(arrays))
        np.asarray(arrays[name])
        assert asked == [name]


@pytest.mark.parametrize(
    "file",
    ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "a\\x.safetensors", "x.bin", 3, None],
)
def test_the_index_names_files_of_the_folder_alone(folder, file):
    outside = folder.parent / "x.safetensors"
    safetensors.numpy.save_file(STATE, outside)
    path = folder / shards.INDEX
    path.write_text(json.dumps({"weight_map": {"a": file}}))
    message = refused(folder)
    assert "weight_map says that a is in" in message
    assert "no name of a .safetensors file in the folder itself" in message


def test_links_to_elsewhere_are_followed(folder, tmp_path_factory):
    """The hub's cache has links in place of files."""
    blob = tmp_path_factory.mktemp("blobs") / "blob"
    (folder / SECOND).rename(blob)
    (folder / SECOND).symlink_to(blob)
    assert read(folder).keys() == STATE.keys()


def test_a_missing_file_is_named(folder):
    (folder / SECOND).unlink()
    assert f"{folder / SECOND} does not exist" in refused(folder, FileNotFoundError)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"x": FIRST}, "says: missing: x"),
        ({"model.layers.0.weight": None}, "says: not in the index: model.layers.0.weight"),
        (
            {"model.layers.0.weight": None, "x": FIRST},
            "says: missing: x; not in the index: model.layers.0.weight",
        ),
    ],
)
def test_arrays_unlike_the_index_are_named(folder, changes, words):
    edit(folder, **changes)
    message = refused(folder)
    assert FIRST in message
    assert message.endswith(words)


def test_a_folder_without_weights(tmp_path):
    assert "holds no model.safetensors and no model.safetensors.index" in refused(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_damaged_index(folder, content):
    (folder / shards.INDEX).write_text(content)
    assert shards.INDEX in refused(folder)


def test_an_index_that_is_too_large(folder, monkeypatch):
    monkeypatch.setattr(shards, "_MOST_INDEX", 10)
    assert "are more than 10" in refused(folder)


@pytest.mark.parametrize(
    "content", [b"", b"x" * 100, b"version https://git-lfs.github.com/spec/v1"]
)
def test_a_damaged_file(folder, content):
    (folder / SECOND).write_bytes(content)
    assert SECOND in refused(folder)


def test_a_file_cut_short(folder):
    path = folder / THIRD
    path.write_bytes(path.read_bytes()[:-4])
    assert f"{THIRD} is not a safetensors file" in refused(folder)


def test_integers_are_no_weights(folder):
    names = [*STATE][4:]
    safetensors.numpy.save_file({name: np.ones((2, 3), np.int8) for name in names}, folder / THIRD)
    message = refused(folder)
    assert "model.layers.4.weight has the dtype I8; weights of F16, BF16, F32 and F64" in message
