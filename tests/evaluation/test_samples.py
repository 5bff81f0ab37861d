"""Drawn images on disk, read in order and without trust."""

import json
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.evaluation import samples
from unitok_jax.evaluation.samples import ROUNDINGS, SETTINGS, Generation, open_samples

GENERATION = Generation(
    checkpoint_hash="abc",
    tokenizer_hash="def",
    count=5,
    labels="random",
    scale=1.5,
    guidance="constant",
    temperature=0.9,
    top_k=0,
    top_p=1.0,
    key=7,
    rounding="half_up",
)


def drawn(count=5, size=(16, 32)):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)


def pngs(folder, images, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / (names[number] if names else f"{number}.png"))
    return folder


def refused(path, error=ValueError):
    with pytest.raises(error) as found:
        opened = open_samples(path)
        list(opened.batches(2))
    assert "\n" not in str(found.value)
    return str(found.value)


class TestArchive:
    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    def test_images_and_labels_in_order(self, tmp_path, save):
        save(tmp_path / "x.npz", drawn(), np.array([3, 1, 4, 1, 5], np.int32))
        found = open_samples(tmp_path / "x.npz")
        assert (found.count, found.size, found.generation) == (5, (16, 32), None)
        np.testing.assert_array_equal(found.labels, [3, 1, 4, 1, 5])
        batches = list(found.batches(2))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        np.testing.assert_array_equal(np.concatenate(batches), drawn())
        np.testing.assert_array_equal(np.concatenate(list(found.batches(2, 3))), drawn()[:3])

    def test_the_file_is_not_read_whole(self, tmp_path):
        np.savez(tmp_path / "x.npz", np.zeros((500, 128, 128, 3), np.uint8))  # 25 MB
        found = open_samples(tmp_path / "x.npz")
        assert found.labels is None
        tracemalloc.start()
        try:
            assert sum(len(batch) for batch in found.batches(4)) == 500
            assert tracemalloc.get_traced_memory()[1] < 2e6
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        "arrays, words",
        [
            ({"arr_0": np.zeros((2, 16, 16, 3), np.float32)}, "arr_0 is float32 (2, 16, 16, 3)"),
            ({"arr_0": np.zeros((2, 16, 16), np.uint8)}, "arr_0 is uint8 (2, 16, 16)"),
            ({"arr_0": np.zeros((2, 16, 3), np.uint8)}, "3); of one image save array[None]"),
            ({"arr_0": np.zeros((2, 3, 16, 16), np.uint8)}, "arr_0 is uint8 (2, 3, 16, 16)"),
            ({"arr_0": np.zeros((0, 16, 16, 3), np.uint8)}, "arr_0 is uint8 (0, 16, 16, 3)"),
            ({"arr_0": np.asfortranarray(drawn())}, "columns first"),
            ({"images": drawn()}, "does not hold the array arr_0"),
            ({"arr_0": drawn(), "arr_1": np.zeros(4, int)}, "arr_1 is int64 (4,)"),
            ({"arr_0": drawn(), "arr_1": np.zeros(5)}, "arr_1 is float64 (5,)"),
        ],
    )
    def test_arrays_of_another_kind(self, tmp_path, arrays, words):
        np.savez(tmp_path / "x.npz", **arrays)
        assert words in refused(tmp_path / "x.npz")

    @pytest.mark.parametrize("key", ["arr_0", "arr_1"])
    def test_objects_are_never_unpickled(self, tmp_path, key):
        class Trap:
            def __reduce__(self):
                return open, (str(tmp_path / "sprung"), "w")

        arrays = {"arr_0": drawn()} | {key: np.array([Trap()] * 5)}
        np.savez(tmp_path / "x.npz", **arrays)
        assert f"{key} is object (5,)" in refused(tmp_path / "x.npz")
        assert not (tmp_path / "sprung").exists()

    def test_files_that_are_cut_off_or_damaged(self, tmp_path):
        np.savez(tmp_path / "x.npz", drawn())
        whole = (tmp_path / "x.npz").read_bytes()
        (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
        assert "cut.npz is not a file of images" in refused(tmp_path / "cut.npz")
        middle = len(whole) // 2
        changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        (tmp_path / "changed.npz").write_bytes(changed)
        assert "arr_0 is damaged" in refused(tmp_path / "changed.npz")
        with (
            zipfile.ZipFile(tmp_path / "x.npz") as before,
            zipfile.ZipFile(tmp_path / "few.npz", "w") as after,
        ):
            after.writestr("arr_0.npy", before.read("arr_0.npy")[:-9])
        assert "arr_0 holds 7,671 bytes, and (5, 16, 32, 3) takes 7,680" in refused(
            tmp_path / "few.npz"
        )
        (tmp_path / "text.npz").write_text("text")
        assert "text.npz is not a file of images" in refused(tmp_path / "text.npz")

    def test_no_file(self, tmp_path):
        assert "does not exist" in refused(tmp_path / "x.npz", FileNotFoundError)


class TestFolder:
    def test_the_order_is_the_numbers(self, tmp_path):
        pngs(tmp_path, drawn(3), ["2.png", "10.png", "9.png"])
        (tmp_path / "notes.txt").write_text("no image")
        found = open_samples(tmp_path)
        assert (found.count, found.size, found.labels) == (3, (16, 32), None)
        np.testing.assert_array_equal(np.concatenate(list(found.batches(2))), drawn(3)[[0, 2, 1]])

    def test_digits_of_other_scripts_are_letters(self, tmp_path):
        pngs(tmp_path, drawn(3), ["\u0663.png", "x10.png", "9\u0663.png"])
        found = np.concatenate(list(open_samples(tmp_path).batches(3)))
        np.testing.assert_array_equal(found, drawn(3)[[2, 1, 0]])

    def test_suffixes_in_capitals_and_other_images(self, tmp_path):
        pngs(tmp_path, drawn(2), ["1.PNG", "0.png"])
        assert open_samples(tmp_path).count == 2
        Image.fromarray(drawn(1)[0]).save(tmp_path / "2.jpg")
        assert "holds 2.jpg beside 2 .png" in refused(tmp_path)

    def test_samples_of_two_sizes(self, tmp_path):
        pngs(tmp_path, [*drawn(3), *drawn(1, (32, 16))])
        assert "3.png has 32x16 pixels, and 0.png has 16x32" in refused(tmp_path)

    def test_no_samples(self, tmp_path):
        assert "holds no .png" in refused(tmp_path)

    def test_a_damaged_image(self, tmp_path):
        pngs(tmp_path, drawn(3))
        (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:99])
        assert "2.png" in refused(tmp_path)


class TestGeneration:
    """Folders that `unitok generate` wrote."""

    @pytest.mark.parametrize("archive", [True, False])
    def test_images_and_settings(self, tmp_path, archive):
        GENERATION.write(tmp_path)
        pngs(tmp_path, drawn(1), ["sheet.png"])  # no sample
        if archive:
            np.savez(tmp_path / "samples.npz", drawn(), np.arange(5))
        else:
            pngs(tmp_path / "images", drawn())
        found = open_samples(tmp_path)
        assert found.generation == GENERATION and found.place == str(tmp_path)
        assert (found.labels is not None) == archive
        np.testing.assert_array_equal(np.concatenate(list(found.batches(9))), drawn())

    def test_labels_of_the_codes(self, tmp_path, monkeypatch):
        GENERATION.write(tmp_path)
        pngs(tmp_path / "images", drawn())
        (tmp_path / "codes").mkdir()
        records = [{"label": number, "captions": ()} for number in (3, 1, 4, 1, 5)]
        monkeypatch.setattr(samples, "open_codes", lambda path: records)
        found = open_samples(tmp_path)
        np.testing.assert_array_equal(found.labels, [3, 1, 4, 1, 5])
        assert found.captions is None
        records.pop()
        assert "holds 5 images, and its codes tells of 4" in refused(tmp_path)

    def test_drawing_that_has_not_finished(self, tmp_path):
        pngs(tmp_path / "images", drawn(3))
        pngs(tmp_path, drawn(1), ["sheet.png"])
        (tmp_path / "codes").mkdir()
        assert "unitok generate has not finished it" in refused(tmp_path)

    def test_fewer_images_than_were_asked_for(self, tmp_path):
        GENERATION.write(tmp_path)
        pngs(tmp_path / "images", drawn(3))
        assert "holds 3 images, and its generation.json tells of 5" in refused(tmp_path)

    @pytest.mark.parametrize(
        "change, words",
        [
            ({"key": None}, "key=None is no int"),
            ({"key": True}, "key=True is no int"),
            ({"scale": "1"}, "scale='1' is no float"),
            ({"labels": "some"}, "labels='some' is none of balanced, random"),
            ({"rounding": "down"}, "rounding='down' is none of half_even, half_up"),
            ({"count": 0}, "count=0"),
        ],
    )
    def test_settings_that_are_none(self, tmp_path, change, words):
        GENERATION.write(tmp_path)
        content = json.loads((tmp_path / SETTINGS).read_text()) | {"more": 1, "scale": 2}
        (tmp_path / SETTINGS).write_text(json.dumps(content))
        assert Generation.read(tmp_path).scale == 2.0
        (tmp_path / SETTINGS).write_text(json.dumps(content | change))
        error = refused(tmp_path)
        assert words in error and SETTINGS in error


def test_roundings():
    """Halves between two levels go up, as ADM's, or to the even level; others to the nearest."""
    levels = np.arange(-1, 257, 0.25)
    floats = (levels / 127.5 - 1).astype(np.float32)
    up, even = (ROUNDINGS[name](floats) for name in ("half_up", "half_even"))
    np.testing.assert_array_equal(even, to_uint8(floats))
    halves = levels % 1 == 0.5
    nearest = np.clip(np.rint(levels), 0, 255)
    np.testing.assert_array_equal(up[~halves], nearest[~halves])
    np.testing.assert_array_equal(even[~halves], nearest[~halves])
    exact = np.floor(np.float32(127.5) * floats + np.float32(128))
    np.testing.assert_array_equal(up, np.clip(exact, 0, 255))
    assert up.dtype == even.dtype == np.uint8 and (up[halves] != even[halves]).any()
