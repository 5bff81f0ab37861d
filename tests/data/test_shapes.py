"""Drawn pictures: what captions say is looked up in the pixels."""

import collections
import dataclasses
import functools
import hashlib
import io
import itertools
import pickle
import re
import subprocess
import sys

import grain
import ml_collections
import numpy as np
import pytest
from PIL import Image

from unitok_jax.data import pipeline
from unitok_jax.data.formats.drawing import COLOURS, SECOND_TONE, SHAPES, SIDE, TEXTURES, draw
from unitok_jax.data.formats.shapes import (
    HELD_OUT,
    LENGTH,
    TRAINING,
    EditedShapes,
    HeldOutShapes,
    OtherSingleShapes,
    SingleShapes,
    TrainingShapes,
    describe,
    shape_source,
    split_of,
)
from unitok_jax.data.images.transforms import decode_image
from unitok_jax.data.records import LabelledSource
from unitok_jax.data.sources import open_source
from unitok_jax.data.text import TextTokenizer

pytestmark = pytest.mark.slow

SPLITS = {"train": TrainingShapes(), "held_out": HeldOutShapes(), "single": SingleShapes()}
SPLITS |= {"edits": EditedShapes(), "single_held_out": OtherSingleShapes()}
KIND = re.compile(f"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")
WHERE = {
    "in the top left corner": (0, 0),
    "at the top": (0, 1),
    "in the top right corner": (0, 2),
    "on the left": (1, 0),
    "in the centre": (1, 1),
    "on the right": (1, 2),
    "in the bottom left corner": (2, 0),
    "at the bottom": (2, 1),
    "in the bottom right corner": (2, 2),
}
OBJECT = re.compile(
    rf"a (small|large) ({'|'.join(TEXTURES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) "
    rf"({'|'.join(WHERE)})"
)
ALIKE = re.compile(
    rf"(two|three|four) (small|large) ({'|'.join(TEXTURES)}) ({'|'.join(COLOURS)}) "
    rf"({'|'.join(SHAPES)})e?s: "
)


def config(**values):
    return ml_collections.ConfigDict({"source": "shapes", "path": "", "captions": "", **values})


def painted(source, index):
    """The picture, and where it differs from its background."""
    scene = source.scene(index)
    picture = decode_image(source[index]["image"], "").astype(int)
    background = draw(dataclasses.replace(scene, shapes=())).astype(int)
    return picture, (picture != background).any(-1)


def near(picture, colour):
    return np.abs(picture - np.array(colour)).max(-1) <= 2


def regions(mask):
    """Connected regions of a mask, each as (rows, columns) of its pixels."""
    left = set(zip(*np.nonzero(mask), strict=True))
    found = []
    while left:
        edge, region = [left.pop()], []
        while edge:
            y, x = edge.pop()
            region.append((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            edge += around
        found.append(np.array(region).T)
    return found


def cell(region):
    """The third of the picture that holds the centroid of a region.

    The middle of a triangle's height is another place: above its centroid by a quarter radius.
    """
    return tuple(int((side.mean() + 0.5) // (SIDE / 3)) for side in region)


def silhouette(y, x, cells=24):
    """Pixels (rows, columns) as a mask stretched to a square."""
    mask = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1), np.uint8)
    mask[y - y.min(), x - x.min()] = 255
    return np.asarray(Image.fromarray(mask).resize((cells, cells), Image.Resampling.BOX)) > 127


@functools.cache
def forms():
    """(name, height / width, silhouette) of every form at several angles."""
    y, x = np.mgrid[-1.2:1.2:97j, -1.2:1.2:97j]
    made = []
    for (name, inside), angle in itertools.product(SHAPES.items(), np.linspace(-0.2, 0.2, 9)):
        c, s = np.cos(angle), np.sin(angle)
        rows, columns = np.nonzero(inside(c * x + s * y, c * y - s * x))
        made.append((name, np.ptp(rows) / np.ptp(columns), silhouette(rows, columns)))
    return made


def likest_form(y, x):
    """The name of the form that overlaps most with some pixels."""
    seen, aspect = silhouette(y, x), (np.ptp(y) + 1) / (np.ptp(x) + 1)
    return max(
        forms(),
        key=lambda f: (seen & f[2]).sum() / (seen | f[2]).sum() - abs(np.log(f[1] / aspect)) / 2,
    )[0]


class TestCaptionsAreTrue:
    @pytest.mark.parametrize("split", list(SPLITS)[:4])  # the last is drawn as `single`
    @pytest.mark.parametrize("index", range(60))
    def test_of_the_pixels(self, split, index):
        """Every described object is in its place, in its colour, form, texture and size."""
        source = SPLITS[split]
        caption = source[index]["captions"][0]
        picture, mask = painted(source, index)
        found = {cell(region): region for region in regions(mask)}
        objects = {WHERE[place]: words for *words, place in OBJECT.findall(caption)}
        if not objects:  # several alike
            number, size, texture, colour, form = ALIKE.match(caption).groups()
            objects = {c: (size, texture, colour, form) for w, c in WHERE.items() if w in caption}
            assert len(objects) == {"two": 2, "three": 3, "four": 4}[number]
        assert found.keys() == objects.keys()
        for place, (size, texture, colour, form) in objects.items():
            y, x = found[place]
            inside = picture[y, x]
            share = {name: near(inside, rgb).mean() for name, rgb in COLOURS.items()}
            assert share[colour] > 0.08 and share[colour] == sum(share.values())
            white = near(inside, SECOND_TONE).mean()
            assert white == 0 if texture == "plain" else white > 0.02
            assert likest_form(y, x) == form
            extent = max(np.ptp(y), np.ptp(x)) + 1
            assert extent <= 23 if size == "small" else extent >= 17

    @pytest.mark.parametrize(
        "split, index", [("train", 351), ("held_out", 532), ("held_out", 660), ("single", 1394)]
    )
    def test_of_triangles_with_the_middle_of_their_height_in_another_third(self, split, index):
        self.test_of_the_pixels(split, index)

    @pytest.mark.parametrize("split", SPLITS)
    def test_all_sentences_speak_of_the_same_objects(self, split):
        """The first sentence is checked by pixels; the others may say less, nothing else."""
        for index in range(300):
            captions = SPLITS[split][index]["captions"]
            scene = SPLITS[split].scene(index)
            assert len(captions) == len(set(captions)) >= 5
            full = [(s.colour, s.shape) for s in scene.shapes]
            for caption in captions:
                kinds = KIND.findall(caption)
                assert kinds in (full, full[:1], [])
                for words in (COLOURS, SHAPES, TEXTURES, ("small", "large"), WHERE):
                    said = {w for w in words if re.search(rf"\b{w}(e?s)?\b", caption)}
                    assert all(re.search(rf"\b{w}(e?s)?\b", captions[0]) for w in said)

    def test_relations(self):
        """Above, below, left and right of two shapes, by the middles of what is painted."""
        seen = set()
        source = SPLITS["train"]
        for index in range(400):
            found = re.match(
                r"the (\w+) (\w+) is (above|below|to the left of|to the right of) the (\w+) (\w+)$",
                source[index]["captions"][-1],
            )
            if not found:
                continue
            one, _, relation, other, _ = found.groups()
            picture, mask = painted(source, index)
            if one == other:
                continue
            (y1, x1), (y2, x2) = (
                np.argwhere(near(picture, COLOURS[c])).mean(0) for c in (one, other)
            )
            right = {
                "above": y2 - y1,
                "below": y1 - y2,
                "to the left of": x2 - x1,
                "to the right of": x1 - x2,
            }[relation]
            assert right > 4, (index, found[0])
            seen.add(relation)
        assert {"above", "to the left of"} <= seen

    def test_forms_can_be_told_apart(self):
        """All lie in the unit circle, and no two of them overlap nearly whole."""
        sides = np.linspace(-1, 1, 201)
        x, y = np.meshgrid(sides, sides)
        masks = {name: inside(x, y) for name, inside in SHAPES.items()}
        assert all(np.hypot(x, y)[mask].max() <= 1 for mask in masks.values())
        for one, other in itertools.combinations(masks, 2):
            both, either = masks[one] & masks[other], masks[one] | masks[other]
            assert both.sum() / either.sum() < 0.8, (one, other)


class TestSplits:
    def test_every_word_is_held_out_twice(self):
        assert len(HELD_OUT) == 16 and len(TRAINING) == 48
        assert not set(HELD_OUT) & set(TRAINING)
        for words in zip(*HELD_OUT, strict=True):
            assert {words.count(word) for word in words} == {2}
        assert {w for pair in TRAINING for w in pair} == {*COLOURS, *SHAPES}

    def test_training_never_shows_a_held_out_pair(self):
        source = SPLITS["train"]
        shown, counts, alike = set(), set(), 0
        for index in range(3000):
            pairs = [(s.colour, s.shape) for s in source.scene(index).shapes]
            shown.update(pairs)
            counts.add(len(pairs))
            alike += len(pairs) > 1 and len(set(pairs)) == 1
        assert shown == set(TRAINING) and counts == {1, 2, 3, 4} and 400 < alike < 1200
        for index in range(500):
            said = [pair for text in source[index]["captions"] for pair in KIND.findall(text)]
            assert said and not set(said) & set(HELD_OUT)

    @pytest.mark.parametrize(
        "split, count", [("held_out", 16), ("single", 64), ("single_held_out", 64)]
    )
    def test_one_labelled_pair(self, split, count):
        source = SPLITS[split]
        assert isinstance(source, LabelledSource) and not isinstance(
            SPLITS["train"], LabelledSource
        )
        assert len(set(source.class_names)) == count
        for index in [*range(48), LENGTH - 1]:
            (shape,) = source.scene(index).shapes
            name = source.class_names[source.label(index)]
            assert name == f"{shape.colour} {shape.shape}"
            assert all(template.replace("{}", name) for template in source.class_templates)
            assert f"a {name}" in source[index]["captions"]
        assert [source.label(i) for i in range(count)] == list(range(count))

    def test_all_attributes_are_drawn(self):
        shapes = [s for i in range(800) for s in SPLITS["held_out"].scene(i).shapes]
        for words in (TEXTURES, ("small", "large"), list(itertools.product(range(3), range(3)))):
            key = {4: "texture", 2: "size", 9: "cell"}[len(words)]
            counts = [sum(getattr(s, key) == word for s in shapes) for word in words]
            expected = len(shapes) / len(words)
            assert sum(counts) == len(shapes)
            assert min(counts) > 0.6 * expected and max(counts) < 1.4 * expected

    def test_pictures_in_pairs_differ_in_what_the_words_ask_for(self):
        source, fields = SPLITS["edits"], collections.Counter()
        for number in range(400):
            before, after, words = source.edit(number)
            assert source.scene(2 * number) == before and source.scene(2 * number + 1) == after
            assert (before.greys, before.direction) == (after.greys, after.direction)
            pairs = zip(before.shapes, after.shapes, strict=True)
            ((old, new),) = [(a, b) for a, b in pairs if a != b]
            fields_changed = [
                field.name
                for field in dataclasses.fields(old)
                if getattr(old, field.name) != getattr(new, field.name)
            ]
            (field,) = fields_changed
            fields[field] += 1
            asked = f"the {old.colour} {old.shape} "
            asked += f"into a {new.shape}" if field == "shape" else getattr(new, field)
            assert words == ("turn " if field == "shape" else "make ") + asked
            for scene in (before, after):
                said = [(s.colour, s.shape) for s in scene.shapes]
                assert len(set(said)) == len(said) and not set(said) & set(HELD_OUT)
        assert set(fields) == {"colour", "shape", "texture"} and min(fields.values()) > 90

    def test_a_name_tells_split_and_index(self):
        for split, source in SPLITS.items():
            found, index = split_of(source[12]["name"])
            assert (type(found), index) == (type(source), 12), split
        assert split_of("shapes/train/0000000012")[1] == 12  # a key without a suffix
        for name in ("a.png", "shapes/none/0000000012.png", "shapes/train/9999999999.png", ""):
            with pytest.raises(ValueError, match=f"'{name}' is no picture of shapes: tokenize"):
                split_of(name)

    @pytest.mark.parametrize("path", ["", *SPLITS])
    def test_path_names_the_split(self, path):
        source = open_source(config(path=path))
        assert source.split == (path or "train") and len(source) == LENGTH

    @pytest.mark.parametrize("path", ["test", "/data", "Train", "held-out"])
    def test_another_path(self, path):
        with pytest.raises(
            ValueError, match=rf"data.path='{path}'.*use train .*, held_out, single, single_"
        ):
            open_source(config(path=path))

    def test_captions_of_ones_own(self):
        with pytest.raises(ValueError, match="data.captions=mine.csv is not read by"):
            open_source(config(captions="mine.csv"))


class TestDeterminism:
    @pytest.mark.parametrize(
        "splits, digest",
        [
            (("train", "held_out"), "7bfc760bc28570bd"),
            (("single",), "0b1777e6af7594cf"),
            (("edits",), "59a327f9aba9f922"),
            (("single_held_out",), "985df54bc8241a13"),
        ],
        ids=str,
    )
    def test_scenes_and_captions_are_fixed(self, splits, digest):
        """Changes when the data set changes: then checkpoints and results are of another one."""
        said = hashlib.sha256()
        for source in map(SPLITS.get, splits):
            for index in [*range(64), 10**9, LENGTH - 1]:
                scene = source.scene(index)
                places = [f"{s.x:.3f} {s.y:.3f} {s.radius:.3f} {s.angle:.3f}" for s in scene.shapes]
                said.update("\n".join((*describe(scene), *places)).encode())
        assert said.hexdigest()[:16] == digest

    def test_another_process_with_another_hash_seed(self):
        code = (
            "import hashlib\nfrom unitok_jax.data.formats.shapes import *\n"
            "del SPLITS['']\n"
            "records = [s()[i] for s in SPLITS.values() for i in (0, 7, 2**31 - 2)]\n"
            "print(hashlib.sha256(repr(records).encode()).hexdigest())\n"
        )
        seen = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        }
        records = [s[i] for s in SPLITS.values() for i in (0, 7, 2**31 - 2)]
        assert seen == {hashlib.sha256(repr(records).encode()).hexdigest() + "\n"}

    def test_every_picture_is_another(self):
        pictures = {draw(s.scene(i)).tobytes() for s in SPLITS.values() for i in range(500)}
        assert len(pictures) == 500 * len(SPLITS)

    @pytest.mark.parametrize("split", SPLITS)
    def test_survives_pickling(self, split):
        assert pickle.loads(pickle.dumps(SPLITS[split]))[5] == SPLITS[split][5]

    @pytest.mark.parametrize("index", [-1, LENGTH])
    @pytest.mark.parametrize("split", SPLITS)
    def test_no_such_picture(self, split, index):
        with pytest.raises(IndexError, match=f"picture {index} of shapes/{split}"):
            SPLITS[split][index]


def test_encoding_loses_nothing():
    record = SPLITS["train"][3]
    with Image.open(io.BytesIO(record["image"])) as image:
        assert image.format == "PNG" and image.size == (SIDE, SIDE) and image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), draw(SPLITS["train"].scene(3)))


def test_captions_fit_their_context():
    """The config's comment says how long the longest is; none may lose its end."""
    from configs import shapes

    captions = {c for i in range(3000) for c in describe(SPLITS["train"].scene(i))}
    length = (TextTokenizer(77)(sorted(captions)) > 0).sum(1).max()
    assert 45 < length < shapes.get_config().data.context_length


class TestPipeline:
    DATA = {
        "image_size": (64, 64),
        "batch_size": 8,
        "crop_scale": (0.9, 1.0),
        "crop_ratio": (0.95, 1 / 0.95),
        "num_threads": 1,
        "num_workers": 0,
        "window": 1,
        "max_bad": 0.0,
        "context_length": 56,
    }

    def test_shuffling_a_length_without_end(self):
        """Grain permutes all positions: none twice, over the whole range, and a next epoch."""
        order = grain.MapDataset.range(LENGTH).seed(1).shuffle().repeat(None)
        first = [order[i] for i in range(4000)]
        assert len(set(first)) == 4000 and 0 <= min(first) and max(first) < LENGTH
        assert 0.45 < np.mean(first) / LENGTH < 0.55
        assert 0 <= order[LENGTH - 1] < LENGTH and order[LENGTH] != order[0]

    def test_training_batches(self):
        data = config(**self.DATA)
        batches = pipeline.train_batches(data, 0, start_step=10**6)
        batch = next(batches)
        batches.close()
        assert batch["image"].shape == (8, 64, 64, 3) and batch["text"].shape == (8, 56)
        assert len({row.tobytes() for row in batch["image"]}) == 8

    def test_evaluation_batches_start_at_once(self):
        source = shape_source("held_out")
        batches = pipeline.eval_batches(source, config(**self.DATA), 8)
        batch = next(batches)
        batches.close()
        assert batch["index"].tolist() == list(range(8)) and batch["mask"].all()
        tokens = TextTokenizer(56)([source[i]["captions"][0] for i in range(8)])
        np.testing.assert_array_equal(batch["text"], tokens)
