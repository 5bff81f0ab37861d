"""ArrayRecord files: reading by position, manifests, damage."""

import json
import os
import pickle
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import msgpack
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from helpers.formats import config, jpeg, outcomes, take
from unitok_jax.data.formats import array_records
from unitok_jax.data.formats.array_records import Part, RecordFiles
from unitok_jax.data.formats.cache import Cache
from unitok_jax.data.health import SampleError
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.records import LabelledSource
from unitok_jax.data.sources import open_source
from unitok_jax.system.passing import may_pass


def write(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()


def record(index, captions=True):
    caption = [f"picture {index}"] if captions else []
    return {"name": f"{index}.jpg", "image": jpeg(index), "captions": caption}


def make(folder, *shards, labels=None, **manifest):
    """A packed folder; `shards` are lists of records, `labels` lists of labels."""
    folder.mkdir(parents=True)
    entries = []
    for number, records in enumerate(shards):
        path = folder / f"{number:06}.array_record"
        write(path, [msgpack.packb(r) if isinstance(r, dict) else r for r in records])
        entries.append({"file": path.name, "count": len(records), "bytes": path.stat().st_size})
        if labels:
            entries[-1]["labels"] = labels[number]
    content = {"format": array_records.FORMAT, "version": 1, "shards": entries, **manifest}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def opened(path, **kwargs):
    return open_source(config("array_record", path), **kwargs)


def names(source):
    return [source[i]["name"] for i in range(len(source))]


@pytest.fixture
def folder(tmp_path):
    records = [record(i) for i in range(9)]
    return make(tmp_path / "packed", records[:4], [], records[4:])


def edit(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def shapes_of(folder, count, start=0):
    """Writes shapes that tell the position of each record."""
    shapes = np.arange(start, start + 2 * count, dtype="<i4")
    (folder / array_records.SHAPES).write_bytes(shapes.tobytes())
    return shapes.reshape(-1, 2).tolist()


def test_shapes_of_the_records_that_are_read(folder, tmp_path):
    """Of all, of some shards, of several folders."""
    whole = shapes_of(folder, 9)
    assert opened(folder).shapes().tolist() == whole
    assert opened(folder / "00000[12]*").shapes().tolist() == whole[4:]
    assert opened(folder / "000000*").shapes().tolist() == whole[:4]
    other = make(tmp_path / "packed2", [record(i) for i in range(2)])
    more = shapes_of(other, 2, start=100)
    both = opened(tmp_path / "packed*")
    assert len(both) == 11 and both.shapes().tolist() == whole + more


def test_shapes_of_other_records(folder):
    with pytest.raises(ValueError, match="has no shapes.int32, .*earlier version: give its unitok"):
        opened(folder).shapes()
    shapes_of(folder, 8)
    with pytest.raises(ValueError, match=r"shapes.int32 is not of the 9 records of manifest.json"):
        opened(folder).shapes()


def test_records_in_the_order_of_the_shards(folder):
    source = opened(folder)
    assert len(source) == 9 and not isinstance(source, LabelledSource)
    assert [source[i] for i in range(9)] == [
        record(i) | {"captions": (f"picture {i}",)} for i in range(9)
    ]
    for index in (9, -1):
        with pytest.raises(IndexError, match="there are 0 to 8"):
            source[index]


def test_patterns_of_files_and_folders(folder, tmp_path):
    make(tmp_path / "packed2", [record(20)])
    assert names(opened(folder / "*2.array_record")) == [f"{i}.jpg" for i in range(4, 9)]
    (folder / "settings.json").write_text("{}")  # pack leaves it, beside manifest.json
    assert names(opened(folder / "*")) == names(opened(folder))
    assert names(opened(folder / "000000.array_record")) == [f"{i}.jpg" for i in range(4)]
    assert names(opened(tmp_path / "packed*")) == [f"{i}.jpg" for i in (*range(9), 20)]


def test_labels(tmp_path):
    classes = {"class_names": ["cat", "dog"], "class_templates": ["a {}"]}
    shards = [record(0), record(1)], [record(2)]
    folder = make(tmp_path / "packed", *shards, labels=([0, 1], [1]), **classes)
    source = opened(folder)
    assert isinstance(source, LabelledSource)
    assert (source.class_names, source.class_templates) == (("cat", "dog"), ("a {}",))
    assert [source.label(i) for i in range(3)] == [0, 1, 1]
    assert [opened(folder / "000001.array_record").label(0)] == [1]
    make(tmp_path / "packed_other", [record(0)])
    with pytest.raises(ValueError, match="the classes of .*packed_other are not those before"):
        opened(tmp_path / "packed*")


@pytest.mark.parametrize("workers", [0, 1])
def test_trains(folder, workers):
    (batch,) = take(train_batches(config("array_record", folder, num_workers=workers), 0), 1)
    assert batch["image"].shape == (4, 16, 16, 3) and batch["text"].any(axis=1).all()


def test_captions_are_required_or_not(tmp_path):
    folder = make(tmp_path / "packed", [record(0, captions=False)])
    with pytest.raises(SampleError, match="0.jpg .*record 0.* has no caption") as caught:
        opened(folder)[0]
    assert caught.value.reason == "no_caption"
    assert opened(folder, require_captions=False)[0]["captions"] == ()


def test_many_threads_and_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(array_records, "OPEN_FILES", 2)
    folder = make(tmp_path / "packed", *([record(3 * s + i) for i in range(3)] for s in range(8)))
    source = opened(folder)
    before = len(os.listdir("/proc/self/fd"))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(24), 20)).tolist()
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda i: source[i]["name"], order))
    assert found == [f"{i}.jpg" for i in order]
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_source_survives_pickling_after_reading(folder):
    source = opened(folder)
    source[0]
    assert names(pickle.loads(pickle.dumps(source))) == names(source)


class TestDiskThatIsAway:
    """ArrayRecord tells it as a RuntimeError, as damage."""

    @pytest.mark.parametrize("text", ["pread() failed: Input/output error", "Stale file handle"])
    def test_of_a_record(self, folder, monkeypatch, text):
        failed = []

        def read(positions):
            if not failed:
                failed.append(positions)
                raise RuntimeError(f"INTERNAL: {text} reading x")
            return [msgpack.packb(record(positions[0]))]

        reader = types.SimpleNamespace(read=read)
        monkeypatch.setattr(array_records.RecordFiles, "_open", lambda self, part: reader)
        source = opened(folder)
        with pytest.raises(OSError, match=text.rpartition(": ")[2]) as error:
            source[0]
        assert may_pass(error.value) and not isinstance(error.value, SampleError)
        assert source[0]["name"] == record(0)["name"]

    def test_of_a_file(self, folder, monkeypatch):
        """The first reader of it was opened while it was away: the second is right."""
        from array_record.python import array_record_module

        real, opens = array_record_module.ArrayRecordReader, []

        def reader(*arguments, **named):
            opens.append(arguments)
            found = real(*arguments, **named)
            return types.SimpleNamespace(ok=lambda: False) if len(opens) == 1 else found

        monkeypatch.setattr(array_record_module, "ArrayRecordReader", reader)
        assert opened(folder)[0]["name"] == record(0)["name"] and len(opens) == 2


class TestBadInput:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(ValueError, match="data.path is empty"):
            opened("")
        with pytest.raises(FileNotFoundError, match="data.path=.*/none: there is no such folder"):
            opened(tmp_path / "none")
        with pytest.raises(FileNotFoundError, match="there is no such folder and no such file"):
            opened(tmp_path / "*.array_record")

    def test_no_manifest(self, tmp_path):
        write(tmp_path / "a.array_record-00000-of-00001", [b"x"])
        with pytest.raises(ValueError, match="has no manifest.json.*unitok data pack.*tfds"):
            opened(tmp_path)

    def test_packing_that_has_not_ended(self, folder):
        (folder / "manifest.json").rename(folder / "settings.json")
        with pytest.raises(ValueError, match="has not ended; give the same command again"):
            opened(folder)

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": "x"}'])
    def test_manifest_of_something_else(self, folder, content):
        (folder / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match="manifest.json was not written by unitok data pack"):
            opened(folder)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("count", -1),
            ("count", 10**18),
            ("count", 1e3),
            ("count", "4"),
            ("count", None),
            ("count", True),
            ("bytes", [5]),
            ("bytes", -1),
            ("file", None),
            ("file", {"a": 1}),
            ("file", "../packed/000000.array_record"),
            ("file", "/etc/hostname"),
            ("file", ""),
            ("file", "a\0b"),
            ("file", "000002.array_record"),
        ],
    )
    def test_shard_that_cannot_be(self, folder, key, value):
        edit(folder, lambda manifest: manifest["shards"][0].update({key: value}))
        with pytest.raises(ValueError, match=f"^{folder}/manifest.json (was not|names ).") as error:
            opened(folder)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("shards", [None, {}, "x", [None], [[]], [5]])
    def test_shards_that_are_none(self, folder, shards):
        edit(folder, lambda manifest: manifest.update(shards=shards))
        with pytest.raises(
            ValueError, match="manifest.json was not written by .*pack: 'shards'|'fil"
        ):
            opened(folder)

    def test_more_records_than_can_be(self, folder):
        def change(manifest):
            for shard in manifest["shards"]:
                shard["count"] = 2**47

        edit(folder, change)
        with pytest.raises(ValueError, match="counts too many records"):
            opened(folder)

    @pytest.mark.parametrize("content", [b"[" * 10**5, b'{"a": 1' + b"0" * 5000 + b"}", b"\xff"])
    def test_manifest_that_cannot_be_parsed(self, folder, content):
        (folder / "manifest.json").write_bytes(content)
        with pytest.raises(ValueError, match="manifest.json was not written by unitok data pack"):
            opened(folder)

    @pytest.mark.parametrize("labels", [[0, 1, 2, 0], [0, 1, -1, 0], [0], ["a"] * 4, None, 5])
    def test_labels_that_are_of_no_class(self, tmp_path, labels):
        records = [record(i) for i in range(4)]
        classes = {"class_names": ["a", "b"], "class_templates": ["a {}"]}
        folder = make(tmp_path / "packed", records, labels=[labels], **classes)
        if labels is None:
            edit(folder, lambda manifest: manifest["shards"][0].pop("labels"))
        with pytest.raises(ValueError, match="manifest.json was not written .*labels"):
            opened(folder)

    def test_links_out_of_the_folder(self, folder, tmp_path):
        shard = folder / "000000.array_record"
        shard.rename(tmp_path / "elsewhere")
        shard.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match="'000000.array_record', a link that leads out of "):
            opened(folder)
        (tmp_path / "linked").symlink_to(folder)
        shard.unlink()
        (tmp_path / "elsewhere").rename(shard)
        assert len(opened(tmp_path / "linked")) == 9

    def test_pipe_instead_of_a_shard(self, folder):
        (folder / "000000.array_record").unlink()
        os.mkfifo(folder / "000000.array_record")
        with pytest.raises(ValueError, match="000000.array_record is a pipe, a device or a socket"):
            opened(folder)

    def test_a_pattern_of_all_that_is_packed(self, tmp_path):
        """With what the manifest does not name: shapes, settings."""
        make(tmp_path / "out", [record(0), record(1)])
        (tmp_path / "out" / array_records.SHAPES).write_bytes(b"")
        assert len(opened(tmp_path / "out" / "*")) == 2

    def test_hidden_files_beside_the_shards(self, folder):
        (folder / "._000000.array_record").write_bytes(b"x")
        (folder / "_SUCCESS").touch()
        assert len(opened(folder)) == len(opened(folder / "*")) == 9

    def test_manifest_of_another_version(self, folder):
        edit(folder, lambda manifest: manifest.update(version=2))
        with pytest.raises(ValueError, match="says unitok_jax.array_record 2; this reads .* 1"):
            opened(folder)

    def test_file_that_the_manifest_does_not_name(self, folder):
        write(folder / "other.array_record", [b"x"])
        with pytest.raises(ValueError, match="manifest.json does not name other.array_record"):
            opened(folder / "*.array_record")

    def test_missing_shard(self, folder):
        (folder / "000002.array_record").unlink()
        with pytest.raises(FileNotFoundError, match="000002.array_record, which .* names, is gone"):
            opened(folder)

    def test_shard_of_another_size(self, folder):
        with open(folder / "000002.array_record", "ab") as file:
            file.truncate(70_000)
        with pytest.raises(ValueError, match="000002.array_record has 70000 bytes, not the"):
            opened(folder)

    def test_shard_of_another_count(self, folder):
        edit(folder, lambda manifest: manifest["shards"][0].update(count=5))
        with pytest.raises(ValueError, match="000000.array_record holds 4 records, not 5"):
            opened(folder)[0]

    def test_no_records(self, tmp_path):
        with pytest.raises(ValueError, match="data.path=.* holds no records"):
            opened(make(tmp_path / "packed", []))

    @pytest.mark.parametrize(
        "packed", [b"\x0a\x03abc", b"", msgpack.packb([1]), msgpack.packb({"a": 1}), b"\x81\xa1"]
    )
    def test_records_of_somebody_else(self, tmp_path, packed):
        folder = make(tmp_path / "packed", [packed])
        with pytest.raises(ValueError, match="record 0 was not written by unitok data pack.*tfds"):
            opened(folder)[0]

    def test_damaged_record(self, folder):
        file = folder / "000000.array_record"
        content = bytearray(file.read_bytes())
        content[content.find(jpeg(2)) + 300] ^= 255
        file.write_bytes(content)
        source = opened(folder)
        with pytest.raises(SampleError, match="000000.array_record, record 2: .*mismatch") as error:
            source[2]
        assert error.value.reason == "unreadable"
        assert source[1]["name"] == "1.jpg" and source[3]["name"] == "3.jpg"

    @pytest.mark.parametrize("content", [b"", b"hello" * 30_000])
    def test_file_that_is_no_array_record(self, folder, content):
        file = folder / "000000.array_record"
        file.write_bytes(content)
        edit(folder, lambda manifest: manifest["shards"][0].update(bytes=len(content)))
        with pytest.raises(SampleError, match="000000.array_record: not an ArrayRecord file, or"):
            opened(folder)[0]

    def test_file_that_goes_while_reading(self, folder):
        source = opened(folder)
        (folder / "000000.array_record").unlink()
        with pytest.raises(FileNotFoundError):
            source[0]
        assert source[5]["name"] == "5.jpg"


def test_parts_of_files(tmp_path):
    write(tmp_path / "a", [b"0", b"1", b"2", b"3"])
    write(tmp_path / "b", [b"4", b"5"])
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    files = RecordFiles([Part(a, 4, 1, 2), Part(b, 2, 0, 2), Part(a, 4, 3, 1)], "")
    assert [files[i] for i in range(len(files))] == [b"1", b"2", b"4", b"5", b"3"]
    assert files.name(4) == f"{a}, record 3"


class TestCache:
    def test_least_used_goes_first(self):
        cache, loads = Cache(2), []

        def get(key):
            return cache.get(key, lambda: loads.append(key) or key)

        assert [get(key) for key in "abacab"] == list("abacab")
        assert loads == list("abcb") and len(cache) == 2

    def test_one_thread_loads_while_the_others_wait(self):
        cache, loads, begun, go_on = Cache(2), [], threading.Event(), threading.Event()

        def load():
            loads.append(1)
            begun.set()
            assert go_on.wait(10)
            return "value"

        with ThreadPoolExecutor(4) as executor:
            waiting = [executor.submit(cache.get, "key", load) for _ in range(4)]
            assert begun.wait(10)
            assert cache.get("other", lambda: 5) == 5  # another key does not wait
            go_on.set()
            assert [one.result(10) for one in waiting] == ["value"] * 4
        assert loads == [1]

    def test_failure_is_told_and_not_kept(self):
        cache = Cache(2)
        with pytest.raises(OSError, match="gone"):
            cache.get("key", lambda: (_ for _ in ()).throw(OSError("gone")))
        assert len(cache) == 0 and cache.get("key", lambda: 1) == 1


@pytest.mark.parametrize("options", ["group_size:1,uncompressed", "group_size:4,zstd"])
def test_damage_ends_in_errors_of_ours(tmp_path, options):
    folder = make(tmp_path / "packed", [record(i) for i in range(9)])
    writer = ArrayRecordWriter(str(folder / "000000.array_record"), options)
    for index in range(9):
        writer.write(msgpack.packb(record(index)))
    writer.close()
    size = (folder / "000000.array_record").stat().st_size
    edit(folder, lambda manifest: manifest["shards"][0].update(bytes=size))
    files = [folder / "000000.array_record", folder / "manifest.json"]
    seen = outcomes(lambda: opened(folder), files, 150)
    assert seen["good"] > 300 and seen["SampleError"] > 10 and seen["open ValueError"] > 20
