"""Use from Python: prompts, answers, drawings and edits of a small model, and bad input."""

import json
import shutil
import types

import jax
import numpy as np
import pytest
from PIL import Image

import unitok_jax
from helpers import language_tokenizers, multimodals
from helpers.tokenized import other_weights
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.codes import Codes
from unitok_jax.data.images.padding import MEAN
from unitok_jax.data.language_tokenizer import SETTINGS, LanguageTokenizer
from unitok_jax.multimodal import loading, rows
from unitok_jax.multimodal.api import MultimodalModel, load_multimodal
from unitok_jax.multimodal.asking import Asker, stacked
from unitok_jax.multimodal.pictures import fitted
from unitok_jax.multimodal.prompt import Turn, conversation, encode
from unitok_jax.multimodal.words import shape_tokenizer

TOKENS, LIMIT = 6, 5
WORDS = shape_tokenizer()
CODES = np.random.default_rng(0).integers(0, 8, (3, 2, TOKENS)).astype(np.int32)
QUESTION = "what colour is the circle ?"


def asker(template="plain", bare_images=False, length=128):
    return Asker(WORDS, template, bare_images, length)


class TestPrompts:
    @pytest.mark.parametrize("bare", [False, True])
    @pytest.mark.parametrize("template", ["plain", "vicuna"])
    def test_a_question_is_the_begin_of_a_row_of_training(self, template, bare):
        made = rows.Rows(WORDS, length=256, images=4, bare_images=bare)
        asked = [Turn("<image>\nis there a star ?", "yes"), Turn("and <image> ?", "no")]
        said = encode(conversation(asked, WORDS, template), WORDS)
        whole = made.conversation(said, CODES[:2])
        messages = [
            {"role": "user", "content": "<image>\nis there a star ?"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "and <image> ?"},
        ]
        found = asker(template, bare).question(messages, CODES[:2], LIMIT, None, "it")
        length = len(found.ids)
        assert length == len(whole.ids) - len(WORDS.encode("no")) - 1  # the answer and its end
        np.testing.assert_array_equal(found.ids, whole.ids[:length])
        np.testing.assert_array_equal(found.image_at, whole.image_at[:length])
        np.testing.assert_array_equal(found.codes, whole.codes)

    def test_images_stand_before_a_question_without_places(self):
        found, same = (
            asker().question(text, CODES[:2], LIMIT, None, "it")
            for text in (QUESTION, f"<image>\n<image>\n{QUESTION}")
        )
        jax.tree.map(np.testing.assert_array_equal, found, same)
        assert (found.image_at >= 0).sum() == 2 * TOKENS

    def test_drawings_and_edits_are_begins_of_rows_of_training(self):
        made = rows.Rows(WORDS, length=256, images=4)
        pairs = [
            (asker().drawing("a red circle", TOKENS, "it"), made.draw(CODES[0], "a red circle")),
            (asker().unconditional(TOKENS), made.draw(CODES[0], None)),
            (
                asker().edit(CODES[0], "make the circle red", "it"),
                made.edit(CODES[0], "make the circle red", CODES[1]),
            ),
        ]
        for found, whole in pairs:
            length = len(found.ids)
            assert length == len(whole.ids) - TOKENS - 2 and found.ids[-1] == WORDS.special.boi
            np.testing.assert_array_equal(found.ids, whole.ids[:length])
            np.testing.assert_array_equal(found.image_at, whole.image_at[:length])

    def test_an_answer_without_a_word_keeps_its_end(self):
        """As a model may have given one, and is asked again."""
        messages = [
            {"role": role, "content": text}
            for role, text in (("user", QUESTION), ("assistant", ""), ("user", QUESTION))
        ]
        found = asker().question(messages, [], LIMIT, None, "it")
        turns = [Turn(QUESTION, ""), Turn(QUESTION, None)]
        expected = encode(conversation(turns, WORDS, "plain"), WORDS)
        np.testing.assert_array_equal(found.ids[-len(expected.ids) :], expected.ids)
        assert (found.ids == WORDS.special.eos).sum() == 1

    def test_rows_are_padded_on_the_left(self):
        some = [asker().question(QUESTION, CODES[:n], LIMIT, None, "it") for n in (0, 2)]
        found = stacked(some, 2, TOKENS, 1)
        assert found.codes.shape == (2, 2, 2, TOKENS) and found.valid[:, -1].all()
        np.testing.assert_array_equal(found.valid.sum(1), [len(row.ids) for row in some])
        np.testing.assert_array_equal(found.ids[0][found.valid[0]], some[0].ids)
        assert (found.image_at[~found.valid] == -1).all()

    @pytest.mark.parametrize(
        "asked, images, words",
        [
            ("", 0, "question 3 is empty"),
            ("  \n", 1, "question 3 is empty"),
            ("a " * 2500, 0, "question 3 has 2501 ids and visual tokens, and with 5 that follow"),
            ("x" * 10_000, 0, "10000 characters"),
            ("what is <image> ?", 0, "1 places <image> for 0 images"),
            ("what is <image> ?", 2, "1 places <image> for 2 images"),
            ("<image> <image> ?", 1, "2 places <image> for 1 images"),
            (None, 0, "NoneType"),
            ([], 0, r"roles of its messages are \[\]"),
            ([{"role": "assistant", "content": "a"}], 0, "expected user, assistant"),
            ([{"role": "user"}], 0, "NoneType"),
            (["what ?"], 0, "list of messages"),
        ],
    )
    def test_bad_questions(self, asked, images, words):
        with pytest.raises((ValueError, TypeError), match=words):
            asker().question(asked, CODES[:images], LIMIT, None, "question 3")


class TestFacts:
    def test_what_a_question_s_ids_depend_on(self):
        facts = asker().facts
        assert facts == json.loads(json.dumps(facts))
        assert facts == asker(length=64).facts
        assert asker("vicuna").facts["template"] == "vicuna" and facts["template"] == "plain"
        assert asker(bare_images=True).facts == facts | {"bare_images": True}
        assert asker(None).facts == asker("vicuna").facts  # the one that fits these words
        swapped = LanguageTokenizer(WORDS.files, boi=WORDS.special.eoi, eoi=WORDS.special.boi)
        other = asker()._replace(tokenizer=swapped).facts
        changed = {name for name in facts if other[name] != facts[name]}
        assert changed == {"tokenizer of the text"}

    def test_the_instruction_of_a_tokenizer_s_own_chatml(self):
        """It is no part of the tokenizer's hash."""
        own, said = language_tokenizers.chatml(), "You are a helpful assistant."
        settings = json.loads(own[SETTINGS]) | {"chat_template": said}
        files = own | {SETTINGS: json.dumps(settings).encode()}
        one, two = (Asker(LanguageTokenizer(each), None, False, 128).facts for each in (own, files))
        assert two == one | {"system": said} and one["system"] != said


class TestPictures:
    def test_a_square_in_the_middle_of_the_padding(self):
        wide = np.full((20, 60, 3), 255, np.uint8)
        found = fitted(wide, (3, 3), "it")
        assert found.shape == (48, 48, 3)
        np.testing.assert_array_equal(found[[0, -1]], np.tile(np.uint8(MEAN.colour), (2, 48, 1)))
        assert (found[20:28] == 255).all()
        np.testing.assert_array_equal(found, fitted(Image.fromarray(wide), (3, 3), "it"))
        high = fitted(np.full((60, 20, 3), 255, np.uint8), (3, 3), "it")
        np.testing.assert_array_equal(high, found.swapaxes(0, 1))

    @pytest.mark.parametrize("mode", ["LA", "P", "RGBA", "I;16", "I;16B", "I"])
    def test_a_pillow_image_of_any_mode_is_read_as_its_file(self, mode, tmp_path):
        levels = np.arange(0, 65536, 64).reshape(32, 32)
        if mode.startswith("I"):
            kind = {"I;16": "<u2", "I;16B": ">u2", "I": np.int32}[mode]
            image = Image.fromarray(levels.astype(kind))
        else:  # black, and seen through in the upper half
            pixels = np.zeros((32, 32, 4), np.uint8)
            pixels[16:, :, 3] = 255
            image = Image.fromarray(pixels).convert(mode)
        assert image.mode == mode
        path = tmp_path / ("a.tif" if mode in ("I;16B", "I") else "a.png")
        image.save(path)
        found = fitted(image, (2, 2), "it")
        np.testing.assert_array_equal(found, fitted(path, (2, 2), "it"))
        assert found[:4].mean() > 250 if mode in ("LA", "P", "RGBA") else found[:4].mean() < 64
        assert found[-4:].mean() < 5 if mode in ("LA", "P", "RGBA") else found[-4:].mean() > 192

    def test_a_strip_takes_little_memory(self):
        """Padded as it is it would have 10^12 pixels."""
        strip = np.full((2, 10**6, 3), 255, np.uint8)
        found = fitted(strip, (2, 2), "it")
        assert ((found == 255).all(axis=(1, 2))).sum() == 1
        assert (found == MEAN.colour).all(axis=(1, 2)).sum() == 31

    def test_a_picture_of_the_grid_s_shape_stays(self, images):
        np.testing.assert_array_equal(fitted(images[0], (4, 4), "it"), images[0])

    def test_bad_pictures(self, tmp_path):
        for wrong in (np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), "u1")):
            with pytest.raises(ValueError, match="image 0 is .* expected pixels"):
                fitted(wrong, (2, 2), "image 0")
        (tmp_path / "a.png").write_bytes(b"no picture")
        with pytest.raises(ValueError, match="a.png"):
            fitted(tmp_path / "a.png", (2, 2), "it")
        with pytest.raises(FileNotFoundError):
            fitted(str(tmp_path / "b.png"), (2, 2), "it")


@pytest.fixture(scope="module")
def mm():
    """Answers three at a time on one device."""
    return MultimodalModel(multimodals.saved(None), None, 3, jax.devices()[:1], length=256)


@pytest.mark.slow
class TestAnswers:
    ASKED = (QUESTION, "how many shapes are there ?", "is there a star ?", f"{QUESTION} " * 8)
    IMAGES = (CODES[0], None, [CODES[1], CODES[2]], CODES[1])
    DRAWN = dict(limit=LIMIT, temperature=1.0, key=3)

    def test_an_answer_does_not_depend_on_what_is_asked_beside_it(self, mm):
        found = mm.answers(self.IMAGES, self.ASKED, **self.DRAWN)
        assert len(set(found)) == 4 and all(isinstance(each, str) for each in found)
        assert mm.answer(self.IMAGES[0], self.ASKED[0], **self.DRAWN) == found[0]
        again = mm.answers([None, *self.IMAGES[1:]], ["where ?", *self.ASKED[1:]], **self.DRAWN)
        assert again[1:] == found[1:]

    def test_the_likeliest_answer_and_the_image(self, mm):
        greedy = [mm.answer(CODES[0], QUESTION, limit=LIMIT, key=key) for key in (0, 1)]
        assert greedy[0] == greedy[1]
        others = {mm.answer(codes, QUESTION, limit=LIMIT) for codes in (*CODES, None)}
        assert len(others) > 2

    def test_questions_of_one_length_share_batches(self, mm):
        told = []
        found = mm.answers(self.IMAGES * 4, self.ASKED * 4, on_batch=told.append, **self.DRAWN)
        assert told == [3, 1] * 4  # of each length with as many images
        assert found[:4] == mm.answers(self.IMAGES, self.ASKED, **self.DRAWN)

    def test_batches_of_another_size(self, mm):
        found = mm.answers(self.IMAGES, self.ASKED, **self.DRAWN)
        assert mm.answers(self.IMAGES, self.ASKED, batch_size=2, **self.DRAWN) == found
        assert mm.batch_size == 2
        mm.answers(None, ["what ?"], batch_size=3, limit=LIMIT)

    @pytest.mark.parametrize(
        "settings, words",
        [
            ({"limit": 0}, "limit=0"),
            ({"temperature": -1}, "temperature=-1"),
            ({"top_k": 10_000}, r"top_k=10000 must be in 1..\d+, the ids of the text"),
            ({"limit": 2.0}, "limit=2.0 must be an integer"),
            ({"limit": True}, "limit=True must be an integer"),
            ({"key": -1}, "key=-1"),
            ({"batch_size": 0}, "batch_size=0"),
            ({"limit": 250}, "with 250 that follow"),
        ],
    )
    def test_bad_settings(self, mm, settings, words):
        with pytest.raises(ValueError, match=words):
            mm.answer(None, QUESTION, **settings)

    def test_arrays_of_any_kind(self, mm):
        """Codes of NumPy, JAX and PyTorch, and integers of NumPy."""
        torch = pytest.importorskip("torch")
        codes = np.asarray(CODES[0], np.int32)
        given = codes, jax.numpy.asarray(codes), torch.tensor(codes)
        assert len({mm.answer(each, QUESTION, limit=np.int64(LIMIT)) for each in given}) == 1

    def test_bad_images(self, mm, images):
        for wrong, words in [
            (images[0], "image 0 is no codes: load the model with tokenizer="),
            (CODES[0, :1], r"codes of shape \(1, 6\)"),
            (CODES[0] + 8, "codes from 8 to"),
            (Codes(CODES[0], (3, 2)), r"grid \(3, 2\)"),
        ]:
            with pytest.raises(ValueError, match=words):
                mm.answer(wrong, QUESTION)
        with pytest.raises(ValueError, match="1 images for 2 questions"):
            mm.answers([None], [QUESTION] * 2)

    def test_a_text_is_no_list_of_questions(self, mm):
        """Its letters would be asked."""
        with pytest.raises(TypeError, match="questions are a text"):
            mm.answers(None, "ab")


@pytest.mark.slow
class TestDrawings:
    TEXTS = ("a red circle", "a blue star", "a small green square and a large red cross")

    def test_a_drawing_is_that_of_its_key_index_and_text(self, mm):
        found = mm.draw(self.TEXTS, scale=3, key=2)
        assert found.shape == (3, 2, TOKENS) and found.grid == (2, 3)
        assert len(np.unique(found)) > 4
        one = mm.draw(self.TEXTS[2], scale=3, key=2, index=[2])
        np.testing.assert_array_equal(one, found[2:])
        assert (mm.draw(self.TEXTS, scale=3, key=3) != found).mean() > 0.3

    def test_guidance(self, mm):
        """A scale of 0 draws as if nothing was asked for."""
        plain, null = (mm.draw(self.TEXTS, scale=scale) for scale in (1, 0))
        assert (plain != null).any()
        others = mm.draw(["a star", *self.TEXTS[:2]], scale=0)
        np.testing.assert_array_equal(others[0], null[0])
        partly = mm.draw(self.TEXTS, scale=0, guided_tokens=2)
        np.testing.assert_array_equal(partly[..., :2], null[..., :2])

    def test_the_released_way_is_another(self, mm):
        exact, released = (mm.draw(["a star"] * 6, released=each) for each in (False, True))
        assert (exact != released).any()

    def test_an_edit_begins_with_its_image(self, mm):
        found = [mm.edit(codes, "make the circle red", key=1) for codes in CODES]
        assert found[0].shape == (1, 2, TOKENS) and found[0].grid == (2, 3)
        assert len({each.tobytes() for each in found}) > 1

    def test_edits_are_those_of_their_index_image_and_words(self, mm):
        words = ["make the circle red", "turn the star into a ring", "make the circle red"]
        found = mm.edits(CODES, words, key=1, scale=2)
        assert found.shape == (3, 2, TOKENS) and found.grid == (2, 3)
        one = mm.edit(CODES[1], words[1], key=1, scale=2, index=[1])
        np.testing.assert_array_equal(one, found[1:2])
        with pytest.raises(ValueError, match="3 images for 2 instructions"):
            mm.edits(CODES, words[:2])
        with pytest.raises(ValueError, match="instruction 1 is empty"):
            mm.edits(CODES[:2], ["make it red", " "])

    def test_other_weights(self, mm):
        """They are drawn and hashed with, and the first model keeps its own."""
        other = multimodals.parameters(mm.config.model.to_dict(), seed=1)
        before, changed = mm.draw(self.TEXTS), mm.with_params(other)
        assert (changed.draw(self.TEXTS) != before).mean() > 0.3 and changed.hash != mm.hash
        np.testing.assert_array_equal(mm.draw(self.TEXTS), before)
        same = changed.with_params(multimodals.saved(None).params)
        np.testing.assert_array_equal(same.draw(self.TEXTS), before)
        assert same.hash == mm.hash

    def test_bad_drawings(self, mm):
        for texts, settings, words in [
            ([], {}, "texts are empty"),
            (["a star", " "], {}, "text 1 is empty"),
            ("star " * 300, {}, "text 0 has 3.. ids and visual tokens, and with 6"),
            ("a star", {"scale": -1}, "scale=-1"),
            ("a star", {"index": [1, 2]}, "index of shape"),
        ]:
            with pytest.raises(ValueError, match=words):
                mm.draw(texts, **settings)


@pytest.fixture(scope="module")
def tokenizer(weights):
    return unitok_jax.load(weights)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """Workdir of a model that knows that tokenizer's codes."""
    path = tmp_path_factory.mktemp("mm") / "run"
    multimodals.saved(path, tokenizer)
    return path


@pytest.mark.slow
class TestWithATokenizer:
    def test_pixels_are_encoded(self, folder, tokenizer, images, tmp_path):
        mm = unitok_jax.load_multimodal(folder, tokenizer, 2, devices=jax.devices()[:1])
        Image.fromarray(images[0]).save(tmp_path / "a.png")
        found = mm.encode([images[0], tmp_path / "a.png", Image.fromarray(images[1])])
        assert found.grid == mm.grid == (2, 3)
        expected = tokenizer.encode([fitted(each, mm.grid, "it") for each in images])
        np.testing.assert_array_equal(found, expected[[0, 0, 1]])
        same = [mm.answer(each, QUESTION, limit=LIMIT) for each in (images[0], found[0])]
        assert same[0] == same[1]
        assert tokenizer.decode(mm.draw("a star")).shape == (1, 32, 48, 3)
        assert "2x3 tokens" in repr(mm)

    def test_another_tokenizer_is_refused(self, folder, tokenizer):
        config = tokenizer.config.copy_and_resolve_references()
        other = types.SimpleNamespace(
            hash="0" * 32, codebook_shape=tokenizer.codebook_shape, config=config
        )
        with pytest.raises(ValueError, match="and this one has hash 0000"):
            load_multimodal(folder, other)
        other.hash, other.codebook_shape = tokenizer.hash, (1, 4)
        with pytest.raises(ValueError, match=r"\(1, 4\)"):
            load_multimodal(folder, other)
        config.model.num_query, other.codebook_shape = 3, tokenizer.codebook_shape
        with pytest.raises(ValueError, match="3 query tokens"):
            load_multimodal(folder, other)

    def test_codebooks_are_compared_where_no_hash_is_recorded(self, tokenizer):
        free = multimodals.saved(None, tokenizer)._replace(tokenizer_hash=None)
        theirs = np.asarray(tokenizer.params["quantizer"]["codebook"])
        quantizer = free.params["image"]["quantizer"]
        for other in (quantizer["codebook"], theirs[:, ::-1]):
            quantizer["codebook"] = other
            with pytest.raises(ValueError, match=f"other codebooks .* hash {tokenizer.hash}"):
                MultimodalModel(free, tokenizer, 2, jax.devices()[:1])
        quantizer["codebook"] = theirs.astype(np.float16)  # as in the release's files
        MultimodalModel(free, tokenizer, 2, jax.devices()[:1])

    def test_the_tokenizer_that_a_run_names(self, folder, tokenizer, weights, tmp_path):
        """It is told while it is there, and still that of the codes."""
        place = tmp_path / "tokenizer.safetensors"
        shutil.copy(weights, place)
        multimodals.saved(tmp_path / "run", tokenizer, named=place)
        for run in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "1"):
            found = loading.tokenizer_of(run)
            assert found.path == str(place)
            assert weights_hash(found.config.model.to_dict(), found.params) == tokenizer.hash
        for other in (folder, weights, tmp_path / "none", "hf://owner/name"):
            assert loading.tokenizer_of(other) is None
        other_weights(tokenizer, tmp_path).replace(place)
        assert loading.tokenizer_of(tmp_path / "run") is None
        place.unlink()
        assert loading.tokenizer_of(tmp_path / "run") is None

    def test_a_tokenizer_is_no_multimodal_model(self, weights):
        with pytest.raises(ValueError, match="is a file; a multimodal model is a folder"):
            load_multimodal(weights)
