"""Many pictures with Parquet, `datasets` and Ray Data, where they are installed.

`./run-tests` has the first two beside lmms-eval. Ray takes too long there: it is tested by hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from pathlib import Path

import psutil
import pytest

from laser_core.command_line import cli
from laser_core.console import ProgressLine
from laser_core.many import parquet_folder
from laser_core.many.sources import Source, open_picture
from tools.testbed.lvlms import noise_picture
from tools.testbed.tiny import build, save

pa = pytest.importorskip("pyarrow", reason="pip install pyarrow for Parquet files")
pq = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "what colour is the square ?"
COUNT = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny model, pictures with their rows, and the same pictures inside Parquet files."""
    root = tmp_path_factory.mktemp("many")
    save(build("llava", layers=2), root / "model")
    (root / "pictures").mkdir()
    rows = []
    for number in range(COUNT):
        path = root / "pictures" / f"{number:02d}.png"
        noise_picture((40, 30), number).save(path)
        rows.append({"id": f"id {number}", "image": f"pictures/{path.name}", "question": QUESTION})
    (root / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    inside = [{**row, "image": (root / row["image"]).read_bytes()} for row in rows]
    pq.write_table(pa.Table.from_pylist(inside[:10]), root / "a.parquet", row_group_size=4)
    as_datasets = [{**row, "image": {"bytes": row["image"], "path": None}} for row in inside[10:]]
    pq.write_table(pa.Table.from_pylist(as_datasets), root / "b.parquet", row_group_size=9)
    return root


@pytest.fixture(scope="module")
def whole(data):
    assert many(data, data / "whole.jsonl") == 0
    return [json.loads(line) for line in (data / "whole.jsonl").read_text().splitlines()]


def many(data, out, *more, source="rows.jsonl"):
    chosen = ["--model", str(data / "model"), "--max-tokens", "2", "--min-side-px", "20"]
    return cli.main(["many", str(data / source), *chosen, "--out", str(out), *more])


def without_image(rows):
    """What a row says, wherever its picture lay."""
    return [{name: value for name, value in row.items() if name != "image"} for row in rows]


def read(folder):
    """As everybody reads a folder of Parquet files."""
    return pq.read_table(folder).to_pylist()


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_paths_of_any_kind_of_text_are_looked_up_beside_their_file(data, tmp_path, kind):
    (tmp_path / "00.png").write_bytes((data / "pictures/00.png").read_bytes())
    pq.write_table(pa.table({"image": pa.array(["00.png"]).cast(kind)}), tmp_path / "a.parquet")
    [item] = Source(str(tmp_path / "a.parquet"), QUESTION)
    assert item.image == "00.png" and open_picture(item.picture).size == (40, 30)
    pq.write_table(pa.table({"image": [1, 2]}), tmp_path / "numbers.parquet")
    with pytest.raises(ValueError, match="put paths, bytes or structs of bytes into the column"):
        Source(str(tmp_path / "numbers.parquet"), QUESTION)


def test_pictures_inside_parquet_files_are_answered_as_the_files_are(data, whole, tmp_path):
    assert many(data, tmp_path / "out.jsonl", source="*.parquet") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert without_image(rows) == without_image(whole)


def test_a_folder_of_parquet_files_holds_the_same_rows_and_a_stopped_run_goes_on(
    data, whole, tmp_path, monkeypatch
):
    out, bar = tmp_path / "out", ProgressLine.bar
    monkeypatch.setattr(parquet_folder, "ROWS_A_FILE", 5)

    def interrupted(self, stage, done, total):
        if done == 13:
            raise KeyboardInterrupt  # as Ctrl+C does
        bar(self, stage, done, total)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressLine, "bar", interrupted)
        assert many(data, out) == 130
    assert read(out) == whole[:13]
    assert many(data, out) == 0
    assert read(out) == whole
    names = sorted(path.name for path in out.glob("*.parquet"))
    assert names == [f"rows-0000{number}.parquet" for number in range(6)]
    assert (out / "_rows.jsonl").read_bytes() == b""
    assert many(data, out, "--plain") == 2  # another run is refused though no line is left
    assert read(out) == whole


def test_lines_that_were_filed_before_a_kill_count_once_and_failures_are_tried_again(
    data, whole, tmp_path
):
    out, lost = tmp_path / "out", data / "pictures" / "05.png"
    hidden = lost.rename(data / "hidden.png")
    try:
        assert many(data, out) == 0
    finally:
        hidden.rename(lost)
    assert [row["id"] for row in read(out) if row["error"]] == ["id 5"]
    kept = [row for row in read(out) if not row["error"]]
    (out / "_rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in kept[:2]))
    assert many(data, out) == 0
    assert sorted(read(out), key=lambda row: row["row"]) == whole


def test_a_folder_of_somebody_else_is_not_touched(data, tmp_path, capsys):
    (tmp_path / "mine.parquet").write_bytes(b"mine")
    assert many(data, tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"choose another --out: '.*mine\.parquet' is there, and no run of ours", error)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.parquet"]


@pytest.mark.parametrize("source", ["broken.parquet"])
def test_what_is_no_parquet_file_is_refused(data, tmp_path, capsys, source):
    (data / source).write_bytes(b"PAR1")
    try:
        assert many(data, tmp_path / "out.jsonl", source=source) == 2
    finally:
        (data / source).unlink()
    assert capsys.readouterr().err.splitlines()[-1].startswith("choose a Parquet file: ")


# ---- Ray Data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray():
    """Ray on this computer, for all tests."""
    ray = pytest.importorskip("ray", reason="pip install 'ray[data]' for --engine ray")
    pytest.importorskip("ray.data")
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def workers():
    """The processes that answer for this one's Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if "".join(process.cmdline()).startswith("ray::MapWorker"):
                found.append(process)
    return found


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe holds a worker up")
def test_ray_gives_the_same_rows_though_a_worker_is_killed(ray, data, whole, tmp_path):
    out, slow = tmp_path / "out.jsonl", data / "pictures" / "12.png"
    before, killed = workers(), []
    content = slow.rename(data / "content.png")
    os.mkfifo(slow)  # whoever reads it waits

    def kill():
        deadline = time.monotonic() + 120
        while not out.exists() or not out.read_bytes():
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        content.replace(slow)
        killed.extend(worker for worker in workers() if worker not in before)
        for worker in killed:
            worker.kill()

    killing = threading.Thread(target=kill)
    killing.start()
    code = many(data, out, "--engine", "ray", "--workers", "1")
    killing.join()
    assert (code, len(killed)) == (0, 1)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(rows, key=lambda row: row["row"]) == whole


# ---- the page's examples -----------------------------------------------------------------------

PAGE = (ROOT / "docs" / "many.md").read_text("utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_python_on_the_page_runs(code, request, tmp_path, monkeypatch):
    for library in re.findall(r"^import (ray|datasets)$", code, re.MULTILINE):
        pytest.importorskip(library, reason=f"pip install {library} for this example")
    if "import ray" in code:
        request.getfixturevalue("ray")
    monkeypatch.chdir(ROOT)
    printed = []
    exec(code, {"print": lambda *values: printed.append(values)})
    assert printed
