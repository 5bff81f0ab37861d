"""Scores of answers about images: each rule of each benchmark, on cases made by hand."""

import pytest

from unitok_jax.evaluation.metrics import vqa


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("Red", "red"),
        ("what, really?", "what really"),
        ("the dog's", "dog 's"),
        ("a\nb\tc", "b c"),
        ("yes/no", "yes no"),  # a mark between letters becomes a space
        ("x-y -z", "xy z"),  # where one stands beside a space, all of its kind go,
        ("x-y- z", "xy z"),
        ("x;/y/z", "x y z"),  # what counts is where it stood before any went
        ("x-y /z", "x y z"),  # and those of another kind do not
        ("$5,000", "$5000"),  # commas go first: none is left between digits
        ("10,000-x", "10000 x"),
        ("u.s.a.", "usa"),
        ("1.5", "1.5"),
        ("v.2", "v.2"),  # a digit follows; what is before does not matter
        ("2.", "2"),
        ("none", "0"),
        ("Ten cats and zero dogs", "10 cats and 0 dogs"),
        ("eleven", "eleven"),
        ("an apple and the a", "apple and"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("somebody'd", "somebodyd"),  # the one pair that is the wrong way round
        ("im", "im"),
        ("   ", ""),
    ],
)
def test_normalized(answer, expected):
    assert vqa.normalize(answer) == expected


@pytest.mark.parametrize("mark", ';/[]"{}()=+\\_-><@`!')
def test_every_mark(mark):
    assert vqa.normalize(f"x{mark}y") == "x y"
    assert vqa.normalize(f"x {mark}y{mark}z") == "x yz"


def test_only_32_periods_go():
    assert vqa.normalize("." * 40 + "x") == "." * 8 + "x"
    assert vqa.normalize("x" + ".1" * 40 + "." * 32) == "x" + ".1" * 40


class TestAccuracy:
    @pytest.mark.parametrize(
        "agree, accuracy", [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)]
    )
    def test_leaves_each_person_out(self, agree, accuracy):
        people = ["Red."] * agree + [f"x{number}" for number in range(10 - agree)]
        assert vqa.vqa_accuracy("the red", people) == pytest.approx(accuracy)

    def test_ten_people(self):
        with pytest.raises(ValueError, match="9 answers of people; VQA accuracy is of 10"):
            vqa.vqa_accuracy("x", ["x"] * 9)

    def test_mean(self):
        people = [["x"] * 10, ["y"] * 10, ["z"] * 2 + ["x"] * 8]
        assert vqa.mean_vqa_accuracy(["x", "x", "z"], people) == pytest.approx(160 / 3)


def test_exact_match():
    assert vqa.exact_match(["Yes.", "no", "the dog", "1.5"], ["yes", "yes", "dog", "1.5"]) == 50


class TestPope:
    @pytest.mark.parametrize(
        "answer, no",
        [
            *[("No", True), ("no", True), ("NO", False), ("Yes", False), ("", False)],
            *[("There is not.", True), ("Nothing", False), ("No, it is.", True)],
            *[("Yes. There is no other.", False), ("no\nyes", False), ("none", False)],
        ],
    )
    def test_reads_the_first_sentence(self, answer, no):
        assert vqa.says_no(answer) is no

    def test_figures(self):
        answers = ["yes", "yes", "yes", "no", "no"]
        labels = ["yes", "yes", "no", "yes", "no"]
        f1 = 100 * 2 / 3
        assert vqa.yes_no(answers, labels) == pytest.approx((f1, 60, f1, f1, 60))
        said = vqa.yes_no(["yes", "yes", "yes", "no"], ["yes", "no", "no", "no"])
        assert said == pytest.approx((50, 50, 100 / 3, 100, 75))

    def test_nothing_to_divide_by(self):
        assert vqa.yes_no(["no", "no"], ["yes", "no"]) == (0, 50, 0, 0, 0)

    def test_the_mean_is_of_parts_not_of_questions(self):
        answers = ["yes", "no", "no", "no"]
        labels = ["yes", "yes", "yes", "yes"]
        found = vqa.pope(answers, labels, ["random", "popular", "popular", "popular"])
        assert found["f1"] == 50 and found["f1/random"] == 100 and found["f1/popular"] == 0
        assert set(found) == {
            "f1",
            *(f"{name}/{part}" for name in vqa.YesNo._fields for part in ("random", "popular")),
        }


class TestMme:
    @pytest.mark.parametrize(
        "answer, read",
        [
            *[("Yes", "yes"), ("yes, it is", "yes"), ("No.", "no"), ("not so", "no")],
            *[("It is, yes", "other"), (" no", "no"), ("(yes)", "yes"), ("", "other")],
            ("a no", "no"),
        ],
    )
    def test_reads_four_letters(self, answer, read):
        assert vqa.read_yes_no(answer) == read

    def test_points(self):
        answers = ["yes", "no", "yes", "yes", "maybe", "no", "yes", "yes"]
        labels = ["Yes", "No", "Yes", "No", "Yes", "No", "Yes", "No"]
        tasks = ["count"] * 4 + ["OCR"] * 2 + ["code_reasoning"] * 2
        images = ["a", "a", "b", "b", "a", "a", "a", "a"]  # of one name in three tasks
        found = vqa.mme(answers, labels, tasks, images)
        assert found == {
            "perception": 125 + 50,
            "cognition": 50,
            "points/count": 75 + 50,
            "points/OCR": 50,
            "points/code_reasoning": 50,
        }

    def test_other_tasks_are_in_no_sum(self):
        found = vqa.mme(["yes"], ["yes"], ["smell"], ["a"])
        assert found == {"points/smell": 200}

    def test_fourteen_tasks(self):
        assert len({*vqa.PERCEPTION, *vqa.COGNITION}) == 14 and len(vqa.PERCEPTION) == 10
