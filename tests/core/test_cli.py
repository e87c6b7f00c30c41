"""The command line, run in this process: what it prints, writes and refuses."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest
from PIL import Image

from laser_core import console, pipeline
from laser_core.command_line import cli
from laser_core.console import ProgressLine, printable
from laser_core.errors import PACKAGES
from laser_core.models.families import FAMILIES
from laser_core.output.maps_file import load_maps
from laser_core.settings import ANSWER_GROUPS, GROUPS, OF_FAMILY, LaserSettings, LoadSettings
from laser_core.settings_text import add_flags, flags, read_find_flags, read_flags
from tools.testbed.hub import store
from tools.testbed.lvlms import noise_picture
from tools.testbed.tiny import build, save

from .test_report import strict

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "what colour is the square ?"
FAST = ("--max-tokens", "3", "--min-side-px", "20")
ASK_FILES = {"overlay.png", "crop.png", "counterfactual.png", "vaq.png", "report.json"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a tiny model that loads, one of an unsupported type and broken copies."""
    root = tmp_path_factory.mktemp("models")
    save(build("llava", layers=2), root / "good")
    for name in ("truncated", "without weights", "other type", "no json"):
        (root / name).mkdir()
        for path in (root / "good").iterdir():
            (root / name / path.name).write_bytes(path.read_bytes())
    weights = (root / "good" / "model.safetensors").read_bytes()
    (root / "truncated" / "model.safetensors").write_bytes(weights[:-1000])
    (root / "without weights" / "model.safetensors").unlink()
    (root / "other type" / "config.json").write_text('{"model_type": "blip"}')
    (root / "no json" / "config.json").write_text("{")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with a picture."""
    monkeypatch.chdir(tmp_path)
    noise_picture().save("picture.png")
    return tmp_path


@pytest.fixture
def run(here, models, capfd):
    """Run a command with the tiny model; (exit code, stdout, stderr)."""

    def run(command, *arguments, model=True):
        chosen = ("--model", str(models / "good"), *FAST) if model else ()
        code = cli.main([command, *arguments, *chosen])
        return code, *capfd.readouterr()

    return run


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


def test_ask_prints_the_answer_first_and_writes_pictures_and_report(run):
    code, out, err = run("ask", "picture.png", QUESTION, "--adaptive", "0")
    assert code == 0
    report = strict(Path("laser-out/report.json").read_text("utf-8"))
    lines = out.splitlines()
    assert lines[0] == report["answer"]
    assert lines[1] == f"plain model: {report['plain']}"
    assert lines[2] == report["layer"]["reason"]
    assert lines[3].startswith("window ")
    assert lines[4].startswith("stopped at ")
    assert re.fullmatch(r"loading \d+\.\d s, method \d+\.\d s, drawing \d+\.\d s", lines[-2])
    assert lines[-1].startswith(f"written to laser-out{os.sep}: overlay.png, crop.png")
    assert names("laser-out") == ASK_FILES == set(report["files"])
    window = report["windows"][0]["box"]
    crop = Image.open("laser-out/crop.png")
    assert crop.tobytes() == noise_picture().crop(window).tobytes()
    assert Image.open("laser-out/counterfactual.png").size == (90, 60)
    for line in err.splitlines():  # progress, and nothing of the libraries
        assert line.split()[0] in ("starting", "loading", "reading", "answering", "drawing")


def test_locate_writes_window_and_maps(here, models, capfd):
    arguments = ["--model", str(models / "good"), "--min-side-px", "20", "--out", "found/here"]
    assert cli.main(["locate", "picture.png", QUESTION, *arguments]) == 0
    out, _ = capfd.readouterr()
    report = strict(Path("found/here/report.json").read_text("utf-8"))
    assert out.splitlines()[0] == report["layer"]["reason"]
    assert report["answer"] is None
    assert names("found/here") == {"overlay.png", "crop.png", "vaq.png", "report.json"}


def test_locate_with_phrases_writes_and_prints_what_was_found(here, capfd):
    scene = str(ROOT / "pictures" / "scene_picnic.jpg")
    asked = ["locate", scene, "dog", "tent", "--masks", "--points", "--model", "demo"]
    assert cli.main(asked) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("dog: found (") and lines[3].startswith("tent: not found (")
    report = strict(Path("laser-out/report.json").read_text("utf-8"))
    dog, tent = report["things"]
    points = [{"x": x, "y": y} for x, y in dog["points"]]
    assert json.loads(lines[1].partition(": ")[2]) == points
    masks = {f"{kind}-{number}.png" for kind in ("mask", "heat") for number in (1, 2)}
    assert names("laser-out") == {"found.png", "report.json", *masks} == set(report["files"])
    x1, y1, x2, y2 = dog["boxes"][0]
    assert Image.open("laser-out/mask-1.png").getbbox() == (x1, y1, x2, y2)
    assert tent["boxes"] == [] and Image.open("laser-out/mask-2.png").getbbox() is None
    assert cli.main(["locate", scene, "dog", "--finder", "attention", "--model", "demo"]) == 0
    assert names("laser-out") == {"found.png", "report.json"}  # the earlier run's masks are gone


def test_locate_says_that_the_demo_writes_no_boxes(here, capfd):
    scene = str(ROOT / "pictures" / "scene_picnic.jpg")
    assert cli.main(["locate", scene, "dog", "--finder", "model", "--model", "demo"]) == 2
    assert "choose finder 'attention': " in capfd.readouterr().err


def test_check_prints_every_option_the_likeliest_first(here, capfd):
    scene = str(ROOT / "pictures" / "scene_picnic.jpg")
    assert cli.main(["check", scene, "is there a dog?", "--model", "demo"]) == 0
    assert re.match(r"yes \d+%, no \d+%\n", capfd.readouterr().out)
    options = ["--options", "blue", "red", "black", "--model", "demo", "--json"]
    assert cli.main(["check", scene, "what colour is the car?", *options]) == 0
    checked = strict(capfd.readouterr().out)
    assert checked["options"] == ["blue", "red", "black"]
    assert sum(checked["probabilities"]) == pytest.approx(1.0, abs=1e-5)


def test_json_is_all_that_json_prints_and_equals_the_file(run):
    code, out, _ = run("ask", "picture.png", QUESTION, "--json")
    assert code == 0
    assert strict(out)["schema"] == "laser-report"
    assert out == Path("laser-out/report.json").read_text("utf-8")


def test_settings_reach_the_method_and_the_report(run):
    code, out, _ = run(
        "ask", "picture.png", QUESTION, "--json",
        "--layer", "0", "--windows", "2", "--scale", "0.4", "--answer-input", "crop",
        "--fill", "noise", "--amount", "0.1", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    report = strict(out)
    assert report["settings"]["layer"]["layer"] == report["layer"]["index"] == 0
    assert report["settings"]["counterfactual"] == {"amount": 0.1, "fill": "noise", "block": "crop"}
    assert report["settings"]["decode"]["seed"] == 0
    assert report["settings"]["answer"]["answer_input"] == "crop"
    assert report["settings"]["load"]["device"] == "cpu"
    assert len(report["windows"]) == 2
    assert {"crop.png", "crop-2.png"} <= names("laser-out")


def test_a_second_run_removes_its_own_old_pictures_and_no_others(run):
    Path("laser-out").mkdir()
    Path("laser-out/crop-9.png").write_text("mine")
    run("ask", "picture.png", QUESTION, "--windows", "2", "--scale", "0.4", "--adaptive", "0")
    assert {"crop-2.png", "counterfactual.png", "crop-9.png"} <= names("laser-out")
    run("ask", "picture.png", QUESTION, "--alpha", "0")
    kept = names("laser-out")
    assert "crop-2.png" not in kept
    assert "crop-9.png" in kept


def test_a_degenerate_map_is_said_aloud(run, monkeypatch):
    blank = pipeline.contrast
    monkeypatch.setattr(pipeline, "contrast", lambda *maps: blank(*maps) * 0)
    code, out, _ = run("ask", "picture.png", QUESTION)
    assert code == 0
    assert "note: nothing found, answered on the whole picture" in out
    assert names("laser-out") == {"overlay.png", "vaq.png", "report.json"}


def test_models_lists_families_folders_the_hub_cache_and_what_can_be_downloaded(
    run, models, tmp_path, monkeypatch
):
    store(models / "good", tmp_path / "hub", "owner/tiny")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    code, out, _ = run("models", "--folder", str(models), model=False)
    assert code == 0
    for model_type, family in FAMILIES.items():
        assert f"{model_type} " in out
        assert family.name in out
    lines = {" ".join(line.split()) for line in out.splitlines()}
    size = (models / "good" / "model.safetensors").stat().st_size / 1e6
    assert f"owner/tiny llava {size:.1f} MB fp32" in lines
    without = (models / "without weights").as_posix()
    assert f"{without} llava incomplete: it lacks model.safetensors" in lines
    assert "Qwen/Qwen3-VL-4B-Instruct Qwen3-VL 4B 8.9 GB 16-bit" in lines
    assert not any(word in out for word in ("no json", "other type"))


# ---- flags -------------------------------------------------------------------------------------


def given(*arguments):
    parser = argparse.ArgumentParser()
    add_flags(parser, GROUPS)
    return parser.parse_args(arguments)


def parsed(*arguments):
    return read_flags(given(*arguments))


def another_value(flag):
    """A valid value other than the default."""
    meta, default = flag.spec.metadata, flag.spec.default
    if meta["choices"]:
        return next(choice for choice in meta["choices"] if choice != default)
    if flag.kind is str:
        return "cuda:1" if flag.spec.name == "device" else "some words"
    if default == OF_FAMILY and flag.kind is float:
        return 0.5
    higher = default + (meta["step"] or 1)
    return flag.kind(higher if higher <= meta["high"] else meta["low"])


OTHERS = tuple(group for group in GROUPS if group != "preset")


@pytest.mark.parametrize("flag", flags(OTHERS), ids=lambda flag: flag.destination)
def test_every_setting_has_a_flag_that_sets_it(flag):
    value = another_value(flag)
    load, laser = parsed(flag.name, str(value))
    groups = {
        "load": load,
        "find": read_find_flags(given(flag.name, str(value))),
        **{g.name: getattr(laser, g.name) for g in dataclasses.fields(LaserSettings)},
    }
    assert getattr(groups[flag.group], flag.spec.name) == value
    changed = [name for name, group in groups.items() if group != GROUPS[name]()]
    assert changed == [flag.group]


def test_flags_are_the_settings_and_nothing_else():
    declared = {
        (group, spec.name) for group in GROUPS for spec in dataclasses.fields(GROUPS[group])
    }
    assert {(flag.group, flag.spec.name) for flag in flags()} == declared
    groups = (group.name for group in dataclasses.fields(LaserSettings))
    assert set(GROUPS) == {"preset", "load", "find", *groups}
    names_ = [flag.name for flag in flags()]
    assert len(set(names_)) == len(names_)
    assert not {"--model", "--out", "--json", "--help", "--version"} & set(names_)
    assert all(flag.kind in (int, float, str) for flag in flags())  # a bool would need two flags


def test_no_flag_means_the_defaults():
    assert parsed() == (LoadSettings(), LaserSettings())


@pytest.mark.parametrize(
    "typed", ["picture + crop", "picture+crop", "picture-crop", "Picture Crop"]
)
def test_a_choice_may_be_typed_without_spaces_and_signs(typed):
    assert parsed("--answer-input", typed)[1].answer.answer_input == "picture + crop"


def test_help_shows_every_flag_with_range_and_default(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["ask", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag in flags(ANSWER_GROUPS):
        assert f"{flag.name} " in text
        assert f"[{flag.values}; default: {flag.default}]" in text


COMMANDS = ("ask", "locate", "check", "many", "aggregate", "compare", "reproduce", "models")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_in_help_are_taken_as_they_stand(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    _, *shown = re.findall(rf"^.*python -m laser_core ({command}.*)", capsys.readouterr().out, re.M)
    assert shown  # after the usage
    for example in shown:
        assert cli._parser().parse_args(shlex.split(example)).run


# ---- mistakes ----------------------------------------------------------------------------------

MISTAKES = {
    "missing file": (("ask", "nowhere.png", "q"), "check the path: .*nowhere.png"),
    "a folder": (("ask", ".", "q"), "check the path: "),
    "no picture": (("ask", "text.png", "q"), "choose a picture file "),
    "truncated picture": (("ask", "truncated.png", "q"), "save the picture again: "),
    "empty question": (
        ("ask", "picture.png", " \n"),
        "write what to look for: the question is emp",
    ),
    "unknown model": (("ask", "picture.png", "q", "--model", "nowhere"), "choose 'demo', "),
    "truncated weights": (
        ("ask", "picture.png", "q", "--model", "truncated"),
        "download truncated again: ",
    ),
    "missing weights": (
        ("ask", "picture.png", "q", "--model", "without weights"),
        "download without weights again: ",
    ),
    "unsupported type": (
        ("ask", "picture.png", "q", "--model", "other type"),
        "choose a model of ",
    ),
    "broken config": (
        ("ask", "picture.png", "q", "--model", "no json"),
        "download no json again: ",
    ),
    "out of range": (
        ("ask", "picture.png", "q", "--scale", "5"),
        "choose a value from 0.1 to 1.0: --scale is 5.0",
    ),
    "not finite": (("ask", "picture.png", "q", "--alpha", "nan"), "choose .*: --alpha is nan"),
    "not a number": (
        ("ask", "picture.png", "q", "--scale", "big"),
        "give --scale a number, 0.1 to 1",
    ),
    "not whole": (("ask", "picture.png", "q", "--windows", "1.5"), "give --windows a whole number"),
    "no choice": (
        ("ask", "picture.png", "q", "--fill", "pink"),
        "choose one of mean, .*: --fill is 'pink'",
    ),
    "two settings": (
        ("ask", "picture.png", "q", "--first-depth", "0.9", "--last-depth", "0.5"),
        "choose at most --last-depth, which is 0.5: --first-depth is 0.9",
    ),
    "no such layer": (
        ("locate", "picture.png", "q", "--layer", "9"),
        "choose a layer from 0 to 1",
    ),
    "removed flag": (
        ("ask", "picture.png", "q", "--crop-tokens", "64"),
        "removed: use --crop-budget, a share of the picture's tokens, instead of --crop-tokens",
    ),
    "removed choice": (
        ("ask", "picture.png", "q", "--fill", "black"),
        "removed, use mean: --fill is 'black'",
    ),
    "another command's option": (("check", "picture.png", "q", "--out", "x"), "leave out --out: "),
    "mistyped option": (("check", "picture.png", "q", "--optoins", "x"), "did you mean --options"),
    "no whole number": (("many", ".", "q", "--batch", "few"), "give --batch a whole number: "),
    "mistyped flag": (("ask", "picture.png", "q", "--scael", "1"), "did you mean --scale"),
    "flag of ask": (("locate", "picture.png", "q", "--alpha", "1"), "leave out --alpha: "),
    "no question": (("ask", "picture.png"), "see `.*ask --help`: .*QUESTION"),
    "unknown command": (("answer",), "see `.*--help`: .*invalid choice"),
    "no command": ((), "see `.*--help`: "),
    "out is a file": (("ask", "picture.png", "q", "--out", "text.png"), "choose another --out: "),
    "out under a file": (
        ("ask", "picture.png", "q", "--out", "text.png/a/b"),
        "choose another --out",
    ),
    "no such folder": (("models", "--folder", "nowhere"), "choose an existing folder: "),
    "empty model": (("ask", "picture.png", "q", "--model", ""), "choose 'demo', "),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_with_the_remedy_first_and_exit_code_2(case, here, models, capfd):
    arguments, message = MISTAKES[case]
    (here / "text.png").write_text("hello")
    noise_picture((300, 300)).save("whole.png")
    (here / "truncated.png").write_bytes((here / "whole.png").read_bytes()[:-200])
    for name in ("truncated", "without weights", "other type", "no json"):
        (here / name).symlink_to(models / name)
    asked = arguments[:1] and arguments[0] in ("ask", "locate")
    if asked and "--model" not in arguments:
        arguments += ("--model", str(models / "good"))
    code = cli.main(list(arguments))
    out, err = capfd.readouterr()
    stages = ("starting", "loading the model", "reading the picture")
    lines = [line for line in err.splitlines() if line not in stages]
    assert code == 2
    assert out == ""
    assert len(lines) == 1
    assert re.match(message, lines[0])
    assert not (here / "laser-out").exists()


def test_a_caller_may_read_the_output_from_a_stream_of_its_own():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli.main(["models"]) == 0
    assert out.getvalue().startswith("bundled\n")


def test_an_unwritable_folder_is_refused_before_the_work(here, monkeypatch, capfd):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root
    assert cli.main(["ask", "picture.png", "q"]) == 2
    assert capfd.readouterr().err.startswith("choose another --out: ")


def test_a_full_disk_is_one_line_and_leaves_no_half_written_file(run, monkeypatch):
    def no_space(self, file, **options):
        file.write(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", no_space)
    code, _, err = run("ask", "picture.png", QUESTION)
    assert code == 2
    assert "choose another --out, or make room: " in err.splitlines()[-1]
    assert names("laser-out") == set()


def test_ctrl_c_amid_an_answer_stops_with_130_and_writes_nothing(run, monkeypatch):
    monkeypatch.setattr(ProgressLine, "text", lambda *text: signal.raise_signal(signal.SIGINT))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    try:
        code, out, err = run("ask", "picture.png", QUESTION)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert code == 130
    assert out == ""
    assert err.splitlines()[-1] == "stopped by Ctrl-C"
    assert names(".") == {"picture.png"}


def test_a_bug_is_not_passed_off_as_a_mistake_of_the_user(run, monkeypatch):
    monkeypatch.setattr(pipeline, "contrast", lambda *maps: int("no number", base=99))
    with pytest.raises(ValueError, match="base"):
        run("ask", "picture.png", QUESTION)


# ---- progress ----------------------------------------------------------------------------------


class Terminal:
    def __init__(self, terminal):
        self.terminal, self.written = terminal, ""

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.written += text

    def flush(self):
        pass


def shown(terminal):
    stream = Terminal(terminal)
    progress = ProgressLine(stream)
    progress.stage("loading the model")
    for done in (1, 2):
        progress.stage("answering", done, 9)
        progress.text("a red\nsquare"[: 5 * done])
    progress.clear()
    return stream.written


def test_a_terminal_shows_one_rewritten_line_with_the_answer_as_it_comes():
    written = shown(terminal=True)
    assert "\n" not in written
    lines = written.split("\r\x1b[K")[1:]
    assert lines == [
        "loading the model", "answering 1/9", "answering: a red", "answering 2/9",
        "answering: a red squa", "",
    ]  # fmt: skip


def test_a_long_answer_shows_its_end_in_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal(True)
    ProgressLine(stream).text("word " * 30 + "end")
    line = stream.written.removeprefix("\r\x1b[K")
    assert len(line) == 39
    assert line.endswith("end")


def test_the_time_left_counts_from_the_first_row_on(monkeypatch):
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = ProgressLine(stream)
    progress.stage("loading the model")
    progress.bar("asking", 1, 4)
    progress.bar("asking", 2, 4)
    assert stream.getvalue().splitlines() == [
        "loading the model",
        "asking 1/4",
        "asking 2/4, 6.0/min, 20 s left",
    ]


def test_a_pipe_shows_a_line_per_stage():
    assert shown(terminal=False) == "loading the model\nanswering\n"


# ---- the bundled model -------------------------------------------------------------------------


def test_the_demo_script_shows_a_detail_that_the_plain_model_misreads(here, capfd):
    script = (ROOT / "run-demo").read_text("utf-8")
    example, question = re.search(r'\$root/(pictures/\S+)" "([^"]+)"', script).groups()
    assert cli.main(["ask", str(ROOT / example), question, "--json"]) == 0
    report = strict(capfd.readouterr().out)
    assert (report["answer"], report["plain"]) == ("6", "9")
    assert names("laser-out") == ASK_FILES


def test_the_demo_model_says_what_it_does_not_know(here, capfd):
    for command in ("ask", "locate"):
        assert cli.main([command, "picture.png", "what brand is the bicycle?"]) == 2
        out, err = capfd.readouterr()
        said = r"^try 'is there any \w+\?': this model does not know \"brand\"\."
        assert re.search(said, err, re.MULTILINE)
        assert not out
    assert not Path("laser-out").exists()


@pytest.mark.parametrize(
    "step",
    ["pictures.read_picture", "pipeline.answer", "output.drawing.overlay", "output.report.report"],
)
def test_memory_that_runs_out_in_any_step_names_the_remedy(run, monkeypatch, step):
    def out_of_memory(*args, **options):
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(f"laser_core.{step}", out_of_memory)
    code, out, err = run("ask", "picture.png", QUESTION)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("choose a smaller model or picture, a --quantization")


@pytest.mark.parametrize(
    ("flag", "value"), [("--out", "x" * 300), ("--model", "~nosuchuser/x"), ("--model", "x" * 5000)]
)
def test_a_name_that_no_file_can_have_is_refused_in_a_line(run, flag, value):
    code, out, err = run("ask", "picture.png", QUESTION, flag, value, model=False)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("choose ")


# ---- what a library raises ---------------------------------------------------------------------

LIBRARIES = (
    "torch", "transformers", "numpy", "PIL", "einops", "jinja2", "matplotlib", "safetensors",
    "huggingface_hub",
)  # fmt: skip


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("arguments", [["ask", "picture.png", "q"], ["models"]], ids=" ".join)
def test_a_missing_library_is_a_line_before_the_work(here, monkeypatch, capfd, library, arguments):
    for name in list(sys.modules):
        if name.partition(".")[0] == "laser_core":
            monkeypatch.delitem(sys.modules, name)
        if name.partition(".")[0] == library:
            monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(arguments) == 2
    out, err = capfd.readouterr()
    *before, last = err.splitlines()
    assert (out, before) in (("", []), ("", ["starting"]))
    assert re.match(rf"(install|update) .*{PACKAGES.get(library, library)}", last)


# ---- the user's own files, and the terminal ----------------------------------------------------


def test_maps_are_written_on_request_and_removed_by_the_next_run(run):
    assert run("ask", "picture.png", QUESTION, "--maps")[0] == 0
    assert {"maps.npz", "maps.html"} <= names("laser-out")
    assert load_maps("laser-out/maps.npz").about["question"] == QUESTION
    assert run("ask", "picture.png", QUESTION)[0] == 0
    assert not {"maps.npz", "maps.html"} & names("laser-out")


@pytest.mark.parametrize("name", ["crop.png", "overlay.png", "crop-2.png", "report.json"])
def test_a_crop_png_that_no_run_has_written_is_never_overwritten(run, name):
    Path("laser-out").mkdir()
    Path("laser-out", name).write_text("mine")
    code, out, err = run("ask", "picture.png", QUESTION, "--windows", "2")
    assert (code, out) == (2, "")
    assert re.match(rf"choose another --out, or move '.*{name}' away: ", err.splitlines()[-1])
    assert Path("laser-out", name).read_text() == "mine"
    assert names("laser-out") == {name}


def test_the_crop_png_that_is_asked_about_is_never_overwritten(run):
    assert run("ask", "picture.png", QUESTION)[0] == 0
    crop = Path("laser-out/crop.png").read_bytes()
    code, _, err = run("ask", "laser-out/crop.png", QUESTION)
    assert code == 2
    assert err.splitlines()[-1].startswith("choose another --out")
    assert Path("laser-out/crop.png").read_bytes() == crop


CONTROLS = "\x1b]0;title\x07\x9b31m\u202e\u2066\r\x08"


def test_control_characters_are_written_out_and_line_breaks_kept():
    assert printable("a\r\nb\n\tc\u00e9\U0001f600\u200d") == "a\nb\n\tc\u00e9\U0001f600\u200d"
    assert printable(CONTROLS) == (r"\x1b]0;title\x07\x9b31m\u202e\u2066\r\x08")


def test_control_characters_of_answers_and_names_never_reach_the_terminal(
    run, monkeypatch, tmp_path
):
    answer = pipeline.answer

    def steering(*args, on_text, **options):
        on_text(CONTROLS)
        found = answer(*args, **options)
        said = dataclasses.replace(found.answer, text=f"a{CONTROLS}\nb")
        return dataclasses.replace(found, answer=said)

    monkeypatch.setattr(pipeline, "answer", steering)
    terminal = Terminal(True)
    ProgressLine(terminal).text(CONTROLS)
    said = terminal.written.removeprefix("\r\x1b[K")
    code, out, err = run("ask", "picture.png", QUESTION, "--out", f"o{CONTROLS[1:]}")
    assert code == 0
    *_, refused = run("ask", f"{CONTROLS}.png", QUESTION)
    assert out.startswith("a\\x1b]0;title")
    for text in (said, out, err, refused):
        assert not set(CONTROLS) & set(text) - set("]0;title31m")


def test_json_is_json_under_any_code_page(here, models, monkeypatch):
    question, page = "caf\u00e9 \u4e2d \U0001f600 ?", io.TextIOWrapper(io.BytesIO(), "cp437")
    monkeypatch.setattr("sys.stdout", page)
    command = ["ask", "picture.png", question, "--json", "--model", str(models / "good"), *FAST]
    assert cli.main(command) == 0
    assert strict(page.buffer.getvalue().decode("cp437"))["question"] == question


def test_a_dangling_link_among_the_models_is_no_reason_to_list_none(run, tmp_path):
    for name in ("moved", "whole"):
        save(build("llava", layers=2), tmp_path / "all" / name)
    (tmp_path / "all" / "moved" / "model.safetensors").unlink()
    (tmp_path / "all" / "moved" / "model.safetensors").symlink_to("gone")
    code, out, _ = run("models", "--folder", str(tmp_path / "all"), model=False)
    assert code == 0
    lines = {" ".join(line.split()) for line in out.splitlines()}
    assert f"{tmp_path / 'all' / 'moved'} llava incomplete: it lacks model.safetensors" in lines
    assert any(line.startswith(f"{tmp_path / 'all' / 'whole'} llava 0.") for line in lines)


def test_a_cache_that_is_a_file_holds_no_models(run, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file"))
    code, out, _ = run("models", model=False)
    assert code == 0
    assert "in the Hugging Face cache\n  none\n" in out


def test_a_crop_of_an_earlier_run_that_is_asked_about_stays(here):
    two = ("--windows", "2", "--scale", "0.3", "--min-side-px", "10")
    question = "what do you see?"
    assert cli.main(["ask", "picture.png", question, *two]) == 0
    crop = Path("laser-out/crop-2.png")
    before = crop.read_bytes()
    assert cli.main(["ask", str(crop), question]) == 2
    assert crop.read_bytes() == before


@pytest.mark.parametrize("command", ["locate", "aggregate", "models"])
@pytest.mark.parametrize("flag", ["--alpha", "--beams"])
def test_a_flag_of_another_command_is_to_be_left_out(here, capsys, command, flag):
    words = {"locate": ["picture.png", QUESTION], "aggregate": ["rows.json", "."], "models": []}
    assert cli.main([command, *words[command], flag, "2"]) == 2
    assert re.match(rf"(leave out {flag}: |removed: use )", capsys.readouterr().err)
