"""Samples of WebDataset tars."""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import tarfile
import threading

import numpy as np
import pytest
from fsspec.registry import _registry

from helpers import bucket
from helpers.tar_files import captions, config, left_out, make_tar, one, picture, sample, two_shards
from unitok_jax.data import pipeline
from unitok_jax.data.health import SampleError
from unitok_jax.data.pipeline import eval_batches, train_batches
from unitok_jax.data.sources import open_source
from unitok_jax.data.tars import scan
from unitok_jax.data.tars.source import tar_source


@pytest.fixture
def folder(tmp_path):
    return two_shards(tmp_path)


@pytest.fixture(autouse=True)
def forget_warnings(monkeypatch):
    monkeypatch.setattr(pipeline, "_warned", set())


class TestSamples:
    def test_images_captions_and_names_in_order(self, folder):
        source = open_source(config(folder / "{1,0}.tar"))
        assert len(source) == 6
        names = [f"{shard}.tar/{i:04}" for shard in (1, 0) for i in range(3)]
        assert [source[i]["name"] for i in range(6)] == names
        assert [source[i]["captions"] for i in (0, 5)] == [("1 0",), ("0 2",)]
        assert [source[i]["image"] for i in range(3)] == [picture(40 * i) for i in range(3)]
        assert not source.tally.total

    @pytest.mark.parametrize("index", [-1, 6])
    def test_position_that_is_not_there(self, folder, index):
        with pytest.raises(IndexError):
            tar_source(str(folder))[index]

    @pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    @pytest.mark.parametrize("key", ["short", "folder.with.dots/a", "d/" * 60 + "long", "é" * 90])
    def test_every_kind_of_tar(self, tmp_path, kind, key):
        if kind == tarfile.USTAR_FORMAT and key.startswith("é"):
            pytest.skip("no room for this name")
        source = one(tmp_path, sample("x") + sample(key, "mine", 9) + sample("y"), format=kind)
        assert captions(source)[f"a.tar/{key}"] == ("mine",)
        assert source[1]["image"] == picture(9)

    def test_pax_fields_and_large_numbers(self, tmp_path):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w", pax_headers={"comment": "of all"}) as tar:
            for name, content in sample("a"):
                content = content.encode() if isinstance(content, str) else content
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(content), 1.5
                info.pax_headers = {"size": str(len(content)), "note": "x=y\nz"}
                tar.addfile(info, io.BytesIO(content))
        assert captions(tar_source(str(path))) == {"a.tar/a": ("a caption",)}
        data = bytearray(picture())
        block = bytearray(make_tar(tmp_path / "b.tar", [("b.jpg", bytes(data))]).read_bytes())
        block[124:136] = b"\x80" + len(data).to_bytes(11, "big")  # as of files above 8 GiB
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block[:512])
        (tmp_path / "b.tar").write_bytes(block)
        source = tar_source(str(tmp_path / "b.tar"), require_captions=False)
        assert source[0]["image"] == bytes(data)

    def test_sparse_files_are_skipped(self, tmp_path):
        head = bytearray(tarfile.TarInfo("b.jpg").tobuf(tarfile.GNU_FORMAT))
        head[156:157], head[482] = b"S", 1  # and a map of two more blocks
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        again = bytes(504) + b"\1" + bytes(7)
        whole = make_tar(tmp_path / "c.tar", sample("c")).read_bytes()
        (tmp_path / "a.tar").write_bytes(bytes(head) + again + bytes(512) + whole)
        assert captions(tar_source(str(tmp_path / "a.tar"))) == {"a.tar/c": ("a caption",)}
        with tarfile.open(tmp_path / "b.tar", "w") as tar:
            info = tarfile.TarInfo("a.jpg")
            info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "a.jpg"}
            tar.addfile(info)
            for name, content in sample("b"):
                content = content.encode() if isinstance(content, str) else content
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        assert captions(tar_source(str(tmp_path / "b.tar"))) == {"b.tar/b": ("a caption",)}

    def test_caption_of_more_bytes_than_are_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(scan, "MAX_CAPTION", 5)
        source = one(tmp_path, sample("a", "12345") + sample("b", "123456"))
        assert captions(source) == {"a.tar/a": ("12345",)}
        assert left_out(source) == {"bad_caption": ["a.tar/b"]}

    def test_keys_end_at_the_first_dot_of_the_base_name(self, tmp_path):
        members = [("./v1.5/a.b.jpg", "x"), ("./v1.5/c.JPG", picture()), ("./v1.5/c.TXT", "cap")]
        source = one(tmp_path, members)
        assert captions(source) == {"a.tar/v1.5/c": ("cap",)}
        assert left_out(source) == {"no_image": ["a.tar/v1.5/a"]}

    def test_what_is_no_file_is_skipped(self, tmp_path):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as tar:
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
                info = tarfile.TarInfo("a.jpg")
                info.type, info.linkname, info.size = kind, "b.jpg", 700  # of what it links to
                tar.addfile(info)
            for name, content in [*sample("a"), ("README", b"x"), ("._a.jpg", b"x")]:
                info = tarfile.TarInfo(name)
                content = content.encode() if isinstance(content, str) else content
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        source = tar_source(str(path))
        assert captions(source) == {"a.tar/a": ("a caption",)}
        assert not source.tally.total

    def test_same_key_in_two_shards(self, tmp_path):
        for name in ("x/0.tar", "y/0.tar"):
            make_tar(tmp_path / name, sample("a", name))
        source = tar_source(str(tmp_path / "*/0.tar"))
        assert captions(source) == {"x/0.tar/a": ("x/0.tar",), "y/0.tar/a": ("y/0.tar",)}

    @pytest.mark.parametrize(("between", "reads"), [(10, 1), (300_000, 2)])
    def test_image_and_caption_are_read_together_if_near(self, tmp_path, between, reads):
        members = [("a.txt", "one"), ("a.npy", bytes(between)), ("a.png", picture(7))]
        members += [("b.png", picture()), ("b.npy", bytes(between)), ("b.txt", "two")]
        source, sizes = one(tmp_path, members), []
        read = source._reader.read

        def note(path, offset, size):
            sizes.append(size)
            return read(path, offset, size)

        source._reader.read = note
        assert captions(source) == {"a.tar/a": ("one",), "a.tar/b": ("two",)}
        assert len(sizes) == 4 * reads and max(sizes) < 10_000
        assert source[0]["image"] == picture(7)


class TestCaptions:
    members = [
        ("a.jpg", picture()),
        ("a.txt", "\ufeff of text \n"),
        ("a.json", '{"caption": "of json", "title": ["one", " ", "two"]}'),
        ("a.alt.txt", "of alt.txt"),
    ]

    @pytest.mark.parametrize(
        ("setting", "expected"),
        [
            ("", ("of text",)),
            ("txt", ("of text",)),
            (".TXT", ("of text",)),
            ("alt.txt", ("of alt.txt",)),
            ("json", ("of json",)),
            ("json:title", ("one", "two")),
        ],
    )
    def test_where(self, tmp_path, setting, expected):
        assert one(tmp_path, self.members, setting)[0]["captions"] == expected

    @pytest.mark.parametrize("key", ["caption", "text", "captions", "texts"])
    def test_json_where_there_is_no_text(self, tmp_path, key):
        text = json.dumps({"width": 3, key: "a cat"})
        members = [("a.jpg", picture()), ("a.json", text), *sample("b", "a dog"), ("b.json", text)]
        source = one(tmp_path, members + [("c.jpg", picture()), ("c.txt", ""), ("c.json", text)])
        assert list(captions(source).values()) == [("a cat",), ("a dog",), ("a cat",)]

    @pytest.mark.parametrize("setting", ["json:", "my/captions.jsonl", ":caption", "{a}"])
    def test_setting_that_cannot_be(self, tmp_path, setting):
        with pytest.raises(ValueError, match=f"data.captions={setting}: of tars, it is the ext"):
            one(tmp_path, self.members, setting)

    @pytest.mark.parametrize(
        ("name", "content", "reason", "message"),
        [
            ("txt", b"caf\xe9", "bad_caption", "a.tar/a: the caption is not UTF-8"),
            ("json", b'"caf\xe9"', "bad_caption", "a.tar/a: the caption is not UTF-8"),
            ("json", b"{oh", "bad_caption", "a.tar/a: no JSON that can be read"),
            ("json", b'{"n": 1' + b"0" * 5000 + b"}", "bad_caption", "a.tar/a: no JSON that can"),
            ("json", b"[" * 200_000, "bad_caption", "a.tar/a: the JSON is nested too deeply"),
            ("json", '{"caption": "x"}'.encode("utf-16"), "bad_caption", "a.tar/a: the caption is"),
            ("json", b"[1, 2]", "bad_caption", "a.tar/a: expected a JSON object, found list"),
            ("json", b'{"caption": 5}', "bad_caption", "must be a string or a list of.*, not int"),
            ("json", b'{"caption": {"en": "x"}}', "bad_caption", "list of strings, not dict"),
            ("json", b'{"texts": ["x", 1, null]}', "bad_caption", "with NoneType and int"),
            (
                "json",
                b'{"caption": "x", "text": "y"}',
                "bad_caption",
                "caption and text; say",
            ),
            ("json", b'{"title": "x"}', "no_caption", "a.tar/a: the caption is empty"),
            ("json", b'{"caption": null}', "no_caption", "a.tar/a: the caption is empty"),
            ("txt", b" \n", "no_caption", "a.tar/a: the caption is empty"),
        ],
    )
    def test_caption_that_cannot_be(self, tmp_path, name, content, reason, message):
        source = one(tmp_path, [("a.jpg", picture()), (f"a.{name}", content)])
        with pytest.raises(SampleError, match=message) as error:
            source[0]
        assert error.value.reason == reason
        if reason == "no_caption":
            source = one(tmp_path, [("a.jpg", picture()), (f"a.{name}", content)], "", False)
            assert source[0]["captions"] == ()

    def test_another_setting_does_not_read_the_rows_of_the_first(self, tmp_path):
        path = str(make_tar(tmp_path / "a.tar", [*self.members, ("b.jpg", picture())]))
        for _ in range(2):
            settings = {"": "of text", "json": "of json", "alt.txt": "of alt.txt"}
            for setting, expected in settings.items():
                assert captions(tar_source(path, setting)) == {"a.tar/a": (expected,)}
            assert len(tar_source(path, require_captions=False)) == 2


class TestReading:
    def batches(self, count, data, source=None):
        with contextlib.closing(train_batches(data, 0, source=source)) as stream:
            return [next(stream) for _ in range(count)]

    def test_in_a_worker_process(self, folder):
        """Through Grain, whose workers are spawned and get the source pickled."""
        here = self.batches(3, config(folder))
        there = self.batches(3, config(folder, num_workers=1))
        for mine, theirs in zip(here, there, strict=True):
            np.testing.assert_array_equal(mine["image"], theirs["image"])
            np.testing.assert_array_equal(mine["text"], theirs["text"])

    def test_pickle_is_small_and_says_the_same(self, folder):
        source = tar_source(str(folder))
        source[0]
        data = pickle.dumps(source)
        assert len(data) < 2000 + len(str(folder))
        assert captions(pickle.loads(data)) == captions(source)
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            assert pool.apply(source.__getitem__, (4,)) == source[4]

    def test_many_threads(self, folder):
        source, found = pickle.loads(pickle.dumps(tar_source(str(folder)))), []
        expected = [tar_source(str(folder))[i] for i in range(6)]

        def work():
            found.append([source[i % 6] for i in range(60)] == expected * 10)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [True] * 8

    @pytest.mark.parametrize("bad", [b"no image", picture()[:300], b""])
    def test_image_that_is_none_is_replaced(self, folder, caplog, bad):
        make_tar(folder / "1.tar", [("bad.jpg", bad), ("bad.txt", "bad"), *sample("good", "fine")])
        source = open_source(config(folder))
        assert source.tally.counts == ({} if bad else {"empty": 1})
        assert len(self.batches(5, config(folder), source)) == 5
        replaced = [m for m in caplog.messages if "the next good one takes its place" in m]
        assert [("1.tar/bad" in message) for message in replaced] == [True] * bool(bad)

    def test_shard_that_is_deleted_meanwhile(self, folder, caplog):
        source = open_source(config(folder))
        os.unlink(folder / "1.tar")
        self.batches(6, config(folder), source)
        assert "1.tar, bytes " in caplog.text
        source = open_source(config(folder / "0.tar"))
        os.unlink(folder / "0.tar")
        with pytest.raises(OSError, match=r"0\.tar, bytes .*: cannot be read: .*No such file"):
            source[0]

    def test_open_shard_that_is_deleted_can_still_be_read(self, folder):
        source = open_source(config(folder / "0.tar"))
        first = source[0]
        os.unlink(folder / "0.tar")
        assert source[0] == first

    @pytest.mark.parametrize("how", ["shorter", "other members", "other image", "no tar"])
    def test_shard_that_is_overwritten_meanwhile(self, folder, how):
        source = open_source(config(folder / "0.tar"))
        if how == "shorter":
            os.truncate(folder / "0.tar", 700)
        elif how == "other members":
            make_tar(folder / "0.tar", [("readme.txt", "x" * 9000), *sample("a"), *sample("b")])
        elif how == "other image":
            members = [m for i in range(2) for m in sample(f"{i:04}", f"0 {i}", 40 * i)]
            make_tar(folder / "0.tar", [*members, ("0002.jpg", picture(80) + b"0"), *sample("a")])
        else:
            (folder / "0.tar").write_bytes(os.urandom(20_000))
        with pytest.raises(OSError, match=r"/0\.tar.* has changed since it was indexed"):
            source[2]

    def test_evaluation_without_captions(self, tmp_path):
        make_tar(tmp_path / "a.tar", [("a.jpg", picture()), *sample("b")])
        source = open_source(config(tmp_path), require_captions=False)
        with contextlib.closing(eval_batches(source, config(tmp_path), 2)) as stream:
            batch = next(stream)
        assert batch["mask"].all() and not batch["text"][0].any() and batch["text"][1].any()


def test_bucket(folder, tmp_path_factory, monkeypatch, caplog):
    """Shards in a bucket: indexed in the user's cache, read by ranges."""
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(_registry, "gs", bucket.FileSystem)
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    bucket.OBJECTS.clear()
    for name in ("0.tar", "1.tar"):
        bucket._put(f"bucket/set/{name}", (folder / name).read_bytes())
    data = config("gs://bucket/set/{0..1}.tar")
    assert captions(open_source(data)) == captions(open_source(config(folder)))
    assert list(cache.glob("unitok_jax/index/*/*.json"))
    caplog.clear()
    source = open_source(data)
    assert "indexing" not in caplog.text
    bucket._put("bucket/set/1.tar", make_tar(folder / "x.tar", sample("new")).read_bytes())
    assert len(open_source(data)) == 4
    assert "indexing 1 of 2 shards" in caplog.text
    del bucket.OBJECTS["bucket/set/0.tar"]
    with pytest.raises(OSError, match=r"gs://bucket/set/0\.tar, bytes 0 to .*: cannot be read"):
        source[0]
    with pytest.raises(FileNotFoundError, match=r"1 of 2 are not there: gs://bucket/set/0\.tar"):
        open_source(data)
