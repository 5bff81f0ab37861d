"""Preview of packed rows: what is read there is what the model gets."""

import pathlib

import numpy as np
import pytest
from PIL import Image

import unitok_jax
from helpers import in_process, language_tokenizers, sequences
from helpers.sequences import CODES, codes_of, data
from unitok_jax.commands import data_preview
from unitok_jax.data.language_tokenizer import LanguageTokenizer
from unitok_jax.multimodal import data as multimodal_data
from unitok_jax.multimodal.packing import fill
from unitok_jax.multimodal.preview import preview, segments, told
from unitok_jax.multimodal.prompt import IMAGE
from unitok_jax.multimodal.rows import expand
from unitok_jax.multimodal.words import shape_tokenizer

ROOT = pathlib.Path(__file__).parents[2]
TOKENIZER = shape_tokenizer()


def test_a_line_of_each_sample():
    said = TOKENIZER.encode("what shape is red?")
    special = TOKENIZER.special
    ids = [special.bos, special.boi, IMAGE, special.eoi, *said, *TOKENIZER.encode("star"), 2]
    asked = expand(ids, [False] * (len(ids) - 2) + [True] * 2, [codes_of(3)], 0)
    ids = [special.bos, *TOKENIZER.encode("a red star"), special.boi, IMAGE, special.eoi, 2]
    drawn = expand(ids, [False] * 4 + [True] * 4, [codes_of(4)], 0)
    row = fill([asked, drawn], length=64, images=3, image_shape=CODES.shape, pad=0)
    assert segments(row, TOKENIZER) == [
        "  1. <bos><boi>[image 0]<eoi>what shape is red ?«star<eos>»",
        "  2. <bos>a red star«<boi>[image 1]<eoi><eos>»",
    ]


def test_an_end_that_is_the_padding_too_is_an_end():
    tokenizer = LanguageTokenizer(language_tokenizers.llama3())
    special = tokenizer.special
    assert special.pad == special.eos
    ids = [special.bos, *tokenizer.encode("a"), special.eos]
    text = expand(ids, [False, *[True] * (len(ids) - 1)], [], special.pad)
    row = fill([text], length=16, images=1, image_shape=CODES.shape, pad=special.pad)
    assert segments(row, tokenizer) == ["  1. <bos>«a<eos>»"]


def test_the_files(tmp_path, capsys):
    folder = str(sequences.shapes(tmp_path / "codes", 24, codes=codes_of))
    section = data((0.5, "draw", folder), (0.5, "questions", folder), group_samples=20)
    packed = multimodal_data.open_data(section, TOKENIZER, CODES)
    seen = []

    def decode(codes):
        seen.append(codes)
        return np.zeros((len(codes), 16, 24, 3), np.uint8)

    def show(**options):
        preview(packed, TOKENIZER, section, 0, tmp_path / "out", **options)
        return (tmp_path / "out" / "rows.txt").read_text()

    text = show(rows=10, decode=decode)
    assert text.count("\nrow ") == 10 and "[image 0]" in text and "«" in text
    printed = capsys.readouterr().out
    assert "% of the places are filled" in printed and f"questions, {folder}" in printed
    assert seen[0].shape[1:] == CODES.shape
    with Image.open(tmp_path / "out" / "sheet.png") as picture:
        assert picture.width > 100
    assert show(rows=10) == text  # again, over the files of before
    assert show(rows=2, start_step=1) != show(rows=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").touch()
    with pytest.raises(ValueError, match="is not empty"):
        preview(packed, TOKENIZER, section, 0, tmp_path / "mine")


def test_rows_from_the_middle_of_a_group(tmp_path, capsys):
    """How full rows are is told of groups whose first row is shown; of none, nothing is."""
    folder = str(sequences.shapes(tmp_path / "codes", 24, codes=codes_of))
    section = data((1.0, "draw", folder), batch_size=2)
    packed = multimodal_data.open_data(section, TOKENIZER, CODES)
    preview(packed, TOKENIZER, section, 0, tmp_path / "out", rows=2, start_step=1)
    assert (tmp_path / "out" / "rows.txt").read_text().count("\nrow ") == 2
    assert "% of the places" not in capsys.readouterr().out


def test_the_number_of_samples_that_fills_the_rows():
    section = data((1.0, "text", "a.jsonl"), length=100, group_rows=4, group_samples=3)
    counts = {"samples": 10, "filled": 400, "places": 800, "part/0": 10, "left_out/no_room": 2}
    counts |= {"left_out/too_long": 3, "skipped/no_text": 4}
    assert told(counts, None, section) == [
        "  50.0% of the places are filled, by samples of 40 on average; 2 of 12 samples found no "
        "room",
        "  data.group_samples=3 for data.group_rows=4; as many as fit are about 10",
        "  100.0% text, a.jsonl",
        "  3 too_long",
        "  4 no_text",
    ]


def arguments_of(folder, output, codebook_shape):
    """Arguments of the command about codes with a grid of 2 x 3."""
    books, entries = codebook_shape
    return [
        f"--config={ROOT / 'configs' / 'multimodal.py'}",
        f"--config.data.mixture=((1.0, 'draw', '{folder}'),)",
        *(f"--config.data.{key}" for key in ("length=64", "group_samples=8", "text=shapes")),
        *(f"--config.model.{key}" for key in (f"num_codebooks={books}", "grid=(2, 3)")),
        f"--config.model.vocab_size={books * entries}",
        f"--output={output}",
    ]


def test_no_sheet(tmp_path, capsys, monkeypatch):
    """The tokenizer is not even looked for."""
    folder = sequences.shapes(tmp_path / "codes", 8, codes=codes_of)
    arguments = arguments_of(folder, tmp_path / "out", CODES[:2])
    code, printed, error = in_process.run(
        *(data_preview, capsys, monkeypatch, *arguments),
        *("--images=0", "--config.data.tokenizer=nowhere"),
    )
    assert code == 0, error
    assert "32 rows from step 0" in printed
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"rows.txt", "settings.json"}


@pytest.mark.slow
def test_the_command(weights, tmp_path, capsys, monkeypatch):
    """Codes of a real tokenizer, so that the sheet shows decoded pictures."""
    tokenizer, path = unitok_jax.load(weights), weights
    settings = dict(
        tokenizer=tokenizer.hash,
        grid=[2, 3],
        num_codebooks=tokenizer.codebook_shape[0],
        codebook_size=tokenizer.codebook_shape[1],
    )
    folder = sequences.shapes(tmp_path / "codes", 8, **settings)
    arguments = arguments_of(folder, tmp_path / "out", tokenizer.codebook_shape) + ["--images=3"]
    code, printed, error = in_process.run(
        data_preview, capsys, monkeypatch, *arguments, f"--config.data.tokenizer={path}"
    )
    assert code == 0, error
    assert "3 rows from step 0" in printed and "of these rows, those to draw in red" in printed
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"rows.txt", "sheet.png"}
    code, _, error = in_process.run(
        data_preview, capsys, monkeypatch, *arguments, "--config.data.text="
    )
    assert code == 2 and error.startswith("error: data.text is empty: name a folder")
    sequences.shapes(tmp_path / "other", 8, **settings | {"tokenizer": "c" * 32})
    arguments[1] = arguments[1].replace("/codes'", "/other'")
    code, _, error = in_process.run(
        data_preview, capsys, monkeypatch, *arguments, f"--config.data.tokenizer={path}"
    )
    assert code == 2 and "and the codes of data.mixture were made by cccc" in error
