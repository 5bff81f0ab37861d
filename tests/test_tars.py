"""Samples of WebDataset tars, and the index that tells where they are."""

import contextlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import threading
import time

import ml_collections
import numpy as np
import pytest
from fsspec.registry import _registry
from PIL import Image

import bucket
from unitok_jax.data import index_files, pipeline, tar_index
from unitok_jax.data.pipeline import eval_batches, train_batches
from unitok_jax.data.records import SampleError
from unitok_jax.data.shards import expand
from unitok_jax.data.sources import open_source
from unitok_jax.data.tar_scan import CaptionRule
from unitok_jax.data.tars import tar_source


def picture(level=0):
    """A JPEG of 24 x 16 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (level, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def make_tar(path, members, **options):
    """A tar of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                content = content.encode()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(key, caption="a caption", level=0):
    return [(f"{key}.jpg", picture(level)), (f"{key}.txt", caption)]


@pytest.fixture
def folder(tmp_path):
    """Two shards of three samples each."""
    for shard in range(2):
        members = [m for i in range(3) for m in sample(f"{i:04}", f"{shard} {i}", 40 * i)]
        make_tar(tmp_path / f"{shard}.tar", members)
    return tmp_path


@pytest.fixture(autouse=True)
def forget_warnings(monkeypatch):
    monkeypatch.setattr(pipeline, "_warned", set())


@pytest.fixture
def scanned(monkeypatch):
    """Paths of the shards that are scanned from now on, in threads."""
    paths, scan = [], tar_index.scan

    def note(read, path, *rest):
        paths.append(path)
        return scan(read, path, *rest)

    monkeypatch.setattr(tar_index, "scan", note)
    monkeypatch.setattr(tar_index, "_FEW", 10**9)
    return paths


def config(path, **values):
    return ml_collections.ConfigDict(
        {
            "source": "tar",
            "path": str(path),
            "captions": "",
            "index": "",
            "image_size": (16, 16),
            "batch_size": 2,
            "crop_scale": (0.9, 1.0),
            "crop_ratio": (0.75, 4 / 3),
            "num_threads": 2,
            "num_workers": 0,
            "context_length": 8,
            **values,
        }
    )


def captions(source):
    return {source[i]["name"]: source[i]["captions"] for i in range(len(source))}


def left_out(source):
    return {reason: source.tally.names[reason] for reason in source.tally.counts}


def one(tmp_path, members, captions="", require_captions=True, **options):
    """The source of one shard of these members."""
    path = make_tar(tmp_path / "a.tar", members, **options)
    return tar_source(str(path), captions, require_captions=require_captions)


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
            ("json", b"{oh", "bad_caption", "a.tar/a: not JSON"),
            ("json", b"[1, 2]", "bad_caption", r"a.tar/a: not a JSON object: \[1, 2\]"),
            ("json", b'{"caption": 5}', "bad_caption", "'caption' must be a string or a list of"),
            ("json", b'{"texts": ["x", 1]}', "bad_caption", "'texts' must be a string or a list"),
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


class TestLeftOut:
    def test_reasons(self, tmp_path):
        members = [
            *sample("good"),
            ("empty.jpg", ""),
            ("empty.txt", "c"),
            ("two.jpg", picture()),
            ("two.png", picture()),
            ("two.txt", "c"),
            ("twice.jpg", picture()),
            ("twice.jpg", picture()),
            ("none.txt", "c"),
            ("mute.jpg", picture()),
            ("hush.jpg", picture()),
            ("hush.txt", ""),
            *sample("fine"),
            *sample("good", "another"),
        ]
        source = one(tmp_path, members)
        assert captions(source) == {"a.tar/good": ("a caption",), "a.tar/fine": ("a caption",)}
        assert left_out(source) == {
            "empty": ["a.tar/empty"],
            "two_images": ["a.tar/two", "a.tar/twice"],
            "no_image": ["a.tar/none"],
            "no_caption": ["a.tar/mute", "a.tar/hush"],
            "duplicate_key": ["a.tar/good"],
        }
        # The index that is found says the same as the one that was made.
        assert left_out(tar_source(str(tmp_path / "a.tar"))) == left_out(source)
        source = one(tmp_path, members, require_captions=False)
        assert captions(source)["a.tar/mute"] == ()
        assert "no_caption" not in source.tally.counts and source.tally.total == 5

    def test_names_are_the_first_of_all_shards(self, tmp_path):
        for shard in range(5):
            members = [(f"{shard}-{i}.txt", "c") for i in range(9)]
            make_tar(tmp_path / f"{shard}.tar", sample("a") + members)
        expected = [f"{n // 9}.tar/{n // 9}-{n % 9}" for n in range(20)]
        for _ in range(2):
            source = tar_source(str(tmp_path))
            assert source.tally.counts == {"no_image": 45}
            assert source.tally.names == {"no_image": expected}

    def test_tar_that_is_sorted_by_extension(self, tmp_path):
        members = [(f"{i}.jpg", picture()) for i in range(3)] + [
            (f"{i}.txt", "c") for i in range(3)
        ]
        with pytest.raises(ValueError, match=r"(?s)3 no_caption: .*3 duplicate_key: .*--sort=name"):
            one(tmp_path, members)

    def test_no_captions_at_all(self, tmp_path):
        message = r"(?s)none of 1 shards has a sample .*1 no_caption: a\.tar/a\ndata.captions names"
        with pytest.raises(ValueError, match=message):
            one(tmp_path, [("a.jpg", picture())])


class TestShardsThatAreBroken:
    def cut(self, path, at):
        os.truncate(path, at)
        return path

    @pytest.mark.parametrize("where", ["image", "header of the image", "caption", "next header"])
    def test_truncated(self, tmp_path, caplog, where):
        path = make_tar(tmp_path / "a.tar", sample("a") + sample("b") + sample("c") + sample("d"))
        with tarfile.open(path) as tar:
            at = {
                "image": tar.getmember("c.jpg").offset_data + 100,
                "header of the image": tar.getmember("c.jpg").offset + 100,
                "caption": tar.getmember("c.txt").offset_data + 1,
                "next header": tar.getmember("d.jpg").offset + 100,
            }[where]
            cut = at // 512 * 512
        self.cut(path, at)
        source = tar_source(str(path))
        whole = ["a.tar/a", "a.tar/b"] + ["a.tar/c"] * (where == "next header")
        assert list(captions(source)) == whole
        assert left_out(source) == {"unreadable": [f"a.tar from byte {cut}"]}
        assert "a.tar: the tar ends within" in caplog.text
        assert f"at byte {cut} of {at}; {len(whole)} samples before it are used" in caplog.text

    def test_damage_in_the_middle(self, tmp_path, caplog):
        path = make_tar(tmp_path / "a.tar", sample("a") + sample("b") + sample("c"))
        with tarfile.open(path) as tar:
            at = tar.getmember("b.txt").offset
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(b"X")
        source = tar_source(str(path))
        assert list(captions(source)) == ["a.tar/a"]
        assert left_out(source) == {"unreadable": [f"a.tar from byte {at}"]}
        assert f"the header's checksum is wrong at byte {at}" in caplog.text

    def test_tar_without_its_end_is_whole(self, tmp_path):
        path = make_tar(tmp_path / "a.tar", sample("a"))
        self.cut(path, len(path.read_bytes().rstrip(b"\0")))  # the padding is not there either
        assert captions(tar_source(str(path))) == {"a.tar/a": ("a caption",)}

    @pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
    @pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
    def test_compressed(self, tmp_path, kind, name):
        with tarfile.open(tmp_path / name, f"w:{kind}") as tar:
            tar.addfile(tarfile.TarInfo("a.jpg"))
        with pytest.raises(ValueError, match=rf"{name} is compressed \(.*: (gunz|bunz|unx)"):
            tar_source(str(tmp_path / name))

    @pytest.mark.parametrize("content", [b"hello", picture() * 9, b"PK\3\4" + bytes(2000)])
    def test_no_tar(self, tmp_path, content):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(ValueError, match=r"data.path: /.*/a\.tar is not a tar: "):
            tar_source(str(tmp_path / "a.tar"))

    @pytest.mark.parametrize("content", [b"", bytes(1024)])
    def test_empty(self, folder, caplog, content):
        (folder / "2.tar").write_bytes(content)
        assert len(tar_source(str(folder))) == 6
        assert "2.tar is an empty tar" in caplog.text
        with pytest.raises(ValueError, match=r"data.path=.*/2\.tar: all 1 shards are empty"):
            tar_source(str(folder / "2.tar"))


def place(folder):
    """The only folder of an index."""
    (found,) = (folder / ".unitok_index").iterdir()
    return found


class TestIndex:
    def test_it_is_made_once(self, folder, scanned):
        before = captions(tar_source(str(folder)))
        assert sorted(scanned) == [str(folder / "0.tar"), str(folder / "1.tar")]
        assert captions(tar_source(str(folder))) == before
        assert len(scanned) == 2

    @pytest.mark.parametrize("change", ["size", "time"])
    def test_shard_that_has_changed_is_scanned_again(self, folder, scanned, change):
        tar_source(str(folder))
        scanned.clear()
        time_before = (folder / "1.tar").stat().st_mtime_ns
        more = [sample(f"{i}") for i in range(90)] if change == "size" else []
        make_tar(folder / "1.tar", sample("x", "changed", 9) + sum(more, []))
        os.utime(folder / "1.tar", ns=(0, time_before + (change == "time")))
        found = captions(tar_source(str(folder)))
        assert scanned == [str(folder / "1.tar")]
        assert found["1.tar/x"] == ("changed",) and found["0.tar/0002"] == ("0 2",)
        assert len(found) == 4 + len(more)

    def test_shards_that_come_and_go(self, folder, scanned):
        before = tar_source(str(folder))
        scanned.clear()
        make_tar(folder / "00.tar", sample("new"))
        os.unlink(folder / "0.tar")
        assert list(captions(tar_source(str(folder)))) == ["00.tar/new"] + [
            f"1.tar/{i:04}" for i in range(3)
        ]
        assert scanned == [str(folder / "00.tar")]
        assert before[4]["name"] == "1.tar/0001"  # what is open stays as it was
        with pytest.raises(RuntimeError, match="the index has changed since the source was opened"):
            pickle.loads(pickle.dumps(before))[4]

    @pytest.mark.parametrize("file", ["index.json", "rows"])
    @pytest.mark.parametrize("damage", ["cut", "garbage", "gone", "another version"])
    def test_damaged_index_is_made_again(self, folder, scanned, caplog, file, damage):
        before = captions(tar_source(str(folder)))
        scanned.clear()
        (rows,) = place(folder).glob("*.npy")
        path = rows if file == "rows" else place(folder) / "index.json"
        if damage == "gone":
            path.unlink()
        elif damage == "another version":
            table = json.loads((place(folder) / "index.json").read_text())
            (place(folder) / "index.json").write_text(json.dumps(table | {"version": 0}))
        else:
            data = path.read_bytes()
            path.write_bytes(data[:-30] if damage == "cut" else b"garbage" * 100)
        assert captions(tar_source(str(folder))) == before
        assert len(scanned) == 2
        assert ("is damaged" in caplog.text) == (damage != "gone" or file == "rows")

    def test_folder_of_its_own(self, folder, tmp_path_factory):
        index = tmp_path_factory.mktemp("index") / "deep"
        open_source(config(folder, index=str(index)))
        assert list(index.glob("*/index.json")) and not (folder / ".unitok_index").exists()
        with pytest.raises(ValueError, match="data.index=gs://b/i: .* use a local folder"):
            open_source(config(folder, index="gs://b/i"))

    def test_shards_that_cannot_be_written_beside(self, folder, tmp_path_factory, monkeypatch):
        cache = tmp_path_factory.mktemp("cache")
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        (folder / ".unitok_index").symlink_to("/sys/kernel")  # not even root makes folders there
        assert len(tar_source(str(folder))) == 6
        assert list(cache.glob("unitok_jax/index/*/index.json"))
        with pytest.raises(OSError, match="no index .* to /sys/kernel; set --config.data.index="):
            tar_source(str(folder), index="/sys/kernel")

    def test_index_that_can_only_be_read_is_used(self, folder, scanned, monkeypatch):
        tar_source(str(folder))
        monkeypatch.setattr(index_files, "lock", None)
        tar_source(str(folder))
        assert len(scanned) == 2

    def test_many_shards_are_scanned_by_processes(self, tmp_path, caplog):
        for shard in range(8):
            make_tar(tmp_path / f"{shard}.tar", sample("a", str(shard)) + [("b.txt", "x")])
        os.truncate(tmp_path / "5.tar", 600)
        source = tar_source(str(tmp_path))
        assert [c for (c,) in captions(source).values()] == list("0123467")
        assert source.tally.counts == {"no_image": 7, "unreadable": 1}
        assert "5.tar: the tar ends within" in caplog.text

    def test_error_of_a_process_arrives(self, tmp_path):
        for shard in range(8):
            make_tar(tmp_path / f"{shard}.tar", sample("a"))
        (tmp_path / "5.tar").write_bytes(b"x" * 1000)
        with pytest.raises(ValueError, match=r"5\.tar is not a tar"):
            tar_source(str(tmp_path))
        assert [p.name for p in place(tmp_path).iterdir()] == [".lock"]  # nothing half written

    def test_second_process_waits_for_the_first(self, folder, scanned):
        made = []
        query, found = tar_index.Query(str(folder), CaptionRule(), True), expand(str(folder))
        target = folder / ".unitok_index" / query.name()
        target.mkdir(parents=True)
        with index_files.lock(target):
            thread = threading.Thread(target=lambda: made.append(tar_source(str(folder))))
            thread.start()
            time.sleep(0.2)
            assert not made and not scanned
            tar_index._build(target, query.name(found), query, found)
        thread.join()
        assert len(made[0]) == 6 and len(scanned) == 2

    def test_killed_while_it_writes(self, folder, scanned):
        """A kill at the worst moments leaves the old index, which is then brought up to date."""
        before = captions(tar_source(str(folder)))
        make_tar(folder / "2.tar", sample("new"))
        code = (
            "import os, sys, signal; from unitok_jax.data import index_files, tars\n"
            "replace, left = os.replace, [int(sys.argv[2])]\n"
            "def die(*a):\n"
            "    left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
            "    left[0] -= 1\n"
            "    replace(*a)\n"
            "os.replace = die\n"
            "tars.tar_source(sys.argv[1])"
        )
        for done in range(2):
            command = [sys.executable, "-c", code, str(folder), str(done)]
            assert subprocess.run(command).returncode == -signal.SIGKILL
            assert captions(tar_source(str(folder / "{0,1}.tar"))) == before
            table = json.loads((place_of(folder, str(folder)) / "index.json").read_text())
            assert table["names"] == ["0.tar", "1.tar"]
        scanned.clear()
        assert captions(tar_source(str(folder))) == before | {"2.tar/new": ("a caption",)}
        assert scanned == [str(folder / "2.tar")]
        assert not list(place_of(folder, str(folder)).glob("*.new"))


def place_of(folder, pattern):
    query = tar_index.Query(pattern, CaptionRule(), True)
    return folder / ".unitok_index" / query.name()


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
        replaced = [m for m in caplog.messages if m.startswith("replaced by another sample")]
        assert [("1.tar/bad" in message) for message in replaced] == [True] * bool(bad)

    def test_shard_that_is_deleted_meanwhile(self, folder, caplog):
        source = open_source(config(folder))
        os.unlink(folder / "1.tar")
        self.batches(6, config(folder), source)
        assert "1.tar, bytes 0 to" in caplog.text
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
    assert list(cache.glob("unitok_jax/index/*/index.json"))
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
