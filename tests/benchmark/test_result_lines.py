"""JSONL results under crashes, a second process and foreign runs."""

from __future__ import annotations

import json

import pytest

from laser_core.many.resumable_lines import ResultLines

RUN = {"model": "demo", "layer": {"top_heads": 0}}


def started(path, run=RUN):
    """As a process that ran before: its lock is gone."""
    lines = ResultLines(path)
    lines.begin("results", 1, run)
    lines.close()
    return lines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "out.jsonl"


def write(lines, *ids, **values):
    with lines.appending() as append:
        for id in ids:
            append({"id": id, **values})


def test_merged_lines_are_in_the_given_order(path):
    lines = started(path)
    write(lines, "c", "a", value=1)
    write(lines, "b", value=float("nan"))
    merged = lines.merge(["a", "b", "c", "not there"])
    assert [line["id"] for line in merged] == ["a", "b", "c"]
    text = path.read_text()
    assert [json.loads(line) for line in text.splitlines()] == merged
    assert text.splitlines()[1] == '{"id": "b", "value": null}'
    names = {file.name for file in path.parent.iterdir()}
    assert names == {"out.jsonl", "out.run.json", ".out.lock"}


@pytest.mark.parametrize("torn", ['{"id": "b"', '{"id": "b", "value": 1}', "\x00\x00", "x" * 9999])
@pytest.mark.parametrize("whole", [(), ("a",), ("a", "b")])
def test_a_line_without_its_end_is_cut_off_and_the_next_one_is_whole(path, whole, torn):
    write(started(path), *whole, value=1)
    with path.open("a") as file:
        file.write(torn)
    assert list(ResultLines(path).ids()) == list(
        whole
    )  # while it is being written, it is not there
    write(started(path), "c", value=1)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [*whole, "c"]


def test_failures_are_dropped_when_a_run_goes_on(path):
    write(started(path), "a", value=1)
    write(started(path), "b", error="memory full")
    assert set(ResultLines(path).lines()) == {"a", "b"}
    assert started(path).lines() == {"a": {"id": "a", "value": 1}}


def test_cleared_lines_make_room_for_those_that_are_appended_next(path):
    lines = started(path)
    with lines.appending() as append:
        append({"id": "a"})
        lines.clear()
        append({"id": "b"})
    assert list(lines.ids()) == ["b"]


def test_another_run_is_refused_with_what_differs(path):
    started(path, {"model": "mistyped"})  # it made nothing, so it leaves nothing to differ from
    write(started(path), "a")
    with pytest.raises(ValueError, match=r"was made with layer\.top_heads 0, not 4$"):
        started(path, run={"model": "demo", "layer": {"top_heads": 4}})
    with pytest.raises(
        ValueError, match=r"^choose another --out, or repeat its run: .* model 'demo'"
    ):
        started(path, run={**RUN, "model": "other"})
    with pytest.raises(ValueError, match=r"made with new None, not 1$"):
        started(path, run={**RUN, "new": 1})
    with pytest.raises(ValueError, match="is of another program"):
        ResultLines(path).begin("other", 1, RUN)
    with pytest.raises(ValueError, match="is of another program"):
        ResultLines(path).begin("results", 2, RUN)


def test_a_file_that_no_record_explains_is_not_touched(path):
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"^choose another --out: .* no out.run.json says which"):
        started(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("record", ["{", "[1]", ""])
def test_a_broken_record_is_refused(path, record):
    started(path)
    path.with_suffix(".run.json").write_text(record)
    with pytest.raises(ValueError, match=r"^choose another --out: .* cannot be read"):
        started(path)


@pytest.mark.parametrize("damaged", ["{", "[]", '{"name": 1}', "\x00"])
def test_a_damaged_line_is_named(path, damaged):
    write(started(path), "a")
    with path.open("a") as file:
        file.write(f"{damaged}\n")
    with pytest.raises(ValueError, match=r"^remove line 2 of '.*out\.jsonl', and it"):
        ResultLines(path).lines()


def test_the_summary_joins_the_record_and_stays_out_of_the_comparison(path):
    lines = started(path)
    record = lines.summarise({"mean": 0.5})
    assert record == json.loads(path.with_suffix(".run.json").read_text())
    assert record == {"schema": "results", "version": 1, "run": RUN, "summary": {"mean": 0.5}}
    started(path)


def test_only_jsonl_files_are_taken(tmp_path):
    with pytest.raises(ValueError, match=r"^choose an --out that ends in \.jsonl"):
        ResultLines(tmp_path / "out.json")


def test_a_path_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^choose another --out: "):
        started(tmp_path / "file" / "out.jsonl")
