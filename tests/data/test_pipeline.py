"""Batches: determinism, epochs, resuming, shares of processes, bad images, evaluation."""

import contextlib
import errno
import logging
import math

import ml_collections
import numpy as np
import pytest
from PIL import Image

from helpers import disks, formats
from helpers.formats import take
from unitok_jax.data import health, pipeline, replacement
from unitok_jax.data.health import SampleError, Tally, TooManyBadSamples
from unitok_jax.data.images.transforms import ImageError, decode_image, resize_center_crop
from unitok_jax.data.pipeline import effective_batch_size, eval_batches, train_batches
from unitok_jax.data.sources import open_source
from unitok_jax.data.text import TextTokenizer
from unitok_jax.system.passing import AwayError

pytestmark = pytest.mark.slow

COUNT = 12


def make_set(folder, count=COUNT):
    """Pictures with a level of green each, so that a crop tells which it is; two captions each."""
    folder.mkdir(exist_ok=True)
    x = np.linspace(0, 255, 40)
    for index in range(count):
        pixels = np.zeros((30, 40, 3), np.uint8)
        pixels[..., 0] = x
        pixels[..., 1] = 10 * index
        pixels[..., 2] = np.linspace(0, 255, 30)[:, None]
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
        (folder / f"{index:02}.txt").write_text(f"picture {index}\nnumber {index}\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(autouse=True)
def forget_warnings(monkeypatch):
    """What was said once per process is said once per test."""
    monkeypatch.setattr(pipeline, "_warned", set())


def config(folder, source="folder", **values):
    defaults = {"image_size": (16, 32), "crop_scale": (0.3, 1.0), "crop_ratio": (0.75, 4 / 3)}
    return formats.config(source, folder, **{**defaults, "mixture": (), **values})


def first(count, data, seed=0, **where):
    return take(train_batches(data, seed, **where), count)


def identities(batch):
    return np.rint(batch["image"][..., 1].mean((1, 2)) / 10).astype(int).tolist()


def examples(batches):
    """Every example of some batches, as bytes."""
    return {
        image.tobytes() + text.tobytes()
        for batch in batches
        for image, text in zip(batch["image"], batch["text"], strict=True)
    }


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def assert_joined(whole, shares, rows):
    """The batches of all processes, put together by their rows, are those of one."""
    order = np.argsort(np.concatenate(rows))
    joined = [
        {key: np.concatenate([batch[key] for batch in batches])[order] for key in batches[0]}
        for batches in zip(*shares, strict=True)
    ]
    assert_same(whole, joined)


class TestTraining:
    def test_shapes_and_types(self, folder):
        (batch,) = first(1, config(folder))
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            "image": ((4, 16, 32, 3), np.uint8),
            "text": ((4, 8), np.int32),
        }

    def test_captions_belong_to_the_images_and_all_are_drawn(self, folder):
        tokenize = TextTokenizer(8)
        seen = set()
        for batch in first(60, config(folder)):
            for index, text in zip(identities(batch), batch["text"], strict=True):
                captions = (f"picture {index}", f"number {index}")
                seen.update(c for c in captions if np.array_equal(tokenize(c)[0], text))
                assert any(np.array_equal(tokenize(c)[0], text) for c in captions)
        assert len(seen) == 2 * COUNT

    def test_whole_images_are_decoded_once_as_evaluation_does(self, folder, monkeypatch):
        decoded = []

        def counted(data, name):
            decoded.append(name)
            return decode_image(data, name)

        monkeypatch.setattr(pipeline, "decode_image", counted)
        # One thread: two may decode the same picture at once.
        whole = config(folder, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), num_threads=1)
        batches = first(9, whole)
        assert len(decoded) == len(set(decoded)) == COUNT
        with contextlib.closing(eval_batches(open_source(whole), whole, COUNT)) as evaluation:
            wanted = {image.tobytes() for image in next(evaluation)["image"]}
        assert {image.tobytes() for batch in batches for image in batch["image"]} == wanted
        assert len(examples(batches)) > COUNT  # captions are still drawn
        # A resumed run has decoded nothing before.
        assert_same(batches[5:], first(4, whole, start_step=5))
        monkeypatch.setattr(pipeline, "KEPT_BYTES", COUNT * 16 * 32 * 3 - 1)
        decoded.clear()
        assert_same(batches[:6], first(6, whole))
        assert len(decoded) >= 24

    def test_every_sample_once_per_epoch_in_a_new_order(self, folder):
        seen = [identities(batch) for batch in first(9, config(folder))]
        epochs = [sum(seen[i : i + 3], []) for i in (0, 3, 6)]
        assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2]

    def test_every_sample_once_per_epoch_when_batches_cross_it(self, folder):
        """Batches of 5 from 12 samples: an epoch ends inside a batch, and nothing is left out."""
        seen = [identities(batch) for batch in first(12, config(folder, batch_size=5))]
        samples = sum(seen, [])
        epochs = [samples[i : i + COUNT] for i in range(0, 60, COUNT)]
        assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)

    def test_crops_differ_between_epochs(self, folder):
        batches = first(6, config(folder))
        assert len(examples(batches)) == 2 * COUNT

    def test_repeats_with_the_seed_only(self, folder):
        assert_same(first(4, config(folder), seed=1), first(4, config(folder), seed=1))
        assert examples(first(3, config(folder), seed=1)) != examples(
            first(3, config(folder), seed=2)
        )

    @pytest.mark.parametrize("num_threads", [1, 7])
    def test_threads_change_nothing(self, folder, num_threads):
        other = first(5, config(folder, num_threads=num_threads))
        assert_same(first(5, config(folder)), other)

    def test_worker_processes_change_nothing(self, folder):
        assert_same(first(4, config(folder)), first(4, config(folder, num_workers=1)))

    def test_one_chunk_per_batch_from_a_worker_process(self, folder):
        data = config(folder, num_threads=1)
        assert_same(first(2, data), first(2, config(folder, num_threads=1, num_workers=1)))

    @pytest.mark.parametrize("step", [1, 3, 7])
    def test_resuming_is_passing_the_step(self, folder, step):
        whole = first(9, config(folder, batch_size=5))
        resumed = first(9 - step, config(folder, batch_size=5), start_step=step)
        assert_same(whole[step:], resumed)

    @pytest.mark.parametrize("count", [2, 3])
    def test_shares_of_processes_make_the_batch_of_one(self, folder, count):
        """Row by row, crops and captions too, from a resumed step on and past ends of epochs."""
        data = config(folder, batch_size=6)
        whole = first(7, data, start_step=1)
        parts = np.array_split(range(6), count)
        assert_joined(whole, [first(7, data, start_step=1, rows=part) for part in parts], parts)

    def test_rows_need_not_be_neighbours(self, folder):
        """The devices of a process may lie anywhere in the mesh."""
        data, parts = config(folder, batch_size=6), [(0, 1, 4), (2, 3, 5)]
        assert_joined(first(5, data), [first(5, data, rows=part) for part in parts], parts)

    def test_shares_stay_together_when_the_source_does_not_divide(self, tmp_path):
        data = config(make_set(tmp_path / "eleven", 11), batch_size=4)
        whole = first(12, data)
        parts = np.array_split(range(4), 2)
        assert_joined(whole, [first(12, data, rows=part) for part in parts], parts)

    def test_given_source_is_used(self, folder):
        data = config(folder)
        source = open_source(data)
        assert_same(first(2, data), first(2, config("/nowhere"), source=source))

    def test_closing_ends_the_threads(self, folder):
        batches = train_batches(config(folder), 0)
        next(batches)
        batches.close()
        with pytest.raises(ValueError, match="closed"):
            next(batches)


class TestSizes:
    """Images of one size up to a step, of another from then on."""

    SIZES = ((0, (16, 32)), (3, (32, 64)), (5, (48, 96)))

    @pytest.mark.parametrize("workers", [0, 1])
    def test_every_batch_is_that_of_its_size_at_its_step(self, folder, workers):
        whole = first(7, config(folder, num_workers=workers), sizes=self.SIZES)
        alone = {size: first(7, config(folder, image_size=size)) for _, size in self.SIZES}
        sizes = [self.SIZES[0][1]] * 3 + [self.SIZES[1][1]] * 2 + [self.SIZES[2][1]] * 2
        assert_same(whole, [alone[size][step] for step, size in enumerate(sizes)])

    @pytest.mark.parametrize("step", range(1, 7))
    def test_resuming_before_at_and_after_a_switch(self, folder, step):
        whole = first(8, config(folder), sizes=self.SIZES)
        assert_same(
            whole[step:], first(8 - step, config(folder), sizes=self.SIZES, start_step=step)
        )

    def test_samples_captions_and_crops_stay(self, folder):
        """A larger crop shrinks to the smaller one, so it is of the same box."""
        whole = first(6, config(folder), sizes=self.SIZES)
        for small, other in zip(first(6, config(folder)), whole, strict=True):
            np.testing.assert_array_equal(small["text"], other["text"])
            assert identities(small) == identities(other)
            factor = other["image"].shape[1] // 16
            means = other["image"].reshape(4, 16, factor, 32, factor, 3).mean((2, 4))
            assert np.abs(means - small["image"]).max() < 4

    def test_shares_of_processes_switch_together(self, folder):
        data, parts = config(folder, batch_size=6), np.array_split(range(6), 2)
        whole = first(7, data, sizes=self.SIZES)
        shares = [first(7, data, sizes=self.SIZES, rows=part) for part in parts]
        assert_joined(whole, shares, parts)

    def test_closing_before_and_after_a_switch(self, folder):
        for count in (0, 2, 4):
            batches = train_batches(config(folder), 0, sizes=self.SIZES)
            for _ in range(count):
                next(batches)
            batches.close()
            with pytest.raises(ValueError, match="closed"):
                next(batches)

    def test_health_is_of_all_sizes(self, folder):
        with contextlib.closing(train_batches(config(folder), 0, sizes=self.SIZES)) as batches:
            for _ in range(4):
                next(batches)
            assert batches.health.new_counts()["samples"] == 16


class TestArguments:
    @pytest.mark.parametrize("count", [{"num_threads": 0}, {"num_workers": -1}])
    def test_nobody_to_read(self, folder, count):
        with pytest.raises(ValueError, match="data.num_threads=. must be at least 1 and data.num"):
            train_batches(config(folder, **count), 0)

    @pytest.mark.parametrize("wrong", [(), (2, 1), (1, 1), (-1, 2), (3, 4)])
    def test_rows_that_the_batch_has_not(self, folder, wrong):
        with pytest.raises(ValueError, match=r"rows=.* are not ascending rows .* batch of 4"):
            train_batches(config(folder), 0, rows=wrong)

    def test_negative_step(self, folder):
        with pytest.raises(ValueError, match="start_step=-1 must be at least 0"):
            train_batches(config(folder), 0, start_step=-1)

    def test_image_size_off_the_grid(self, folder):
        with pytest.raises(ValueError, match="data.image_size=.* nearest: 96 or 112"):
            train_batches(config(folder, image_size=(96, 100)), 0)

    @pytest.mark.parametrize(
        ("key", "limits"),
        [
            ("crop_scale", (0.5,)),
            ("crop_scale", (0.5, 1.5)),
            ("crop_scale", (0.0, 1.0)),
            ("crop_ratio", (2.0, 0.5)),
        ],
    )
    def test_crop_limits(self, folder, key, limits):
        with pytest.raises(ValueError, match=rf"data.{key}=.*: give two numbers with 0 < low <="):
            train_batches(config(folder, **{key: limits}), 0)

    def test_images_without_captions(self, tmp_path):
        folder = make_set(tmp_path / "set", 4)
        (folder / "01.txt").unlink()
        source = open_source(config(folder), require_captions=False)
        with pytest.raises(ValueError, match=r"01\.png has no caption; open the source with req"):
            first(1, config(folder), source=source)


class TestMixture:
    def mixed(self, tmp_path, **values):
        green, more = make_set(tmp_path / "green"), make_set(tmp_path / "more", 6)
        for path in more.glob("*.txt"):
            path.write_text("other\n")
        parts = ((3.0, "folder", str(green)), (1, "folder", str(more)))
        return config("", source="mixture", mixture=parts, **values)

    def test_every_batch_has_its_share_of_every_part(self, tmp_path):
        other = TextTokenizer(8)("other")[0]
        batches = first(12, self.mixed(tmp_path, batch_size=8))
        counts = [(batch["text"] == other).all(1).sum() for batch in batches]
        assert sum(counts) == 24
        assert set(counts) <= {1, 2, 3}

    def test_resuming_and_shares(self, tmp_path):
        data = self.mixed(tmp_path, batch_size=6)
        whole = first(6, data)
        assert_same(whole[2:], first(4, data, start_step=2))
        parts = np.array_split(range(6), 2)
        assert_joined(whole, [first(6, data, rows=part) for part in parts], parts)

    @pytest.mark.parametrize("weight", [0, -1.0, math.inf, math.nan, "2", True])
    def test_weight_that_is_not_positive(self, folder, weight):
        data = config("", source="mixture", mixture=((1.0, "shapes", ""), (weight, "shapes", "")))
        with pytest.raises(ValueError, match=r"data.mixture\[1\]=.* the weight must be a positive"):
            open_source(data)

    @pytest.mark.parametrize(
        ("mixture", "message"),
        [
            ((), "data.source=mixture needs data.mixture: "),
            (((1.0, "shapes"),), r"data.mixture\[0\]=.* is not \(weight, source, path\)"),
            ((3.0, "shapes", ""), r"data.mixture\[0\]=3.0 is not"),
            (((1.0, "photos", 5),), r"data.mixture\[0\]=.* is not \(weight, source, path\)"),
            (((1.0, "mixture", ""),), r"data.mixture\[0\]=.*: a mixture cannot be a part"),
            (((1.0, "shape", ""),), r"data.mixture\[0\]=.*: data.source='shape'.* mean 'shapes'"),
        ],
    )
    def test_entry_that_is_none(self, mixture, message):
        with pytest.raises(ValueError, match=message):
            open_source(config("", source="mixture", mixture=mixture))

    def test_a_path_that_nothing_reads(self, folder):
        with pytest.raises(ValueError, match="data.path=.* has no meaning for data.source=mixture"):
            open_source(config(folder, source="mixture", mixture=((1.0, "photos", ""),)))

    def test_part_that_is_not_there(self):
        data = config("", source="mixture", mixture=((1.0, "folder", "/none"),))
        with pytest.raises(FileNotFoundError, match=r"data.mixture\[0\]=.*: data.path=/none"):
            open_source(data)

    def test_part_too_small_for_the_batch(self, tmp_path):
        with pytest.raises(ValueError, match=r"data.mixture\[0\] holds 12 samples.* 13 of a batch"):
            train_batches(self.mixed(tmp_path, batch_size=17), 0)


class TestEffectiveBatchSize:
    @pytest.mark.parametrize(("length", "divisor", "expected"), [(9, 1, 8), (8, 4, 8), (7, 4, 4)])
    def test_number(self, length, divisor, expected):
        data = ml_collections.ConfigDict({"batch_size": 8})
        assert effective_batch_size(data, length, divisor) == expected

    def test_lowering_is_announced_once_with_both_numbers(self, caplog):
        data = ml_collections.ConfigDict({"batch_size": 16})
        effective_batch_size(data, 13, 4)
        effective_batch_size(data, 13, 4)
        (record,) = caplog.records
        message = record.getMessage()
        assert "data.batch_size=16 is larger than the source (13 samples)" in message
        assert "batches of 12" in message

    def test_training_follows_it(self, folder):
        (batch,) = first(1, config(folder, batch_size=64), divisor=8)
        assert len(set(identities(batch))) == 8
        (share,) = first(1, config(folder, batch_size=40), divisor=5, rows=(8, 9))
        assert len(share["image"]) == 2

    def test_batch_that_devices_cannot_share(self):
        with pytest.raises(ValueError, match="data.batch_size=6 is not a multiple of 4"):
            effective_batch_size(ml_collections.ConfigDict({"batch_size": 6}), 100, 4)

    def test_source_smaller_than_the_devices(self):
        with pytest.raises(
            ValueError, match="holds 3 samples, too few for batches that are a multiple of 4"
        ):
            effective_batch_size(ml_collections.ConfigDict({"batch_size": 8}), 3, 4)


class TestBadImages:
    @pytest.fixture
    def damaged(self, tmp_path):
        folder = make_set(tmp_path / "set")
        whole = (folder / "03.png").read_bytes()
        (folder / "03.png").write_bytes(whole[: len(whole) // 2])
        (folder / "04.png").write_bytes(b"")
        return folder

    def test_bad_image_is_replaced_by_the_next_good_one(self, damaged):
        seen = sorted(sum((identities(batch) for batch in first(3, config(damaged))), []))
        assert seen == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 11]

    def test_captions_come_from_the_replacement(self, damaged):
        tokens = TextTokenizer(8)(["picture 5", "number 5"])
        for batch in first(3, config(damaged)):
            for index, text in zip(identities(batch), batch["text"], strict=True):
                assert index != 5 or text.tolist() in tokens.tolist()

    def test_replacing_is_deterministic(self, damaged):
        whole = first(6, config(damaged))
        assert_same(whole, first(6, config(damaged, num_threads=1)))
        assert_same(whole[2:], first(4, config(damaged), start_step=2))

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_every_reason_is_told_once(self, damaged, caplog, num_workers):
        (damaged / "05.png").write_bytes(b"")
        with caplog.at_level(logging.WARNING):
            first(9, config(damaged, num_workers=num_workers))
        messages = [record.getMessage() for record in caplog.records]
        assert len(messages) == 2
        assert sum("(damaged): 03.png: cannot be decoded" in message for message in messages) == 1
        assert sum(".png: the file is empty" in message for message in messages) == 1
        assert all("counted as data/skipped/" in message for message in messages)

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_health_counts_samples_bytes_and_reasons(self, damaged, num_workers):
        sizes = {path.name: path.stat().st_size for path in damaged.glob("*.png")}
        replaced = 2 * sizes["05.png"] - sizes["03.png"]  # 03 and 04, which is empty, by 05
        batches = train_batches(config(damaged, num_workers=num_workers), 0)
        with contextlib.closing(batches):
            for epoch in range(2):
                for _ in range(3):
                    next(batches)
                taken = batches.health.new_counts()
                expected = {"samples": 12, "bytes": sum(sizes.values()) + replaced}
                expected |= {"skipped/damaged": 1, "skipped/empty": 1}
                assert taken == expected, epoch
            assert batches.health.new_counts() == {"samples": 0, "bytes": 0}

    def test_more_than_the_allowed_share_ends_the_run_with_the_list(self, damaged, monkeypatch):
        monkeypatch.setattr(health, "ENOUGH", 24)
        message = (
            r"4 of 24 samples are unusable, more than data.max_bad=0.15 allows.*"
            r"\n  2 (empty|damaged): 0[34].png[^,]*\n  2 (empty|damaged): 0[34].png[^,]*$"
        )
        with pytest.raises(TooManyBadSamples, match=message):
            first(30, config(damaged, max_bad=0.15))
        first(30, config(damaged, max_bad=0.25))

    def test_few_samples_say_nothing_about_the_share(self, damaged):
        first(6, config(damaged, max_bad=0.01))

    def test_share_that_the_source_left_out(self, tmp_path):
        data = config(make_set(tmp_path / "set"), max_bad=0.2)
        source = open_source(data)
        source.tally = Tally()
        source.tally.add("no_caption", "some.tar/7", 3)
        first(1, data, source=source)
        source.tally.add("no_caption", "some.tar/8")
        message = "4 of 16 samples are unusable, .*=0.2.*\n  4 no_caption: some.tar/7, some.tar/8"
        with pytest.raises(TooManyBadSamples, match=message):
            train_batches(data, 0, source=source)

    @pytest.mark.parametrize("share", [-0.1, 1.5])
    def test_share_that_is_none(self, folder, share):
        with pytest.raises(ValueError, match=f"data.max_bad={share} is a share"):
            train_batches(config(folder, max_bad=share), 0)

    def test_file_that_vanishes_is_replaced(self, tmp_path):
        data = config(make_set(tmp_path / "set"))
        source = open_source(data)
        (tmp_path / "set" / "06.png").unlink()
        seen = sum((identities(batch) for batch in first(3, data, source=source)), [])
        assert sorted(seen) == [0, 1, 2, 3, 4, 5, 7, 7, 8, 9, 10, 11]

    def test_a_disk_that_stumbles_changes_nothing(self, folder, monkeypatch):
        """The samples, captions and crops are those of another start; nothing is skipped."""
        expected = first(3, config(folder))
        failed = disks.stumble(monkeypatch, "06.png", 2)
        assert_same(first(3, config(folder, max_bad=0.0)), expected)
        assert len(failed) == 2

    def test_a_disk_that_is_away(self, folder, monkeypatch):
        disks.stumble(monkeypatch, ".png", disks.NEVER, errno.ESTALE)
        with pytest.raises(AwayError, match="12 samples in a row cannot be used"):
            first(1, config(folder))

    def test_nothing_but_bad_images_is_an_error(self, tmp_path):
        folder = make_set(tmp_path / "set", 4)
        for path in folder.glob("*.png"):
            path.write_bytes(b"not an image")
        message = r"4 samples in a row cannot be used; the last: .*\.png: not an image"
        with pytest.raises(SampleError, match=message):
            first(1, config(folder))

    def test_gives_up_after_the_stated_number(self, tmp_path, monkeypatch):
        monkeypatch.setattr(replacement, "TRIES", 3)
        folder = make_set(tmp_path / "set")
        for index in range(3):
            (folder / f"{index:02}.png").write_bytes(b"")
        with pytest.raises(SampleError, match="3 samples in a row"):
            first(3, config(folder))


class TestEvaluation:
    def evaluate(self, folder, batch_size, rows=None):
        data = config(folder)
        return take(eval_batches(open_source(data), data, batch_size, rows), None)

    def test_shapes_types_and_padding(self, folder):
        batches = self.evaluate(folder, 5)
        assert len(batches) == 3
        for batch in batches:
            assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
                "image": ((5, 16, 32, 3), np.uint8),
                "text": ((5, 8), np.int32),
                "mask": ((5,), np.bool_),
                "index": ((5,), np.int32),
                "crc32": ((5,), np.uint32),
            }
        last = batches[-1]
        np.testing.assert_array_equal(last["mask"], [True, True, False, False, False])
        assert not any(last[key][2:].any() for key in last)

    def test_every_sample_once_scaled_and_with_its_first_caption(self, folder):
        source = open_source(config(folder))
        (batch,) = self.evaluate(folder, COUNT)
        np.testing.assert_array_equal(batch["index"], np.arange(COUNT))
        for index in range(COUNT):
            record = source[index]
            image = resize_center_crop(decode_image(record["image"], record["name"]), (16, 32))
            np.testing.assert_array_equal(batch["image"][index], image)
            np.testing.assert_array_equal(
                batch["text"][index], TextTokenizer(8)(f"picture {index}")[0]
            )

    @pytest.mark.parametrize("count", [2, 4])
    def test_processes_yield_as_many_batches_and_every_sample_once(self, folder, count):
        shares = [self.evaluate(folder, 8, rows) for rows in np.array_split(range(8), count)]
        assert {len(share) for share in shares} == {2}
        indices = [batch["index"][batch["mask"]] for share in shares for batch in share]
        assert sorted(np.concatenate(indices)) == list(range(COUNT))

    def test_images_without_captions_have_no_tokens(self, tmp_path):
        folder = make_set(tmp_path / "set", 2)
        (folder / "01.txt").unlink()
        data = config(folder)
        source = open_source(data, require_captions=False)
        (batch,) = take(eval_batches(source, data, 2), None)
        assert batch["text"][0].any()
        assert not batch["text"][1].any()

    def test_bad_image_is_an_error(self, tmp_path):
        folder = make_set(tmp_path / "set", 4)
        (folder / "02.png").write_bytes(b"")
        with pytest.raises(ImageError, match=r"02\.png: the file is empty"):
            self.evaluate(folder, 2)

    def test_a_disk_that_stumbles(self, folder, monkeypatch):
        expected = self.evaluate(folder, 4)
        failed = disks.stumble(monkeypatch, "06.png", 2)
        assert_same(self.evaluate(folder, 4), expected)
        assert len(failed) == 2

    @pytest.mark.parametrize("code, left_out", [(errno.EACCES, True), (errno.EIO, False)])
    def test_a_file_that_cannot_be_read(self, folder, monkeypatch, code, left_out):
        """It is left out as other bad ones, if they are; not so what a disk hides."""
        disks.stumble(monkeypatch, "06.png", disks.NEVER, code)
        monkeypatch.setattr("unitok_jax.data.formats.folders.is_regular", lambda path: True)
        data = config(folder)
        batches = eval_batches(open_source(data), data, 12, leave_out=True)
        with contextlib.closing(batches):
            if not left_out:
                with pytest.raises(OSError, match="06.png"):
                    next(batches)
                return
            (mask,) = [batch["mask"] for batch in batches]
        assert mask.tolist() == [index != 6 for index in range(12)]

    def test_empty_batches(self, folder):
        with pytest.raises(ValueError, match="batch_size=0 must be positive"):
            self.evaluate(folder, 0)
