"""What the index of tars holds, leaves out and refuses, and how it is kept."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest

from helpers.formats import outcomes
from helpers.tar_files import captions, config, left_out, make_tar, one, picture, sample, two_shards
from unitok_jax.data.sources import open_source
from unitok_jax.data.tars import index as tar_index
from unitok_jax.data.tars import index_files
from unitok_jax.data.tars.members import MAX_HEADER, members
from unitok_jax.data.tars.scan import CaptionRule
from unitok_jax.data.tars.shards import expand
from unitok_jax.data.tars.source import tar_source

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    return two_shards(tmp_path)


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


def place(folder):
    """The only folder of an index."""
    (found,) = (folder / ".unitok_index").iterdir()
    return found


def place_of(folder, pattern):
    query = tar_index.Query(pattern, CaptionRule(), True)
    return folder / ".unitok_index" / query.name()


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

    @pytest.mark.parametrize("bad", [0, 10, 39])
    def test_what_follows_damage_is_estimated(self, tmp_path, caplog, bad):
        members = [m for i in range(40) for m in sample(f"{i:02}")] + [("z.txt", "no image")]
        path = make_tar(tmp_path / "a.tar", members)
        make_tar(tmp_path / "b.tar", sample("b"))
        with tarfile.open(path) as tar:
            at = tar.getmember(f"{bad:02}.txt").offset
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(b"X")
        for _ in range(2):  # made, then found
            source = tar_source(str(tmp_path))
            lost = source.tally.counts["unreadable"]
            assert len(source) == bad + 1
            assert left_out(source) == {"unreadable": [f"a.tar from byte {at}"]}
            # The image of the damaged sample is read; the end of the tar is up to 10 KiB of zeros.
            assert max(1, 0.8 * (40 - bad)) <= lost <= 1.8 * (40 - bad) + 6
        assert f"{bad} samples before it are used, about {lost} after it are not" in caplog.text

    @pytest.mark.parametrize("padding", [False, True])
    def test_tar_without_its_end_may_be_cut(self, tmp_path, caplog, padding):
        path = make_tar(tmp_path / "a.tar", sample("a") + sample("b"))
        end = len(path.read_bytes().rstrip(b"\0"))
        end = -(-end // 512) * 512 if padding else end
        source = tar_source(str(self.cut(path, end)))
        assert captions(source) == {f"a.tar/{key}": ("a caption",) for key in "ab"}
        assert left_out(source) == {"unreadable": [f"a.tar from byte {end}"]}
        assert source.tally.total == 1
        assert caplog.text.count(f"{path}: the tar has no end-of-archive block") == 1

    def test_one_block_of_zeros_ends_a_tar(self, tmp_path, caplog):
        path = make_tar(tmp_path / "a.tar", sample("a"))
        end = -(-len(path.read_bytes().rstrip(b"\0")) // 512) * 512
        assert not tar_source(str(self.cut(path, end + 512))).tally.total
        assert not caplog.text

    def test_tar_cut_after_the_image_of_a_sample(self, tmp_path):
        path = make_tar(tmp_path / "a.tar", sample("a") + sample("b"))
        with tarfile.open(path) as tar:
            self.cut(path, tar.getmember("b.txt").offset)
        source = tar_source(str(path))
        assert list(captions(source)) == ["a.tar/a"]
        assert source.tally.counts == {"no_caption": 1, "unreadable": 1}
        assert len(tar_source(str(path), require_captions=False)) == 2

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


def header(kind, size):
    """A header of GNU tar before `size` bytes; a size of 12 bytes is written as it is."""
    block = bytearray(tarfile.TarInfo("././@LongLink").tobuf(tarfile.GNU_FORMAT))
    block[156:157] = kind
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


class TestHeadersThatAreHostile:
    """Whole samples come before; what the header does may cost the rest, nothing else."""

    @pytest.mark.parametrize(
        "after",
        [
            header(b"x", 1 << 20) + b"2 " * (1 << 19),
            header(b"x", 512) + b"9" * 512,
            header(b"x", 512) + b"20 size=-1\n".ljust(512, b"\0"),
            header(b"x", 512) + b"-5 path=a\n".ljust(512, b"\0"),
            header(b"x", 512) + b"900 path=a\n".ljust(512, b"\0"),
            header(b"x", 1024) + (b"5000 path=" + b"a" * 1014),
            header(b"x", MAX_HEADER + 1) + bytes(MAX_HEADER + 512),
            header(b"L", MAX_HEADER + 1) + bytes(MAX_HEADER + 512),
            header(b"L", b"\x80" + b"\xff" * 11),
            header(b"0", b"\x80" + b"\xff" * 11),
            header(b"0", b"\xff" * 12),
            header(b"0", b"-0000000001\0"),
            header(b"S", 0)[:482] + b"\1" + bytes(29),
        ],
    )
    def test_what_comes_before_is_used(self, tmp_path, after):
        path = make_tar(tmp_path / "a.tar", sample("a") + sample("b"))
        data = path.read_bytes().rstrip(b"\0")
        data += bytes(-len(data) % 512)
        path.write_bytes(data + after + bytes(1024))
        source = tar_source(str(path))
        assert list(captions(source)) == ["a.tar/a", "a.tar/b"]
        assert source.tally.counts["unreadable"]

    def test_many_records_of_pax_are_read_once(self, tmp_path):
        reads = []
        data = header(b"x", MAX_HEADER) + b"6 a=b\n" * (MAX_HEADER // 6)
        data += bytes(-len(data) % 512) + bytes(1024)

        def read(offset, size):
            reads.append(size)
            return data[offset : offset + size]

        assert list(members(read, len(data))) == [] and sum(reads) < 2 * len(data)

    @pytest.mark.parametrize("name", ["/etc/a", "../../a", "a\nb", "a" * 3000, "\x1b[31ma"])
    def test_names_are_but_names(self, tmp_path, name):
        path = make_tar(tmp_path / "a.tar", sample(name), format=tarfile.GNU_FORMAT)
        assert len(captions(tar_source(str(path)))) == 1
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [".unitok_index", "a.tar"]


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

    def test_run_goes_on_while_shards_are_added(self, folder, scanned):
        source = tar_source(str(folder))
        before = captions(source)
        for more in ("00", "01", "02"):
            make_tar(folder / f"{more}.tar", sample("new"))
            tar_source(str(folder))
            assert captions(pickle.loads(pickle.dumps(source))) == before
        assert len(scanned) == 2 + 3
        for more in ("00", "01", "02"):
            os.unlink(folder / f"{more}.tar")
        assert captions(tar_source(str(folder))) == before and len(scanned) == 2 + 3

    @pytest.mark.parametrize("used", [False, True])
    def test_index_that_is_not_used_is_removed(self, folder, used):
        def index_again():
            for rows in place(folder).glob("*.npy"):
                os.utime(rows, (0, time.time() - 8 * 24 * 3600))
            if used:
                pickle.loads(pickle.dumps(source))[0]
            make_tar(folder / f"{len(os.listdir(folder))}.tar", sample("new"))
            tar_source(str(folder))

        source = tar_source(str(folder))
        index_again()  # the last one stays, however old: its rows are used again
        assert len(list(place(folder).glob("*.npy"))) == 2
        index_again()
        names = [path.name.split(".") for path in place(folder).iterdir() if path.name != ".lock"]
        states = {state for state, _ in names}
        assert len(states) == 2 + used and len(names) == 2 * len(states)
        copy = pickle.loads(pickle.dumps(source))
        if used:
            assert captions(copy) == captions(source)
        else:
            with pytest.raises(OSError, match="was deleted since they were opened; start again"):
                copy[4]

    @pytest.mark.parametrize("file", ["table", "rows"])
    @pytest.mark.parametrize("damage", ["cut", "garbage", "gone", "another version"])
    def test_damaged_index_is_made_again(self, folder, scanned, caplog, file, damage):
        before = captions(tar_source(str(folder)))
        scanned.clear()
        (rows,), (table,) = place(folder).glob("*.npy"), place(folder).glob("*.json")
        path = rows if file == "rows" else table
        if damage == "gone":
            path.unlink()
        elif damage == "another version":
            table.write_text(json.dumps(json.loads(table.read_text()) | {"version": 0}))
        else:
            data = path.read_bytes()
            path.write_bytes(data[:-30] if damage == "cut" else b"garbage" * 100)
        assert captions(tar_source(str(folder))) == before
        assert len(scanned) == 2
        assert ("is damaged" in caplog.text) == (damage != "gone" or file == "rows")

    @pytest.mark.parametrize(
        "change",
        [
            {"root": "/etc"},
            {"root": 5},
            {"names": ["../0.tar", "1.tar"]},
            {"names": ["0.tar", None]},
            {"names": ["0.tar"]},
            {"sizes": [1 << 40, 1 << 40]},
            {"counts": [-1, 7]},
            {"counts": [10**30, 6 - 10**30]},
            {"counts": [3.0, 3.0]},
            {"counts": "33"},
            {"counts": [1 << 40, 3]},
            {"tallies": {"0": [{"empty": -1}, {"empty": []}]}},
            {"tallies": {"0": [{"empty": 1}, {"empty": [{}]}]}},
            {"tallies": {"0": [{"evil": 1}, {"evil": []}]}},
            {"tallies": [1]},
            {"state": "x"},
        ],
    )
    def test_hostile_table_is_made_again(self, folder, change):
        before = captions(tar_source(str(folder)))
        (table,) = place(folder).glob("*.json")
        table.write_text(json.dumps(json.loads(table.read_text()) | change))
        assert captions(tar_source(str(folder))) == before
        assert json.loads(table.read_text())["root"] == str(folder)

    @pytest.mark.parametrize(
        "content", [b"[" * 10**5, b'{"version": 1' + b"0" * 5000 + b"}", b"[]"]
    )
    def test_table_that_is_no_json(self, folder, scanned, content):
        before = captions(tar_source(str(folder)))
        (table,) = place(folder).glob("*.json")
        table.write_bytes(content)
        assert captions(tar_source(str(folder))) == before

    @pytest.mark.parametrize("field", ["image", "caption", "image_size", "caption_size", "blocks"])
    def test_rows_outside_the_shard(self, folder, field):
        tar_source(str(folder))
        (file,) = place(folder).glob("*.npy")
        rows = np.lib.format.open_memmap(file, "r+")
        rows["head_blocks" if field == "blocks" else field] = 65_535 if field == "blocks" else 2**31
        rows.flush()
        with pytest.raises(OSError, match=f"{folder}/0.tar does not hold what its index says: row"):
            tar_source(str(folder))[0]

    def test_rows_with_the_header_of_another_array(self, folder, scanned):
        before = captions(tar_source(str(folder)))
        (file,) = place(folder).glob("*.npy")
        np.save(file, np.array([{}], object), allow_pickle=True)
        assert captions(tar_source(str(folder))) == before

    @pytest.mark.parametrize("where", ["folder", "state"])
    def test_links_are_not_swept(self, folder, tmp_path_factory, monkeypatch, where):
        home = tmp_path_factory.mktemp("home")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("mine.npy", "0123456789abcdef.npy", "index-mine.new"):
            (home / name).write_bytes(b"x")
        tar_source(str(folder))
        beside = place(folder)
        linked = beside.parent if where == "folder" else beside
        shutil.rmtree(linked)
        linked.symlink_to(home if where == "state" else home / "other")
        if where == "folder":
            (home / "other" / beside.name).mkdir(parents=True)
            (home / "other" / beside.name / "0123456789abcdef.npy").write_bytes(b"x")
        before = sorted(home.rglob("*"))
        assert len(captions(tar_source(str(folder)))) == 6
        assert sorted(home.rglob("*")) == before

    def test_files_of_others_stay(self, folder):
        tar_source(str(folder))
        for name in ("mine.npy", "mine.new"):
            (place(folder) / name).write_bytes(b"x")
        make_tar(folder / "2.tar", sample("new"))
        tar_source(str(folder))
        assert {"mine.npy", "mine.new"} <= set(os.listdir(place(folder)))

    @pytest.mark.parametrize("suffix", [".json", ".npy"])
    def test_pipe_instead_of_a_file(self, folder, suffix):
        before = captions(tar_source(str(folder)))
        (file,) = place(folder).glob(f"*{suffix}")
        file.unlink()
        os.mkfifo(file)
        assert captions(tar_source(str(folder))) == before

    def test_folder_of_its_own(self, folder, tmp_path_factory):
        index = tmp_path_factory.mktemp("index") / "deep"
        open_source(config(folder, index=str(index)))
        assert list(index.glob("*/*.json")) and not (folder / ".unitok_index").exists()
        with pytest.raises(ValueError, match="data.index=gs://b/i: .* use a local folder"):
            open_source(config(folder, index="gs://b/i"))

    def test_shards_that_cannot_be_written_beside(self, folder, tmp_path_factory, monkeypatch):
        cache = tmp_path_factory.mktemp("cache")
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        (folder / ".unitok_index").symlink_to("/sys/kernel")  # not even root makes folders there
        assert len(tar_source(str(folder))) == 6
        assert list(cache.glob("unitok_jax/index/*/*.json"))
        with pytest.raises(OSError, match="no index .* to /sys/kernel; set --config.data.index="):
            tar_source(str(folder), index="/sys/kernel")

    def test_index_that_can_only_be_read_is_used(self, folder, scanned, monkeypatch):
        tar_source(str(folder))
        monkeypatch.setattr(index_files, "lock", None)

        def refuse(path):
            raise PermissionError(errno.EACCES, "not yours", path)

        monkeypatch.setattr(os, "utime", refuse)
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
            "import os, sys, signal; from unitok_jax.data.tars import index_files, source\n"
            "replace, left = os.replace, [int(sys.argv[2])]\n"
            "def die(*a):\n"
            "    left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
            "    left[0] -= 1\n"
            "    replace(*a)\n"
            "os.replace = die\n"
            "source.tar_source(sys.argv[1])"
        )
        for done in range(2):
            command = [sys.executable, "-c", code, str(folder), str(done)]
            assert subprocess.run(command).returncode == -signal.SIGKILL
            assert captions(tar_source(str(folder / "{0,1}.tar"))) == before
            (table,) = place_of(folder, str(folder)).glob("*.json")
            assert json.loads(table.read_text())["names"] == ["0.tar", "1.tar"]
        scanned.clear()
        assert captions(tar_source(str(folder))) == before | {"2.tar/new": ("a caption",)}
        assert scanned == [str(folder / "2.tar")]
        assert not list(place_of(folder, str(folder)).glob("*.new"))


def test_script_without_the_usual_guard_is_told_so(tmp_path):
    """Its own processes run it again, and must not wait for the lock of the one that waits."""
    for number in range(8):
        make_tar(tmp_path / f"{number}.tar", sample("a"))
    script = tmp_path / "script.py"
    script.write_text(
        "from unitok_jax.data.tars.source import tar_source\n"
        f"print(len(tar_source({str(tmp_path)!r})))\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 1
    assert 'needs the usual `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("what", ["shard", "index"])
def test_damage_ends_in_errors_of_ours(folder, what):
    tar_source(str(folder))
    files = sorted(folder.glob("*.tar") if what == "shard" else place(folder).glob("*.*"))
    files = [file for file in files if file.name != ".lock"]
    seen = outcomes(lambda: tar_source(str(folder)), files, 60)
    assert seen["good"] > 150
