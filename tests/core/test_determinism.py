"""The same inputs and seed give the same bytes of JSON, in any order and from many threads."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from laser_core import pipeline
from laser_core.files import to_json
from laser_core.output.report import report
from laser_core.settings import (
    CounterfactualSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
)
from tools.testbed.lvlms import lvlm_of, noise_picture

QUESTION = "what colour is the square ?"
CROP = CropSettings(min_side_px=20)
GREEDY = LaserSettings(crop=CROP, decode=DecodeSettings(max_tokens=4))
SAMPLED = LaserSettings(
    crop=CROP,
    counterfactual=CounterfactualSettings(fill="noise"),
    decode=DecodeSettings(max_tokens=6, temperature=2.0, seed=11),
)
JOBS = [
    (model_type, settings, seed)
    for model_type in ("llava", "qwen2_5_vl")
    for settings in (GREEDY, SAMPLED)
    for seed in (0, 1)
]


def run(job) -> bytes:
    model_type, settings, seed = job
    lvlm = lvlm_of(model_type)
    result = pipeline.answer(
        lvlm, noise_picture((90, 60), seed), QUESTION, settings, with_plain=True
    )
    content = report(result, lvlm)
    return to_json(content).encode()


@pytest.fixture(scope="module")
def expected():
    return [run(job) for job in JOBS]


def test_the_jobs_differ(expected):
    assert len(set(expected)) == len(JOBS)


def test_any_order_gives_the_same_bytes(expected):
    order = list(range(len(JOBS)))
    random.Random(5).shuffle(order)
    for index in order:
        assert run(JOBS[index]) == expected[index]


def test_threads_that_share_models_give_the_same_bytes(expected):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, JOBS)) == expected
