"""`unitok evaluate --vqa`: questions in, answers stored, figures out. The model is a stand-in."""

import functools
import json
import types
from types import MappingProxyType

import pytest
from PIL import Image

from helpers import in_process
from unitok_jax.commands import arguments, evaluate
from unitok_jax.data.formats.question_files import Question
from unitok_jax.data.images.transforms import decode_image
from unitok_jax.data.writing.folders import SETTINGS
from unitok_jax.evaluation import answers
from unitok_jax.models.batched import choose_batch_size
from unitok_jax.multimodal import loading
from unitok_jax.system import locks
from unitok_jax.system.passing import TryAgainError

run = functools.partial(in_process.run, evaluate)
load = evaluate._load_multimodal
RED, BLUE = (255, 0, 0), (0, 0, 255)


class Model:
    """Says 'Red.' to a picture that is red, and 'The blue' to others."""

    hash, tokenizer = "11aa", types.SimpleNamespace(hash="22bb")
    question_facts = MappingProxyType({"template": "plain", "bare_images": False})

    def __init__(self, fails_after=100, batch_size=64):
        self.batch_size, self.asked, self.at_once = batch_size, [], []
        self._left = fails_after

    def answers(self, images, questions, *, batch_size, on_batch):
        assert len(images) == len(questions) and batch_size == self.batch_size
        if self._left < len(questions):
            raise KeyboardInterrupt
        self._left -= len(questions)
        self.asked += questions
        self.at_once.append(len(questions))
        for start in range(0, len(questions), batch_size):
            on_batch(len(questions[start : start + batch_size]))
        pixels = (decode_image(path.read_bytes(), str(path)) for path in images)
        return [" Red. " if each[0, 0, 0] > 128 else "The blue\n" for each in pixels]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, colour in (("red", RED), ("blue", BLUE)):
        Image.new("RGB", (8, 4), colour).save(folder / f"{name}.png")
    return folder


def questions(count=5, people=10):
    names = ["red.png", "blue.png"]
    return [
        Question(n, names[n % 2], f"What colour, {n}?", ("red",) * people) for n in range(count)
    ]


def ask(model, folder, images, asked=None, batch_size=2):
    folder.mkdir(exist_ok=True)
    model.batch_size = batch_size
    return answers.ask(model, asked or questions(), images, folder, batch_size)


class TestAsking:
    def test_stores_a_line_for_each(self, tmp_path, images):
        given = ask(Model(), tmp_path / "a", images)
        assert given == ["Red.", "The blue", "Red.", "The blue", "Red."]
        lines = [
            json.loads(line) for line in (tmp_path / "a" / answers.ANSWERS).read_text().splitlines()
        ]
        assert lines[1] == {
            "question_id": 1,
            "image": "blue.png",
            "question": "What colour, 1?",
            "answer": "The blue",
        }
        assert [line["question_id"] for line in lines] == [*range(5)]

    def test_several_batches_at_once(self, tmp_path, images, monkeypatch):
        """Those of one length can share batches only if the model is given them together."""
        told = []
        monkeypatch.setattr(answers.Progress, "update", lambda self, count: told.append(count))
        model = Model()
        ask(model, tmp_path / "a", images, questions(35))
        assert model.at_once == [32, 3] and told == [2] * 16 + [2, 1]

    def test_a_second_process_is_refused(self, tmp_path, images, monkeypatch):
        """It would write each line again, between those of the first."""
        inner = Model()

        def nested(self, *given, **settings):
            with pytest.raises(
                TryAgainError, match="another process asks into --output="
            ) as caught:
                ask(inner, tmp_path / "a", images)
            assert "\n" not in str(caught.value)
            return answer(self, *given, **settings)

        answer = Model.answers
        monkeypatch.setattr(Model, "answers", nested)
        ask(Model(), tmp_path / "a", images)
        assert len((tmp_path / "a" / answers.ANSWERS).read_text().splitlines()) == 5
        assert ask(inner, tmp_path / "a", images) and not inner.asked  # the first has ended

    @pytest.mark.parametrize("torn", [b"", b'{"question_id": 2, "answ', b"\xff"])
    def test_continues_after_a_kill(self, tmp_path, images, torn, monkeypatch):
        monkeypatch.setattr(answers, "WINDOW", 1)
        with pytest.raises(KeyboardInterrupt):
            ask(Model(fails_after=3), tmp_path / "a", images)
        with open(tmp_path / "a" / answers.ANSWERS, "ab") as file:
            file.write(torn)
        model = Model()
        given = ask(model, tmp_path / "a", images)
        assert model.asked == [f"What colour, {n}?" for n in (2, 3, 4)]
        assert given == ask(Model(), tmp_path / "b", images)
        stored = [(tmp_path / name / answers.ANSWERS).read_bytes() for name in "ab"]
        assert stored[0] == stored[1]
        assert ask(Model(fails_after=0), tmp_path / "a", images) == given  # nothing is left

    @pytest.mark.parametrize(
        "content, message",
        [
            ("{\n", "line 1: no JSON"),
            ("[1]\n", "line 1: expected a JSON object"),
            ('{"question_id": 0, "answer": "x"}\n', "line 1 is no answer to question 0"),
            ("\n", "line 1: no JSON"),
        ],
    )
    def test_a_corrupt_file_is_refused(self, tmp_path, images, content, message):
        (tmp_path / "a").mkdir()
        path = tmp_path / "a" / answers.ANSWERS
        path.write_text(content)
        with pytest.raises(ValueError, match=f"{path}: {message}.*: remove it") as caught:
            ask(Model(), tmp_path / "a", images)
        assert "\n" not in str(caught.value) and path.read_text() == content

    def test_answers_to_other_questions_are_refused(self, tmp_path, images):
        ask(Model(), tmp_path / "a", images)
        swapped = questions()
        swapped[3] = swapped[3]._replace(text="Why?")
        for asked, message in ((swapped, "line 4 is no"), (questions(4), "5 answers to 4")):
            with pytest.raises(ValueError, match=message):
                ask(Model(), tmp_path / "a", images, asked)

    def test_missing_images_are_counted(self, images):
        asked = [*questions(), *(Question(9, f"{n}.png", "?") for n in "abb")]
        with pytest.raises(
            FileNotFoundError, match="2 of 4 images are missing, the first is a.png"
        ):
            answers.check_images(asked, images)

    def test_a_question_that_the_model_refuses(self, tmp_path, images, monkeypatch):
        def refuse(*_, **__):
            raise ValueError("question 1 is too long")

        monkeypatch.setattr(Model, "answers", refuse)
        with pytest.raises(ValueError, match="from 0 to 4, counted from 0: question 1 is"):
            ask(Model(), tmp_path / "a", images)

    def test_an_image_that_is_damaged(self, tmp_path, images):
        (images / "blue.png").write_bytes(b"PNG")
        with pytest.raises(ValueError, match="blue.png: not an image"):
            ask(Model(), tmp_path / "a", images)


class TestFigures:
    def test_of_each_benchmark(self):
        asked, said = questions(2), ["Red.", "The blue"]
        assert answers.figures("vqav2", asked, said) == {"accuracy": 50}
        assert answers.figures("textvqa", asked, said) == {"accuracy": 50}
        assert answers.figures("gqa", asked, said) == {"accuracy": 50}
        asked = [Question(0, "a", "?", ("yes",), "count"), Question(0, "a", "?", ("no",), "count")]
        assert answers.figures("mme", asked, ["Yes", "Yes"])["perception"] == 50
        assert answers.figures("pope", asked, ["Yes", "Yes"])["f1/count"] == pytest.approx(200 / 3)

    def test_none_where_answers_are_not_known(self):
        assert answers.figures("gqa", questions(people=0), ["x"] * 5) == {}
        assert answers.figures("llava", questions(), ["x"] * 5) == {}


@pytest.fixture
def given(tmp_path, images, monkeypatch):
    """Arguments of a command about two questions of VQAv2's server."""
    asked = [{"question_id": n, "image_id": n, "question": "What colour?"} for n in (4, 7)]
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({"data_subtype": "test2015", "questions": asked}))
    for number, colour in ((4, RED), (7, BLUE)):
        Image.new("RGB", (8, 8), colour).save(images / f"COCO_test2015_{number:012d}.jpg")
    monkeypatch.setattr(evaluate, "_load_multimodal", lambda *args: Model())
    flags = {
        "checkpoint": "mm",
        "tokenizer": "t",
        "vqa": "vqav2",
        "questions": path,
        "images": images,
        "output": tmp_path / "out",
    }
    return flags


def flags(given, **changed):
    return [f"--{name}={value}" for name, value in (given | changed).items() if value is not None]


class TestCommand:
    def test_writes_what_the_server_reads(self, given, tmp_path, capsys, monkeypatch):
        code, printed, error = run(capsys, monkeypatch, *flags(given))
        assert (code, error) == (0, "") and printed.strip() == str(tmp_path / "out/figures.json")
        sent = json.loads((tmp_path / "out" / answers.SERVER).read_text())
        assert sent == [{"question_id": 4, "answer": "red"}, {"question_id": 7, "answer": "blue"}]
        lines = (tmp_path / "out" / answers.ANSWERS).read_text().splitlines()
        assert "single word or phrase" in json.loads(lines[0])["question"]

    def test_prints_figures_and_keeps_them(self, given, tmp_path, capsys, monkeypatch):
        people = [
            {"question_id": n, "answers": [{"answer": word}] * 10}
            for n, word in ((4, "red"), (7, "green"))
        ]
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps({"annotations": people}))
        code, printed, _ = run(capsys, monkeypatch, *flags(given, annotations=path))
        assert code == 0 and printed.split()[:2] == ["accuracy", "50.00"]
        found = json.loads((tmp_path / "out" / answers.FIGURES).read_text())
        assert found["figures"] == {"accuracy": 50} and found["model"] == "11aa"
        assert found["questions"] == 2 and found["tokenizer"] == "22bb"

    def test_answers_of_people_may_come_later(self, given, tmp_path, capsys, monkeypatch):
        """They change no question: nothing is asked anew."""
        assert run(capsys, monkeypatch, *flags(given))[0] == 0
        monkeypatch.setattr(evaluate, "_load_multimodal", lambda *args: Model(fails_after=0))
        people = [{"question_id": n, "answers": [{"answer": "red"}] * 10} for n in (4, 7)]
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps({"annotations": people}))
        code, printed, error = run(capsys, monkeypatch, *flags(given, annotations=path))
        assert (code, error) == (0, "") and printed.split()[:2] == ["accuracy", "50.00"]

    def test_the_tokenizer_of_the_run(self, given, capsys, monkeypatch):
        taken = []
        named = functools.partial(loading.Named, config=None, params=None, hash="22bb")
        monkeypatch.setattr(loading, "tokenizer_of", lambda path: named(f"that of {path}"))
        monkeypatch.setattr(
            evaluate, "_load_multimodal", lambda _, found: taken.append(found.path) or Model()
        )
        code, _, error = run(capsys, monkeypatch, *flags(given, tokenizer=None))
        assert (code, error) == (0, "--tokenizer=that of mm, as the run names it\n")
        assert taken == ["that of mm"]

    @pytest.mark.parametrize("given_size, expected", [(None, 66), (2, 3), (3, 3)])
    def test_batches_are_rounded_up_to_the_devices(
        self, given, capsys, monkeypatch, given_size, expected
    ):
        """Also those of the default size."""
        loaded = []

        def load_multimodal(path, tokenizer, batch_size, **_):
            assert (path, tokenizer) == ("mm", "t's")
            loaded.append(Model(batch_size=choose_batch_size(batch_size, range(3))))
            return loaded[0]

        monkeypatch.setattr(evaluate, "_load_multimodal", load)
        monkeypatch.setattr(evaluate, "load_multimodal", load_multimodal)
        monkeypatch.setattr(evaluate.jax, "local_device_count", lambda: 3)
        monkeypatch.setattr(arguments.FoundTokenizer, "load", lambda self, heads: f"{self.path}'s")
        code, _, error = run(capsys, monkeypatch, *flags(given, batch_size=given_size))
        assert (code, error) == (0, "")
        assert loaded[0].batch_size == expected and len(loaded[0].asked) == 2

    def test_a_second_command_is_refused(self, given, tmp_path, capsys, monkeypatch):
        assert run(capsys, monkeypatch, *flags(given))[0] == 0
        with open(tmp_path / "out" / answers.ANSWERS, "a") as file:
            assert locks.lock(file)
            code, _, error = run(capsys, monkeypatch, *flags(given))
        assert code == 1 and "another process asks" in error and error.count("\n") == 1

    def test_the_same_again_continues_and_another_model_is_refused(
        self, given, capsys, monkeypatch
    ):
        for _ in range(2):
            assert run(capsys, monkeypatch, *flags(given))[0] == 0
        monkeypatch.setattr(Model, "hash", "33cc")
        code, _, error = run(capsys, monkeypatch, *flags(given))
        assert code == 2 and "model: '11aa' before, '33cc' now" in error
        code, _, error = run(capsys, monkeypatch, *flags(given, instruction="Be short."))
        assert code == 2 and "sha256 of the questions" in error

    @pytest.mark.parametrize(
        "place, name, value, message",
        [
            (evaluate.jax, "default_backend", lambda: "gpu", "platform: 'cpu' before, 'gpu' now"),
            (evaluate.jax, "local_device_count", lambda: 4, "per device: 8 before, 16 now"),
            (Model, "question_facts", {"template": "vicuna"}, "template: 'plain' before, 'vicuna'"),
        ],
        ids=["platform", "devices", "form"],
    )
    def test_what_answers_depend_on_beside_the_weights(
        self, given, capsys, monkeypatch, place, name, value, message
    ):
        assert run(capsys, monkeypatch, *flags(given))[0] == 0
        monkeypatch.setattr(place, name, value)
        code, _, error = run(capsys, monkeypatch, *flags(given))
        assert code == 2 and message in error

    def test_batches_of_another_size_are_refused(self, given, capsys, monkeypatch):
        """But the same for each of fewer devices go on."""
        assert run(capsys, monkeypatch, *flags(given))[0] == 0
        monkeypatch.setattr(evaluate, "_load_multimodal", lambda *args: Model(batch_size=32))
        code, _, error = run(capsys, monkeypatch, *flags(given))
        assert code == 2 and "questions per device: 8 before, 4 now" in error
        monkeypatch.setattr(evaluate.jax, "local_device_count", lambda: 4)
        assert run(capsys, monkeypatch, *flags(given))[0] == 0

    def test_a_folder_that_does_not_tell_all_of_it_is_refused(
        self, given, tmp_path, capsys, monkeypatch
    ):
        """As one of an earlier version."""
        assert run(capsys, monkeypatch, *flags(given))[0] == 0
        path = tmp_path / "out" / SETTINGS
        told = json.loads(path.read_text())
        del told["platform"]
        path.write_text(json.dumps(told))
        code, _, error = run(capsys, monkeypatch, *flags(given))
        assert code == 2 and "was begun with other settings" in error
        assert "platform: None before, 'cpu' now" in error and "another folder" in error

    @pytest.mark.parametrize(
        "changed, message",
        [
            ({"images": None}, "--images is missing: --vqa needs it"),
            ({"tokenizer": None}, "--tokenizer is missing: --vqa needs it"),
            ({"data": "photos"}, "--data means nothing with --vqa"),
            ({"num_workers": 2}, "--num_workers means nothing with --vqa"),
            ({"max_images": 9}, "--max_images means nothing with --vqa"),
            ({"batch_size": 0}, "--batch_size=0 must be at least 1"),
            ({"probe_method": "ridge"}, "--probe_method means nothing without --probe"),
            ({"vqa": None}, "--questions means nothing without --vqa"),
            ({"vqa": None, "instruction": "a"}, "--instruction means nothing without --vqa"),
            ({"images": "nowhere"}, "--images=nowhere: 2 of 2 images are missing"),
        ],
    )
    def test_flags_that_do_not_fit(self, given, capsys, monkeypatch, tmp_path, changed, message):
        code, _, error = run(capsys, monkeypatch, *flags(given, **changed))
        assert code == 2 and message in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()
