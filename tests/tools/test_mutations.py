"""The lines that tools/checks/mutation_check.py breaks are still there to be broken."""

import pytest

from tools.checks.mutation_check import MUTATIONS, ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_line_is_there_once(mutation):
    text = (ROOT / mutation.file).read_text("utf-8")
    assert text.count(mutation.before) == 1
