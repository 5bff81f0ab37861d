"""The pack command on real sources: what it writes, stopping and going on, bad input."""

import hashlib
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import pytest

from helpers import disks
from helpers.formats import config, jpeg
from unitok_jax.data.records import LabelledSource
from unitok_jax.data.sources import open_source
from unitok_jax.data.text import TextTokenizer
from unitok_jax.data.writing import packing
from unitok_jax.data.writing.folders import PARTIAL

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


def make_images(folder, count, bad=()):
    """Captioned images; those in `bad` are cut."""
    folder.mkdir(parents=True)
    for index in range(count):
        image = jpeg(index)
        (folder / f"{index:04}.jpg").write_bytes(image[:300] if index in bad else image)
        (folder / f"{index:04}.txt").write_text(f"picture {index}\nnumber {index}\n")
    return folder


def command(path, output, *more, source="folder"):
    return [
        *(sys.executable, "-m", "unitok_jax", "data", "pack", "--config=configs/tiny.py"),
        *(f"--config.data.source={source}", f"--config.data.path={path}", f"--output={output}"),
        *("--workers=1", "--shard_size=4", *more),
    ]


def run(*arguments, **kwargs):
    """Exit code, what is printed, and errors without the progress."""
    options = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 120} | kwargs
    done = subprocess.run(arguments, **options)
    return done.returncode, done.stdout, done.stderr.rpartition("sample/s]")[2].lstrip()


def packed(output, **kwargs):
    return open_source(config("array_record", output), **kwargs)


def records(source):
    return [source[i] for i in range(len(source))]


def hashes(output):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in output.iterdir()}


def test_every_record_as_the_source_has_it(tmp_path):
    folder, output = make_images(tmp_path / "in", 10), tmp_path / "out"
    code, printed, _ = run(*command(folder, output))
    assert (code, printed) == (0, f"10 samples in 3 files in {output}\n")
    assert records(packed(output)) == records(open_source(config("folder", folder)))
    assert packed(output).shapes().tolist() == [[16, 20]] * 10
    manifest = json.loads((output / "manifest.json").read_text())
    assert (manifest["count"], manifest["skipped"]) == (10, {})
    assert [shard["count"] for shard in manifest["shards"]] == [4, 4, 2]
    found = hashes(output)
    assert all(shard["sha256"] == found[shard["file"]] for shard in manifest["shards"])
    assert manifest["settings"]["data.path"] == str(folder)


def test_again_and_with_other_workers_the_same_bytes(tmp_path):
    folder, output = make_images(tmp_path / "in", 10), tmp_path / "out"
    assert run(*command(folder, output))[0] == 0
    before = hashes(output), (output / "000001.array_record").stat().st_mtime_ns
    assert run(*command(folder, output))[0] == 0
    assert before == (hashes(output), (output / "000001.array_record").stat().st_mtime_ns)
    assert run(*command(folder, tmp_path / "other", "--workers=2"))[0] == 0
    assert hashes(tmp_path / "other") == before[0]


def test_a_folder_of_an_earlier_version_gets_the_shapes_of_its_images(tmp_path):
    """By the same command, which leaves its records as they are; shards are of any sizes."""
    folder, output = make_images(tmp_path / "in", 10, bad=(2,)), tmp_path / "out"
    (folder / "0001.jpg").write_bytes(jpeg(1, (64, 48)))
    assert run(*command(folder, output, "--check", "--config.data.max_bad=1"))[0] == 0
    wanted = [[16, 20], [48, 64]] + [[16, 20]] * 7
    assert packed(output).shapes().tolist() == wanted
    before = hashes(output)
    (output / "shapes.int32").unlink()
    for facts in output.glob("00*.json"):
        content = json.loads(facts.read_text())
        del content["shapes"]
        facts.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="earlier version: give its unitok data pack command ag"):
        packed(output).shapes()
    assert run(*command(folder, output, "--check", "--config.data.max_bad=1"))[0] == 0
    assert hashes(output) == before


def test_shards_that_are_not_whole_are_written_again(tmp_path):
    folder, output = make_images(tmp_path / "in", 14), tmp_path / "out"
    assert run(*command(folder, output))[0] == 0
    before = hashes(output)
    for name in ("000000.json", "000002.array_record", "manifest.json"):
        (output / name).unlink()
    with open(output / "000001.array_record", "ab") as file:
        file.truncate(66_000)
    (output / f"000002.array_record.0123456789ab{PARTIAL}").write_bytes(b"half")
    assert run(*command(folder, output))[0] == 0
    assert hashes(output) == before


@pytest.mark.long
def test_killed_and_continued(tmp_path):
    folder, output = make_images(tmp_path / "in", 400), tmp_path / "out"
    arguments = command(folder, output, "--shard_size=1", "--check")
    process = subprocess.Popen(
        arguments, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    facts = output / "000010.json"
    deadline = time.monotonic() + 60
    while not facts.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while _group(process.pid) and time.monotonic() < deadline:  # workers end with their parent
        time.sleep(0.05)
    assert not _group(process.pid)
    assert facts.exists() and not (output / "manifest.json").exists()
    before = {p: p.stat().st_mtime_ns for p in output.glob("*.json") if p.name[0] == "0"}
    assert 11 <= len(before) < 400
    with pytest.raises(ValueError, match="has not ended; give the same command again"):
        packed(output)
    assert run(*arguments)[0] == 0
    assert all(p.stat().st_mtime_ns == modified for p, modified in before.items())
    assert not list(output.glob(f"*{PARTIAL}"))
    assert records(packed(output)) == records(open_source(config("folder", folder)))


@pytest.mark.long
def test_interrupted_and_continued(tmp_path):
    folder, output = make_images(tmp_path / "in", 400), tmp_path / "out"
    arguments = command(folder, output, "--shard_size=1", "--check")
    process = subprocess.Popen(
        arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    facts = output / "000010.json"
    deadline = time.monotonic() + 60
    while not facts.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "interrupted; the same command continues\n"
    assert process.returncode == 130 and not (output / "manifest.json").exists()
    assert run(*arguments)[0] == 0
    assert records(packed(output)) == records(open_source(config("folder", folder)))


def _group(leader):
    """Whether a process of the group of `leader` lives."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = stat.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == leader and state != "Z":
            return True
    return False


def test_bad_images_are_left_out_and_told(tmp_path):
    folder, output = make_images(tmp_path / "in", 10, bad=(2, 5)), tmp_path / "out"
    (folder / "0003.jpg").write_bytes(b"")
    arguments = command(folder, output, "--check", "--config.data.max_bad=0.2")
    code, _, error = run(*arguments)
    assert code == 1
    assert "3 of 10 samples cannot be used, more than data.max_bad=0.2 allows:" in error
    assert "2 damaged: 0002.jpg" in error and "1 empty: 0003.jpg" in error
    assert not (output / "manifest.json").exists()
    shards = {name: digest for name, digest in hashes(output).items() if "array" in name}
    code, printed, told = run(*arguments, "--config.data.max_bad=0.3")
    assert code == 0 and "7 samples in 3 files" in printed and "3 left out:\n  2 damaged" in told
    assert shards == {name: digest for name, digest in hashes(output).items() if "array" in name}
    names = [record["name"] for record in records(packed(output))]
    assert names == [f"{i:04}.jpg" for i in (0, 1, 4, 6, 7, 8, 9)]
    skipped = json.loads((output / "manifest.json").read_text())["skipped"]
    assert {reason: found["count"] for reason, found in skipped.items()} == {
        "damaged": 2,
        "empty": 1,
    }


def test_without_check_bad_images_stay(tmp_path):
    folder, output = make_images(tmp_path / "in", 5, bad=(2,)), tmp_path / "out"
    assert run(*command(folder, output))[0] == 0
    assert len(packed(output)) == 5


def test_a_shard_may_be_empty(tmp_path):
    folder = make_images(tmp_path / "in", 12, bad=range(4, 8))
    arguments = command(folder, tmp_path / "out", "--check", "--config.data.max_bad=0.5")
    assert run(*arguments)[0] == 0
    assert [record["name"] for record in records(packed(tmp_path / "out"))][3:5] == [
        "0003.jpg",
        "0008.jpg",
    ]


def test_unreadable_file_is_counted(tmp_path):
    folder = make_images(tmp_path / "in", 8)
    (folder / "0003.jpg").unlink()
    (folder / "0003.jpg").symlink_to("nowhere.jpg")
    code, _, told = run(*command(folder, tmp_path / "out", "--config.data.max_bad=0.5"))
    assert code == 0 and "1 unreadable: " in told and "0003.jpg: No such file" in told


def test_a_disk_that_is_away_for_long(tmp_path, monkeypatch):
    """Nothing that it hides is written as bad."""
    source = open_source(config("folder", make_images(tmp_path / "in", 8)))
    settings = {"--shard_size": 8, "--check": True, "samples": 8}
    monkeypatch.setattr(packing, "_job", (source, settings, tmp_path), raising=False)
    with monkeypatch.context() as patch:
        disks.stumble(patch, "0003.jpg", disks.NEVER)
        with pytest.raises(OSError, match="0003.jpg"):
            packing._write_shard(0)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    disks.stumble(monkeypatch, "0003.jpg", 2)
    assert packing._write_shard(0)["count"] == 8


def test_names_that_are_not_utf8(tmp_path):
    folder, name = make_images(tmp_path / "in", 4), os.fsdecode(b"caf\xe9")
    (folder / "0003.jpg").rename(folder / f"{name}.jpg")
    (folder / "0003.txt").rename(folder / f"{name}.txt")
    (folder / f"{name}2.jpg").write_bytes(b"x")
    (folder / f"{name}2.txt").write_text("bad")
    more = ("--check", "--config.data.max_bad=0.5")
    code, _, told = run(*command(folder, tmp_path / "out", *more))
    assert code == 0 and "1 not_an_image: caf" in told
    assert packed(tmp_path / "out")[3]["name"] == f"{name}.jpg"


def test_captions_with_half_a_surrogate_pair(tmp_path):
    """They train as they would from the folder."""
    folder = make_images(tmp_path / "in", 1)
    (folder / "captions.jsonl").write_text(
        '{"file_name": "0000.jpg", "captions": ["a \\ud83d cup", "\\ud83d\\ude00", "\\udce9"]}'
    )
    code, _, error = run(*command(folder, tmp_path / "out"))
    assert code == 0, error
    captions = packed(tmp_path / "out")[0]["captions"]
    assert captions == ("a \ufffd cup", "\U0001f600", "\ufffd")
    tokenize, source = TextTokenizer(), open_source(config("folder", folder))
    assert (tokenize(captions) == tokenize(source[0]["captions"])).all()


def test_the_weights_of_a_mixture_are_told_to_be_lost(tmp_path):
    folder, output = make_images(tmp_path / "in", 4), tmp_path / "out"
    mixture = f"--config.data.mixture=((3.0,'folder','{folder}'),(1.0,'folder','{folder}'))"
    done = subprocess.run(
        command("", output, mixture, source="mixture"), capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and len(packed(output)) == 8
    assert done.stderr.startswith("warning: the weights of data.mixture are not packed\n")


def test_labels_stay(tmp_path):
    for index in range(9):
        (tmp_path / f"in/n{index % 3}").mkdir(parents=True, exist_ok=True)
        content = jpeg(index) if index != 4 else b"x"
        (tmp_path / f"in/n{index % 3}/{index}.jpg").write_bytes(content)
    (tmp_path / "names").write_text("n0 cat\nn1 dog\nn2 cow\n")
    output, named = tmp_path / "out", f"--config.data.captions={tmp_path / 'names'}"
    more = ("--check", "--config.data.max_bad=0.2", named)
    assert run(*command(tmp_path / "in", output, *more, source="labelled"))[0] == 0
    source = packed(output)
    assert isinstance(source, LabelledSource) and source.class_names == ("cat", "dog", "cow")
    for index, record in enumerate(records(source)):
        assert source.label(index) == int(record["name"][1])
        name = source.class_names[source.label(index)]
        assert record["captions"][0] == source.class_templates[0].replace("{}", name)
    assert len(source) == 8


def test_images_without_captions(tmp_path):
    folder = make_images(tmp_path / "in", 4)
    for file in folder.glob("*.txt"):
        file.unlink()
    code, _, error = run(*command(folder, tmp_path / "out"))
    assert code == 2 and "4 of 4 images in data.path=" in error
    assert run(*command(folder, tmp_path / "out", "--norequire_captions"))[0] == 0
    source = packed(tmp_path / "out", require_captions=False)
    assert [record["captions"] for record in records(source)] == [()] * 4


class TestBadInput:
    def test_what_changed_is_named(self, tmp_path):
        folder, output = make_images(tmp_path / "in", 10), tmp_path / "out"
        assert run(*command(folder, output))[0] == 0
        code, _, error = run(*command(folder, output, "--shard_size=5", "--check"))
        assert code == 2 and "--shard_size: 4 before, 5 now\nGive the same" in error
        assert "--check: False before, True now" in error
        (folder / "0000.jpg").write_bytes(jpeg(99))
        code, _, error = run(*command(folder, output))
        assert code == 2 and "other settings or another source" in error
        assert "records: '0000.jpg " in error and "samples" not in error
        (folder / "0009.jpg").unlink()
        code, _, error = run(*command(folder, output))
        assert code == 2 and "samples: 10 before, 9 now" in error

    def test_folder_of_something_else(self, tmp_path):
        folder, output = make_images(tmp_path / "in", 4), tmp_path / "out"
        output.mkdir()
        (output / "thesis.tex").write_text("x")
        code, _, error = run(*command(folder, output))
        assert code == 2 and "is not empty (thesis.tex) and holds no settings.json" in error
        assert [file.name for file in output.iterdir()] == ["thesis.tex"]
        (output / "settings.json").write_text("not JSON")
        code, _, error = run(*command(folder, output))
        assert code == 2 and "settings.json was not written by" in error
        code, _, error = run(*command(folder, output / "thesis.tex"))
        assert code == 2 and "thesis.tex is not a folder" in error

    @pytest.mark.parametrize(
        "more, message",
        [
            (["--ouput=x"], "Unknown command line flag 'ouput'. Did you mean: output"),
            (["--config.data.sourc=x"], "no key 'data.sourc'; near: data.source"),
            (["--config.dta.source=x"], "no key 'dta.source'; near: data.source"),
            (["--config.seed=many"], "--config.seed=many: expected a value of type int"),
            (["--shard_size=0"], "flag --shard_size=0"),
            (["--config.data.max_bad=-1"], "data.max_bad=-1.0 is a share of the samples"),
            (["--workers=0"], "flag --workers=0"),
            (["more"], "unexpected arguments: more"),
            (["--config=configs/none.py"], "configs/none.py"),
            (["--output="], "--output is missing"),
            (["--config.data.source=foldr"], "did you mean 'folder'?"),
            (["--config.data.path=/none"], "data.path=/none: there is no such folder"),
        ],
    )
    def test_flags(self, tmp_path, more, message):
        folder = make_images(tmp_path / "in", 4)
        code, printed, error = run(*command(folder, tmp_path / "out", *more))
        assert (code, printed) == (2, "") and message in error and "Traceback" not in error
        assert not (tmp_path / "out").exists()

    def test_another_product(self, tmp_path):
        for command in ("pack", "preview"):
            output = f"--output={tmp_path / 'out'}"
            given = [sys.executable, "-m", "unitok_jax", "data", command, output]
            code, _, error = run(*given, "--config=configs/generate.py")
            assert code == 2 and error.startswith("error: product=generator: ")

    def test_no_config(self, tmp_path):
        code, _, error = run(
            sys.executable, "-m", "unitok_jax", "data", "pack", f"--output={tmp_path}"
        )
        assert code == 2 and error == "error: --config is missing; for example " + (
            "--config=configs/b16.py\n"
        )

    def test_input_that_proves_wrong_while_writing(self, tmp_path):
        folder, once, output = make_images(tmp_path / "in", 40), tmp_path / "one", tmp_path / "two"
        assert run(*command(folder, once, "--shard_size=1"))[0] == 0
        shards = sorted(once.glob("*.array_record"))
        manifest = json.loads((once / "manifest.json").read_text())
        two = command(folder, tmp_path / "more", "--shard_size=2")
        assert run(*two)[0] == 0
        shards[1].write_bytes((tmp_path / "more/000000.array_record").read_bytes())
        manifest["shards"][1]["bytes"] = shards[1].stat().st_size
        (once / "manifest.json").write_text(json.dumps(manifest))
        code, _, error = run(*command(once, output, "--shard_size=1", source="array_record"))
        assert code == 2 and "holds 2 records, not 1" in error and error.count("\n") == 1

    def test_full_disk(self, tmp_path):
        """A limit of file sizes stands in for it: both end in a failed write."""
        folder, output = make_images(tmp_path / "in", 300), tmp_path / "out"
        code, _, error = run(
            *command(folder, output, "--shard_size=300"),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        )
        assert code == 1 and re.search(rf"{output}/000000\.array_record\.\w+{PARTIAL}: ", error)
        assert "File too large" in error and "Traceback" not in error
        assert [file.name for file in output.iterdir()] == ["settings.json"]  # it took the room
        assert run(*command(folder, output, "--shard_size=300"))[0] == 0
        assert len(packed(output)) == 300

    def test_help(self):
        code, printed, _ = run(sys.executable, "-m", "unitok_jax", "data", "pack", "--help")
        assert code == 0 and "--shard_size" in printed and "data.source=array_record" in printed
