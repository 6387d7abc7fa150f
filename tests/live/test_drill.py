"""The drill on real services: every part is killed under load, and nothing accepted is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.driving import Driven

#: Seconds within which SPEC.md wants work to go on.
RECOVERY = 60


@pytest.mark.slow
def test_nothing_is_lost_while_every_part_is_killed(lab: Driven, tmp_path: Path) -> None:
    requests = tmp_path / "requests.json"
    # Slow enough that a kill finds work in hand, each time.
    requests.write_text(json.dumps([{"sleep": 0.1, "echo": number} for number in range(3)]))
    printed = lab.denzel("drill", "--tasks", "500", "--file", str(requests), "--json", "--yes")
    figures = json.loads(printed.splitlines()[-1])
    assert (figures["accepted"], figures["completed"], figures["called_back"]) == (500, 500, 500), printed
    assert (figures["lost"], figures["made_twice"], figures["bad_signatures"]) == ([], [], 0)
    assert figures["failed"] == 0, printed
    assert [(part["part"], part["killed"]) for part in figures["parts"]] == [
        ("worker", 1),
        ("denzel", 1),
        ("api", 1),
        ("monitor", 1),
        ("redis", 1),
        ("receiver (slow)", 1),
        ("receiver (answers 500)", 1),
        ("receiver (silent)", 1),
        ("receiver (closed)", 1),
    ]
    assert figures["slowest_recovery"] < RECOVERY, printed
    assert all((part["caught_up"] or 0) < RECOVERY for part in figures["parts"]), printed
    # What was to be called back while the receiver was away had to wait for it.
    assert all(part["caught_up"] for part in figures["parts"] if part["part"].startswith("receiver")), printed
    assert lab.status()["ready"]
