"""Which files a pattern names, and reading byte ranges of them."""

import os
import pickle
import re
import sys
import threading

import pytest
from fsspec.registry import _registry

from helpers import bucket
from unitok_jax.data.tars import shards
from unitok_jax.data.tars.shards import Reader, expand


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of seven empty shards, the present one."""
    for index in range(7):
        (tmp_path / f"{index:05}.tar").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cloud(monkeypatch):
    """A stand-in bucket with four shards."""
    monkeypatch.setitem(_registry, "gs", bucket.FileSystem)
    bucket.OBJECTS.clear()
    for name in ("a/0.tar", "a/1.tar", "a/deep/2.tar", "a/notes.txt", "b/0.tar"):
        bucket._put(f"bucket/{name}", name.encode())
    return bucket.OBJECTS


@pytest.fixture
def impatient(monkeypatch):
    """The waits between tries, which are not waited."""
    waits = []
    monkeypatch.setattr(shards.time, "sleep", waits.append)
    return waits


def names(pattern):
    return [os.path.basename(shard.path).removesuffix(".tar") for shard in expand(pattern)]


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("{00000..00002}.tar", ["00000", "00001", "00002"]),
            ("{00000..00006..3}.tar", ["00000", "00003", "00006"]),
            ("{00004,00001}.tar", ["00004", "00001"]),
            ("0000{5..6}.tar", ["00005", "00006"]),
            ("{0000[56],0000[01]}.tar", ["00005", "00006", "00000", "00001"]),
            ("0000?.tar", [f"{i:05}" for i in range(7)]),
            ("*[12].tar", ["00001", "00002"]),
            ("00003.tar", ["00003"]),
            (".", [f"{i:05}" for i in range(7)]),
            ("./", [f"{i:05}" for i in range(7)]),
        ],
    )
    def test_order(self, folder, pattern, expected):
        assert names(pattern) == expected

    def test_path_size_and_time(self, folder):
        (folder / "00001.tar").write_bytes(b"12345")
        os.utime(folder / "00001.tar", ns=(7, 1_234_567_891))
        assert expand("00001.tar") == [(str(folder / "00001.tar"), 5, 1_234_567_891)]

    def test_home(self, folder, monkeypatch):
        monkeypatch.setenv("HOME", str(folder))
        assert expand("~/{00000..00001}.tar") == expand(str(folder / "0000[01].tar"))

    def test_folder_is_not_searched_below_nor_for_other_files(self, folder):
        (folder / "more").mkdir()
        for name in ("more/a.tar", ".hidden.tar", "a.tar.gz", "a.txt", "B.TAR"):
            (folder / name).touch()
        assert names(".") == [f"{i:05}" for i in range(7)] + ["B.TAR"]

    def test_several_folders(self, folder):
        for name in ("x/1.tar", "x/0.tar", "y/0.tar"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
        assert names("{y,x}") == ["0", "0", "1"]
        assert names("**/1.tar") == ["1"]

    @pytest.mark.parametrize("name", ["a,b.tar", "run[1].tar", "{x}.tar", "a b.tar"])
    def test_file_that_has_the_name_is_meant(self, folder, name):
        (folder / name).touch()
        assert names(name) == [name.removesuffix(".tar")]

    def test_long_lists_of_short_ranges(self, folder):
        pattern = ",".join(f"{letter}{{000..999}}" for letter in "abcdefgh")
        with pytest.raises(FileNotFoundError, match="8000 of 8000 are not there"):
            expand(f"{{{pattern}}}.tar")

    def test_folder_as_it_lies_on_disks(self, folder):
        for name in ("._00001.tar", ".part.tar", "_00001.tar"):
            (folder / name).write_bytes(b"x")
        (folder / "called.tar").mkdir()
        (folder / "z.tar").symlink_to(folder / "00000.tar")
        found = [os.path.basename(shard.path) for shard in expand(str(folder))]
        assert "z.tar" in found and "00000.tar" in found
        assert not {"._00001.tar", ".part.tar", "_00001.tar", "called.tar"} & set(found)

    @pytest.mark.parametrize("pattern", ["p.tar", "*.tar", "{p,q}.tar", "."])
    @pytest.mark.parametrize("what", ["pipe", "link"])
    def test_what_is_no_file(self, folder, pattern, what):
        (folder / "q.tar").touch()
        if what == "pipe":
            os.mkfifo(folder / "p.tar")
            error, message = ValueError, "p.tar is a pipe, a device or a socket; shards are files"
        else:
            (folder / "p.tar").symlink_to("nowhere")
            error, message = FileNotFoundError, "p.tar is a link that leads nowhere"
        with pytest.raises(error, match=f"^data.path: /.*{message}"):
            expand(pattern)


class TestPatternsThatCannotBe:
    @pytest.mark.parametrize(
        ("pattern", "error", "message"),
        [
            ("", ValueError, "data.path is empty: set --config.data.path=/a/folder/of/shards"),
            ("{00000..00003.tar", ValueError, "data.path={00000..00003.tar: a brace is open or"),
            ("00000}.tar", ValueError, "a brace is open or closed without its other one"),
            ("{3..1}.tar", ValueError, "{3..1} counts down; write {1..3}"),
            ("{00001}.tar", ValueError, "braces hold a range or a list, as {00000..00127}"),
            ("none.tar", FileNotFoundError, "data.path=none.tar: there is no such file or folder"),
            ("*.zip", FileNotFoundError, "data.path=*.zip: no file matches"),
            ("00000.tar,00001.tar", FileNotFoundError, "a comma does not separate paths, write {"),
            ("{00001,0000?}.tar", ValueError, "names 1 shards more than once: /"),
            ("{00001,00001}.tar", ValueError, "00001.tar"),
            ("{0..999999999}.tar", ValueError, "stands for more than 1000000 shards; name those"),
            (
                "{0..999}/{0..999}/{0..9}.tar",
                ValueError,
                "data.path={0..999}/{0..999}/{0..9}.tar s",
            ),
            ("{a,{0..99999}{0..99999}}", ValueError, "stands for more than 1000000 shards"),
            (f"{{0..{'9' * 5000}}}", ValueError, "a range has numbers of more than 18 digits"),
            ("{a," * 3000 + "}" * 3000, ValueError, "braces lie too deep in each other"),
            ("a\0.tar", ValueError, "a path cannot hold a NUL character"),
            ("s3://bucket/a.tar", ValueError, "data.path=s3://bucket/a.tar: shards are local or g"),
        ],
    )
    def test_message(self, folder, pattern, error, message):
        with pytest.raises(error, match=re.escape(message)):
            expand(pattern)

    def test_part_of_a_list_that_is_not_there(self, folder):
        with pytest.raises(FileNotFoundError) as error:
            expand("{00000..00020}.tar", "eval.path")
        assert str(error.value) == (
            "eval.path={00000..00020}.tar: 14 of 21 are not there: 00007.tar, 00008.tar, "
            "00009.tar, 00010.tar, 00011.tar, .... Name those that are"
        )

    def test_folder_without_shards(self, folder):
        (folder / "empty").mkdir()
        with pytest.raises(ValueError, match="data.path=empty: the folder empty holds no .tar$"):
            expand("empty")
        (folder / "empty" / "a.tar.gz").touch()
        with pytest.raises(ValueError, match=r"holds no .tar but a\.tar\.gz; a pattern such as"):
            expand("empty")


class TestBucket:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("gs://bucket/a", ["a/0", "a/1"]),
            ("gs://bucket/a/", ["a/0", "a/1"]),
            ("gs://bucket/a/{1,0}.tar", ["a/1", "a/0"]),
            ("gs://bucket/{b,a}/0.tar", ["b/0", "a/0"]),
            ("gs://bucket/*/0.tar", ["a/0", "b/0"]),
            ("gs://bucket/a/**/*.tar", ["a/0", "a/1", "a/deep/2"]),
        ],
    )
    def test_order(self, cloud, pattern, expected):
        paths = [f"gs://bucket/{name}.tar" for name in expected]
        assert [shard.path for shard in expand(pattern)] == paths

    def test_size_and_time(self, cloud):
        before = expand("gs://bucket/b/0.tar")[0]
        assert before.size == len("b/0.tar")
        bucket._put("bucket/b/0.tar", b"b/1.tar")
        after = expand("gs://bucket/b/0.tar")[0]
        assert after.size == before.size and after.mtime_ns > before.mtime_ns

    def test_folder_is_listed_once(self, cloud, monkeypatch):
        for index in range(100):
            bucket._put(f"bucket/many/{index:03}.tar", b"")
        listed = []
        ls = bucket.FileSystem.ls
        monkeypatch.setattr(
            bucket.FileSystem, "ls", lambda self, path, **k: listed.append(path) or ls(self, path)
        )
        assert len(expand("gs://bucket/many/{000..099}.tar")) == 100
        assert listed == ["bucket/many"]

    def test_what_is_not_there(self, cloud):
        with pytest.raises(FileNotFoundError, match=r"1 of 2 are not there: gs://bucket/a/2\.tar"):
            expand("gs://bucket/a/{1,2}.tar")
        with pytest.raises(FileNotFoundError, match="data.path=gs://bucket/c: there is no such"):
            expand("gs://bucket/c")
        with pytest.raises(FileNotFoundError, match=r"gs://bucket/a/\*\.zip: no file matches"):
            expand("gs://bucket/a/*.zip")
        bucket._put("bucket/c/a.zip", b"")
        with pytest.raises(ValueError, match="the folder gs://bucket/c holds no .tar"):
            expand("gs://bucket/c")

    def test_without_the_package(self, monkeypatch):
        monkeypatch.delitem(_registry, "gs", raising=False)
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(ValueError, match=r"gs://b/a\.tar needs .*install -e '\.\[gcs\]'"):
            expand("gs://b/a.tar")

    def refuse(self, monkeypatch, error):
        def ls(self, path, **_):
            raise error

        monkeypatch.setattr(bucket.FileSystem, "ls", ls)

    @pytest.mark.parametrize("kind", ["forbidden", "anonymous", "expired", "no default"])
    def test_without_credentials(self, cloud, monkeypatch, kind):
        if kind == "forbidden":
            error = OSError("Forbidden: bucket/a\nno storage.objects.list access")
        else:
            retry = pytest.importorskip("gcsfs.retry")
            from google.auth import exceptions

            error = {
                "anonymous": retry.HttpError({"code": 401, "message": "Anonymous caller"}),
                "expired": exceptions.RefreshError("reauthenticate"),
                "no default": exceptions.DefaultCredentialsError("no credentials"),
            }[kind]
        self.refuse(monkeypatch, error)
        message = "data.path=gs://bucket/a cannot be read with the credentials .*auth application-d"
        with pytest.raises(ValueError, match=f"(?s){message}"):
            expand("gs://bucket/a")

    def test_network_that_is_down(self, cloud, monkeypatch):
        self.refuse(monkeypatch, ConnectionError("no route"))
        with pytest.raises(OSError, match="data.path=gs://bucket/a cannot be listed: no route"):
            expand("gs://bucket/a")

    def test_range(self, cloud):
        reader = pickle.loads(pickle.dumps(Reader()))
        assert reader.read("gs://bucket/a/deep/2.tar", 2, 4) == b"deep"

    def test_range_is_tried_again(self, cloud, monkeypatch, impatient):
        cat, fail = bucket.FileSystem.cat_file, [ConnectionError("reset"), TimeoutError("slow")]

        def cat_file(self, path, start, end):
            if fail:
                raise fail.pop()
            return cat(self, path, start, end)

        monkeypatch.setattr(bucket.FileSystem, "cat_file", cat_file)
        assert Reader().read("gs://bucket/a/0.tar", 0, 1) == b"a"
        assert impatient == [0.1, 0.2]
        fail.extend([ConnectionError("reset")] * 5)
        with pytest.raises(OSError, match=r"a/0\.tar, bytes 0 to 1: cannot be read: reset"):
            Reader().read("gs://bucket/a/0.tar", 0, 1)
        assert impatient == [0.1, 0.2] + [0.1, 0.2, 0.4, 0.8]
        fail.append(OSError("Forbidden: bucket/a/0.tar"))
        with pytest.raises(OSError, match="Forbidden"):
            Reader().read("gs://bucket/a/0.tar", 0, 1)
        assert len(impatient) == 6


class TestReader:
    def test_ranges(self, tmp_path):
        path = tmp_path / "a.tar"
        path.write_bytes(bytes(range(200)))
        assert Reader().read(str(path), 10, 5) == bytes(range(10, 15))

    def test_file_that_shrank(self, tmp_path, impatient):
        path = tmp_path / "a.tar"
        path.write_bytes(bytes(100))
        message = r"a\.tar ends at byte 100, within what should be bytes 90 to 110: it has changed"
        with pytest.raises(OSError, match=message):
            Reader().read(str(path), 90, 20)

    def test_file_that_is_gone(self, tmp_path, impatient):
        with pytest.raises(OSError, match=r"a\.tar, bytes 0 to 5: cannot be read: .*No such file"):
            Reader().read(str(tmp_path / "a.tar"), 0, 5)
        assert not impatient  # it will not come back

    def test_disk_that_stumbles(self, tmp_path, monkeypatch, impatient):
        path, fail, pread = tmp_path / "a.tar", [5, 116], os.pread  # EIO, ESTALE
        path.write_bytes(b"12345")

        def stumble(*arguments):
            if fail:
                raise OSError(fail.pop(), "stumbled")
            return pread(*arguments)

        monkeypatch.setattr(os, "pread", stumble)
        assert Reader().read(str(path), 1, 3) == b"234"
        assert len(impatient) == 2

    def test_few_files_stay_open(self, tmp_path):
        def count():
            links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
            return sum(
                os.path.lexists(link) and str(tmp_path) in os.readlink(link) for link in links
            )

        reader = Reader(max_open=3)
        for index in range(10):
            (tmp_path / f"{index}.tar").write_bytes(b"%d" % index)
        for index in [*range(10), 0, 9]:
            assert reader.read(str(tmp_path / f"{index}.tar"), 0, 1) == b"%d" % index
        assert count() == 3
        del reader
        assert count() == 0

    def test_many_threads(self, tmp_path):
        """Every range is right although files are closed for others all the time."""
        reader, wrong = Reader(max_open=2), []
        for index in range(8):
            (tmp_path / f"{index}.tar").write_bytes(bytes([index]) * 1000)

        def work(seed):
            for step in range(300):
                index = (seed + step) % 8
                data = reader.read(str(tmp_path / f"{index}.tar"), step, 10)
                if data != bytes([index]) * 10:
                    wrong.append((seed, step))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
