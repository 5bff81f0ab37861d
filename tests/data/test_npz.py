"""Archives for NumPy that are written part by part."""

import io
import tracemalloc

import numpy as np
import pytest

from unitok_jax.data.writing.npz import Rows, write_npz


def test_numpy_reads_what_it_would_have_written(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 6, 3), np.uint8)
    labels = np.arange(7)
    parts = {"arr_0": np.split(images, [3, 6]), "arr_1": [labels]}
    arrays = {"arr_0": images, "arr_1": labels}
    for name in ("a.npz", "b.npz"):
        rows = {k: Rows(arrays[k].shape, arrays[k].dtype, iter(parts[k])) for k in arrays}
        facts = write_npz(tmp_path / name, rows)
        assert facts["file"] == name and facts["bytes"] == (tmp_path / name).stat().st_size
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as found:
        assert found.files == ["arr_0", "arr_1"]
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
    with open(tmp_path / "a.npz", "rb") as file:  # the pixels lie there as they are
        np.savez(plain := io.BytesIO(), images)
        assert abs(len(file.read()) - len(plain.getvalue())) < 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_one_part_is_in_memory(tmp_path):
    part, count = 2**20, 64
    parts = (np.full((1, part), number, np.uint8) for number in range(count))
    tracemalloc.start()
    write_npz(tmp_path / "a.npz", {"arr_0": Rows((count, part), np.uint8, parts)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * part
    with np.load(tmp_path / "a.npz") as found:
        np.testing.assert_array_equal(found["arr_0"][:, 0], np.arange(count))


@pytest.mark.parametrize(
    "parts, words",
    [
        ([np.zeros((2, 3), np.uint8)], "2 rows, of 4"),
        ([np.zeros((5, 3), np.uint8)], "5 rows, of 4"),
        ([np.zeros((4, 2), np.uint8)], r"uint8 \(4, 2\)"),
        ([np.zeros((4, 3), np.int8)], r"int8 \(4, 3\)"),
    ],
)
def test_other_parts(tmp_path, parts, words):
    with pytest.raises(ValueError, match=words):
        write_npz(tmp_path / "a.npz", {"arr_0": Rows((4, 3), np.uint8, parts)})
    assert list(tmp_path.iterdir()) == []
