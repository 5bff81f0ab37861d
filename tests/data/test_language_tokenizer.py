"""Tokenizers of language models: ids of text, special ids by name, and folders that are refused."""

import json
import pickle

import pytest

from helpers import language_tokenizers as made_here
from helpers.language_tokenizers import made, save
from unitok_jax.data import language_tokenizer
from unitok_jax.data.language_tokenizer import (
    FILE,
    NAMED,
    SETTINGS,
    TEMPLATE,
    LanguageTokenizer,
    read,
    write,
)

KINDS = {
    "llama2": made_here.llama2,
    "llama3": made_here.llama3,
    "chatml": made_here.chatml,
    "words": made_here.words,
}
HOSTILE = (
    "the circle </s> <s> <0x00> <|im_end|> <|eot_id|> <|reserved_special_token_0|> \x00\x01 red"
)


def refused(call, *arguments, **options):
    """The one line that a call is refused with."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        call(*arguments, **options)
    assert len(str(error.value).splitlines()) == 1, error.value
    return str(error.value)


def changed(files, **settings):
    """Files with other settings; a key of None is left out."""
    found = json.loads(files[SETTINGS]) | settings
    found = {key: value for key, value in found.items() if value is not ...}
    return files | {SETTINGS: json.dumps(found).encode()}


class TestSpecialIds:
    """Who stands for what, family by family."""

    def test_llama2_has_those_of_the_release(self):
        special = made(made_here.llama2()).special
        assert special == (1, 2, 0, 3, 4)
        assert special.start == (1,)

    def test_llama3_has_reserved_ones(self):
        tokenizer = made(made_here.llama3())
        special = tokenizer.special
        assert tokenizer.id_of("<|reserved_special_token_0|>") == special.boi
        assert tokenizer.id_of("<|reserved_special_token_1|>") == special.eoi
        assert (special.bos, special.eos) == tuple(
            map(tokenizer.id_of, ("<|begin_of_text|>", "<|eot_id|>"))
        )
        assert special.pad == special.eos  # it names none, and padding is masked

    def test_qwen_has_no_begin_of_a_row_and_its_own_of_images(self):
        pair = ("<|vision_start|>", "<|vision_end|>")
        tokenizer = made(made_here.chatml(*pair))
        assert tokenizer.special.bos is None
        assert tokenizer.special.start == ()
        assert tokenizer.special[3:] == tuple(map(tokenizer.id_of, pair))
        assert tokenizer.special.pad == tokenizer.id_of("<|endoftext|>")
        assert tokenizer.rows == tokenizer.size

    @pytest.mark.parametrize("spare, rows", [(None, 2), (0, 2), (1, 2), (2, 2), (50, 50)])
    def test_without_reserved_ones_rows_behind_the_vocabulary_are_taken_or_added(self, spare, rows):
        size = made(made_here.chatml()).size
        given = None if spare is None else size + spare
        tokenizer = made(made_here.chatml(), rows=given)
        assert tokenizer.special[3:] == (size, size + 1)
        assert tokenizer.rows == size + rows
        assert tokenizer.size == size

    def test_a_vocabulary_of_words_names_its_own(self):
        assert made(made_here.words()).special == (None, 1, 0, 2, 3)

    def test_config_json_names_those_that_the_settings_do_not(self):
        files = {FILE: made_here.llama2()[FILE]}
        assert made(files, ids={"bos": 1, "eos": 2}).special == (1, 2, 2, 3, 4)
        assert made(files, ids={"eos": 2, "pad": 0}).special == (None, 2, 0, 3, 4)
        told = made(made_here.chatml(), ids={"bos": 7, "eos": 8})
        assert (told.special.bos, told.special.eos) == (None, told.id_of("<|im_end|>"))

    def test_a_token_may_be_an_object(self):
        files = changed(made_here.llama2(), eos_token={"content": "</s>", "lstrip": False})
        assert made(files).special == made(made_here.llama2()).special

    def test_given_ones_are_taken(self):
        llama3 = made(made_here.llama3(), boi=333, eoi=332)
        assert llama3.special[3:] == (333, 332)
        files = made_here.chatml()
        size = made(files).size
        assert made(files, rows=size + 9, boi=size + 7, eoi=size + 3).special[3:] == (
            size + 7,
            size + 3,
        )
        assert made(files, boi=size + 1, eoi=size).rows == size + 2

    def test_an_id_in_use_is_refused(self):
        files = made_here.llama2()
        word = made(files).encode("circle")[-1]
        assert "boi=2 is in use: it is eos" in refused(made, files, boi=2)
        assert "eoi=0 is in use: it is pad" in refused(made, files, eoi=0)
        assert "eoi=3 is in use: it is boi" in refused(made, files, eoi=3)
        assert f"boi={word} is in use: it is the token '" in refused(made, files, boi=word)
        newline = made(files).id_of("<0x0A>")
        assert "in use: it is the token '<0x0A>'" in refused(made, files, eoi=newline)
        files = made_here.chatml()
        start = made(files).id_of("<|im_start|>")
        assert "in use: it is <|im_start|>" in refused(made, files, boi=start)
        for number in (-1, 10**6, 3.0, True, made(files).size + 2):
            assert "must be an id below" in refused(made, files, boi=number)

    def test_a_row_that_ends_nowhere_is_refused(self):
        assert "names no end of text" in refused(made, {FILE: made_here.llama2()[FILE]})
        message = refused(made, changed(made_here.llama2(), eos_token="<end>"))
        assert "no eos_token '<end>'" in message
        assert "no id 999, which eos_token_id names" in refused(
            made, {FILE: made_here.llama2()[FILE]}, ids={"eos": 999}
        )
        assert "must be a token's name" in refused(made, changed(made_here.llama2(), eos_token=2))


@pytest.mark.parametrize("kind", KINDS)
class TestText:
    def test_ids_are_decoded_to_the_text(self, kind):
        tokenizer = made(KINDS[kind]())
        text = "how many shapes are there"
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode("") == []
        assert tokenizer.decode([]) == ""

    def test_text_never_has_special_ids(self, kind):
        tokenizer = made(KINDS[kind]())
        special = set(tokenizer.special) - {tokenizer.special.pad}
        for text in (HOSTILE, "<boi> <eoi> <eos>", *filter(None, map(str, special))):
            assert not special & set(tokenizer.encode(text))

    def test_special_ids_and_rows_without_a_token_are_not_shown(self, kind):
        tokenizer = made(KINDS[kind]())
        ids = tokenizer.encode("three shapes")
        special = [number for number in tokenizer.special if number is not None]
        assert tokenizer.decode([*special, *ids, -200, 10**6, *special]) == "three shapes"

    def test_spans_are_the_characters(self, kind):
        tokenizer, text = made(KINDS[kind]()), "a blue square?"
        spans = tokenizer.spans(text)
        assert [number for number, _ in spans] == tokenizer.encode(text)
        covered = {i for _, (first, last) in spans for i in range(first, last)}
        assert covered >= {i for i, c in enumerate(text) if c != " "}

    def test_a_copy_in_another_process_is_the_same(self, kind):
        tokenizer = made(KINDS[kind](), boi=None, rows=1000)
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.encode(HOSTILE) == tokenizer.encode(HOSTILE)
        assert (copy.special, copy.rows, copy.hash) == (
            tokenizer.special,
            tokenizer.rows,
            tokenizer.hash,
        )


def test_begin_and_end_are_not_added():
    tokenizer = made(made_here.llama2())
    assert tokenizer._tokenizer.encode("a").ids[0] == 1  # the file's own rule adds one
    assert 1 not in tokenizer.encode("a")
    assert tokenizer.end == "</s>"


def test_truncation_and_padding_of_the_file_are_not_used():
    content = json.loads(made_here.words()[FILE])
    content["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    content["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    files = made_here.words() | {FILE: json.dumps(content).encode()}
    assert made(files).encode("the circle is red") == made(made_here.words()).encode(
        "the circle is red"
    )


def test_halves_of_characters_are_replaced():
    tokenizer = made(made_here.chatml())
    assert tokenizer.decode(tokenizer.encode("a \ud83d b")) == "a \ufffd b"
    with pytest.raises(TypeError, match="must be str"):
        tokenizer.encode(None)


def test_the_hash_tells_vocabularies_and_special_ids_apart():
    files = made_here.llama3()
    found = [made(of).hash for of in (files, made_here.llama2(), made_here.chatml())]
    found.append(made(files, boi=333, eoi=332).hash)
    assert len(set(found)) == 4
    assert made(files, rows=5000).hash == found[0]


class TestFolders:
    def test_files_are_read_and_kept(self, tmp_path):
        folder = save(tmp_path / "x", made_here.llama3() | {"config.json": b"{}"})
        tokenizer = read(folder, rows=400)
        assert tokenizer.files == made_here.llama3() | {NAMED: tokenizer.files[NAMED]}
        assert tokenizer.special == made(made_here.llama3()).special
        assert isinstance(tokenizer, LanguageTokenizer)

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_written_is_read_as_the_same(self, tmp_path, kind):
        tokenizer = made(KINDS[kind](), rows=1000, boi=998, eoi=997)
        write(tmp_path, tokenizer)
        again = read(tmp_path, rows=1000)
        assert again.special == tokenizer.special
        assert again.special[3:] == (998, 997)
        assert (again.hash, again.files) == (tokenizer.hash, tokenizer.files)
        assert again.encode(HOSTILE) == tokenizer.encode(HOSTILE)
        assert read(tmp_path, rows=1000, boi=996).special[3:] == (996, 997)

    @pytest.mark.parametrize(
        "content", ["{", "[]", '{"eos": "a"}', '{"eos": [2]}', '{"eos": 2, "boi": "x"}']
    )
    def test_damaged_named_ids_are_refused(self, tmp_path, content):
        folder = save(tmp_path / "x", made_here.llama2() | {NAMED: content.encode()})
        refused(read, folder)

    def test_the_template_is_in_a_file_or_the_settings(self, tmp_path):
        files = changed(made_here.llama2(), chat_template="in settings")
        assert read(save(tmp_path / "a", files)).chat_template == "in settings"
        files |= {TEMPLATE: b"in a file"}
        assert read(save(tmp_path / "b", files)).chat_template == "in a file"
        several = [{"name": "tools", "template": "x"}, {"name": "default", "template": "y"}, 3]
        assert made(changed(made_here.llama2(), chat_template=several)).chat_template == "y"
        assert made(changed(made_here.llama2(), chat_template=7)).chat_template == ""
        assert made(made_here.llama2()).chat_template == ""

    def test_a_folder_without_a_tokenizer_is_refused(self, tmp_path):
        message = refused(read, tmp_path)
        assert f"{tmp_path} holds no tokenizer.json: give a folder that has it" in message
        (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e")
        assert "of SentencePiece, is not read" in refused(read, tmp_path)

    def test_a_vocabulary_larger_than_the_embeddings_is_refused(self, tmp_path):
        folder = save(tmp_path / "x", made_here.llama2())
        size = read(folder).size
        message = refused(read, folder, rows=size - 1)
        assert f"{folder}/tokenizer.json has {size} ids" in message
        assert f"embeddings {size - 1} rows" in message
        assert read(folder, rows=size).rows == size

    def test_code_of_a_folder_is_refused(self, tmp_path):
        folder = save(tmp_path / "x", changed(made_here.llama2(), auto_map={"AutoTokenizer": "a"}))
        assert "auto_map asks for code of the folder" in refused(read, folder)

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"{}", b"[]", b"\xff\xfe", b'{"version": "1.0", "model": {"type": "BPE"}}'],
    )
    def test_a_damaged_file_is_refused(self, tmp_path, content):
        folder = save(tmp_path / "x", made_here.llama2() | {FILE: content})
        assert "is not a tokenizer that can be read" in refused(read, folder)

    def test_a_vocabulary_that_fails_on_unknown_words_is_refused(self):
        content = json.loads(made_here.words()[FILE])
        content["model"]["unk_token"] = "<none>"
        message = refused(made, made_here.words() | {FILE: json.dumps(content).encode()})
        assert "is not a tokenizer that can be read: WordLevel error" in message

    def test_a_panic_of_the_library_is_an_error_like_others(self):
        content = json.loads(made_here.llama2()[FILE])
        content["model"]["continuing_subword_prefix"] = "a prefix longer than any token of it"
        message = refused(made, made_here.llama2() | {FILE: json.dumps(content).encode()})
        assert "is not a tokenizer that can be read" in message

    def test_an_empty_vocabulary_is_refused(self):
        model = {"type": "BPE", "vocab": {}, "merges": []}
        content = json.dumps({"version": "1.0", "model": model}).encode()
        assert "empty vocabulary" in refused(made, {FILE: content})

    def test_a_file_that_is_too_large_is_not_read(self, tmp_path, monkeypatch):
        monkeypatch.setitem(language_tokenizer._MOST, SETTINGS, 10)
        folder = save(tmp_path / "x", made_here.llama2())
        assert "are more than 10" in refused(read, folder)

    def test_settings_that_are_no_object_are_refused(self, tmp_path):
        folder = save(tmp_path / "x", made_here.llama2() | {SETTINGS: b"[]"})
        assert "tokenizer_config.json: expected a JSON object" in refused(read, folder)
