"""The command `many` in this process: what rows say, and what no fault damages."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pickle
import signal
import sys
import threading
import time

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from laser_core import load_lvlm
from laser_core.command_line import cli
from laser_core.console import ProgressLine
from laser_core.many import LaserMap
from laser_core.many.laser_map import _ahead
from laser_core.many.resumable_lines import ResultLines
from laser_core.many.sources import Source, Template
from laser_core.pictures import read_picture
from laser_core.pipeline import answer, locate
from laser_core.settings import CropSettings, DecodeSettings, LaserSettings
from tools.demo_model.world import held_out_items
from tools.testbed.lvlms import noise_picture
from tools.testbed.tiny import build, save

QUESTION = "what colour is the square ?"
FAST = ("--max-tokens", "2", "--min-side-px", "20")
SETTINGS = LaserSettings(crop=CropSettings(min_side_px=20), decode=DecodeSettings(max_tokens=2))
COUNT, FEW = 60, 20


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny model, a folder of pictures in folders, and their rows in reverse."""
    root = tmp_path_factory.mktemp("many")
    save(build("llava", layers=2), root / "model")
    rows = []
    for number in range(COUNT):
        name = f"pictures/{number // 20}/{number:02d}.png"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise_picture((40, 30), number).save(root / name)
        rows.append({"id": f"id {number}", "image": name, "colour": ["red", "blue"][number % 2]})
    write_rows(root / "rows.jsonl", rows[::-1])
    write_rows(root / "again.jsonl", rows[::-1])
    write_rows(root / "few.jsonl", rows[::-1][:FEW])
    return root


@pytest.fixture(scope="module")
def whole(data):
    """The rows of a run from start to end."""
    assert many(data, data / "whole.jsonl") == 0
    return rows_of(data / "whole.jsonl")


def many(data, out, *more, source="rows.jsonl", question=QUESTION, model="model"):
    chosen = ["--model", str(data / model), "--out", str(out), *FAST]
    return cli.main(["many", str(data / source), question, *chosen, *more])


def write_rows(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def rows_of(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


def by_id(rows):
    return {row["id"]: row for row in rows}


# ---- what a row says ---------------------------------------------------------------------------


def test_a_row_says_what_the_answer_to_its_picture_says(tmp_path):
    items = held_out_items("test", 2)
    settings = LaserSettings(decode=DecodeSettings(alpha=0.0))
    for number, item in enumerate(items):
        item.picture.save(tmp_path / f"{number}.png", compress_level=1)
    asked = [
        {"image": f"{number}.png", "question": item.question} for number, item in enumerate(items)
    ]
    write_rows(tmp_path / "rows.jsonl", asked)
    out = tmp_path / "out.jsonl"
    command = ["many", str(tmp_path / "rows.jsonl"), "--plain", "--crops", "--masks"]
    assert cli.main([*command, "--alpha", "0", "--out", str(out)]) == 0
    rows, lvlm = rows_of(out), load_lvlm("demo")
    for number, (row, item) in enumerate(zip(rows, items, strict=True)):
        expected = answer(lvlm, item.picture, item.question, settings, with_plain=True)
        assert (row["row"], row["id"]) == (number, str(number))
        assert row["answer"] == expected.answer.text
        assert row["plain"] == expected.plain.text
        assert row["windows"] == [list(window) for window in expected.location.windows]
        assert row["layer"] == expected.location.evidence.choice.layer
        certainty = expected.looks[expected.believed].certainty
        assert row["certainty"] == pytest.approx(certainty, rel=1e-4)
        assert row["error"] is None
        crop, mask, heat = (Image.open(tmp_path / name) for name in row["files"])
        assert crop.tobytes() == item.picture.convert("RGB").crop(row["windows"][0]).tobytes()
        within = 2 * max(1, max(item.picture.size) / 512)  # boxes are drawn no larger than that
        assert row["boxes"] == [pytest.approx(list(mask.getbbox()), abs=within)]
        assert heat.size == mask.size == item.picture.size
        assert heat.getextrema()[1] == 255


def test_locating_gives_windows_and_no_answer(data, tmp_path):
    out = tmp_path / "out.jsonl"
    arguments = ["many", str(data / "pictures" / "0"), QUESTION, "--locate", "--min-side-px", "20"]
    assert cli.main([*arguments, "--model", str(data / "model"), "--out", str(out)]) == 0
    lvlm = load_lvlm(str(data / "model"))
    for row in rows_of(out)[:3]:
        picture = read_picture(data / "pictures" / "0" / row["image"])
        found = locate(lvlm, picture, QUESTION, SETTINGS)
        assert row["windows"] == [list(window) for window in found.windows]
        assert row["certainty"] == pytest.approx(found.maps.certainty, rel=1e-4)
        assert row["answer"] is row["plain"] is row["stop_reason"] is None


def test_a_picture_that_cannot_be_read_is_a_row_with_the_reason_and_is_tried_again(
    data, whole, tmp_path, capsys
):
    out, broken = tmp_path / "out.jsonl", data / "pictures" / "2" / "47.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:60])
    try:
        assert many(data, out, source="few.jsonl") == 0
    finally:
        broken.write_bytes(content)
    printed = capsys.readouterr().out
    assert f"{FEW} rows, {FEW} of them new" in printed
    assert "failed 1: " in printed
    rows, expected = rows_of(out), whole[:FEW]
    assert [row["id"] for row in rows] == [row["id"] for row in expected]
    assert by_id(rows)["id 47"]["error"]
    assert [row for row in rows if row["id"] != "id 47"] == [
        r for r in expected if r["id"] != "id 47"
    ]
    assert many(data, out, source="few.jsonl") == 0
    assert by_id(rows_of(out)) == by_id(expected)
    assert len(rows_of(out)) == FEW
    assert "1 of them new" in capsys.readouterr().out


def test_if_every_row_fails_the_reason_is_the_error(data, tmp_path, capsys):
    write_rows(tmp_path / "rows.jsonl", [{"image": "https://localhost/a.png"}, {"image": None}])
    assert many(data, tmp_path / "out.jsonl", source=tmp_path / "rows.jsonl") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("give --allow-urls, or a local path: 'https://localhost/a.png'")
    assert error.endswith("(not one row could be made; 2 failed)")


def test_urls_are_read_where_they_are_allowed(data, tmp_path):
    handler = type("Handler", (http.server.SimpleHTTPRequestHandler,), {"log_message": print})
    folder = str(data / "pictures" / "0")
    serving = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: handler(*arguments, directory=folder)
    )
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{serving.server_port}"
    rows = [{"image": f"{address}/03.png"}, {"image": f"{address}/nowhere.png"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out.jsonl"
    with contextlib.closing(serving.socket):
        assert many(data, out, "--allow-urls", source=tmp_path / "rows.jsonl") == 0
        serving.shutdown()
    read, absent = rows_of(out)
    assert read["answer"] is not None
    assert absent["error"].startswith("check the address and the network: ")


# ---- where pictures come from ------------------------------------------------------------------


def test_a_folder_gives_the_pictures_of_all_its_folders_but_hidden_ones(data, tmp_path):
    for name in ("b/2.PNG", "a.jpg", "b/1.webp", "c.txt", ".hidden/3.png", "b/.4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    items = list(Source(str(tmp_path), QUESTION))
    assert [(item.row, item.id) for item in items] == [
        (0, "a.jpg"),
        (1, "b/1.webp"),
        (2, "b/2.PNG"),
    ]
    assert items[1].picture == str(tmp_path / "b" / "1.webp")
    globbed = Source(str(tmp_path / "**" / "*.webp"), QUESTION)
    assert [item.picture for item in globbed] == [str(tmp_path / "b" / "1.webp")]


def test_a_template_is_filled_from_the_columns(data):
    first, second, *_ = Source(str(data / "rows.jsonl"), "is the {colour} {{x}} in {id}?")
    assert first.question == f"is the blue {{x}} in id {COUNT - 1}?"
    assert second.question == f"is the red {{x}} in id {COUNT - 2}?"


def test_a_row_that_lacks_a_column_fails_alone(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"image": "a.png", "n": 1}, {"image": "a.png"}])
    filled, lacking = Source(str(tmp_path / "rows.jsonl"), "number {n}?")
    assert (filled.question, filled.error) == ("number 1?", "")
    assert lacking.error.startswith("fill in the column 'n' with a text or a number")


@pytest.mark.parametrize("text", ["{", "a {} b", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}"])
def test_what_is_no_template_is_refused(text):
    with pytest.raises(ValueError, match=r"^write \{column\} where a column goes, and \{\{ and"):
        Template(text)


def test_a_hole_in_a_table_is_no_word_of_a_question():
    with pytest.raises(ValueError, match="fill in the column 'colour' with a text"):
        Template("the {colour} one").fill({"colour": float("nan")})


@pytest.mark.parametrize(
    ("place", "read"),
    [
        ("*.jsonl", ["out.jsonl"]),
        ("**/*.png", ["a.png", "deep/er/a.png"]),
        ("[a-c]*/**/*.jsonl", ["b/x.jsonl", "b/c/d/x.jsonl"]),
    ],
)
def test_a_glob_knows_what_it_would_read(place, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first.jsonl", "b/deep/first.png", "b/first.jsonl", "first.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"image": "x", "question": "y"}')
    source = Source(place, "q")
    others = ["out.txt", "d/out.jsonl", "out.jsonl", "a.png"]
    assert all(source.reads(tmp_path / name) for name in read)
    assert not any(source.reads(tmp_path / name) for name in others if name not in read)


def test_a_glob_of_pictures_and_tables_is_refused(tmp_path):
    for name in ("a.png", "a.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="choose a glob of pictures or one of tables"):
        Source(str(tmp_path / "*"), "q")


def test_pictures_are_read_at_most_so_many_ahead():
    begun, lock = [], threading.Lock()

    def note(value):
        with lock:
            begun.append(value)
        return -value

    for index, (value, result) in enumerate(_ahead(note, iter(range(100)), 8)):
        assert (value, result) == (index, -index)
        assert len(begun) <= index + 1 + 8


@pytest.mark.parametrize(
    ("rows", "question", "message"),
    [
        (
            [{"id": "a", "image": "x"}, {"id": "a", "image": "y"}],
            "q",
            "give every row an id of its",
        ),
        ([{"id": 1, "image": "x"}, {"id": "1", "image": "y"}], "q", "give every row an id of"),
        ([{"id": None, "image": "x"}], "q", "give every row a text or a number as its id: row 0"),
        ([{"picture": "x"}], "q", "add the column 'image', or choose one of picture: "),
        ([{"image": "x"}], "the {colour} thing?", "add the column 'colour', or choose one of "),
        ([{"image": "x"}], "", "write the QUESTION, or add the column 'question', or choose one"),
        ([], "q", "choose another source: "),
        (["x"], "q", "fix line 1 of "),
    ],
)
def test_a_bad_source_is_refused_before_a_model_is_loaded(
    tmp_path, capsys, rows, question, message
):
    write_rows(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out.jsonl"
    assert many(tmp_path, out, question=question, model="nowhere") == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "out.csv"], "choose an --out that ends in .jsonl, or a folder for Parquet"),
        (["--out", "folder"], 'install the extra "many" (pip install "laser-lvlm[many]"'),
        (["--engine", "ray"], 'install the extra "cluster" (pip install "laser-lvlm[cluster]"'),
        (["--workers", "2"], "give --engine ray too, or leave out --workers"),
        (["--batch", "-1"], "give --batch a number from 0"),
        (["--locate", "--alpha", "1"], "leave out --alpha, or --locate: nothing is answered"),
        (["--locate", "--plain"], "leave out --plain, or --locate: "),
        (["--out", "pictures/out.jsonl", "--crops"], "choose an --out outside of SOURCE: "),
        (["--finder", "model"], "leave out --finder: "),
    ],
)
def test_mistakes_are_one_line_with_the_remedy_first(
    data, tmp_path, monkeypatch, capsys, more, message
):
    for library in ("pyarrow", "ray"):
        monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.chdir(data)
    arguments = ["many", "pictures", QUESTION, "--out", str(tmp_path / "out.jsonl"), *more]
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)


# ---- faults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"question": "what is it ?"},
            "question 'what colour is the square ?', not 'what is it ?'",
        ),
        ({"model": "pictures/../model"}, "model "),
        ({"source": "pictures"}, "source.place "),
        ({"source": "again.jsonl"}, "source.place "),  # as many rows of the same ids
        ({"more": ["--scale", "0.4"]}, "crop.scale 0.5, not 0.4"),
        ({"more": ["--plain"]}, "plain False, not True"),
    ],
)
def test_another_run_does_not_fill_the_same_file(data, whole, capsys, change, named):
    before = (data / "whole.jsonl").read_bytes()
    more = change.pop("more", ())
    assert many(data, data / "whole.jsonl", *more, **change) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("choose another --out, or repeat its run: ")
    assert f"was made with {named}" in error
    assert (data / "whole.jsonl").read_bytes() == before


def test_what_somebody_else_wrote_is_not_touched(data, tmp_path, capsys):
    (tmp_path / "out.jsonl").write_text("mine")
    assert many(data, tmp_path / "out.jsonl") == 2
    assert "exists, and no out.run.json says which run wrote it" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_a_run_killed_in_the_middle_keeps_its_rows_and_locks_nobody_out(
    data, whole, tmp_path, capsys
):
    out = tmp_path / "out.jsonl"
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            many(data, out, source="few.jsonl")
        os._exit(0)
    deadline = time.monotonic() + 120
    while not (out.exists() and out.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert many(data, out, source="few.jsonl") == 2
    assert "wait for the run that is writing " in capsys.readouterr().err
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kept = out.read_bytes()
    assert 3 <= kept.count(b"\n") < FEW
    with out.open("a") as file:
        file.write('{"id": "id 3", "ima')  # as a power cut leaves it
    assert many(data, out, source="few.jsonl") == 0
    assert out.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert rows_of(out) == whole[:FEW]


def test_a_run_stopped_by_ctrl_c_goes_on(data, whole, tmp_path, monkeypatch, capsys):
    out, bar = tmp_path / "out.jsonl", ProgressLine.bar

    def interrupted(self, stage, done, total):
        if done == 5:
            raise KeyboardInterrupt  # as Ctrl+C does
        bar(self, stage, done, total)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressLine, "bar", interrupted)
        assert many(data, out, source="few.jsonl") == 130
    assert f"the same command goes on with {out}" in capsys.readouterr().err
    assert rows_of(out) == whole[:FEW][:5]
    assert many(data, out, source="few.jsonl") == 0
    assert rows_of(out) == whole[:FEW]


@pytest.mark.skipif(os.name == "nt", reason="limits the size of files")
def test_a_full_disk_leaves_whole_rows_and_says_what_to_do(data, whole, tmp_path, capsys):
    """The kernel writes what fits and then refuses, as it does on a full disk."""
    import resource

    out = tmp_path / "out.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        assert many(data, out, source="few.jsonl") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("make room and run the same command again, which goes on, ")
    kept = rows_of(out)
    assert 0 < len(kept) < FEW
    assert kept == whole[:FEW][: len(kept)]
    assert many(data, out, source="few.jsonl") == 0
    assert rows_of(out) == whole[:FEW]


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path):
    first, second = (ResultLines(tmp_path / "out.jsonl") for _ in range(2))
    first.begin("results", 1, {})
    with pytest.raises(ValueError, match=r"^wait for the run that is writing "):
        second.begin("results", 1, {})
    first.close()
    second.begin("results", 1, {})


# ---- as a map of one's own ---------------------------------------------------------------------


def test_a_map_is_pickled_without_its_model_and_takes_a_row_rows_or_columns(data, whole):
    laser = LaserMap(QUESTION, SETTINGS, model=str(data / "model"))
    rows = [{"image": str(data / row["image"]), "n": row["row"]} for row in whole[:3]]
    expected = [{"n": row["row"], "answer": row["answer"], "windows": row["windows"]}
                for row in whole[:3]]  # fmt: skip

    def told(row):
        return {name: row[name] for name in ("n", "answer", "windows")}

    assert [told(row) for row in laser(rows)] == expected
    copied = pickle.loads(pickle.dumps(laser))
    assert len(pickle.dumps(laser)) < 10_000
    assert told(copied(rows[0])) == expected[0]
    columns = copied({name: [row[name] for row in rows] for name in rows[0]})
    assert columns["answer"] == [row["answer"] for row in expected]
    assert "image" not in columns
    broken = copied([rows[0], {"image": "nowhere.png"}, {"n": 1}, rows[1]])
    assert [row["error"] is None for row in broken] == [True, False, False, True]
    assert broken[2]["error"].startswith("add the column 'image'")
    nothing = copied({name: [] for name in rows[0]})
    assert set(nothing) == set(columns) and not any(nothing.values())
    with pytest.raises(ValueError, match="give batch a number from 0"):
        LaserMap(QUESTION, batch=-1)
    loaded = list(DataLoader(rows, batch_size=2, collate_fn=copied))
    assert [told(row) for batch in loaded for row in batch] == expected
