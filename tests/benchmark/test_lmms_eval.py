"""The plugin in lmms-eval's own evaluator, on a task generated from the demo model's world."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import ImageFile

pytest.importorskip("lmms_eval", reason="pip install lmms-eval to run the plugin in its evaluator")

from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.tasks import TaskManager

from laser_core.evaluation import lmms_eval_model
from laser_core.evaluation.answerer import UnsuitableTask
from laser_core.evaluation.lmms_eval_model import Laser
from laser_core.evaluation.lmms_eval_plugin import manifest
from laser_core.models.loading import load_lvlm
from laser_core.pipeline import answer
from laser_core.settings import AnswerSettings, DecodeSettings, LaserSettings
from tools.demo_model.world import held_out_items
from tools.lmms_eval.demo_task import TASK, write_task

# Pillow's own default: lmms-eval has it read torn files, which other tests want refused
ImageFile.LOAD_TRUNCATED_IMAGES = False

AOKVQA_INSTRUCTION = "Answer the question using a single word or phrase."
ROOT = Path(__file__).resolve().parents[2]
ITEMS = 6
ITEM = held_out_items("test", ITEMS)[0]
SETTINGS = LaserSettings(decode=DecodeSettings(alpha=0.5, max_tokens=4))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """The folder of a task of `ITEMS` questions; the registry knows the plugin."""
    folder = tmp_path_factory.mktemp("lmms_eval")
    write_task(folder / "task", ITEMS)
    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)  # as the entry point does
    return folder / "task"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "data"))


@pytest.fixture(scope="module")
def direct():
    """What the pipeline itself answers: (with the method, the model alone) for every question."""
    lvlm = load_lvlm("demo")
    found = [
        answer(lvlm, item.picture, item.question, SETTINGS, with_plain=True)
        for item in held_out_items("test", ITEMS)
    ]
    return [result.answer.text for result in found], [result.plain.text for result in found]


def evaluate(task, arguments="", batch_size=1, **options):
    tasks = TaskManager("ERROR", include_path=str(task), include_defaults=False, model_name="laser")
    return simple_evaluate(
        model="laser",
        model_args=f"pretrained=demo,alpha=0.5{arguments}",
        tasks=[TASK],
        task_manager=tasks,
        batch_size=batch_size,
        bootstrap_iters=0,
        **options,
    )


def said(results):
    samples = sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples]


def accuracy(results):
    return results["results"][TASK]["exact_match,none"]


def accuracy_of(texts):
    items = held_out_items("test", ITEMS)
    return sum(text == item.answer for text, item in zip(texts, items, strict=True)) / ITEMS


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_evaluators_accuracy_is_the_pipelines_own(task, direct, batch_size):
    results = evaluate(task, batch_size=batch_size)
    assert said(results) == direct[0]
    assert accuracy(results) == pytest.approx(accuracy_of(direct[0]))
    assert 0 < accuracy(results) < 1


def test_mode_plain_is_the_model_alone(task, direct):
    results = evaluate(task, ",mode=plain")
    assert said(results) == direct[1] != direct[0]
    assert accuracy(results) == pytest.approx(accuracy_of(direct[1]))


def test_the_response_cache_answers_a_second_run_without_the_model(task, tmp_path, monkeypatch):
    first = evaluate(task, use_cache=str(tmp_path))
    monkeypatch.setattr(Laser, "_one", None)  # a call of it would fail
    assert said(evaluate(task, use_cache=str(tmp_path))) == said(first)


def test_a_question_that_fills_the_memory_counts_as_wrong_and_is_asked_again(
    task, direct, tmp_path, monkeypatch
):
    ask, calls = lmms_eval_model.Answerer.__call__, []

    def full_once(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ask(self, *arguments)

    monkeypatch.setattr(lmms_eval_model.Answerer, "__call__", full_once)
    failed = evaluate(task, use_cache=str(tmp_path))
    assert said(failed) == [*direct[0][:2], "", *direct[0][3:]]
    assert len(calls) == ITEMS
    assert said(evaluate(task, use_cache=str(tmp_path))) == direct[0]
    assert len(calls) == ITEMS + 1


def test_no_answer_at_all_is_an_error_with_the_reason(task):
    with pytest.raises(ValueError, match=r"^no question could be answered: choose .*max_tokens"):
        evaluate(task, ",max_tokens=4000")


def test_repeats_of_a_sampled_answer_differ(task):
    results = evaluate(task, ",temperature=5,beta=0", repeats=3, limit=2)  # nothing is cut off
    for sample in results["samples"][TASK]:
        [texts] = sample["resps"]
        assert len(texts) == len(set(texts)) == 3


def test_the_task_for_aokvqa_asks_and_scores_its_rows(tmp_path):
    """Rows as the data set has them: ten answers as one text, soft accuracy over any nine."""
    pictures = tmp_path / "data" / "validation"
    pictures.mkdir(parents=True)
    item = next(item for item in held_out_items("test", ITEMS) if item.type == "number")
    settings = LaserSettings(answer=AnswerSettings(instruction=AOKVQA_INSTRUCTION))
    said_now = answer(load_lvlm("demo"), item.picture, item.question, settings).answer.text
    item.picture.save(pictures / "0.png")
    row = {"file_name": "0.png", "question_id": "a", "question": item.question}
    row["direct_answers"] = str([said_now] * 2 + ["nothing"] * 8)
    (pictures / "metadata.jsonl").write_text(json.dumps(row))
    shipped = ROOT / "tools" / "lmms_eval" / "tasks" / "aokvqa_val.yaml"
    data = f"dataset_path: imagefolder\ndataset_kwargs:\n  data_dir: {tmp_path / 'data'}\n"
    (tmp_path / "here.yaml").write_text(f"include: {shipped}\ntask: aokvqa_here\n{data}")
    tasks = TaskManager("ERROR", include_path=str(tmp_path), include_defaults=False)
    results = simple_evaluate(
        model="laser", tasks=["aokvqa_here"], task_manager=tasks, batch_size=1, bootstrap_iters=0
    )
    [sample] = results["samples"]["aokvqa_here"]
    assert sample["filtered_resps"] == [said_now]
    # Leave each answer out in turn: 1 of 9 twice, 2 of 9 eight times, of the 3 that count in full
    expected = (2 * 1 / 3 + 8 * 2 / 3) / 10
    assert results["results"]["aokvqa_here"]["exact_match,none"] == pytest.approx(expected)


# Of the harness all but its command line, which reads hundreds of other tasks first
SCRIPT = """
import json, sys
from pathlib import Path
from tests.benchmark.test_lmms_eval import MODEL_REGISTRY_V2, accuracy, evaluate, manifest, said

MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
if results := evaluate(sys.argv[1]):  # the first process alone has them
    Path(sys.argv[2]).write_text(json.dumps([accuracy(results), said(results)]))
"""


def test_two_processes_answer_what_one_does(task, tmp_path):
    """As on several GPUs, with accelerate's launcher, each process its half of the questions."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_USE_CPU": "true",  # --multi_gpu then starts the processes on the CPU
    }
    (tmp_path / "run.py").write_text(SCRIPT)
    done = subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
            "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
            "--dynamo_backend", "no", "--main_process_port", "0",
            tmp_path / "run.py", task, tmp_path / "out.json",
        ],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"LASER:   0%|          | 0/{ITEMS // 2} " in done.stderr
    together, alone = json.loads((tmp_path / "out.json").read_text()), evaluate(task)
    assert together == [accuracy(alone), said(alone)]


# ---- the class alone ---------------------------------------------------------------------------


def test_the_registry_gives_the_class():
    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    assert MODEL_REGISTRY_V2.get_model_class("laser") is Laser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "^set --batch_size to a number from 1 on, or to auto: it is 0"),
        ({"aplha": 1}, r"^did you mean alpha\?"),
        ({"beams": 3}, "^removed: use temperature and seed for other answers instead of beams"),
        ({"preset": "papers"}, "^choose one of default, paper, fast: preset is 'papers'"),
        ({"device": "my gpu"}, "^choose auto, or a name like cpu or cuda:1: device is 'my gpu'"),
    ],
)
def test_wrong_arguments_are_refused_before_a_model_is_loaded(arguments, message, monkeypatch):
    monkeypatch.setattr(lmms_eval_model, "load_lvlm", None)
    with pytest.raises(ValueError, match=message):
        Laser(**arguments)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_the_device_of_the_harness_is_understood(device, monkeypatch):
    asked = []
    monkeypatch.setattr(lmms_eval_model, "load_lvlm", lambda name, load: asked.append(load.device))
    Laser(device=device)
    assert asked == ["cpu" if device == "cpu" else "auto"]


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until_multi_round"])
def test_other_kinds_of_tasks_are_refused_with_the_remedy(kind):
    with pytest.raises(NotImplementedError, match=r"^choose tasks of output type generate_until"):
        getattr(Laser(), kind)([])


def request(visuals, index=0, generation=(), **metadata):
    generation = {"max_new_tokens": 2, **dict(generation)}
    arguments = (ITEM.question, generation, lambda doc: visuals, index, "task", "test")
    metadata = {"task": "task", "doc_id": index, "repeats": 1, **metadata}
    return Instance("generate_until", arguments, 0, metadata)


def test_several_pictures_are_refused_by_task_and_question():
    model = Laser()
    model.task_dict = {"task": {"test": [None] * 9}}
    with pytest.raises(UnsuitableTask, match=r"or mode=plain: .* has 2 \(task, question 7\)$"):
        model.generate_until([request([ITEM.picture] * 2, index=7)])


def test_a_task_of_one_beam_is_answered_and_one_of_several_is_refused_by_name():
    model = Laser()
    model.task_dict = {"task": {"test": [None] * 9}}
    one = request([ITEM.picture], generation={"num_beams": 1})
    assert model.generate_until([one]) == model.generate_until([request([ITEM.picture])])
    several = request([ITEM.picture], index=7, generation={"num_beams": 5})
    with pytest.raises(UnsuitableTask, match=r"^set num_beams to 1 .*\(task, question 7\)$"):
        model.generate_until([several])


def test_a_request_that_only_evens_out_the_shares_is_not_answered():
    padding = request(None, __padding_only__=True)
    assert Laser().generate_until([padding]) == [""]
