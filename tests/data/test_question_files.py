"""Questions in the files of benchmarks, of their layouts; bad ones name file and record."""

import json

import pytest

from unitok_jax.data.formats.question_files import (
    BENCHMARKS,
    INSTRUCTION,
    Question,
    bare,
    read_questions,
)

TEN = ["red"] * 8 + ["blue", "green"]


def lines(path, *records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def document(path, content):
    path.write_text(json.dumps(content))
    return path


def vqav2(folder, subset="val2014"):
    asked = [
        {"question_id": 262148000, "image_id": 262148, "question": "What colour?"},
        {"question_id": 262148001, "image_id": 262148, "question": "How many?"},
    ]
    people = [
        {"question_id": each["question_id"], "answers": [{"answer": x} for x in TEN]}
        for each in reversed(asked)
    ]
    content = {"data_subtype": subset, "questions": asked}
    questions = document(folder / "questions.json", content)
    return questions, document(folder / "annotations.json", {"annotations": people})


def gqa(folder):
    record = {"imageId": "n1", "question": "Is it red?", "answer": "no"}
    return document(folder / "gqa.json", {"201": record})


def textvqa(folder):
    record = {"image_id": "0ab", "question_id": 5, "question": "What brand?", "answers": TEN}
    other = record | {"question": "Which year?", "answers": ["1999"] * 10}
    return document(folder / "textvqa.json", {"data": [record, other]})


def pope(folder):
    (folder / "pope").mkdir()
    record = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?"}
    for part, label in (("random", "yes"), ("adversarial", "no"), ("popular", "yes")):
        lines(folder / "pope" / f"coco_pope_{part}.json", record | {"label": label})
    return folder / "pope"


def mme(folder):
    root = folder / "mme"
    for task, texts, images in (
        ("artwork", "questions_answers_YN", "images"),
        ("count", "", ""),
    ):
        for each in (texts, images):
            (root / task / each).mkdir(parents=True, exist_ok=True)
        (root / task / images / "1.jpg").touch()
        (root / task / texts / "1.txt").write_text(
            "Is it old? Please answer yes or no.\tYes\nIs it new? Please answer yes or no.\tNo\n"
        )
    (root / "eval_tool").mkdir()
    return root


class TestOwnFiles:
    def test_vqav2(self, tmp_path):
        questions, annotations = vqav2(tmp_path)
        first, second = read_questions("vqav2", questions, annotations, "Be short.")
        image = "COCO_val2014_000000262148.jpg"
        assert first == Question(262148000, image, "What colour?\nBe short.", tuple(TEN))
        assert (second.id, second.answers) == (262148001, tuple(TEN))

    def test_vqav2_without_answers(self, tmp_path):
        questions, _ = vqav2(tmp_path, "test-dev2015")
        first = read_questions("vqav2", questions)[0]
        assert first == Question(262148000, "COCO_test2015_000000262148.jpg", "What colour?")

    def test_gqa(self, tmp_path):
        assert read_questions("gqa", gqa(tmp_path)) == [
            Question("201", "n1.jpg", "Is it red?", ("no",))
        ]

    def test_textvqa(self, tmp_path):
        first, second = read_questions("textvqa", textvqa(tmp_path))
        assert first == Question("0ab", "0ab.jpg", "What brand?", tuple(TEN))
        assert second.answers == ("1999",) * 10

    def test_pope(self, tmp_path):
        found = read_questions("pope", pope(tmp_path))
        expected = [("adversarial", "no"), ("popular", "yes"), ("random", "yes")]
        assert [(each.part, *each.answers) for each in found] == expected
        assert found[0][:3] == (1, "a.jpg", "Is there a dog in the image?")
        one = read_questions("pope", tmp_path / "pope" / "coco_pope_random.json")
        assert one == [found[2]]

    def test_mme(self, tmp_path):
        root = mme(tmp_path)
        (root / "count" / "._1.txt").write_bytes(b"\xff of macOS")
        found = read_questions("mme", root)
        assert [each.image for each in found] == ["artwork/images/1.jpg"] * 2 + ["count/1.jpg"] * 2
        assert [each.part for each in found] == ["artwork"] * 2 + ["count"] * 2
        assert [each.answers for each in found] == [("yes",), ("no",)] * 2
        assert found[1].text == "Is it new? Please answer yes or no."


class TestLlava:
    def test_is_asked_word_for_word(self, tmp_path):
        record = {"question_id": 3, "image": "a.jpg", "text": f"Why?\n{INSTRUCTION}"}
        path = lines(tmp_path / "q.jsonl", record)
        for benchmark in BENCHMARKS:
            assert read_questions(benchmark, path, instruction="Be short.") == [
                Question(3, "a.jpg", f"Why?\n{INSTRUCTION}")
            ]

    @pytest.mark.parametrize(
        "benchmark, make, record, expected",
        [
            ("vqav2", lambda p: vqav2(p)[1], (262148001, "x.jpg", "How many?"), (tuple(TEN), "")),
            ("gqa", gqa, ("201", "n1.jpg", "Is it red?"), (("no",), "")),
            (
                *("textvqa", textvqa),
                ("0ab", "0ab.jpg", "which year?\nReference OCR token: A, 12"),
                (("1999",) * 10, ""),
            ),
            (
                *("mme", mme),
                ("artwork/1.jpg", "artwork/1.jpg", "Is it new?"),
                (("no",), "artwork"),
            ),
        ],
    )
    def test_finds_its_answers(self, tmp_path, benchmark, make, record, expected):
        names = ("question_id", "image", "text")
        record = dict(zip(names, record, strict=True))
        record["text"] += f"\n{INSTRUCTION}"
        found = read_questions(benchmark, lines(tmp_path / "q.jsonl", record), make(tmp_path))
        assert [(each.answers, each.part) for each in found] == [expected]
        assert found[0].text == record["text"]

    def test_in_capitals(self, tmp_path):
        path = lines(tmp_path / "Q.JSONL", {"question_id": 1, "image": "a.jpg", "text": "b"})
        assert read_questions("llava", path) == [Question(1, "a.jpg", "b")]
        record = {"question_id": 1, "image": "a.jpg", "text": "b", "label": "yes"}
        path = lines(tmp_path / "coco_pope_random.JSON", record)
        assert [each.part for each in read_questions("pope", path)] == ["random"]

    def test_finds_the_part_of_pope(self, tmp_path):
        record = {"question_id": 7, "image": "a.jpg", "text": "Is there a dog in the image?"}
        path = lines(
            tmp_path / "q.jsonl",
            *(record | {"category": part} for part in ("popular", "adversarial")),
        )
        found = read_questions("pope", path, pope(tmp_path))
        assert [(each.part, *each.answers) for each in found] == [
            ("popular", "yes"),
            ("adversarial", "no"),
        ]

    def test_an_answer_that_is_missing(self, tmp_path):
        record = {"question_id": "202", "image": "a.jpg", "text": "Why?"}
        path = lines(tmp_path / "q.jsonl", record)
        with pytest.raises(ValueError, match=r"--annotations=.*gqa.json has no answer .*'202'"):
            read_questions("gqa", path, gqa(tmp_path))

    @pytest.mark.parametrize("again", [262148000, "262148000"])
    def test_an_answer_that_comes_twice(self, tmp_path, again):
        questions, path = vqav2(tmp_path)
        records = json.loads(path.read_text())["annotations"]
        document(path, {"annotations": [*records, records[0] | {"question_id": again}]})
        with pytest.raises(ValueError, match=r"^--annotations=.* 3: .*262148000'? comes twice"):
            read_questions("vqav2", questions, path)

    def test_bare_words(self):
        asked = f"What  brand?\nReference OCR token: A, B\n{INSTRUCTION}"
        assert bare(asked) == bare("what brand?") == "what brand?"
        assert bare("Is it? Please answer yes or no.") == "is it?"


class TestBadFiles:
    @pytest.mark.parametrize(
        "benchmark, content, message",
        [
            ("llava", '{"question_id": 1}', "q.jsonl, line 1 has no text 'image'"),
            ("llava", "{}\n{", "line 1 has no text 'image'"),
            ("llava", '{"image": "a", "text": "b"}', "line 1 has no number or text 'question_id'"),
            (
                "llava",
                '{"question_id": 1, "image": "a", "text": "b"}\n[1]',
                "line 2: expected a JSON object, found list",
            ),
            ("llava", '{"question_id": 1, "image": "a", "text": " "}', "line 1 has no text 'text'"),
            ("llava", "\n\n", "holds no questions"),
            ("llava", "", "is empty"),
        ],
    )
    def test_lines(self, tmp_path, benchmark, content, message):
        path = tmp_path / "q.jsonl"
        path.write_text(content)
        with pytest.raises(ValueError) as caught:
            read_questions(benchmark, path)
        assert str(caught.value).startswith(f"--questions={path}: ".replace(": ", ""))
        assert message in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "benchmark, content, message",
        [
            ("gqa", "[1]", "expected a JSON object, found list"),
            ("gqa", "{", "no JSON that can be read"),
            ("gqa", '{"7": {}, "8": {}, "7": {}}', "q.json: the key '7' comes twice in an object"),
            ("gqa", '{"7": 1}', "q.json, question '7': expected a JSON object"),
            ("gqa", '{"7": {"imageId": "n"}}', "question '7' has no text 'question'"),
            ("vqav2", '{"data_subtype": "val2014"}', "q.json has no list 'questions'"),
            (
                "vqav2",
                '{"data_subtype": "val2014", "questions": [{"image_id": "5"}]}',
                "q.json, questions 1 has no number 'image_id'",
            ),
            (
                "textvqa",
                '{"data": [{"image_id": "a", "question": "b", "answers": ["c"]}]}',
                "q.json, data 1: 'answers' are not those of ten people",
            ),
            ("llava", "{}", "give a .jsonl file of LLaVA's layout"),
            ("pope", "{}", "name it *_PART.json"),
            ("mme", "{}", "is no folder of MME"),
        ],
    )
    def test_documents(self, tmp_path, benchmark, content, message):
        path = tmp_path / "q.json"
        path.write_text(content)
        with pytest.raises(ValueError) as caught:
            read_questions(benchmark, path)
        assert str(path) in str(caught.value) and message in str(caught.value)

    def test_labels(self, tmp_path):
        folder = pope(tmp_path)
        record = {"question_id": 1, "image": "a", "text": "b", "label": "maybe"}
        lines(folder / "coco_pope_random.json", record)
        with pytest.raises(ValueError, match="coco_pope_random.json, line 1: .*'maybe', not yes"):
            read_questions("pope", folder)

    def test_mme(self, tmp_path):
        root = mme(tmp_path)
        (root / "count" / "1.txt").write_text("Is it?\tYes\nIs it? No\n")
        with pytest.raises(ValueError, match="1.txt, line 2: expected a question, a tab"):
            read_questions("mme", root)
        (root / "count" / "1.jpg").unlink()
        with pytest.raises(ValueError, match="1.txt: no image of this name"):
            read_questions("mme", root)

    @pytest.mark.parametrize("benchmark", BENCHMARKS)
    def test_missing(self, tmp_path, benchmark):
        path = tmp_path / ("q.jsonl" if benchmark == "llava" else "q")
        with pytest.raises((FileNotFoundError, ValueError), match=f"--questions={path}"):
            read_questions(benchmark, path)

    def test_annotations_that_mean_nothing(self, tmp_path):
        path = gqa(tmp_path)
        with pytest.raises(ValueError, match="--annotations=.* means nothing with --vqa=gqa"):
            read_questions("gqa", path, path)
