"""Public data sets in Parquet as they are published. Needs pyarrow, which lmms-eval brings."""

from __future__ import annotations

import pytest

pytest.importorskip("pyarrow", reason="pip install pyarrow to read data sets")

from laser_core.evaluation.data_sets import (
    DATA_SETS,
    LETTER,
    chosen,
    digests,
    files_of,
    samples,
)

from .public_data import write_public


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public")
    write_public(folder, 4)
    return folder


@pytest.mark.parametrize("task", DATA_SETS)
def test_every_question_is_read_with_its_picture(task, folder):
    data = DATA_SETS[task]
    files = files_of(data, folder, download=False)
    read = list(samples(data, files, chosen(files)))
    assert [sample.id for sample in read] == [str(number) for number in range(4)]
    assert read[0].opened().size == (448, 448)
    assert all(bool(sample.answers) == (data.score is not None) for sample in read)
    assert all(bool(sample.boxes) == (task in ("textvqa", "refcoco")) for sample in read)
    assert len(next(iter(digests(files).values()))) == 64


def test_a_subset_is_spread_evenly(folder):
    data = DATA_SETS["textvqa"]
    files = files_of(data, folder, download=False)
    assert chosen(files, 2) == [0, 2] and chosen(files, 9) == [0, 1, 2, 3]
    assert [sample.id for sample in samples(data, files, [2, 0])] == ["0", "2"]


def test_vstars_options_do_not_locate_and_its_sentence_is_the_instruction(folder):
    data = DATA_SETS["vstar"]
    sample = next(samples(data, files_of(data, folder, download=False), [0]))
    assert sample.question.startswith(f"{sample.look_for}\n(A) ") and LETTER not in sample.question
    assert "(" not in sample.look_for and data.instruction == LETTER


def test_files_in_another_layout_are_refused(folder):
    pope = files_of(DATA_SETS["pope"], folder, download=False)
    with pytest.raises(ValueError, match=r"^fetch lmms-lab/vstar-bench as it is published: row 0"):
        next(samples(DATA_SETS["vstar"], pope, [0]))
    torn = folder / "torn.parquet"
    torn.write_bytes(pope[0].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"^fetch the data again: a file is damaged"):
        next(samples(DATA_SETS["pope"], [torn], [0]))
