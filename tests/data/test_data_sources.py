"""Folders, caption files and the built-in photographs."""

import pickle
import re
import subprocess
import sys

import ml_collections
import pytest

from helpers import formats
from helpers.image_files import make_images
from unitok_jax.data.formats import photos
from unitok_jax.data.formats.folders import IMAGE_SUFFIXES, MAX_LINE_BYTES, folder_source
from unitok_jax.data.health import SampleError
from unitok_jax.data.images.transforms import decode_image
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.sources import (
    SOURCES,
    check_no_class,
    check_outside,
    check_outside_data,
    open_source,
)
from unitok_jax.data.text import TextTokenizer


def config(**values):
    return ml_collections.ConfigDict({"source": "folder", "path": "", "captions": "", **values})


def records(source):
    return {source[i]["name"]: source[i]["captions"] for i in range(len(source))}


class TestOutputsAmongImages:
    @pytest.mark.parametrize("source", ["", "folder", "labelled"])
    def test_are_refused(self, tmp_path, source):
        (tmp_path / "link").symlink_to(tmp_path)
        for output in (tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "link" / "a"):
            with pytest.raises(ValueError, match=f"--output=.* is in --data={tmp_path}, where"):
                check_outside(output, "--output", [("--data", source, str(tmp_path))])

    def test_others_are_not(self, tmp_path):
        (tmp_path / "a.png").touch()
        inside, beside = tmp_path / "a" / "out", tmp_path / "b"
        for output, source, path in (
            (beside, "folder", tmp_path / "a"),
            (inside, "tar", tmp_path / "{00..01}.tar"),
            (inside, "", tmp_path / "a.png"),
            (inside, "photos", ""),
            (tmp_path / ".hidden" / "out", "folder", tmp_path),
            ("gs://bucket/run", "folder", tmp_path),
            (inside, "folder", "gs://bucket/images"),
        ):
            check_outside(output, "--output", [("--data", source, str(path))])

    def test_a_folder_beside_classes_would_be_one(self, tmp_path):
        data = config(source="labelled", path=str(tmp_path))
        with pytest.raises(ValueError, match=f"--output=.* is in data.path={tmp_path}, where"):
            check_no_class(tmp_path / "packed", "--output", data)
        data.source = "folder"  # shards are no images
        check_no_class(tmp_path / "packed", "--output", data)

    def test_parts_of_a_mixture(self, tmp_path):
        data = config(source="mixture", mixture=(3, (1.0, "photos", ""), (1.0, "folder", "")))
        keys = ml_collections.ConfigDict({"data": data, "eval": {"every": 1}})
        check_outside_data(tmp_path / "run", "--workdir", keys)
        data.mixture = (*data.mixture[:2], (1.0, "folder", str(tmp_path)))
        with pytest.raises(ValueError, match=r"--workdir=.* is in data.mixture\[2\]="):
            check_outside_data(tmp_path / "run", "--workdir", keys)


class TestFolder:
    def test_records_come_in_the_order_of_their_names(self, tmp_path):
        make_images(tmp_path, "b.png", "a/z.jpg", "a.webp", "C.JPEG")
        source = folder_source(str(tmp_path), require_captions=False)
        assert [source[i]["name"] for i in range(len(source))] == [
            "C.JPEG",
            "a.webp",
            "a/z.jpg",
            "b.png",
        ]
        assert source[3]["image"] == (tmp_path / "b.png").read_bytes()
        assert source[3]["captions"] == ()

    def test_other_and_hidden_files_are_skipped(self, tmp_path):
        make_images(tmp_path, "a.png", "._a.png", ".cache/b.png")
        (tmp_path / "notes.md").write_text("hello")
        assert list(records(folder_source(str(tmp_path), require_captions=False))) == ["a.png"]

    def test_links_are_followed_once(self, tmp_path):
        make_images(tmp_path, "set/a.png", "elsewhere/b.png")
        (tmp_path / "set" / "more").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
        source = folder_source(str(tmp_path / "set"), require_captions=False)
        assert list(records(source)) == ["a.png", "more/b.png"]

    def test_source_survives_pickling(self, tmp_path):
        make_images(tmp_path, "a.png", "b.png")
        source = folder_source(str(tmp_path), require_captions=False)
        copy = pickle.loads(pickle.dumps(source))
        assert [copy[i] for i in range(2)] == [source[i] for i in range(2)]

    def test_no_path(self):
        with pytest.raises(ValueError, match="data.path is empty: .*--config.data.source=photos"):
            open_source(config())

    def test_path_that_does_not_exist(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="data.path=.*/none: there is no such folder"):
            open_source(config(path=str(tmp_path / "none")))

    def test_path_that_is_a_file(self, tmp_path):
        make_images(tmp_path, "a.png")
        with pytest.raises(NotADirectoryError, match=r"data.path=.*a\.png is not a folder"):
            open_source(config(path=str(tmp_path / "a.png")))

    def test_folder_without_images(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds no images \(\.jpg, \.jpeg, \.png, \.webp\)"):
            open_source(config(path=str(tmp_path)))

    def test_every_suffix_in_both_cases(self, tmp_path):
        names = [f"{i}{case}" for i, s in enumerate(IMAGE_SUFFIXES) for case in (s, s.upper())]
        make_images(tmp_path, *names)
        assert len(folder_source(str(tmp_path), require_captions=False)) == 2 * len(IMAGE_SUFFIXES)


class TestCaptions:
    def test_text_files_have_one_caption_per_line(self, tmp_path):
        make_images(tmp_path, "a.png", "deep/b.jpg")
        (tmp_path / "a.txt").write_text("a first caption\n\n  a second  \n")
        (tmp_path / "deep/b.txt").write_text("\ufeffein Äffchen", encoding="utf-8")
        assert records(open_source(config(path=str(tmp_path)))) == {
            "a.png": ("a first caption", "a second"),
            "deep/b.jpg": ("ein Äffchen",),
        }

    @pytest.mark.parametrize("name_key", ["file_name", "image", "path"])
    @pytest.mark.parametrize("caption_key", ["caption", "text", "captions", "texts"])
    def test_jsonl(self, tmp_path, name_key, caption_key):
        make_images(tmp_path, "a.png", "deep/b.jpg")
        (tmp_path / "captions.jsonl").write_text(
            f'{{"{name_key}": "a.png", "{caption_key}": "one", "url": "x"}}\n\n'
            f'{{"{name_key}": "./deep/b.jpg", "{caption_key}": ["two", " ", "three"]}}\n'
            f'{{"{name_key}": "a.png", "{caption_key}": "four"}}\n'
        )
        assert records(open_source(config(path=str(tmp_path)))) == {
            "a.png": ("one", "four"),
            "deep/b.jpg": ("two", "three"),
        }

    def test_csv(self, tmp_path):
        make_images(tmp_path, "a.png", "b.png")
        (tmp_path / "metadata.csv").write_text(
            '\ufefffile_name,id,text\na.png,1,"one, with a comma"\nb.png,2,two\r\n'
            'a.png,3,"three\nlines"\n',
            encoding="utf-8",
        )
        assert records(open_source(config(path=str(tmp_path)))) == {
            "a.png": ("one, with a comma", "three\nlines"),
            "b.png": ("two",),
        }

    def test_named_file_wins(self, tmp_path):
        make_images(tmp_path, "set/a.png")
        (tmp_path / "set/captions.csv").write_text("image,caption\na.png,inside\n")
        (tmp_path / "mine.jsonl").write_text('{"image": "a.png", "caption": "mine"}\n')
        data = config(path=str(tmp_path / "set"), captions=str(tmp_path / "mine.jsonl"))
        assert records(open_source(data)) == {"a.png": ("mine",)}

    def test_named_file_that_does_not_exist(self, tmp_path):
        make_images(tmp_path, "a.png")
        with pytest.raises(FileNotFoundError, match=r"data.captions=none\.csv: there is no such"):
            open_source(config(path=str(tmp_path), captions="none.csv"))

    def test_named_file_of_another_kind(self, tmp_path):
        make_images(tmp_path, "a.png")
        (tmp_path / "captions.xml").write_text("<a/>")
        with pytest.raises(ValueError, match=r"captions\.xml is not one of \.jsonl, \.csv"):
            open_source(config(path=str(tmp_path), captions=str(tmp_path / "captions.xml")))

    def test_two_files_are_not_chosen_between(self, tmp_path):
        make_images(tmp_path, "a.png")
        (tmp_path / "captions.jsonl").write_text("")
        (tmp_path / "metadata.csv").write_text("")
        with pytest.raises(ValueError, match=r"captions\.jsonl and metadata\.csv: say which one"):
            open_source(config(path=str(tmp_path)))

    def test_captions_of_images_that_are_not_there(self, tmp_path):
        make_images(tmp_path, "a.png")
        lines = [f'{{"image": "x{i}.png", "caption": "c"}}' for i in range(7)]
        (tmp_path / "captions.jsonl").write_text("\n".join(lines))
        message = r"names 7 images that are not in the folder: x0.png, .*x4.png, \.\.\.\. Names are"
        with pytest.raises(ValueError, match=message):
            open_source(config(path=str(tmp_path)))

    def test_images_without_captions(self, tmp_path):
        make_images(tmp_path, *(f"{i}.png" for i in range(8)))
        (tmp_path / "7.txt").write_text("a caption")
        (tmp_path / "6.txt").write_text("\n \n")
        message = r"7 of 8 images in data.path=.* have no caption: 0.png, .*4.png, \.\.\.\. Add"
        with pytest.raises(ValueError, match=message):
            open_source(config(path=str(tmp_path)))
        plain = records(open_source(config(path=str(tmp_path)), require_captions=False))
        assert plain["6.png"] == ()
        assert plain["7.png"] == ("a caption",)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{not json", r"captions\.jsonl, line 2: no JSON that can be read"),
            ("[1, 2]", r"captions\.jsonl, line 2: expected a JSON object, found list"),
            ('{"n": ' + "1" * 5000 + "}", r"captions\.jsonl, line 2: no JSON that can be read"),
            ("[" * 200_000, r"captions\.jsonl, line 2: the JSON is nested too deeply"),
            ('{"caption": "c"}', "line 2: needs exactly one of file_name, image, path; found cap"),
            ('{"image": "a.png"}', "line 2: needs exactly one of caption, text, captions, texts"),
            ('{"image": "a.png", "path": "a.png", "text": "c"}', "line 2: needs exactly one of"),
            ('{"image": 3, "text": "c"}', "line 2: 'image' must be a string, got 3"),
            ('{"image": "a.png", "text": 5}', "line 2: 'text' must be a string or a list of str"),
            ('{"image": "a.png", "texts": ["c", null]}', "line 2: 'texts' must be a string or a"),
        ],
    )
    def test_malformed_jsonl_line_is_named(self, tmp_path, line, message):
        make_images(tmp_path, "a.png")
        good = '{"image": "a.png", "caption": "fine"}'
        (tmp_path / "captions.jsonl").write_text(f"{good}\n{line}\n{good}\n")
        with pytest.raises(ValueError, match=message):
            open_source(config(path=str(tmp_path)))

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            ("", "line 1: needs exactly one of file_name, image, path; found "),
            ("name,caption\na.png,c\n", "line 1: needs exactly one of .*; found name, caption"),
            ("image,caption\na.png\n", "line 2: not the 2 columns of the header"),
            ("image,caption\na.png,red, blue\n", "line 2: .*a caption with a comma needs quotes"),
            ('image,caption\na.png,"open\n', r"line 2: not CSV \(unexpected end of data\)"),
        ],
    )
    def test_malformed_csv_is_named(self, tmp_path, table, message):
        make_images(tmp_path, "a.png")
        (tmp_path / "captions.csv").write_text(table)
        with pytest.raises(ValueError, match=message):
            open_source(config(path=str(tmp_path)))

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("captions.jsonl", b'{"image": "a.png", "caption": "ok"}\n{"caption": "caf\xe9"}\n'),
            ("captions.csv", b"image,caption\na.png,caf\xe9\n"),
            ("captions.csv", b"image,caption\na.png,\xff\xfe\n"),
        ],
    )
    def test_what_is_not_utf8_is_named(self, tmp_path, name, content):
        make_images(tmp_path, "a.png")
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}, line 2: not UTF-8 .*save the file as UTF"):
            open_source(config(path=str(tmp_path)))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"one\ncaf\xe9\n", r"a\.txt, line 2: not UTF-8"),
            ("a cat\n".encode("utf-16"), r"a\.txt, line 1: not UTF-8 but UTF-16; save the file as"),
            (bytes(MAX_LINE_BYTES + 1), rf"a\.txt, line 1: longer than {MAX_LINE_BYTES} bytes"),
        ],
    )
    def test_a_text_that_cannot_be_read_is_one_bad_sample(self, tmp_path, content, message):
        make_images(tmp_path, "a.png", "b.png")
        (tmp_path / "a.txt").write_bytes(content)
        (tmp_path / "b.txt").write_text("fine")
        source = pickle.loads(pickle.dumps(open_source(config(path=str(tmp_path)))))
        for _ in range(2):
            with pytest.raises(SampleError, match=message) as error:
                source[0]
            assert error.value.reason == "bad_caption"
        assert source[1]["captions"] == ("fine",)

    def test_a_field_of_csv_above_the_limit_is_named(self, tmp_path):
        make_images(tmp_path, "a.png")
        (tmp_path / "captions.csv").write_text("image,caption\na.png," + "x" * 200_000 + "\n")
        with pytest.raises(ValueError, match=r"captions\.csv, line 2: not CSV \(field larger than"):
            open_source(config(path=str(tmp_path)))

    def test_a_column_that_comes_twice_is_not_chosen_between(self, tmp_path):
        make_images(tmp_path, "a.png")
        (tmp_path / "captions.csv").write_text("image,caption,caption\na.png,one,two\n")
        with pytest.raises(ValueError, match="line 1: needs exactly one of caption, text"):
            open_source(config(path=str(tmp_path)))

    def test_a_line_without_end_is_named(self, tmp_path):
        make_images(tmp_path, "a.png")
        with open(tmp_path / "captions.jsonl", "wb") as file:
            file.truncate(1 << 34)  # a file of holes
        with pytest.raises(ValueError, match=r"captions\.jsonl, line 1: longer than"):
            open_source(config(path=str(tmp_path)))

    def test_half_of_a_pair_reaches_the_model_as_a_question_mark(self, tmp_path):
        """JSON can hold what UTF-8 cannot, and a NUL as well."""
        make_images(tmp_path, "a.png")
        (tmp_path / "captions.jsonl").write_text('{"image": "a.png", "text": "a \\ud800 b\\u0000"}')
        data = formats.config("folder", tmp_path, batch_size=1)
        (batch,) = formats.take(train_batches(data, 0), 1)
        assert TextTokenizer(8).decode(batch["text"]) == ["a \ufffd b"]


class TestNames:
    @pytest.mark.parametrize(("name", "near"), [("photo", "photos"), ("foldr", "folder")])
    def test_unknown_source_suggests_the_nearest(self, name, near):
        known = ", ".join(SOURCES)
        message = f"data.source='{name}' is not one of {known}; did you mean '{near}'?"
        with pytest.raises(ValueError, match=re.escape(message)):
            open_source(config(source=name))

    def test_unknown_source_without_a_near_one(self):
        with pytest.raises(ValueError, match=f"is not one of {', '.join(SOURCES)}$"):
            open_source(config(source="zzz"))


@pytest.mark.parametrize(
    ("source", "key"), [("photos", "path"), ("photos", "captions"), ("array_record", "captions")]
)
def test_keys_that_a_source_does_not_read(source, key):
    message = f"data.{key}=/a has no meaning for data.source={source}: leave it empty"
    with pytest.raises(ValueError, match=message):
        open_source(config(source=source, **{key: "/a"}))


class TestPhotos:
    def test_every_photo_is_installed_and_decodes(self):
        source = open_source(config(source="photos"))
        assert len(source) == len(photos.CAPTIONS) >= 16
        for index in range(len(source)):
            record = source[index]
            assert min(decode_image(record["image"], record["name"]).shape[:2]) >= 100

    def test_captions_are_several_and_nowhere_twice(self):
        captions = [caption for group in photos.CAPTIONS.values() for caption in group]
        assert len(captions) == len({caption.lower() for caption in captions})
        assert all(4 <= len(group) <= 6 for group in photos.CAPTIONS.values())
        assert all(caption == caption.strip() for caption in captions)

    def test_without_scikit_image(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "skimage", None)  # what an absent package looks like
        with pytest.raises(ImportError, match=r"pip install -e '\.\[photos\]'"):
            open_source(config(source="photos"))


def test_room_imports_neither_jax_nor_other_rooms():
    """Grain itself imports JAX, so the modules below the pipeline are looked at."""
    code = (
        "import sys; from unitok_jax.data import sources, text; "
        "from unitok_jax.data.formats import photos; "
        "from unitok_jax.data.images import transforms; "
        "print(*(m for m in sys.modules if m.split('.')[0] in ('jax', 'flax') "
        "or m.startswith('unitok_jax.') and m.split('.')[1] not in "
        "('codes', 'data', 'pictures', 'system')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr
