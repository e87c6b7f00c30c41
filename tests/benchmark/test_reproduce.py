"""`reproduce` on a tiny model and questions made here, the file it writes, and what is refused.

Reading Parquet is in test_data_sets.py, which needs pyarrow.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from laser_core.command_line import cli
from laser_core.evaluation import reproduce
from laser_core.evaluation.data_sets import DATA_SETS, Sample, files_of
from laser_core.evaluation.intervals import Bootstrap, in_words
from laser_core.evaluation.reproduced import figures_of, read_reproduced
from laser_core.evaluation.ways import WAYS
from laser_core.files import to_plain
from laser_core.geometry import Box
from tools.build import reproduced_page
from tools.testbed.lvlms import noise_picture
from tools.testbed.tiny import build, save

BOX = (Box(10, 10, 40, 40),)
ASKED = {
    "vstar": ("What color is the dog?\n(A) red\n(B) blue", "What color is the dog?", ("A",), ()),
    "textvqa": ("What is written?", "", ("red",) * 10, BOX),
    "pope": ("Is there a dog?", "", ("yes",), ()),
    "refcoco": ("the dog", "", (), BOX),
}


def picture(seed):
    file = io.BytesIO()
    noise_picture((64, 64), seed).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def questions(monkeypatch):
    """A question of each data set and two of POPE, in place of their files."""
    by_title = {DATA_SETS[task].title: asked for task, asked in ASKED.items()}

    def made(data, files, rows):
        question, look_for, answers, boxes = by_title[data.title]
        for row in rows:
            yield Sample(f"{row}", picture(row), question, look_for, answers, boxes)

    monkeypatch.setattr(reproduce, "samples", made)
    monkeypatch.setattr(reproduce, "chosen", lambda files, most: [0, 1][: 1 + ("POPE" in files[0])])
    monkeypatch.setattr(reproduce, "files_of", lambda data, *_: [data.repository])
    monkeypatch.setattr(reproduce, "digests", lambda paths: dict.fromkeys(paths, "0"))
    monkeypatch.setattr(reproduce, "versions", lambda: {"torch": "2", "transformers": "5"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduce") / "model"
    save(build("qwen2_5_vl", layers=2), folder)
    return str(folder)


@pytest.fixture
def run(model, questions, tmp_path, capsys):
    """Run the command with the tiny model; (exit code, stdout, the last line of stderr)."""

    def run(*more, model=model):
        out = ["--out", str(tmp_path / "out.json")]
        code = cli.main(["reproduce", "--model", model, *out, *more])
        printed, err = capsys.readouterr()
        return code, printed, (err.splitlines() or [""])[-1]

    return run


def test_a_run_is_one_file_whose_figures_follow_from_its_rows(run, tmp_path, monkeypatch):
    code, printed, _ = run()
    assert code == 0
    content = read_reproduced(tmp_path / "out.json")
    assert list(content["rows"]) == list(ASKED)
    for task, kept in content["rows"].items():
        assert kept["ways"] == (list(WAYS) if task != "refcoco" else [])
        groups = [hashlib.blake2b(picture(n), digest_size=8).hexdigest() for n in range(2)]
        assert kept["groups"] == groups[: 2 if task == "pope" else 1]
    assert {"area", "mass", "holds"} <= content["rows"]["textvqa"]["scores"].keys()
    assert "paper, mass" in content["rows"]["refcoco"]["scores"]
    assert content["rows"]["refcoco"]["scores"]["area"] == [pytest.approx(900 / 4096)]
    assert printed.startswith("V*Bench: 1 questions on 1 pictures; ")
    lines = {path: path.read_text() for path in tmp_path.glob("*.jsonl")}
    assert {path.stem for path in lines} == {f"out-{task}" for task in ASKED}
    monkeypatch.setattr(reproduce, "_measured", None)  # a call of it would fail
    assert run()[1] == printed
    assert {path: path.read_text() for path in tmp_path.glob("*.jsonl")} == lines
    code, _, error = run("--suite", "full")
    assert code == 2 and error.endswith("was made with suite 'small', not 'full'")
    assert read_reproduced(tmp_path / "out.json") == content


def test_a_question_that_fails_is_named_and_tried_again(run, tmp_path, monkeypatch):
    measured = reproduce._measured

    def fails_once(lvlm, data, sample):
        if sample.id == "1":
            sample = replace(sample, picture=b"torn")
        return measured(lvlm, data, sample)

    monkeypatch.setattr(reproduce, "_measured", fails_once)
    assert "failed 1: fetch the data again: a picture is damaged" in run("--tasks", "pope")[1]
    monkeypatch.setattr(reproduce, "_measured", measured)
    assert "failed" not in run("--tasks", "pope")[1]
    assert len(read_reproduced(tmp_path / "out.json")["rows"]["pope"]["ids"]) == 2


def test_a_task_without_a_result_is_left_out_and_tasks_come_and_go(run, tmp_path, monkeypatch):
    measured = reproduce._measured

    def no_room_for_pope(lvlm, data, sample):
        if data.title == "POPE":
            raise MemoryError
        return measured(lvlm, data, sample)

    def tasks_with_rows():
        return list(read_reproduced(tmp_path / "out.json")["rows"])

    full = "choose a smaller model or a --quantization: the memory is full"
    monkeypatch.setattr(reproduce, "_measured", no_room_for_pope)
    code, printed, _ = run("--tasks", "pope", "refcoco")
    assert code == 0 and tasks_with_rows() == ["refcoco"]
    assert printed.splitlines()[-3:-1] == ["POPE: nothing could be measured", f"failed 2: {full}"]
    code, _, error = run("--tasks", "pope")
    assert code == 2 and error == f"{full} (nothing could be measured; 2 of 2 failed like this)"
    monkeypatch.setattr(reproduce, "_measured", None)  # a call of it would fail
    assert run("--tasks", "refcoco")[0] == 0 and tasks_with_rows() == ["refcoco"]
    monkeypatch.setattr(
        reproduce, "_measured", lambda lvlm, data, sample: {"scores": {"plain": 1.0}}
    )
    assert run("--tasks", "refcoco", "pope")[0] == 0 and tasks_with_rows() == ["refcoco", "pope"]
    scores = read_reproduced(tmp_path / "out.json")["rows"]["refcoco"]["scores"]
    assert "area" in scores and "plain" not in scores  # those of the first run


def test_a_file_whose_figures_were_changed_is_written_again_by_the_same_command(run, tmp_path):
    path = tmp_path / "out.json"
    assert run("--tasks", "refcoco")[0] == 0
    whole = read_reproduced(path)
    changed = json.loads(path.read_text())
    changed["figures"]["refcoco"]["area"]["mean"]["value"] = 0.99
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"^run `reproduce` again with the same --out: "):
        read_reproduced(path)
    assert run("--tasks", "refcoco")[0] == 0 and read_reproduced(path) == whole


@pytest.mark.parametrize(
    ("more", "model", "message"),
    [
        (("--suite", "tiny"), None, "choose a --suite of small, full: "),
        (("--tasks", "gqa"), None, "choose --tasks of vstar, "),
        (("--data", "nowhere"), None, "choose an existing folder: "),
        (("--out", "figures.txt"), None, "choose an --out that ends in .json: "),
        ((), "nobody/nothing-7b", "give --download, or the model's folder: nobody/nothing-7b "),
    ],
)
def test_mistakes_are_one_line_with_the_remedy_first(run, more, model, message):
    code, _, error = run(*more, **({"model": model} if model else {}))
    assert code == 2 and error.startswith(message)


def test_anyone_elses_file_stays(run, tmp_path):
    (tmp_path / "out.json").write_text('{"mine": 1}')
    code, _, error = run()
    assert code == 2 and error.startswith("choose a file that `reproduce` wrote: ")
    assert (tmp_path / "out.json").read_text() == '{"mine": 1}'
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_a_data_set_that_is_not_there_is_refused_with_where_it_belongs(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^put test-\*.parquet of lmms-lab/POPE below "):
        files_of(DATA_SETS["pope"], tmp_path, download=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"^give --data with a folder .* nothing is fetched"):
        files_of(DATA_SETS["pope"], None, download=False)


# ---- the file ----------------------------------------------------------------------------------


def content():
    """A file as it is written, of made-up scores."""
    rng = np.random.default_rng(0)
    scores = {way: rng.integers(0, 2, 40).astype(float).tolist() for way in ("plain", "laser")}
    scores["mass"] = [*rng.random(39).tolist(), None]
    groups = [f"{number // 2}" for number in range(40)]
    ids = [f"textvqa {number}" for number in range(40)]
    rows = {"textvqa": {"ids": ids, "groups": groups, "ways": ["plain", "laser"], "scores": scores}}
    return {
        "schema": "laser-reproduced", "version": 1, "model": "someone/model-7b",
        "weights": {"config": "0", "weights": "1", "commit": ""}, "suite": "small", "load": {},
        "settings": {}, "data": {}, "versions": {"transformers": "5", "torch": "2"},
        "hardware": {"name": "a card", "dtype": "bf16"}, "seconds": 1.5, "failed": {},
        "rows": rows, "figures": figures_of(rows),
    }  # fmt: skip


def test_figures_are_means_and_paired_differences_over_pictures():
    made = content()
    scores = made["rows"]["textvqa"]["scores"]
    plain, laser = (np.array(scores[way]) for way in ("plain", "laser"))
    figures = made["figures"]["textvqa"]
    assert figures["laser"]["mean"]["value"] == pytest.approx(laser.mean())
    paired = Bootstrap(made["rows"]["textvqa"]["groups"]).mean(laser - plain)
    assert figures["laser"]["over plain"]["low"] == pytest.approx(paired.low, rel=1e-6)
    assert figures["mass"]["mean"]["items"] == 39 and figures["mass"]["over plain"] is None


@pytest.mark.parametrize(
    ("pictures", "values", "words"),
    [
        ("abcde", [1] * 5, "+100.0 [+100.0, +100.0] *"),
        ("aaaaaa", [1] * 6, "+100.0"),
        ("abcde", [1, 1, 1, 1, np.nan], "+100.0 (n 4)"),
        ("abcdee", [1] * 5 + [np.nan], "+100.0 [+100.0, +100.0] * (n 5)"),
        ("ab", [np.nan] * 2, ""),
    ],
)
def test_a_figure_of_few_pictures_has_neither_interval_nor_star(pictures, values, words):
    estimate = Bootstrap(list(pictures)).mean(np.array(values, float))
    assert in_words(to_plain(estimate), len(values), "+") == words
    assert estimate.resolved == ("*" in words)


def tampered(change):
    made = content()
    change(made)
    return made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema="other"), "its schema is another"),
        (lambda c: c.update(version=2), "^update this package, "),
        (lambda c: c.pop("hardware"), "its field 'hardware' is missing"),
        (lambda c: c["rows"]["textvqa"]["ids"].pop(), "the rows of textvqa differ in number"),
        (lambda c: c["rows"]["textvqa"]["scores"]["laser"].__setitem__(0, 2.0), "not from 0 to 1"),
        (lambda c: c["rows"]["textvqa"]["ids"].__setitem__(0, "textvqa 1"), "is there twice"),
        (
            lambda c: c["figures"]["textvqa"]["laser"]["mean"].update(value=0.99),
            "^run `reproduce` again .* do not follow from its rows$",
        ),
        (
            lambda c: c["figures"]["textvqa"]["laser"]["mean"].update(high=0.99),
            "do not follow from its rows$",
        ),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path, change, message):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content()))
    assert read_reproduced(path)["model"] == "someone/model-7b"
    path.write_text(json.dumps(tampered(change)))
    with pytest.raises(ValueError, match=message):
        read_reproduced(path)


def test_contributed_files_are_whole_and_the_page_is_made_of_them():
    assert reproduced_page.PAGE.read_text("utf-8") == reproduced_page.page()


def test_the_page_shows_a_contributed_file_instead_of_saying_that_there_is_none(
    tmp_path, monkeypatch
):
    assert "**No file has been contributed yet.**" in reproduced_page.HEAD + reproduced_page.NONE
    made = content()
    made["data"] = {"textvqa": {}, "pope": {}}
    (tmp_path / "one.json").write_text(json.dumps(made))
    monkeypatch.setattr(reproduced_page, "FOLDER", tmp_path)
    text = reproduced_page.page()
    assert "someone/model-7b, suite small" in text and "No file has been" not in text
    value = content()["figures"]["textvqa"]["laser"]["mean"]["value"]
    assert f"| laser | {100 * value:.1f} [" in text and "] (n 39) |" in text
    assert "**POPE**: nothing could be measured\n" in text
