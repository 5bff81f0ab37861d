"""Stored features of a teacher: written, bound to their images and captions, read by training."""

import pickle

import numpy as np
import pytest

from helpers import formats
from helpers.formats import jpeg, take
from unitok_jax.data import reading
from unitok_jax.data.health import SampleError
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.sources import open_source
from unitok_jax.data.teacher_features import KIND, open_teacher_features
from unitok_jax.data.writing import features, teacher_features
from unitok_jax.data.writing.folders import claim

COUNT, SIDE, LENGTH = 10, 16, 8
SHAPES = {"deep": [4, 3], "image": [3], "text": [2]}
MADE = {"teacher.kind": "clip_b16", "data.image_size": [SIDE, SIDE], "data.context_length": LENGTH}
TABLE = np.random.default_rng(0).normal(size=(49_408, 2)).astype(np.float32)


def see(images):
    """A teacher of four tokens, each a mean of a quarter of the image."""
    assert images.dtype == np.uint8 and images.shape[1:] == (SIDE, SIDE, 3)
    tokens = images.reshape(-1, 2, 8, 2, 8, 3).mean((2, 4), dtype=np.float32).reshape(-1, 4, 3)
    return {"deep": tokens, "image": tokens.mean(1)}


def read_text(tokens):
    assert tokens.dtype == np.int32 and tokens.shape[1:] == (LENGTH,)
    return TABLE[tokens].sum(axis=1)


@pytest.fixture
def folder(tmp_path):
    """Pictures of one to three captions."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(COUNT):
        (folder / f"{index:02}.jpg").write_bytes(jpeg(index))
        captions = [f"picture {index}", "the same for all", f"number {index}"][: 1 + index % 3]
        (folder / f"{index:02}.txt").write_text("\n".join(captions))
    return folder


def config(folder, **values):
    whole = {"image_size": (SIDE, SIDE), "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    given = {"mixture": (), "max_bad": 0.0, "context_length": LENGTH, **whole, **values}
    return formats.config("folder", folder, **given)


def store(data, output, shard_size=4, see=see):
    source = open_source(data)
    more = {**MADE, "arrays": SHAPES, "teacher": {"teacher": 5, "teacher, its joint space": 6}}
    given = dict(shard_size=shard_size, precision="float32", more=more)
    settings = features.plan(KIND, data, source, **given)
    claim(output, settings, KIND.command)
    work = teacher_features.work(see, read_text, (SIDE, SIDE), LENGTH)
    features.write(source, settings, output, work, threads=2, max_bad=data.max_bad)
    return open_teacher_features(str(output))


@pytest.fixture
def stored(folder, tmp_path):
    found = store(config(folder), tmp_path / "out")
    found.check(open_source(config(folder)), MADE, tuple(SHAPES))
    return found


class TestTraining:
    @pytest.mark.parametrize("options", [{}, {"rows": (1, 3)}])
    def test_a_batch_has_what_the_teacher_says_of_it(self, folder, stored, options):
        """And its images and tokens are those without stored features."""
        sent = pickle.loads(pickle.dumps(stored))  # as to data workers
        plain, taught = (
            take(train_batches(config(folder), 7, teacher_features=found, **options), 6)
            for found in (None, sent)
        )
        for wanted, batch in zip(plain, taught, strict=True):
            assert batch.keys() == {*wanted, "teacher_deep", "teacher_image", "teacher_text"}
            for name in wanted:
                np.testing.assert_array_equal(batch[name], wanted[name])
            said = see(batch["image"])
            assert batch["teacher_deep"].dtype == np.float16
            np.testing.assert_array_equal(batch["teacher_deep"], said["deep"].astype(np.float16))
            np.testing.assert_array_equal(batch["teacher_image"], said["image"])
            np.testing.assert_array_equal(batch["teacher_text"], read_text(batch["text"]))

    def test_only_what_is_asked_for_is_read(self, folder, stored):
        stored.check(open_source(config(folder)), MADE, ("deep",))
        (batch,) = take(train_batches(config(folder), 7, teacher_features=stored), 1)
        assert batch.keys() == {"image", "text", "teacher_deep"}
        assert stored.row_bytes == 4 * 3 * 2

    def test_workers_need_shared_memory_for_them(self, folder, stored, monkeypatch):
        asked = []

        def refuse(needed):
            asked.append(needed)
            raise ValueError("too little")

        monkeypatch.setattr(reading, "check_shared_memory", refuse)
        for found in (None, stored):
            with pytest.raises(ValueError, match="too little"):
                train_batches(config(folder, num_workers=1), 7, teacher_features=found)
        images = SIDE * SIDE * 3
        assert asked[1] * images == asked[0] * (images + stored.row_bytes)

    def test_a_sample_that_was_bad_is_replaced(self, folder, tmp_path):
        (folder / "03.jpg").write_bytes(b"no image")
        data = config(folder, max_bad=0.1)
        found = store(data, tmp_path / "out")
        found.check(open_source(data), MADE, tuple(SHAPES))
        with pytest.raises(SampleError, match="03: without a teacher's features in .* as it was"):
            found.of(3, "03", b"", [])


def test_features_without_room_in_float16_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="features 'deep' are not finite as float16"):
        store(
            config(folder), tmp_path / "out", see=lambda x: {**see(x), "deep": see(x)["deep"] * 1e5}
        )


class TestOfOthers:
    def test_another_image(self, folder, stored):
        (folder / "04.jpg").write_bytes(jpeg(44))
        source = open_source(config(folder))
        told = "teacher.features=.*out has .* another image for sample 4, 04.jpg.*data teacher"
        with pytest.raises(ValueError, match=told):
            stored.check(source, MADE, ("deep",))
        with pytest.raises(ValueError, match=told):
            take(train_batches(config(folder), 0, source=source, teacher_features=stored), 5)

    def test_another_caption_matters_to_what_is_read_of_it(self, folder, stored):
        (folder / "04.txt").write_text("picture 4\nthe same for some")
        source = open_source(config(folder))
        stored.check(source, MADE, ("deep", "image"))
        with pytest.raises(ValueError, match="has the features of other captions for sample 4"):
            stored.check(source, MADE, ("deep", "text"))

    def test_another_number_of_samples(self, folder, stored):
        (folder / "99.jpg").write_bytes(jpeg(99))
        (folder / "99.txt").write_text("one more")
        with pytest.raises(ValueError, match="of 10 samples, and the data have 11.*other data"):
            stored.check(open_source(config(folder)), MADE, ("deep",))

    @pytest.mark.parametrize(
        "changes, told",
        [
            ({"teacher.kind": "clip_l14"}, "teacher.kind=clip_b16, and teacher.kind=clip_l14; set"),
            ({"data.image_size": [32, 32]}, r"size=\[16, 16\], and data.image_size=\[32, 32\]"),
        ],
    )
    def test_other_settings(self, folder, stored, changes, told):
        with pytest.raises(ValueError, match=f"^teacher.features=.*out was made with .*{told}"):
            stored.check(open_source(config(folder)), MADE | changes, ("deep",))

    def test_what_they_do_not_hold(self, folder, stored):
        told = "holds deep, image, text, and not the features shallow that .*data teacher"
        with pytest.raises(ValueError, match=told):
            stored.check(open_source(config(folder)), MADE, ("deep", "shallow"))

    def test_another_teacher(self, stored):
        stored.check_teacher({"teacher": 5})
        with pytest.raises(ValueError, match="another file of the teacher than frozen.teacher"):
            stored.check_teacher({"teacher": 5, "teacher, its joint space": 7})
