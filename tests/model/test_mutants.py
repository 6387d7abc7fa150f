"""mutants.py: the model test catches every fault that is put into the scripts."""

from __future__ import annotations

from collections import Counter

import pytest
from model.mutants import mutants, survivors

from app.serving.store import scripts
from app.serving.store.connection import connect

PARTS = 4


def test_each_fault_is_in_a_line_that_is_there() -> None:
    """Else the list is of another version of the scripts."""
    for mutant in mutants():
        source = (scripts.FOLDER / f"{mutant.file}.lua").read_text(encoding="utf-8")
        assert mutant.apply(source) != source, mutant.name


def test_each_fault_has_a_name() -> None:
    names = Counter((mutant.file, mutant.name) for mutant in mutants())
    assert [name for name, number in names.items() if number > 1] == []
    assert len(names) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_fault_is_caught(redis_url: str, part: int) -> None:
    with connect(redis_url) as redis:
        assert survivors(redis, mutants()[part::PARTS]) == []
