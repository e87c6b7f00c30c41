"""The command `compare` on a tiny model: a picture, a file of rows, and what is refused."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from laser_core.command_line import cli
from laser_core.evaluation import measuring
from laser_core.evaluation.compare import compare as compare_methods
from laser_core.evaluation.compare import rows_as_data
from laser_core.evaluation.compared_settings import NOT_CARRIED_OUT
from laser_core.evaluation.comparison import describe, summarise
from laser_core.evaluation.methods import METHODS
from laser_core.evaluation.questions import read_questions
from laser_core.evaluation.scoring import letter, normalised, same_words, vqa_accuracy, yes_or_no
from laser_core.files import to_plain
from laser_core.geometry import Box
from laser_core.settings import LaserSettings
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.tiny import build, save

QUESTION = "what color is the square ?"
ROWS = [
    {"id": "a", "image": "0.png", "question": QUESTION, "answer": "red", "boxes": [[5, 5, 40, 40]]},
    {"id": "b", "image": "1.png", "question": "where is the dog ?", "answer": ["left", "right"]},
    {"id": "c", "image": "0.png", "question": "what is it ?", "boxes": [[50, 10, 80, 60]]},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny model, two pictures and rows about them."""
    folder = tmp_path_factory.mktemp("compare")
    save(build("llava", layers=2), folder / "model")
    (folder / "pictures").mkdir()
    for seed in range(2):
        noise_picture((80, 80), seed).save(folder / "pictures" / f"{seed}.png")
    write(folder / "rows.jsonl", ROWS)
    return folder


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def compare(data, tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder; (exit code, stdout, the last line of stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(picture, question, *more):
        model = ["--model", str(data / "model"), "--min-side-px", "20", "--max-tokens", "2"]
        code = cli.main(["compare", str(picture), str(question), *more, *model])
        out, err = capsys.readouterr()
        return code, out, (err.splitlines() or [""])[-1]

    return run


def test_a_picture_gives_a_sheet_and_a_report_of_every_method(data, compare, tmp_path):
    picture = data / "pictures" / "0.png"
    code, out, _ = compare(picture, QUESTION, "--box", "5", "5", "40", "40", "--steps", "2")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:-1]] == list(METHODS)
    report = json.loads((tmp_path / "laser-out" / "report.json").read_text())
    assert list(report["methods"]) == list(METHODS)
    laser, whole = report["methods"]["laser"], report["methods"]["whole"]
    assert {"mass", "points", "holds", "insertion", "deletion", "tokens"} <= laser.keys()
    assert whole["window"] is None and "mass" not in whole
    # Nothing is blocked and everything is: the curves of all methods meet at both ends
    traced = list(report["curves"].values())
    for one, other in pairwise(traced):
        assert one["deletion"][0] == other["deletion"][0] == one["insertion"][-1]
        assert one["deletion"][-1] == other["deletion"][-1] == one["insertion"][0]
    sheet = Image.open(tmp_path / "laser-out" / "compare.png")
    assert sheet.width > 4 * 384 and sheet.height > 2 * 384
    assert compare(picture, QUESTION, "--steps", "0", "--methods", "centre")[0] == 0
    assert {path.name for path in (tmp_path / "laser-out").iterdir()} == {
        "compare.png", "report.json",
    }  # fmt: skip


def test_rows_have_a_line_each_and_a_stopped_run_goes_on(data, compare, tmp_path, monkeypatch):
    rows, pictures, out = data / "rows.jsonl", data / "pictures", tmp_path / "out.jsonl"
    more = ["--steps", "2", "--methods", "laser", "random", "--out", str(out)]
    assert compare(rows, pictures, "--limit", "2", *more)[0] == 0
    first = out.read_text().splitlines()
    code, printed, _ = compare(rows, pictures, *more)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == 0 and [line["id"] for line in lines] == ["a", "b", "c"]
    assert out.read_text().splitlines()[:2] == first
    assert printed.startswith("3 questions on 2 pictures, 0 failed; ")
    assert (
        "mass" not in lines[1]["methods"]["laser"] and "right" not in lines[2]["methods"]["laser"]
    )
    record = json.loads(out.with_suffix(".run.json").read_text())["summary"]
    masses = [lines[index]["methods"]["laser"]["mass"] for index in (0, 2)]
    assert record["methods"]["laser"]["mass"]["value"] == pytest.approx(np.mean(masses), rel=1e-6)
    monkeypatch.setattr(measuring, "OwnModel", lambda *given: None)  # a call of it would fail
    assert compare(rows, pictures, *more)[1] == printed
    code, _, error = compare(rows, pictures, *more, "--rule", "argmax")
    assert code == 2 and error.endswith("was made with layer.rule 'max', not 'argmax'")
    assert [json.loads(line) for line in out.read_text().splitlines()] == lines


def test_what_is_not_carried_out_changes_nothing():
    changed = {
        "windows": 2, "amount": 0.5, "fill": "noise", "block": "picture and crop", "looks": 4,
        "alpha": 5.0, "beta": 0.9, "adaptive": 0.0,
    }  # fmt: skip
    assert set(changed) == set(NOT_CARRIED_OUT)
    one, other = (
        rows_as_data(
            compare_methods(
                lvlm_of("llava", layers=2), noise_picture((80, 80)), QUESTION,
                LaserSettings.of(min_side_px=20, max_tokens=2, **given),
                methods=["laser", "whole"], boxes=[Box(5, 5, 40, 40)], steps=2,
            )
        )
        for given in ({}, changed)
    )  # fmt: skip
    assert one == other


@pytest.mark.parametrize("box", [Box(float("nan"), 0, 9, 9), Box(90, 90, 99, 99)])
def test_a_box_that_shows_nothing_of_the_picture_is_refused(box):
    with pytest.raises(ValueError, match=r"^correct the box \("):
        compare_methods(lvlm_of("llava", layers=2), noise_picture((80, 80)), QUESTION, boxes=[box])


def test_the_record_holds_no_setting_that_is_not_carried_out(data, compare, tmp_path):
    out = tmp_path / "out.jsonl"
    more = ["--steps", "0", "--methods", "centre", "--preset", "paper", "--out", str(out)]
    assert compare(data / "rows.jsonl", data / "pictures", *more)[0] == 0
    run = json.loads(out.with_suffix(".run.json").read_text())["run"]
    assert run["decode"]["max_tokens"] == 2 and run["crop"]["margin"] == 0
    assert "alpha" not in run["decode"] and "windows" not in run["crop"]
    assert "counterfactual" not in run


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([{**ROWS[0], "image": "9.png"}], (), "put the pictures into "),
        ([{"image": "0.png"}], (), "give every row the fields of one kind, "),
        ([{**ROWS[0], "boxes": [[5, 5, 1, 1]]}], (), "fix row 1 of "),
        (
            [ROWS[1], {**ROWS[2], "answers": "red"}],
            (),
            "rename or leave out 'answers' in row 2 of ",
        ),
        ([{**ROWS[0], "answer": 5}], (), "fix row 1 of "),
        ([{**ROWS[0], "boxes": [5, 5, 9]}], (), "fix row 1 of "),
        (ROWS, ("--alpha", "2"), "leave out --alpha: every method's first window "),
        (ROWS, ("--windows", "2"), "leave out --windows: every method's first window "),
        ([ROWS[0], ROWS[0]], (), "give every row an id of its own: 'a'"),
        (ROWS, ("--methods", "laser", "gradcam"), "choose methods of laser, vicrop, "),
        (ROWS, ("--steps", "1"), "give --steps 0, or a number from 2 to 100: "),
        (ROWS, ("--box", "1", "2", "3", "4"), "leave out --box, which is of a picture: "),
        (ROWS, ("--limit", "-1"), "give --limit a number from 0, all, on: "),
    ],
)
def test_mistakes_are_one_line_with_the_remedy_first(data, compare, tmp_path, rows, more, message):
    path = write(tmp_path / "rows.jsonl", rows)
    code, _, error = compare(path, data / "pictures", *more)
    assert code == 2 and error.startswith(message)
    assert {entry.name for entry in tmp_path.iterdir()} == {"rows.jsonl"}


def test_what_is_of_rows_is_refused_beside_a_picture(data, compare):
    code, _, error = compare(data / "pictures" / "0.png", QUESTION, "--engine", "ray")
    assert code == 2 and error.startswith("leave out --engine, which is of rows: ")


@pytest.mark.parametrize("corners", [("nan", "0", "9", "9"), ("9", "0", "9", "9")])
def test_a_box_that_is_none_is_refused_before_a_model_is_loaded(data, compare, tmp_path, corners):
    code, _, error = compare(data / "no picture.png", QUESTION, "--box", *corners)
    assert code == 2 and error.startswith("correct --box: the box ")


def test_a_foreign_sheet_is_not_overwritten(data, compare, tmp_path):
    (tmp_path / "laser-out").mkdir()
    (tmp_path / "laser-out" / "compare.png").write_bytes(b"mine")
    code, _, error = compare(data / "pictures" / "0.png", QUESTION)
    assert code == 2 and error.startswith("choose another --out, or move ")
    assert (tmp_path / "laser-out" / "compare.png").read_bytes() == b"mine"


def test_rows_of_referring_expressions_are_questions_with_a_box(tmp_path):
    row = {"id": 7, "image": "0.png", "question": "the dog", "box": [1, 2, 3, 4]}
    [question] = read_questions(write(tmp_path / "rows.jsonl", [row]))
    assert (question.id, question.answers, question.boxes) == ("7", (), (Box(1, 2, 3, 4),))


def test_each_row_has_its_own_fields_and_null_is_not_known(tmp_path):
    asked, box = {"image": "0.png", "question": "where ?"}, [1, 2, 3, 4]
    rows = [
        {**asked, "id": None, "box": box, "answer": "red"},
        {**asked, "boxes": box, "answer": None},
        {**asked, "box": box, "boxes": [[5, 6, 7, 8]], "answer": ["a", "b"]},
        {**asked, "box": None, "boxes": None},
    ]
    found = read_questions(write(tmp_path / "rows.jsonl", rows))
    assert [question.id for question in found] == ["1", "2", "3", "4"]
    assert [question.answers for question in found] == [("red",), (), ("a", "b"), ()]
    one = Box(1, 2, 3, 4)
    boxes = [question.boxes for question in found]
    assert boxes == [(one,), (one,), (one, Box(5, 6, 7, 8)), ()]


def test_the_summary_pairs_differences_and_leaves_out_what_is_not_known():
    def line(picture, first, second):
        methods = {
            "laser": {"right": first, "tokens": 9},
            "random": {"right": second, "tokens": 5},
        }
        return {"id": picture, "picture": picture, "methods": methods}

    lines = [line("a", 1.0, 0.0), line("b", 0.0, 0.0), line("c", 1.0, 1.0)]
    failed = {"id": "d", "picture": "d", "error": "too dark"}
    summary = summarise([*lines, failed], ["laser", "random"])
    assert summary["methods"]["laser"]["right"].value == pytest.approx(2 / 3)
    assert summary["ahead"]["random"]["right"].value == pytest.approx(1 / 3)
    assert summary["methods"]["laser"]["mass"].items == 0
    text = describe(to_plain(summary))
    assert "3 questions on 3 pictures, 1 failed" in text[0]
    assert "map in boxes" not in text[1] and text[-1] == "failed 1: too dark"
    assert not any(mark in row for row in text[2:] for mark in "[*")  # of three pictures


# ---- scoring -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "compared"),
    [  # by EvalAI's processor
        ("The Dog's, two", "dog 's 2"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("6.5 mph.", "6.5 mph"),
        ("coca-cola", "coca cola"),
        ("None", "0"),
    ],
)
def test_answers_are_compared_as_evalai_compares_them(text, compared):
    assert normalised(text) == compared


def test_vqa_accuracy_leaves_each_person_out_in_turn():
    truths = ["red"] * 3 + ["dark red"] * 7
    # Without one of the three that say it, two are left; without another, three
    assert vqa_accuracy("Red.", truths) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert vqa_accuracy("blue", truths) == 0 and vqa_accuracy("dark red", truths) == 1


@pytest.mark.parametrize(
    ("said", "right"),
    [("A", 1), ("(a) rubber", 1), ("The answer is A.", 1), ("B", 0), ("rubber", 0), ("", 0)],
)
def test_a_letter_is_found_in_an_answer(said, right):
    assert letter(said, ["A"]) == right


def test_yes_is_yes_alone_and_own_answers_are_any_of_those_given():
    assert [yes_or_no(said, ["yes"]) for said in ("Yes.", "yes, it is", "no")] == [1, 0, 0]
    assert same_words("The Left", ["right", "left"]) == 1
