"""Charts and tables of growth.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chart import Panel
from report import machine_line

SERVICES = ("redis", "api", "denzel", "monitor")

#: Queued tasks of each size while the memory is measured.
HELD = 50


def charts(results: Mapping[str, Any]) -> dict[str, list[Panel]]:
    """The panels of each file."""
    found: dict[str, list[Panel]] = {}
    if "waiting" in results:
        found["waiting"] = [
            panel(
                results["waiting"], "Accepting while tasks wait", "waiting tasks", "accepted per second", ["accepted"]
            ),
            panel(results["waiting"], "Memory while tasks wait", "waiting tasks", "MB (PSS)", SERVICES),
        ]
    if "bodies" in results:
        found["bodies"] = [
            panel(
                results["bodies"],
                "Requests by size",
                "size of a request",
                "requests per second",
                ["accepted", "completed"],
            ),
            panel(results["bodies"], f"Memory with {HELD} waiting tasks", "size of a request", "MB (PSS)", SERVICES),
        ]
    if "workers" in results:
        found["workers"] = [
            panel(
                results["workers"],
                "Answers by processes that predict",
                "processes (WORKER_CONCURRENCY)",
                "answers per second, 32 clients",
                {"batch": "with predict_batch", "single": "without", "waiting": "a model that waits 20 ms"},
            ),
            panel(
                results["workers"],
                "Memory of all services, 512 MB model",
                "processes (WORKER_CONCURRENCY)",
                "MB (PSS)",
                {"memory": "a model in each process", "memory_shared": "one model (MODEL_SHARING=fork)"},
            ),
        ]
    return found


def panel(points: Mapping[str, Any], title: str, x_label: str, y_label: str, names: Mapping[str, str] | Any) -> Panel:
    """A chart of the numbers with these names; series that were not measured are left out."""
    titles = names if isinstance(names, Mapping) else {name: name for name in names}
    series = {shown: [point.get(name) for point in points.values()] for name, shown in titles.items()}
    return Panel(
        title=title,
        x_label=x_label,
        y_label=y_label,
        places=list(points),
        series={name: values for name, values in series.items() if any(value is not None for value in values)},
    )


def tables(results: Mapping[str, Any]) -> str:
    """The same numbers as text."""
    parts = [f"{machine_line(results)} Backend `{results['backend']}`."]
    for name, panels in charts(results).items():
        columns = [(f"{shown}, {one.y_label}", values) for one in panels for shown, values in one.series.items()]
        rows = [
            f"![{panels[0].title}; {panels[1].title}](growth-{name}.svg)",
            "",
            f"| {panels[0].x_label} | " + " | ".join(title for title, _ in columns) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for number, place in enumerate(panels[0].places):
            cells = ["" if values[number] is None else f"{values[number]:,.0f}" for _, values in columns]
            rows.append(f"| {place} | {' | '.join(cells)} |")
        parts.append("\n".join(rows))
    parts.extend(f"{name} failed: {reason}" for name, reason in results.get("failures", {}).items())
    return "\n\n".join(parts)
