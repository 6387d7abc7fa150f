"""Figures of a drill and of a bench, as tables and charts of text."""

from __future__ import annotations

from denzel.loadtest.bench import metrics
from denzel.loadtest.drill import results
from denzel.terminal.tables import bar, sparkline, stack, table

#: Width of a chart in characters.
_CHART = 40


def drill(report: results.DrillReport) -> list[str]:
    """The figures of a drill, in all and part by part."""
    refused = [(f"refused ({reason})", number) for reason, number in sorted(report.refused.items())]
    failed = [("  with FAILURE", f"{report.failed}: {report.failure}")] if report.failed else []
    strange = [("accepted twice", len(report.made_twice))] if report.made_twice else []
    bad = [("bad signatures", report.bad_signatures)] if report.bad_signatures else []
    unfinished = [("not finished yet", len(report.not_through))] if report.interrupted else []
    whole = table(
        ("REQUESTS", str(report.tasks)),
        [
            ("accepted", report.accepted),
            *(refused or [("refused (503)", 0)]),
            ("completed", report.completed),
            *failed,
            ("called back", report.called_back),
            ("called back twice", report.called_back_twice),
            *strange,
            *bad,
            ("lost", len(report.lost)),
            *unfinished,
            ("slowest recovery", _seconds(report.slowest_recovery)),
            ("the whole drill", _seconds(report.seconds)),
        ],
    )
    parts = table(
        ("PART", "KILLED", "RECOVERED IN", "CAUGHT UP IN"),
        [(part.part, part.killed, _seconds(part.recovered), _seconds(part.caught_up)) for part in report.parts],
    )
    return stack([whole, parts] if report.parts else [whole])


def bench(report: metrics.BenchReport) -> list[str]:
    """The figures of a bench: throughput, latencies, processor time, queue length."""
    shown = [
        table(("REQUESTS", str(report.sent)), _bench_counts(report)),
        table(("LATENCY", "P50", "P90", "P99", "MAX"), _latencies(report)),
    ]
    if report.processors is not None:
        shown.append(_processors(report.processors))
    if report.queue:
        lengths = [sample.tasks for sample in report.queue]
        shown.append([f"QUEUE  {sparkline(lengths, width=_CHART)}  {max(lengths)} tasks at most"])
    return stack(shown)


def _bench_counts(report: metrics.BenchReport) -> list[tuple[str, object]]:
    errors = [(f"error: {error.kind}", f"{error.count} ({error.first.rstrip('.')})") for error in report.errors]
    rows: list[tuple[str, object]] = []
    if report.unsent:
        rows.append(("not sent", f"{report.unsent} (every connection waited for an answer)"))
    if report.accept is not None:
        rows.append(("accepted", f"{report.accepted} ({report.accepted_per_second:,.0f} per second)"))
    end = "called back" if report.mode == "async" else "answered"
    rows.append((end, f"{report.completed} ({report.completed_per_second:,.0f} per second)"))
    rows += errors
    if report.unfinished:
        cancelled = f", {report.cancelled} of them cancelled later" if report.cancelled else ""
        rows.append(("in flight at the end", f"{report.unfinished}{cancelled}"))
    if report.lost_sight:
        rows.append(("unaccounted for", f"{report.lost_sight} (denzel callbacks, denzel tasks)"))
    rows.append(("seconds", f"{report.seconds:.1f}{' (interrupted)' * report.interrupted}"))
    return rows


def _latencies(report: metrics.BenchReport) -> list[tuple[str, ...]]:
    rows = [("end to end" if report.mode == "async" else "answer", report.end_to_end)]
    if report.accept is not None:
        rows.insert(0, ("accept", report.accept))
    return [
        (name, *((_short(seconds) for seconds in (times.p50, times.p90, times.p99, times.max)) if times else "----"))
        for name, times in rows
    ]


def _processors(busy: metrics.CpuUsage) -> list[str]:
    shares = [*busy.services.items(), ("denzel bench", busy.generator), ("other programs", busy.others)]
    return table(
        ("CPU", "CORES", f"OF {busy.cores}"),
        [(name, f"{cores:.2f}", bar(cores, busy.cores, width=_CHART)) for name, cores in shares],
    )


def _short(seconds: float) -> str:
    """A latency with two or three significant digits."""
    if seconds >= 1:
        return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds * 1000:.3g} ms"


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f} s"
