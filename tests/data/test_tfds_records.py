"""Datasets that tensorflow-datasets prepares here, and reads without TensorFlow."""

import io
import json
import pickle
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from helpers.formats import config, jpeg, outcomes, take
from unitok_jax.data.health import SampleError
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.records import LabelledSource
from unitok_jax.data.sources import open_source

FEATURES = tfds.features
TEXTS = {
    "tiny_captions": {"caption": FEATURES.Text(), "title": FEATURES.Text()},
    "tiny_nested": {"captions": FEATURES.Sequence({"id": np.int64, "text": FEATURES.Text()})},
    "tiny_lists": {"texts": FEATURES.Sequence(FEATURES.Text())},
    "tiny_labels": {"label": FEATURES.ClassLabel(names=["n1", "n2", "n3"])},
    "tiny_both": {"text": FEATURES.Text(), "alt": FEATURES.Text(), "label": FEATURES.Text()},
    "tiny_plain": {},
    "tiny_more": {
        "text": FEATURES.Text(),
        "mask": FEATURES.Image(encoding_format="jpeg"),
        "boxes": FEATURES.Sequence({"area": np.int64, "crop": FEATURES.Image()}),
        "inner": {"frames": FEATURES.Sequence(FEATURES.Image())},
    },
}


def example(name, index):
    captions = [f"picture {index}", f"number {index}"]
    return {
        "tiny_captions": {"caption": captions[0] if index else "", "title": "a title"},
        "tiny_nested": {"captions": [{"id": 1, "text": text} for text in captions]},
        "tiny_lists": {"texts": captions},
        "tiny_labels": {"label": index % 3 if index != 7 else -1},
        "tiny_both": {"text": captions[0], "alt": captions[1], "label": "x"},
        "tiny_plain": {},
        "tiny_more": {
            "text": captions[0],
            "mask": io.BytesIO(jpeg(index)),
            "boxes": [{"area": 1, "crop": io.BytesIO(jpeg(1))}] * index,
            "inner": {"frames": [io.BytesIO(jpeg(2))] * 2},
        },
    }[name]


class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    SKIP_REGISTERING = True

    def _info(self):
        features = {"image": FEATURES.Image(encoding_format="jpeg"), **TEXTS[self.name]}
        return tfds.core.DatasetInfo(builder=self, features=FEATURES.FeaturesDict(features))

    def _split_generators(self, _):
        return {"train": self._examples(0, 9), "validation": self._examples(20, 23)}

    def _examples(self, start, stop):
        for i in range(start, stop):
            yield i, {"image": io.BytesIO(jpeg(i)), **example(self.name, i)}

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """All the datasets above, prepared."""
    folder = tmp_path_factory.mktemp("tfds")
    for name in TEXTS:
        builder = type(name, (Tiny,), {"name": name})(data_dir=folder)
        builder.download_and_prepare(file_format="array_record")
    return folder


@pytest.fixture(autouse=True)
def prepared(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def opened(path, require_captions=True, **values):
    return open_source(config("tfds", path, **values), require_captions=require_captions)


def number(image):
    return next(i for i in range(30) if jpeg(i) == image)


def captions(source):
    """number of the picture -> its captions; tensorflow-datasets shuffles when it prepares."""
    records = [source[i] for i in range(len(source))]
    return {number(record["image"]): record["captions"] for record in records}


def test_there_is_no_tensorflow():
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["tiny_nested", "tiny_lists"])
def test_captions(name):
    expected = {i: (f"picture {i}", f"number {i}") for i in range(9)}
    assert captions(opened(name)) == expected
    assert captions(opened(f"{name}:1.0.0@train")) == expected


def test_other_features_are_not_decoded(monkeypatch):
    monkeypatch.setattr(FEATURES.Image, "decode_example_np", None)
    assert captions(opened("tiny_more")) == {i: (f"picture {i}",) for i in range(9)}


def test_folder_of_a_version(data_dir):
    folder = data_dir / "tiny_nested" / "1.0.0"
    assert captions(opened(folder)).keys() == set(range(9))
    assert captions(opened(f"{folder}@validation")).keys() == {20, 21, 22}


def test_a_folder_with_the_mark_of_a_split(data_dir, tmp_path):
    folder = tmp_path / "ann@home" / "1.0.0"
    shutil.copytree(data_dir / "tiny_nested" / "1.0.0", folder)
    assert captions(opened(folder)).keys() == set(range(9))
    assert captions(opened(f"{folder}@validation")).keys() == {20, 21, 22}


def test_splits():
    whole = opened("tiny_nested")
    names = [whole[i]["name"] for i in range(9)]
    part = opened("tiny_nested@train[3:5]")
    assert [part[i]["name"] for i in range(2)] == names[3:5]
    both = opened("tiny_nested@train[:1]+validation")
    assert len(both) == 4 and both[0]["name"] == names[0]


def test_named_captions():
    assert captions(opened("tiny_both", captions="alt"))[3] == ("number 3",)
    assert captions(opened("tiny_both"))[3] == ("picture 3",)
    with pytest.raises(ValueError, match="has the texts .*alt.* and no label .*captions"):
        opened("tiny_both", captions="other")


def test_record_without_caption():
    source = opened("tiny_captions")
    records = opened("tiny_captions", require_captions=False)
    empty = next(i for i in range(9) if not records[i]["captions"])
    assert number(records[empty]["image"]) == 0
    with pytest.raises(SampleError, match="tiny_captions-train.*record .* has no caption") as error:
        source[empty]
    assert error.value.reason == "no_caption"


def test_dataset_without_captions():
    with pytest.raises(ValueError, match=r"has the texts \(none\) and no label that is a class"):
        opened("tiny_plain")
    assert captions(opened("tiny_plain", require_captions=False)) == {i: () for i in range(9)}


def test_labels(tmp_path):
    (tmp_path / "names").write_text("n1 tench\nn3 great shark\nn2 goldfish\n")
    source = opened("tiny_labels@validation", captions=str(tmp_path / "names"))
    assert isinstance(source, LabelledSource)
    assert source.class_names == ("tench", "goldfish", "great shark")
    for index in range(3):
        assert source.label(index) == number(source[index]["image"]) % 3
        name = source.class_names[source.label(index)]
        assert source[index]["captions"][0] == f"a photo of a {name}"
    assert opened("tiny_labels").class_names == ("n1", "n2", "n3")
    with pytest.raises(FileNotFoundError, match="data.captions=none: there is no such file"):
        opened("tiny_labels", captions="none")


def test_record_without_label():
    source = opened("tiny_labels")
    bad = [index for index in range(9) if source.label(index) < 0]
    assert len(bad) == 1
    with pytest.raises(SampleError, match="has no label"):
        source[bad[0]]


@pytest.mark.parametrize("workers", [0, 1])
def test_trains(workers):
    data = config("tfds", "tiny_nested", num_workers=workers)
    (batch,) = take(train_batches(data, 0), 1)
    assert batch["image"].shape == (4, 16, 16, 3) and batch["text"].any(axis=1).all()


def test_source_survives_pickling_after_reading():
    source = opened("tiny_nested")
    source[0]
    assert captions(pickle.loads(pickle.dumps(source))) == captions(source)


def as_tfrecord(data_dir, tmp_path, **more):
    """The folder of a dataset that says that it was prepared as tfrecord."""
    folder = tmp_path / "tiny_nested" / "1.0.0"
    shutil.copytree(data_dir / "tiny_nested" / "1.0.0", folder)
    file = folder / "dataset_info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fileFormat": "tfrecord"} | more))
    return folder


def test_array_record_beside_another_format(data_dir, tmp_path):
    folder = as_tfrecord(data_dir, tmp_path, alternativeFileFormats=["array_record"])
    assert captions(opened(folder)).keys() == set(range(9))


def copied(data_dir, tmp_path, name="tiny_nested"):
    return shutil.copytree(data_dir / name / "1.0.0", tmp_path / name / "1.0.0")


class TestNothingIsImported:
    """What a dataset names, a module beside it among that, is read as text and not more."""

    @pytest.fixture
    def trap(self, data_dir, tmp_path, monkeypatch):
        """A dataset whose `edit` names a module that notes that it ran."""
        folder = copied(data_dir, tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "trap_module.py").write_text(
            f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass X: pass\n"
        )
        yield folder
        assert "trap_module" not in sys.modules and not (tmp_path / "ran").exists()

    def edit(self, folder, change, file="features.json"):
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    TRAP = "trap_module.X"
    LEGACY = {"type": TRAP, "content": {}}

    @pytest.mark.parametrize(
        "change",
        [
            lambda top: top.update(pythonClassName="trap_module.X"),
            lambda top: top["featuresDict"]["features"]["image"].update(
                pythonClassName="trap_module.X"
            ),
            lambda top: top["featuresDict"]["features"]["captions"]["sequence"].update(
                feature={"python_class_name": "trap_module.X"}
            ),
            lambda top: top["featuresDict"]["features"].update(
                more={
                    "pythonClassName": "tensorflow_datasets.core.features.features_dict."
                    "FeaturesDict",
                    "jsonFeature": {"json": json.dumps({"a": TestNothingIsImported.LEGACY})},
                }
            ),
            lambda top: (top.clear(), top.update(TestNothingIsImported.LEGACY)),
            lambda top: top.update(pythonClassName="tensorflow_datasets.core.features.x.Y"),
            lambda top: top.update(pythonClassName="tensorflow_datasets.scripts.cli.main.X"),
        ],
    )
    @pytest.mark.parametrize("by", ["folder", "name"])
    def test_class_in_features(self, trap, monkeypatch, change, by):
        self.edit(trap, change)
        monkeypatch.setenv("TFDS_DATA_DIR", str(trap.parents[1]))
        with pytest.raises(ValueError, match="features.json names the class .* is not imported$"):
            opened(trap if by == "folder" else "tiny_nested")

    def test_class_in_the_features_of_the_info(self, trap):
        self.edit(trap, lambda top: top.update(features=self.LEGACY), "dataset_info.json")
        with pytest.raises(ValueError, match="dataset_info.json names the class 'trap_module.X'"):
            opened(trap)

    def test_module_of_the_builder(self, trap):
        self.edit(trap, lambda top: top.update(moduleName="trap_module"), "dataset_info.json")
        (trap / "tiny_nested.py").write_text("import trap_module")
        assert len(captions(opened(trap))) == 9

    def test_namespaces_are_not_fetched(self):
        with pytest.raises(ValueError, match="huggingface: is a place on the internet; prepare"):
            opened("huggingface:tiny")


class TestBadInput:
    @pytest.mark.parametrize(
        "path, message",
        [
            ("", "data.path is empty: .*NAME"),
            ("@train", "data.path is empty"),
            ("no_such_thing", r"data.path=no_such_thing: .*not found. Looked in .*\(TFDS_DATA_DIR"),
            ("tiny_nested:2.0.0", "data.path=tiny_nested:2.0.0: .*2.0.0"),
            ("!!", "data.path=!!: Parsing builder name string"),
            ("tiny_nested@test", r"data.path=tiny_nested@test: Unknown split 'test'.*'train'"),
            ("tiny_nested@train[", "data.path=.*: Error parsing split"),
            ("tiny_nested@train[:0]", "holds no records"),
        ],
    )
    def test_names(self, path, message):
        with pytest.raises(ValueError, match=message):
            opened(path)

    def test_dataset_that_was_not_prepared(self):
        with pytest.raises(FileNotFoundError, match="data.path=mnist: nothing .* Prepare it: pyth"):
            opened("mnist")

    def test_folder_without_dataset(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no prepared dataset is there"):
            opened(tmp_path)
        with pytest.raises(FileNotFoundError, match="no prepared dataset is there"):
            opened(tmp_path / "none")

    def test_another_format(self, data_dir, tmp_path):
        folder = as_tfrecord(data_dir, tmp_path)
        with pytest.raises(ValueError, match="prepared as tfrecord.*file_format='array_record'"):
            opened(folder)

    @pytest.mark.parametrize(
        ("file", "change", "message"),
        [
            ("features.json", {"pythonClassName": 3}, "data.path=.*python_?[cC]lass_?[nN]ame"),
            ("features.json", {"more": [1]}, "data.path=.*more"),
            ("features.json", {"type": "x"}, "features.json names the class 'x'"),
            ("dataset_info.json", {"version": "x.y"}, "data.path=.*x.y"),
            ("dataset_info.json", {"splits": 3}, "data.path=.*splits"),
            ("dataset_info.json", {"no_such_key": 3}, "data.path=.*no_such_key"),
        ],
    )
    def test_files_that_are_damaged(self, data_dir, tmp_path, file, change, message):
        folder = copied(data_dir, tmp_path)
        whole = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(whole | change))
        with pytest.raises(ValueError, match=message) as error:
            opened(folder)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "content", [b"[1]", b"{", b"\xff", b"[" * 10**5, b'{"a": 1' + b"0" * 5000]
    )
    @pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
    def test_files_that_are_no_json(self, data_dir, tmp_path, file, content):
        folder = copied(data_dir, tmp_path)
        (folder / file).write_bytes(content)
        with pytest.raises(ValueError, match=f"^{folder}/{file}: "):
            opened(folder)

    def test_more_classes_than_there_are(self, data_dir, tmp_path):
        folder = copied(data_dir, tmp_path, "tiny_labels")
        text = (folder / "features.json").read_text()
        (folder / "features.json").write_text(text.replace('"3"', '"30000000000"'))
        with pytest.raises(ValueError, match="numClasses='30000000000' is more than 1000000 class"):
            opened(folder)

    @pytest.mark.parametrize("name", ["../x-{SHARD_X_OF_Y}", "/etc/{SPLIT}", "a/../../{SPLIT}"])
    def test_files_outside_the_folder(self, data_dir, tmp_path, name):
        folder = copied(data_dir, tmp_path)
        file = folder / "dataset_info.json"
        content = json.loads(file.read_text())
        for split in content["splits"]:
            split["filepathTemplate"] = name
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError):
            opened(folder)

    def test_record_that_is_no_example(self, data_dir, tmp_path):
        folder = copied(data_dir, tmp_path)
        (shard,) = folder.glob("*-train.*")
        writer = ArrayRecordWriter(str(shard), "group_size:1")
        for record in [b"\xff" * 50, b"", *[b"x"] * 7]:
            writer.write(record)
        writer.close()
        source = opened(folder)
        for index in range(9):
            with pytest.raises(SampleError, match=f"-train.*record {index}") as error:
                source[index]
            assert error.value.reason == "unreadable"

    def test_damaged_file(self, data_dir, tmp_path):
        folder = tmp_path / "1.0.0"
        folder.mkdir()
        for file in (data_dir / "tiny_nested" / "1.0.0").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (shard,) = folder.glob("*-train.*")
        shard.write_bytes(shard.read_bytes()[:70_000])
        with pytest.raises(SampleError, match="-train.*prepare the dataset again"):
            opened(folder)[0]
        shard.unlink()
        with pytest.raises(FileNotFoundError):
            opened(folder)[0]


def test_damage_ends_in_errors_of_ours(data_dir, tmp_path):
    folder = copied(data_dir, tmp_path)
    files = [folder / "features.json", folder / "dataset_info.json", *folder.glob("*-train*")]
    seen = outcomes(lambda: opened(folder), files, 60)
    assert seen["good"] > 50 and seen["open ValueError"] > 10
