"""Folders as they lie on disks, and what is called like a file and is none."""

import contextlib
import os
import re

import pytest

from helpers import formats
from helpers.image_files import make_images
from unitok_jax.data.formats.folders import folder_source
from unitok_jax.data.health import SampleError
from unitok_jax.data.images.transforms import decode_image
from unitok_jax.data.inputs import Inputs
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.sources import open_source


def config(path, **values):
    return formats.config(values.pop("source", "folder"), path, **values)


def special(folder, name, kind):
    """Something that is called like a file and is none."""
    path = folder / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "circle":
        path.symlink_to(path)
    else:
        path.symlink_to(folder / "nothing")


SPECIAL = ["pipe", "device", "circle", "link to nothing"]


class TestSpecialFiles:
    @pytest.mark.parametrize("kind", SPECIAL)
    def test_an_image_is_a_bad_sample(self, tmp_path, kind):
        make_images(tmp_path, "a.png", "c.png")
        special(tmp_path, "b.jpg", kind)
        source = folder_source(str(tmp_path), require_captions=False)
        assert source.names == ["a.png", "b.jpg", "c.png"]
        with pytest.raises(SampleError, match=r"b\.jpg: ") as error:
            source[1]
        assert error.value.reason == "unreadable"
        assert Inputs(tmp_path).names == ["a", "b", "c"]
        with pytest.raises(SampleError, match=r"b\.jpg: "):
            Inputs(tmp_path).image(1, (16, 16))

    @pytest.mark.parametrize("kind", SPECIAL[:2])
    def test_training_goes_on_and_counts_it(self, tmp_path, kind):
        make_images(tmp_path, *(f"{i}.png" for i in range(3)))
        special(tmp_path, "3.png", kind)
        for i in range(4):
            (tmp_path / f"{i}.txt").write_text("a caption")
        data = config(tmp_path, batch_size=4)
        with contextlib.closing(train_batches(data, 0)) as batches:
            assert next(batches)["image"].shape == (4, 16, 16, 3)
            assert batches.health.new_counts()["skipped/unreadable"] == 1

    @pytest.mark.parametrize("kind", SPECIAL)
    def test_a_text_beside_an_image(self, tmp_path, kind):
        make_images(tmp_path, "a.png")
        special(tmp_path, "a.txt", kind)
        if kind == "link to nothing":
            with pytest.raises(ValueError, match=r"1 of 1 images .* have no caption: a\.png"):
                open_source(config(tmp_path))
        else:
            with pytest.raises(SampleError, match=r"a\.txt"):
                open_source(config(tmp_path))[0]

    @pytest.mark.parametrize("kind", SPECIAL)
    @pytest.mark.parametrize("name", ["captions.jsonl", "metadata.csv"])
    def test_a_table_of_captions(self, tmp_path, kind, name):
        make_images(tmp_path, "a.png")
        special(tmp_path, name, kind)
        with pytest.raises(OSError, match=re.escape(name)):
            open_source(config(tmp_path))
        with pytest.raises((OSError, ValueError), match=rf"data\.captions=.*{re.escape(name)}"):
            open_source(config(tmp_path, captions=str(tmp_path / name)))

    def test_an_image_above_the_limit_is_not_read(self, tmp_path):
        make_images(tmp_path, "a.png")
        with open(tmp_path / "b.png", "wb") as file:
            file.truncate(1 << 40)  # a file of holes
        source = folder_source(str(tmp_path), require_captions=False)
        with pytest.raises(
            SampleError, match=r"b\.png: 1099511627776 bytes are more than"
        ) as error:
            source[1]
        assert error.value.reason == "too_large"


class TestFoldersAsTheyLieOnDisks:
    def test_what_systems_and_tools_leave(self, tmp_path):
        make_images(tmp_path, "x.jpg/y.PNG", "B.JpEg", ".ipynb_checkpoints/a.png", ".cache/a.png")
        for name in ("Thumbs.db", ".DS_Store", "._B.JpEg", "desktop.ini", "B.txt.bak"):
            (tmp_path / name).write_bytes(b"\0")
        source = folder_source(str(tmp_path), require_captions=False)
        assert source.names == ["B.JpEg", "x.jpg/y.PNG"]

    def test_links_in_circles(self, tmp_path):
        make_images(tmp_path, "a/1.png", "b/2.png")
        (tmp_path / "a/b").symlink_to(tmp_path / "b")
        (tmp_path / "b/a").symlink_to(tmp_path / "a")
        (tmp_path / "c").symlink_to(tmp_path / "c")
        found = folder_source(str(tmp_path), require_captions=False).names
        assert found == ["a/1.png", "a/b/2.png"]

    def test_a_folder_that_cannot_be_searched_is_told(self, tmp_path, monkeypatch, caplog):
        make_images(tmp_path, "a.png", "closed/b.png")
        scandir = os.scandir

        def closed(path):
            if str(path).endswith("closed"):
                raise PermissionError(13, "Permission denied", path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", closed)  # root may look everywhere
        source = folder_source(str(tmp_path), require_captions=False)
        assert source.names == ["a.png"]
        assert "closed is left out: Permission denied" in caplog.text
        with pytest.raises(PermissionError):
            folder_source(str(tmp_path / "closed"), require_captions=False)

    def test_names_that_are_not_utf8(self, tmp_path):
        make_images(tmp_path, os.fsdecode(b"caf\xe9.png"))
        with pytest.raises(ValueError, match=r"have no caption: caf\\xe9\.png\. Add") as error:
            open_source(config(tmp_path))
        str(error.value).encode()
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("coffee")
        source = open_source(config(tmp_path))
        assert source[0]["captions"] == ("coffee",)
        with pytest.raises(SampleError, match=r"caf\\xe9\.png") as error:
            decode_image(b"", source[0]["name"])
        str(error.value).encode()

    def test_one_stem_twice(self, tmp_path):
        make_images(tmp_path, "a.jpg", "a.png", "a.png.webp", "b.png")
        assert Inputs(tmp_path).names == ["a.jpg", "a.png", "a.png.webp", "b"]
        (tmp_path / "a.png.webp").unlink()
        assert Inputs(tmp_path).names == ["a.jpg", "a.png", "b"]

    def test_inputs_read_no_captions(self, tmp_path):
        make_images(tmp_path, "a.png")
        (tmp_path / "captions.jsonl").write_text("none")
        assert Inputs(tmp_path).names == ["a"]

    def test_inputs_without_images(self, tmp_path):
        with pytest.raises(ValueError, match=r"--data=.* holds no images \(\.jpg"):
            Inputs(tmp_path)


class TestAnotherFormat:
    def test_the_error_says_which_source_reads_it(self, tmp_path):
        (tmp_path / "0.tar").write_bytes(b"")
        for source in ("folder", "labelled"):
            with pytest.raises(ValueError, match=r"\. It holds tars: set data\.source=tar$"):
                open_source(config(tmp_path, source=source))
            with pytest.raises(NotADirectoryError, match="It names tars: set data.source=tar"):
                open_source(config(tmp_path / "0.tar", source=source))
            with pytest.raises(FileNotFoundError, match="It names tars: set data.source=tar"):
                open_source(config(tmp_path / "{0..9}.tar", source=source))
