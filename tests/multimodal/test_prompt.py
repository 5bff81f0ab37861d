"""Conversations in the words of a family of models, and labels of exactly their answers."""

import json

import numpy as np
import pytest

from helpers import language_tokenizers as made_here
from helpers.language_tokenizers import made
from unitok_jax.data.language_tokenizer import SETTINGS
from unitok_jax.multimodal.prompt import (
    IMAGE,
    TEMPLATES,
    Piece,
    Turn,
    conversation,
    count_images,
    encode,
    end_of,
    template_of,
)

TOKENIZERS = {
    "vicuna": made_here.llama2,
    "llama3": made_here.llama3,
    "chatml": made_here.chatml,
    "plain": made_here.words,
}
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
TWO = (Turn("<image>\nwhat colour is the circle?", "red"), Turn("how many shapes?", "there are 3"))
ASKED = (TWO[0], Turn("how many shapes?"))


def written(turns, template, system=None, **settings):
    """A conversation as one string."""
    files = TOKENIZERS[template]()
    if settings:
        found = json.loads(files[SETTINGS]) | settings
        files = files | {SETTINGS: json.dumps(found).encode()}
    return "".join(map(str, conversation(turns, made(files), template, system)))


class TestWords:
    """Written out by hand, as the templates of the families render them."""

    def test_vicuna(self):
        assert written(TWO, "vicuna") == (
            f"{SYSTEM} USER: <image>\nwhat colour is the circle? ASSISTANT: red</s>"
            "USER: how many shapes? ASSISTANT: there are 3</s>"
        )
        assert written(ASKED, "vicuna", "Be brief.") == (
            "Be brief. USER: <image>\nwhat colour is the circle? ASSISTANT: red</s>"
            "USER: how many shapes? ASSISTANT:"
        )

    def test_llama3(self):
        opened = "<|start_header_id|>{}<|end_header_id|>\n\n{}"
        assert written(TWO, "llama3") == "".join(
            opened.format(role, text) + "<|eot_id|>"
            for role, text in (
                ("user", "<image>\nwhat colour is the circle?"),
                ("assistant", "red"),
                ("user", "how many shapes?"),
                ("assistant", "there are 3"),
            )
        )
        assert written([Turn(" a \n")], "llama3", "\nBe brief. ") == (
            opened.format("system", "Be brief.<|eot_id|>")
            + opened.format("user", "a<|eot_id|>")
            + opened.format("assistant", "")
        )

    def test_chatml(self):
        told = (
            "<|im_start|>user\n<image>\nwhat colour is the circle?<|im_end|>\n"
            "<|im_start|>assistant\nred<|im_end|>\n"
            "<|im_start|>user\nhow many shapes?<|im_end|>\n"
            "<|im_start|>assistant\nthere are 3<|im_end|>\n"
        )
        assert written(TWO, "chatml") == told
        assert written(TWO, "chatml", "Be brief.") == (
            f"<|im_start|>system\nBe brief.<|im_end|>\n{told}"
        )
        assert written(ASKED, "chatml") == told.removesuffix("there are 3<|im_end|>\n")

    @pytest.mark.parametrize(
        "system",
        [
            "You are a helpful assistant.",
            "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        ],
    )
    def test_qwens_own_instruction_comes_first_where_none_is_given(self, system):
        own = f"{{{{ '<|im_start|>system\\n{system}<|im_end|>\\n' }}}}"
        first = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\na"
        assert written([Turn("a")], "chatml", chat_template=own).startswith(first)
        assert written([Turn("a")], "chatml", "", chat_template=own).startswith("<|im_start|>user")
        other = written([Turn("a")], "chatml", "Be brief.", chat_template=own)
        assert other.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")

    def test_plain(self):
        assert written(TWO, "plain") == (
            "<image>\nwhat colour is the circle? red<eos>how many shapes? there are 3<eos>"
        )
        assert written(ASKED, "plain").endswith("red<eos>how many shapes?")

    def test_the_template_follows_from_the_tokenizer(self):
        tokenizers = {name: made(files()) for name, files in TOKENIZERS.items()}
        for name in ("vicuna", "llama3", "chatml"):
            assert template_of(tokenizers[name]) == name
            assert conversation(TWO, tokenizers[name]) == conversation(TWO, tokenizers[name], name)
        ends = {"vicuna": "</s>", "llama3": "<|eot_id|>", "chatml": "<|im_end|>", "plain": "<eos>"}
        for name, end in ends.items():
            assert end_of(tokenizers[name], name) == tokenizers[name].id_of(end)

    def test_what_is_no_conversation_is_refused(self):
        tokenizer = made(made_here.llama2())
        for turns, options, words in (
            ([], {}, "needs a question"),
            ([Turn("a"), Turn("b", "c")], {}, "before the last has no answer"),
            (TWO, {"template": "vicunia"}, "template='vicunia' is not one of vicuna, llama3"),
            (TWO, {"template": "chatml"}, "the tokenizer has no <|im_start|>"),
        ):
            with pytest.raises(ValueError, match="^[^\n]*$") as error:
                conversation(turns, tokenizer, **options)
            assert words in str(error.value)


@pytest.mark.parametrize("template", TEMPLATES)
class TestLabels:
    def encoded(self, turns, template):
        tokenizer = made(TOKENIZERS[template]())
        return tokenizer, encode(conversation(turns, tokenizer, template), tokenizer)

    def test_exactly_the_answers_and_their_ends_are_learned(self, template):
        tokenizer, (ids, is_answer) = self.encoded(TWO, template)
        end = end_of(tokenizer, template)
        assert ids.dtype == np.int32
        assert ids.shape == is_answer.shape
        runs = np.split(ids, np.flatnonzero(np.diff(is_answer)) + 1)
        said = runs[1::2]
        assert not is_answer[0]
        assert [tokenizer.decode(run).strip() for run in said] == [
            tokenizer.decode(tokenizer.encode(text)) for text in ("red", "there are 3")
        ]
        assert [run[-1] for run in said] == [end, end]

    def test_an_image_stands_where_its_word_does(self, template):
        turns = (Turn("<image> and <image> what is it?", "red"), Turn("draw it", "a <image>"))
        tokenizer, (ids, is_answer) = self.encoded(turns, template)
        np.testing.assert_array_equal(is_answer[ids == IMAGE], [False, False, True])
        assert sum(count_images(text) for turn in turns for text in turn) == 3
        at = np.flatnonzero(ids == IMAGE)
        assert tokenizer.decode(ids[at[0] : at[1]]).strip() == tokenizer.decode(
            tokenizer.encode("and")
        )

    def test_a_prompt_is_what_stands_before_an_answer(self, template):
        _, (ids, is_answer) = self.encoded(TWO, template)
        _, (prompt, of_prompt) = self.encoded(ASKED, template)
        last = np.flatnonzero(np.diff(is_answer.astype(int)) == 1)[-1] + 1
        np.testing.assert_array_equal(prompt, ids[:last])
        np.testing.assert_array_equal(of_prompt, is_answer[:last])

    def test_what_is_said_cannot_end_a_turn(self, template):
        tokenizer = made(TOKENIZERS[template]())
        pieces = conversation(TWO, tokenizer, template)
        tokens = [piece.text for piece in pieces if piece.is_token]
        hostile = " ".join({*tokens, "<|im_end|>", "</s>"})
        turn = Turn(hostile, hostile)
        _, plain = self.encoded([Turn("a", "a")], template)
        _, (ids, _) = self.encoded([turn], template)
        for token in set(tokens):
            number = tokenizer.id_of(token)
            assert np.count_nonzero(ids == number) == np.count_nonzero(plain.ids == number)

    def test_an_empty_answer_is_its_end(self, template):
        tokenizer, (ids, is_answer) = self.encoded([Turn("a", "")], template)
        assert ids[is_answer].tolist()[-1] == end_of(tokenizer, template)
        assert tokenizer.decode(ids[is_answer]).strip() == ""


def test_text_that_nothing_interrupts_is_encoded_as_a_whole():
    tokenizer = made(made_here.llama2())
    pieces = [Piece("USER: what"), Piece(" colour"), Piece(" is red", is_answer=True)]
    ids, is_answer = encode(pieces, tokenizer)
    assert ids.tolist() == tokenizer.encode("USER: what colour is red")
    assert tokenizer.decode(ids[is_answer]) == "is red"
    assert encode([], tokenizer).ids.shape == (0,)
