"""Markdown tables of compare.py, and a page with a place for them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Numbers = Mapping[str, Any]

NOTHING = "\N{EN DASH}"

COLUMNS = (
    "system",
    "sync, req/s at 1 / 16 / 64 clients",
    "accepted / completed per s",
    "p50 / p99 at 50 per s, ms",
    "with a slow receiver, ms",
    "512 MB model, 2 processes, MB",
    "start to first answer, s",
)

#: Columns of ratios: the title, and the name of the number.
COMPARED = {
    "sync, 1 client": "sync_1",
    "16": "sync_16",
    "64": "sync_64",
    "accepted": "accepted",
    "completed": "completed",
    "p50": "end_p50",
    "p99": "end_p99",
    "memory": "memory",
    "start": "start",
}


def tables(results: Mapping[str, Any]) -> str:
    """The report of a run: the machine, the figures, the ratios of denzel to each peer, and the failures."""
    parts = [f"{machine_line(results)} {effort_line(results)}", figures(results["systems"]), note()]
    denzels = {name: system for name, system in measured(results).items() if name.startswith("denzel")}
    others = {name: system for name, system in measured(results).items() if name not in denzels}
    parts.extend(ratios(system, others) for system in denzels.values() if others)
    parts.append(troubles(results["systems"]))
    return "\n\n".join(part for part in parts if part)


def measured(results: Mapping[str, Any]) -> dict[str, Any]:
    return {name: system for name, system in results["systems"].items() if system.get("median")}


def machine_line(results: Mapping[str, Any]) -> str:
    facts = results["machine"]
    return (
        f"Measured on {facts['date']}: {facts['cores']} cores of {facts['processor']}, {facts['memory']}, "
        f"{facts['kernel']}, Python {facts['python']}."
    )


def effort_line(results: Mapping[str, Any]) -> str:
    effort = results["effort"]
    rounds = f"the median of {effort['rounds']} rounds" if effort["rounds"] > 1 else "one round"
    return f"Each figure is {rounds}; loads of {effort['seconds']:g} s, {effort['paced']:g} s at 50 per second."


def figures(systems: Mapping[str, Any]) -> str:
    """The table of systems, one in a row."""
    rows = [
        "| " + " | ".join(COLUMNS) + " |",
        "|---" * len(COLUMNS) + "|",
    ]
    for system in systems.values():
        median = system.get("median", {})
        title = f"{system['title']} {system['version']}".strip()
        if not median:
            reason = next(iter(system["failures"].values()), "not measured")
            rows.append(f"| {title} | failed: {_cell(reason)[:120]} | | | | | |")
            continue
        cells = [
            title,
            _joined(median, "sync_1", "sync_16", "sync_64"),
            _joined(median, "accepted", "completed"),
            _joined(median, "end_p50", "end_p99", show=_tenths),
            _joined(median, "slow_p50", "slow_p99", show=_tenths),
            _memory(median),
            _tenths(median.get("start")),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def note() -> str:
    return (
        "Memory is the PSS of all processes; in brackets, without the dashboard. `shared` is one model for both "
        "processes (`MODEL_SHARING=fork`). A slow receiver takes 3 s to answer, and gets one callback in ten; the "
        "times are those of the others."
    )


def ratios(denzel: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """The table of denzel's figures divided by each peer's."""
    rows = [
        f"{denzel['title']} ÷ each peer; above 1 is better for requests per second, below 1 for times and memory:",
        "",
        "| peer | " + " | ".join(COMPARED) + " |",
        "|---" * (len(COMPARED) + 1) + "|",
    ]
    for other in others.values():
        cells = [_ratio(denzel["median"].get(name), other["median"].get(name)) for name in COMPARED.values()]
        rows.append(f"| {other['title']} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def troubles(systems: Mapping[str, Any]) -> str:
    """The list of errors, lost callbacks and failed measurements, so that no figure hides them."""
    lines = []
    for system in systems.values():
        for name, reason in system["failures"].items():
            lines.append(f"- {system['title']}: {name} failed: {_cell(reason)}")
        for number, one in enumerate(system["rounds"], start=1):
            for name, value in one.items():
                if name.endswith("_errors") and value:
                    kinds = one.get(f"{name[:-1]}_kinds", "")
                    lines.append(f"- {system['title']}: {value} errors in {name[:-7]} of round {number} ({kinds})")
                elif name.endswith("lost") and value:
                    lines.append(f"- {system['title']}: {value} callbacks missing in {name} of round {number}")
    return "\n".join(["What went wrong:", "", *lines]) if lines else "No request failed, and no callback is missing."


def write_between(page: Path, name: str, text: str) -> None:
    """Write text between the markers of this name; exits when the page has none."""
    before, after = around(page, name)
    page.write_text(f"{before}\n\n{text}\n\n{after}", encoding="utf-8")


def around(page: Path, name: str) -> tuple[str, str]:
    """The text of a page up to the begin marker, and from the end marker on; exits when it has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        sys.exit(f"{page.name} has no place for the figures. Write two lines into it: {begin} and {end}")
    return before + begin, end + after


def _whole(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _tenths(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.1f}"


def _joined(median: Numbers, *names: str, show: Callable[[float | None], str] = _whole) -> str:
    if all(median.get(name) is None for name in names):
        return NOTHING
    return " / ".join(show(median.get(name)) for name in names)


def _memory(median: Numbers) -> str:
    text = _whole(median.get("memory"))
    if "memory_monitor" in median:
        text += f" ({_whole(median['memory_without_monitor'])})"
    if "memory_shared" in median:
        text += f"; shared {_whole(median['memory_shared'])} ({_whole(median['memory_shared_without_monitor'])})"
    return text


def _ratio(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f}" if ours is not None and theirs else NOTHING


def _cell(text: str) -> str:
    """A message as a cell of a table, without paths and addresses of this machine."""
    return " ".join(re.sub(r"\w+://\S+|(?<![\w.])/[\w.+-]+/\S+", "...", text).replace("|", "/").split())
