"""import_cost.py: a warning for a pipeline whose import takes much memory, and none for others."""

from __future__ import annotations

import json

import pytest

from app.serving.worker.model import import_cost
from app.serving.worker.model.import_cost import MIN_MB, import_measured
from app.serving.worker.model.load_warnings import LoadWarnings


def warnings_of(megabytes: int) -> list[str]:
    held: list[bytes] = []

    def import_pipeline() -> str:
        held.append(b"\1" * megabytes * 2**20)
        return "the pipeline"

    warned = LoadWarnings()
    assert import_measured(import_pipeline, warned) == "the pipeline"
    return json.loads(warned.as_json() or '{"shown": []}')["shown"]


def test_a_heavy_import_is_warned_of_with_its_cost_and_what_to_do() -> None:
    (warning,) = warnings_of(2 * MIN_MB)
    assert warning.startswith("importing pipeline.py took ")
    assert f"{2 * MIN_MB // 10}" in warning
    assert warning.endswith("from app.logic.verify import verify_input")


def test_a_light_import_is_not_warned_of() -> None:
    assert warnings_of(1) == []


def test_a_heavy_import_that_the_api_is_spared_is_not_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_cost, "source_of", lambda module: "from .verify import verify_input")
    assert warnings_of(2 * MIN_MB) == []
