"""Buckets of aspect ratios: an order in batches of one size, images that keep their shape."""

import collections
import io
import itertools
import pickle

import numpy as np
import pytest
from PIL import Image

from helpers import formats
from helpers.formats import take
from unitok_jax.data.buckets import Buckets, bucket_sizes, open_buckets
from unitok_jax.data.images.aspect_ratios import aspect_sizes, nearest_buckets, nearest_size
from unitok_jax.data.images.transforms import decode_image, resize_center_crop
from unitok_jax.data.pipeline import train_batches

SIZES = aspect_sizes(64, 16, 2.0)
SHARES = np.array([0.15, 0.6, 0.25])
COUNT, BATCH = 9_000, 16  # several blocks of a bucket's images


def config(**values):
    whole = dict(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    data = dict(image_size=(64, 64), bucket_ratio=2.0, batch_size=2, mixture=(), **whole)
    return formats.config("array_record", "", **{**data, **values})


class Pictures:
    """Pictures of given (height, width) in one colour each, which tells their position."""

    def __init__(self, shapes, bad=()):
        self._shapes, self._bad = shapes, bad

    def __len__(self):
        return len(self._shapes)

    def __getitem__(self, index):
        file = io.BytesIO()
        height, width = self._shapes[index]
        Image.new("RGB", (width, height), (index * 9, 255 - index * 9, 80)).save(file, "PNG")
        image = b"no image" if index in self._bad else file.getvalue()
        return {"name": f"{index}.png", "image": image, "captions": (f"picture {index}",)}

    def shapes(self):
        return np.array(self._shapes, np.int32)


TALL, SQUARE, WIDE = (100, 60), (50, 52), (30, 50)
PICTURES = Pictures(
    [WIDE, SQUARE, WIDE, TALL, WIDE, SQUARE, WIDE, TALL, WIDE, TALL, SQUARE, TALL, SQUARE]
)


def opened(source=PICTURES, seed=0, batch_size=2, **values):
    return open_buckets(source, config(**values), seed, batch_size)


def batches_of(count, start=0, source=PICTURES, rows=None, text_features=None, **values):
    data = config(**values)
    buckets = open_buckets(source, data, 0, data.batch_size)
    options = dict(start_step=start, rows=rows, text_features=text_features)
    return take(train_batches(data, 0, source=source, buckets=buckets, **options), count)


def assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["text"], other["text"])


@pytest.fixture(scope="module")
def of():
    return np.random.default_rng(0).choice(3, COUNT, p=SHARES).astype(np.uint16)


@pytest.fixture(scope="module")
def buckets(of):
    return Buckets(SIZES, of, 0, BATCH)


@pytest.fixture(scope="module")
def taken(buckets):
    """(size, indices) of the batches of three epochs."""
    batches = range(sum(buckets._begun(3)))
    return [(buckets.size_of(batch), indices_of(buckets, batch)) for batch in batches]


def indices_of(buckets, batch):
    return [buckets[batch * BATCH + row] for row in range(BATCH)]


class TestOrder:
    def test_a_batch_is_of_one_bucket(self, of, taken):
        assert all(SIZES[of[index]] == size for size, indices in taken for index in indices)

    def test_every_image_once_in_a_pass_over_its_bucket(self, of, taken):
        for number, size in enumerate(SIZES):
            stream = [index for each, indices in taken if each == size for index in indices]
            members = np.flatnonzero(of == number).tolist()
            passes = [
                stream[start : start + len(members)]
                for start in range(0, len(stream), len(members))
            ]
            assert len(passes) >= 3 and passes[0] != passes[1] != members != passes[0]
            assert sorted(passes[0]) == sorted(passes[1]) == members
            assert len(set(passes[2])) == len(passes[2])

    @pytest.mark.parametrize("counts", [(32, 33, 47), (48, 100, 41), (40, 64, 39)])
    def test_no_batch_holds_an_image_twice(self, counts):
        """Where a batch in two or three crosses the end of a pass."""
        of = np.repeat([0, 1, 2], counts).astype(np.uint16)
        small = Buckets(SIZES, of, 0, BATCH)
        streams = collections.defaultdict(list)
        for batch in range(sum(small._begun(BATCH))):
            indices = indices_of(small, batch)
            assert len(set(indices)) == BATCH
            streams[of[indices[0]]] += indices
        for number, count in enumerate(counts):
            members = np.flatnonzero(of == number).tolist()
            passes = [
                streams[number][start : start + count] for start in range(0, 9 * count, count)
            ]
            assert all(sorted(each) == members for each in passes)
            # The order of each pass is its own: an image is at all places alike.
            first = [each[0] for each in passes]
            assert len(set(first)) > 4

    def test_no_image_is_used_more_often_than_others(self, taken):
        uses = collections.Counter(index for _, indices in taken for index in indices)
        assert len(uses) == COUNT and set(uses.values()) == {2, 3}
        assert sum(count == 2 for count in uses.values()) < len(SIZES) * BATCH

    def test_buckets_take_turns_by_their_share(self, of, taken):
        counts = np.bincount(of)
        third = len(taken) // 3
        for end in (third, 2 * third, 3 * third):
            found = collections.Counter(size for size, _ in taken[:end])
            for size, count in zip(SIZES, counts, strict=True):
                assert abs(found[size] - end * count / COUNT) < 3
        assert [found[size] for size in SIZES] == [3 * count // BATCH for count in counts]

    def test_turns_are_shuffled_anew_in_every_epoch(self):
        """Seen where every epoch has the same turns to shuffle."""
        of = np.repeat([0, 1, 2], [10 * BATCH, 30 * BATCH, 20 * BATCH]).astype(np.uint16)
        even = Buckets(SIZES, of, 0, BATCH)
        epochs = [[even.size_of(60 * epoch + turn) for turn in range(60)] for epoch in range(3)]
        assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
        runs = [len(list(run)) for _, run in itertools.groupby(epochs[0])]
        assert len(runs) > 10 and max(runs) < 20

    def test_any_position_by_itself(self, of, taken):
        for batch in (len(taken) - 1, 0, len(taken) // 2):
            alone = Buckets(SIZES, of, 0, BATCH)
            assert indices_of(alone, batch) == taken[batch][1]
            assert alone.size_of(batch) == taken[batch][0]

    def test_far_positions(self, buckets, of):
        batch = 10**9
        indices = indices_of(buckets, batch)
        assert {SIZES[of[index]] for index in indices} == {buckets.size_of(batch)}

    def test_pickled(self, buckets, taken):
        copy = pickle.loads(pickle.dumps(buckets))
        assert [indices_of(copy, batch) for batch in range(4)] == [each for _, each in taken[:4]]

    def test_depends_on_the_seed(self, of, taken):
        other = Buckets(SIZES, of, 1, BATCH)
        assert [indices_of(other, batch) for batch in range(4)] != [each for _, each in taken[:4]]


class TestBuckets:
    def test_the_nearest_for_all_images_at_once(self):
        shapes = np.random.default_rng(1).integers(1, 5000, (3000, 2))
        for sizes in (SIZES, aspect_sizes(256, 16, 4.0), [(64, 64)]):
            found = nearest_buckets(shapes, sizes)
            assert [sizes[number] for number in found] == [nearest_size(s, sizes) for s in shapes]

    def test_sizes_of_the_recipe(self):
        sizes = bucket_sizes(config(image_size=(256, 256)))
        assert len(sizes) == 9 and (256, 256) in sizes and (192, 336) in sizes
        assert all(h % 16 == w % 16 == 0 and h * w // 256 <= 256 for h, w in sizes)
        assert all(max(size) <= 2 * min(size) for size in sizes)

    def test_images_by_the_size_of_their_bucket(self):
        buckets = opened()
        assert buckets.facts() == {"80x48": 4, "64x64": 4, "48x80": 5}
        assert buckets.line() == "80x48 px 30.8%, 64x64 px 30.8%, 48x80 px 38.5%"

    def test_a_bucket_without_two_batches_leaves_its_images_to_others(self):
        wider = (52, 50), (60, 70)
        source = Pictures([WIDE] * 5 + [SQUARE] * 5 + [*wider, TALL])
        assert opened(source, batch_size=2).facts() == {"64x64": 8, "48x80": 5}
        assert opened(source, batch_size=3).facts() == {"64x64": 13}

    def test_an_image_whose_header_is_damaged_counts_as_a_square(self):
        assert opened(Pictures([(0, 0), *[SQUARE] * 3])).facts() == {"64x64": 4}

    @pytest.mark.parametrize(
        "values, batch_size, message",
        [
            ({"bucket_ratio": 0.5}, 2, r"^data\.bucket_ratio=0\.5 is the longer side .* or to 0"),
            ({"bucket_ratio": float("inf")}, 2, "^data.bucket_ratio=inf is"),
            ({"bucket_ratio": float("nan")}, 2, "^data.bucket_ratio=nan is"),
            ({"image_size": (16, 48)}, 2, "ratio=2.0: no sides .* area of data.image_size=16x48"),
            (
                {},
                3,
                "ratio=2.0: no bucket has the images of two batches of 3; .*48x80 px, has 5: lo",
            ),
        ],
    )
    def test_what_does_not_fit(self, values, batch_size, message):
        with pytest.raises(ValueError, match=message):
            opened(batch_size=batch_size, **values)

    def test_a_source_that_does_not_know_its_images(self):
        with pytest.raises(ValueError, match="needs the sizes .*array_record does not tell; pack"):
            opened([1, 2, 3])


class TestBatches:
    def test_images_keep_their_shape(self):
        buckets = opened()
        for step, batch in enumerate(batches_of(9)):
            assert batch["image"].shape == (2, *buckets.size_of(step), 3)
            for row, image in enumerate(batch["image"]):
                record = PICTURES[buckets[2 * step + row]]
                decoded = decode_image(record["image"], record["name"])
                wanted = resize_center_crop(decoded, buckets.size_of(step))
                np.testing.assert_array_equal(image, wanted)
        assert {batch["image"].shape[1:3] for batch in batches_of(9)} == set(SIZES)

    def test_crops_have_the_ratio_of_their_bucket(self):
        batches = batches_of(5, crop_scale=(0.5, 1.0), crop_ratio=(0.8, 1.25))
        assert [b["image"].shape for b in batches] == [b["image"].shape for b in batches_of(5)]

    @pytest.mark.parametrize("step", [1, 4, 7])
    def test_resuming_changes_nothing(self, step):
        assert_same(batches_of(9)[step:], batches_of(9 - step, start=step))

    def test_shares_of_processes_are_of_one_bucket(self):
        whole, *shares = (batches_of(9, rows=rows) for rows in (None, [0], [1]))
        for batch, *parts in zip(whole, *shares, strict=True):
            for key in ("image", "text"):
                np.testing.assert_array_equal(batch[key], np.concatenate([p[key] for p in parts]))

    def test_stored_text_features_are_those_of_the_images(self):
        class Stored:
            def of(self, index, name, captions):
                return np.full((len(captions), 3), index, np.float32)

        for batch in batches_of(9, text_features=Stored()):
            colours = batch["image"][..., 0].mean((1, 2))
            np.testing.assert_array_equal(batch["text"][:, 0] * 9, colours)

    @pytest.mark.slow
    def test_worker_processes_read_the_same(self):
        assert_same(batches_of(6), batches_of(6, num_workers=1))

    def test_the_next_good_image_takes_the_bucket_of_a_bad_one(self):
        """And is kept in memory at each size that it was read at."""
        shapes = PICTURES.shapes().tolist()
        source = Pictures(shapes, bad=(3,))
        for batch in batches_of(40, source=source):
            assert batch["image"].shape[1:3] in SIZES
