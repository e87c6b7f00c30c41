"""JSONL results under crashes, several processes and foreign runs."""

from __future__ import annotations

import json
import os

import pytest

from laser_core.evaluation.resumable_lines import ResultLines

RUN = {"model": "demo", "layer": {"top_heads": 0}}


def started(path, process=0, run=RUN):
    lines = ResultLines(path, process)
    lines.begin("results", 1, run)
    return lines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "out.jsonl"


def write(lines, *ids, **values):
    with lines.appending() as append:
        for id in ids:
            append({"id": id, **values})


def test_the_parts_of_two_processes_become_one_file_in_the_given_order(path):
    first, second = started(path), ResultLines(path, 1)
    write(first, "a", "c", value=1)
    write(second, "d", "b", value=float("nan"))
    merged = first.merge(["a", "b", "c", "d", "not there"])
    assert [line["id"] for line in merged] == ["a", "b", "c", "d"]
    text = path.read_text()
    assert [json.loads(line) for line in text.splitlines()] == merged
    assert text.splitlines()[1] == '{"id": "b", "value": null}'
    assert {file.name for file in path.parent.iterdir()} == {"out.jsonl", "out.run.json"}


@pytest.mark.parametrize("torn", ['{"id": "b"', '{"id": "b", "value": 1}', "\x00\x00"])
def test_a_line_without_its_end_is_cut_off_and_the_next_one_is_whole(path, torn):
    write(started(path), "a", value=1)
    part = path.with_suffix(".part-0.jsonl")
    with part.open("a") as file:
        file.write(torn)
    assert set(ResultLines(path).lines()) == {"a"}  # while it is being written, it is not there
    write(started(path), "c", value=1)
    assert [json.loads(line)["id"] for line in part.read_text().splitlines()] == ["a", "c"]


def test_a_part_of_nothing_but_a_torn_line_becomes_empty(path):
    started(path)
    path.with_suffix(".part-3.jsonl").write_text('{"id":')
    assert started(path).lines() == {}
    assert path.with_suffix(".part-3.jsonl").read_text() == ""


def test_a_result_counts_before_an_error_and_an_error_before_nothing(path):
    lines = started(path)
    write(lines, "a", "b", error="memory full")
    write(lines, "a", value=1)
    write(lines, "a", error="memory full")
    assert lines.lines() == {"a": {"id": "a", "value": 1}, "b": {"id": "b", "error": "memory full"}}


def test_a_merged_file_and_parts_left_by_a_kill_count_once(path):
    lines = started(path)
    write(lines, "a", "b", value=1)
    lines.merge(["a", "b"])
    whole = path.read_bytes()
    write(ResultLines(path, 1), "a", "b", value=1)  # as if the kill came before they were removed
    started(path).merge(["a", "b"])
    assert path.read_bytes() == whole


def test_another_run_is_refused_with_what_differs(path):
    started(path)
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


@pytest.mark.parametrize("name", ["out.jsonl", "out.part-0.jsonl"])
def test_a_file_that_no_record_explains_is_not_touched(path, name):
    path.parent.mkdir()
    (path.parent / name).write_text("mine")
    with pytest.raises(ValueError, match=r"^choose another --out: .* no out.run.json says which"):
        started(path)
    assert [file.name for file in path.parent.iterdir()] == [name]
    assert (path.parent / name).read_text() == "mine"


@pytest.mark.parametrize("record", ["{", "[1]", ""])
def test_a_broken_record_is_refused(path, record):
    started(path)
    path.with_suffix(".run.json").write_text(record)
    with pytest.raises(ValueError, match=r"^choose another --out: .* cannot be read"):
        started(path)


@pytest.mark.parametrize("damaged", ["{", "[]", '{"name": 1}', "\x00"])
def test_a_damaged_line_is_named(path, damaged):
    write(started(path), "a")
    with path.with_suffix(".part-0.jsonl").open("a") as file:
        file.write(f"{damaged}\n")
    with pytest.raises(ValueError, match=r"^remove line 2 of '.*out\.part-0\.jsonl', and it"):
        ResultLines(path).lines()


def test_the_summary_joins_the_record_and_stays_out_of_the_comparison(path):
    lines = started(path)
    record = lines.summarise({"mean": 0.5})
    assert record == json.loads(path.with_suffix(".run.json").read_text())
    assert record == {"schema": "results", "version": 1, "run": RUN, "summary": {"mean": 0.5}}
    started(path)


def test_a_full_disk_is_said_with_the_remedy(path, monkeypatch):
    lines = started(path)
    monkeypatch.setattr(os, "write", lambda file, data: len(data) - 1)
    with pytest.raises(ValueError, match=r"^choose another --out, or make room: .* disk is full"):
        write(lines, "a")


def test_only_jsonl_files_are_taken(tmp_path):
    with pytest.raises(ValueError, match=r"^choose an --out that ends in \.jsonl"):
        ResultLines(tmp_path / "out.json")


def test_a_path_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^choose another --out, or make room: "):
        started(tmp_path / "file" / "out.jsonl")
