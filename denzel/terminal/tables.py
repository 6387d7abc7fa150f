"""What stands in columns: what is unfinished, and what a drill and a bench came to."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from denzel.admin import Callback, QuarantinedTask, UnfinishedTask
from denzel.loadtest.bench import metrics
from denzel.loadtest.drill import results
from denzel.terminal import charts

#: Letters that a chart is wide.
_CHART = 40

#: Seconds within which a callback that is due is taken to be sent.
_SENT_WITHIN = 2


def callbacks(kept: Sequence[Callback], *, now: float) -> list[str]:
    """Callbacks that are not delivered; `now` is a moment on their clock, as in the lists below."""
    return _table(
        ("TASK", "STATE", "ATTEMPTS", "LAST STATUS", "NEXT TRY", "ADDRESS", "LAST ERROR"),
        [
            (
                callback.task_id,
                callback.state,
                callback.attempts,
                callback.last_status,
                _next_try(callback, now),
                callback.uri,
                callback.last_error,
            )
            for callback in kept
        ],
    )


def tasks(kept: Sequence[UnfinishedTask], *, now: float) -> list[str]:
    return _table(
        ("TASK", "STATUS", "POSITION", "DELIVERIES", "SINCE", "HOST"),
        [
            (task.task_id, task.status, task.position, task.deliveries, _ago(task.since, now), task.host)
            for task in kept
        ],
    )


def quarantined(kept: Sequence[QuarantinedTask], *, now: float) -> list[str]:
    return _table(
        ("TASK", "DELIVERIES", "SINCE", "REASON"),
        [(task.task_id, task.deliveries, _ago(task.since, now), task.reason) for task in kept],
    )


def drill(figures: results.DrillReport) -> list[str]:
    """What a drill came to, in all and part by part."""
    refused = [(f"refused ({reason})", number) for reason, number in sorted(figures.refused.items())]
    failed = [("  with FAILURE", f"{figures.failed}: {figures.failure}")] if figures.failed else []
    strange = [("made twice", len(figures.made_twice))] if figures.made_twice else []
    bad = [("bad signatures", figures.bad_signatures)] if figures.bad_signatures else []
    unfinished = [("not through yet", len(figures.not_through))] if figures.interrupted else []
    whole = _table(
        ("REQUESTS", str(figures.tasks)),
        [
            ("accepted", figures.accepted),
            *(refused or [("refused (503)", 0)]),
            ("completed", figures.completed),
            *failed,
            ("called back", figures.called_back),
            ("called back twice", figures.called_back_twice),
            *strange,
            *bad,
            ("lost", len(figures.lost)),
            *unfinished,
            ("slowest recovery", _seconds(figures.slowest_recovery)),
            ("the whole drill", _seconds(figures.seconds)),
        ],
    )
    parts = _table(
        ("PART", "KILLED", "RECOVERED IN", "CAUGHT UP IN"),
        [(part.part, part.killed, _seconds(part.recovered), _seconds(part.caught_up)) for part in figures.parts],
    )
    return _apart([whole, parts] if figures.parts else [whole])


def bench(figures: metrics.BenchReport) -> list[str]:
    """What a bench has measured: throughput, latencies, their spread, who was busy, and the queue."""
    shown = [
        _table(("REQUESTS", str(figures.sent)), _bench_counts(figures)),
        _table(("LATENCY", "P50", "P90", "P99", "MAX"), _latencies(figures)),
    ]
    if figures.histogram:
        shown.append(_histogram(figures))
    if figures.processors is not None:
        shown.append(_processors(figures.processors))
    if figures.queue:
        lengths = [look.tasks for look in figures.queue]
        shown.append([f"QUEUE  {charts.sparkline(lengths, width=_CHART)}  {max(lengths)} tasks at most"])
    return _apart(shown)


def escape(text: str) -> str:
    """What others sent, without what a terminal would obey, or has no letter for."""
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Columns as wide as what is in them; nothing is cut, so that ids and addresses can be copied."""
    texts = [["-" if value is None else escape(str(value)) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *texts)
    ]


def _apart(shown: Sequence[Sequence[str]]) -> list[str]:
    """Several tables, with an empty line between."""
    return [line for lines in shown for line in ("", *lines)][1:]


def _bench_counts(figures: metrics.BenchReport) -> list[tuple[str, object]]:
    errors = [(f"error: {error.kind}", f"{error.count} ({error.first.rstrip('.')})") for error in figures.errors]
    rows: list[tuple[str, object]] = []
    if figures.unsent:
        rows.append(("not sent", f"{figures.unsent} (every connection waited for an answer)"))
    if figures.accept is not None:
        rows.append(("accepted", f"{figures.accepted} ({figures.accepted_per_second:,.0f} per second)"))
    end = "called back" if figures.mode == "async" else "answered"
    rows.append((end, f"{figures.completed} ({figures.completed_per_second:,.0f} per second)"))
    rows += errors
    if figures.unfinished:
        cancelled = f", {figures.cancelled} of them cancelled later" if figures.cancelled else ""
        rows.append(("under way at the end", f"{figures.unfinished}{cancelled}"))
    if figures.lost_sight:
        rows.append(("not heard of", f"{figures.lost_sight} (denzel callbacks, denzel tasks)"))
    rows.append(("seconds", f"{figures.seconds:.1f}{' (interrupted)' * figures.interrupted}"))
    return rows


def _latencies(figures: metrics.BenchReport) -> list[tuple[str, ...]]:
    rows = [("end to end" if figures.mode == "async" else "answer", figures.end_to_end)]
    if figures.accept is not None:
        rows.insert(0, ("accept", figures.accept))
    return [
        (name, *((_short(seconds) for seconds in (times.p50, times.p90, times.p99, times.max)) if times else "----"))
        for name, times in rows
    ]


def _histogram(figures: metrics.BenchReport) -> list[str]:
    most = max(bucket.count for bucket in figures.histogram)
    heads = ("end to end" if figures.accept else "answers").upper()
    return _table(
        (heads, "REQUESTS", ""),
        [
            (f"up to {_short(bucket.up_to)}", bucket.count, charts.bar(bucket.count, most, width=_CHART))
            for bucket in figures.histogram
        ],
    )


def _processors(busy: metrics.CpuUsage) -> list[str]:
    shares = [*busy.services.items(), ("denzel bench", busy.generator), ("other programs", busy.others)]
    return _table(
        ("CPU", "CORES", f"OF {busy.cores}"),
        [(name, f"{cores:.2f}", charts.bar(cores, busy.cores, width=_CHART)) for name, cores in shares],
    )


def _short(seconds: float) -> str:
    """A latency with two or three digits that mean something."""
    if seconds >= 1:
        return f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds * 1000:.3g} ms"


def _next_try(callback: Callback, now: float) -> str | None:
    if callback.next_try is None:
        return "being sent" if callback.state == "PENDING" else None
    ahead = callback.next_try - now
    if ahead >= 1:
        return f"in {_duration(ahead)}"
    # What is due is sent at once, unless others for its receiver are being sent already, as many as may be.
    return "now" if ahead > -_SENT_WITHIN else "when its receiver has room"


def _ago(moment: float | None, now: float) -> str | None:
    return None if moment is None else f"{_duration(max(0, now - moment))} ago"


def _duration(seconds: float) -> str:
    """In the largest unit of which there are two, so that no digit is of no use: 90 s, 5 min, 36 h, 3 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.1f} s"
