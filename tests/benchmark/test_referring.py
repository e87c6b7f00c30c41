"""Rows of referring expressions, in each format, and what is refused."""

from __future__ import annotations

import json
import pickle

import pytest

from laser_core.evaluation.refcoco import ReferringItem, find_picture, read_items
from laser_core.geometry import Box
from tools.lmms_eval.refs_to_json import read_refs

from .refcoco import write_formats

COUNT = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refcoco")
    write_formats(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    rows = [json.loads(line) for line in (folder / "own.jsonl").read_text().splitlines()]
    return [(row["question"], pytest.approx(Box(*row["box"]))) for row in rows]


def seen(items):
    return [(item.question, item.box) for item in items]


def test_own_rows_are_read_as_they_are(folder, expected):
    items = read_items(folder / "own.jsonl")
    assert seen(items) == expected
    assert items[1].id == "item 1"
    assert items[1].picture == "COCO_train2014_000000000001.png"


def test_a_list_of_rows_is_the_same_as_a_line_a_row(folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "own.jsonl").read_text().splitlines()]
    (tmp_path / "own.json").write_text(json.dumps(rows))
    assert read_items(tmp_path / "own.json") == read_items(folder / "own.jsonl")


def test_lmms_labs_rows_give_an_item_an_expression(folder, expected):
    items = read_items(folder / "lmms_lab.json")
    assert seen(items[::2]) == seen(items[1::2]) == expected
    assert [item.id for item in items[:3]] == ["1000-0-0", "1000-0-1", "1001-1-0"]


def test_refs_take_boxes_and_pictures_from_the_instances(folder, expected):
    items = read_items(folder / "refs.json", instances=folder / "instances.json")
    assert seen(items) == expected
    assert items == [
        ReferringItem(f"{n}-{2 * n}", f"COCO_train2014_{n:012d}.png", *seen(items)[n])
        for n in range(COUNT)
    ]


def test_a_split_and_a_question_are_respected(folder):
    items = read_items(
        folder / "refs.json",
        instances=folder / "instances.json",
        split="val",
        question="Where is {}?",
    )
    assert [item.id for item in items] == ["1-2", "3-6"]
    asked = [item.question for item in read_items(folder / "own.jsonl")]
    assert [item.question for item in items] == [f"Where is {asked[n]}?" for n in (1, 3)]


@pytest.mark.parametrize("there", ["_16", "", "2017"])
def test_pictures_are_found_by_each_of_cocos_names(tmp_path, there):
    name = "COCO_train2014_000000581857_16.jpg"
    file = {"_16": name, "": "COCO_train2014_000000581857.jpg", "2017": "000000581857.jpg"}[there]
    (tmp_path / file).write_text("")
    assert find_picture(tmp_path, name) == tmp_path / file


def test_a_picture_under_no_name_is_missed_by_its_own(tmp_path):
    assert find_picture(tmp_path, "photo_12.jpg") == tmp_path / "photo_12.jpg"


def refused(folder, tmp_path, name, content, message, **options):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_items(path, **options)


ROW = {"id": 1, "image": "a.png", "question": "what ?", "box": [0, 0, 1, 1]}
LAB = {"question_id": 1, "file_name": "a.png", "answer": ["it"], "bbox": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("refs(unc).p", "", r"^convert it to JSON first, python -m tools.lmms_eval.refs_to_json: "),
        ("a.json", "{", "^save .* as JSON, or as .jsonl: "),
        ("a.jsonl", f"{json.dumps(ROW)}\n\n{{", "^save .*: Expecting .* in line 3$"),
        ("a.json", "[]", "^fill .* with rows: "),
        ("a.json", "{}", "^fill .* with rows: "),
        ("a.jsonl", "\n", "^fill .* with rows: "),
        ("a.json", '[{"id": 1, "bbox": []}]', "^give every row the fields of one kind, .*: the "),
        ("a.json", json.dumps([ROW, ROW]), "^give every row an id of its own: '1' occurs twice"),
        ("a.json", json.dumps([ROW, {"id": 2}]), "^fix row 2 of .*: KeyError 'box'"),
        ("a.json", json.dumps([{**LAB, "answer": []}]), "^add expressions to the rows of .*a.json"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, name, content, message):
    refused(None, tmp_path, name, content, message)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "box": [1]}, r"the box is \[1\], and not four finite numbers"),
        ({**ROW, "box": "1234"}, "the box is '1234', and not four finite numbers"),
        (
            {**ROW, "box": [0, 0, float("nan"), 1]},
            "the box is .*nan.*, and not four finite numbers",
        ),
        (
            {**ROW, "box": [0, 0, float("inf"), 1]},
            "the box is .*inf.*, and not four finite numbers",
        ),
        ({**ROW, "box": [0, 0, 10**400, 1]}, "OverflowError"),
        ({**ROW, "box": [2, 0, 1, 1]}, r"the box's corners are swapped: \(2.0, 0.0, 1.0, 1.0\)"),
        ({**LAB, "bbox": [5, 5, 1, -1]}, "the box's corners are swapped"),
        ({**LAB, "bbox": [5, 5, None, 1]}, "the box is .*None.*, and not four finite numbers"),
        ({**ROW, "image": None}, "the picture's name is None, and no text"),
        ({**LAB, "file_name": 3}, "the picture's name is 3, and no text"),
        ({**ROW, "question": None}, "the expression is None, and no text"),
        ({**LAB, "answer": [{}]}, r"the expression is \{\}, and no text"),
        ({**LAB, "answer": None}, "TypeError"),
        ({**ROW, "question": "\ud83d"}, "UnicodeEncodeError"),
        ({**ROW, "id": "\ud83d"}, "UnicodeEncodeError"),
    ],
)
def test_a_row_of_other_values_is_refused_by_its_number(tmp_path, row, message):
    good = {**row, **(ROW if "id" in row else LAB), **({"id": 0} if "id" in row else {})}
    content = json.dumps([good, row])
    refused(None, tmp_path, "a.json", content, rf"^fix row 2 of '.*a\.json': .*{message}")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_line_breaks_part_rows_and_a_mark_at_the_start_is_no_text(tmp_path, end):
    """JSON texts may hold U+2028 and the like as they are; Windows writes a mark before all."""
    asked = ["one\u2028two", "three\x85four\u2029five", "six"]
    rows = [{**ROW, "id": n, "question": text} for n, text in enumerate(asked)]
    lines = end.join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "a.jsonl").write_bytes(f"\ufeff{lines}{end}".encode())
    assert [item.question for item in read_items(tmp_path / "a.jsonl")] == asked


def test_a_missing_file_and_no_text_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^check the path: .* cannot be read"):
        read_items(tmp_path / "nowhere.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"^save .* as JSON in UTF-8"):
        read_items(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"^give --instances, the instances.json of the same dataset: "),
        ({"instances": "refs.json"}, r"^give --instances in COCO's format"),
        ({"instances": "own.jsonl"}, r"^give --instances in COCO's format"),  # no JSON as a whole
        ({"instances": "instances.json", "split": "dev"}, "^choose a --split of testA, val: "),
        ({"question": "where"}, "^write {} where the expression goes: "),
    ],
)
def test_refs_without_what_they_need_are_refused(folder, options, message):
    if "instances" in options:
        options = {**options, "instances": folder / options["instances"]}
    with pytest.raises(ValueError, match=message):
        read_items(folder / "refs.json", **options)


def test_a_split_of_rows_that_have_none_is_refused(folder):
    with pytest.raises(ValueError, match=r"^leave out --split: "):
        read_items(folder / "own.jsonl", split="val")


# ---- pickles -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refs_of_plain_values_are_unpickled(protocol):
    refs = [{"ref_id": 0, "sent_ids": [0, 1], "split": "val", "sentences": [{"sent": "caf\u00e9"}]}]
    assert read_refs(pickle.dumps(refs, protocol)) == refs


class Harmful:
    def __reduce__(self):
        return print, ("called",)


def test_a_pickle_that_would_call_something_is_refused_and_calls_nothing(capsys):
    with pytest.raises(ValueError, match=r"^use another file: it would call builtins\.print"):
        read_refs(pickle.dumps([Harmful()]))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps([1, 2])[:-3]])
def test_a_broken_pickle_is_refused(data):
    with pytest.raises(ValueError, match=r"^download the file again"):
        read_refs(data)
