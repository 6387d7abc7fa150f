"""Every word, colour and list that the user sees."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from denzel import charts, measures
from denzel.backends.base import BuildStep
from denzel.errors import DenzelError
from denzel.ledger import Callback, Outcome, QuarantinedTask, UnfinishedTask
from denzel.project import Project
from denzel.services import Service, State, Status, WorkerReport
from denzel.settings import Settings
from denzel.tally import Figures

if TYPE_CHECKING:
    from denzel.listener import ReceivedCallback

#: Letters that a chart is wide.
_CHART = 40

_COLOURS = {State.UP: "green", State.ERROR: "red", State.DOWN: "red"}

#: Seconds within which a callback that is due is taken to be sent.
_SENT_WITHIN = 2

#: Bytes that are shown of a body that is no JSON.
_SHOWN_OF_NO_JSON = 500


def say(text: str) -> None:
    click.echo(text)


def scaffolded(project: Project) -> None:
    name = project.root.name
    click.echo(f"Successfully built {name} project skeleton")
    click.echo(f"Next: cd {name}, edit app/logic/pipeline.py, then denzel launch")


def launched(settings: Settings) -> None:
    click.echo(f"API:       http://{_reachable(settings.api_host)}:{settings.api_port}/info")
    click.echo(f"Dashboard: http://{_reachable(settings.monitor_host)}:{settings.monitor_port}")


def error(problem: DenzelError) -> None:
    """The one shape of an error: what others said, what is wrong, what to do."""
    if problem.detail:
        click.echo(problem.detail, err=True)
        click.echo(err=True)
    # Ids, reasons and the like in it come from others.
    click.echo(f"{click.style('Error:', fg='red')} {_printable(str(problem))}", err=True)
    if problem.hint:
        click.echo(f"{click.style('Hint:', fg='yellow')} {problem.hint}", err=True)


def shown_status(seen: Status) -> None:
    click.echo("\n".join(_status_lines(seen)))


def shown_status_json(seen: Status | None) -> None:
    if seen is None:
        click.echo(json.dumps({"launched": False}))
        return
    services = {
        service.value: {"state": report.state.value} | ({"port": report.port} if report.port else {})
        for service, report in seen.services.items()
    }
    worker = {"name": seen.worker.name, "state": seen.worker.state.value, "cause": seen.worker.cause}
    click.echo(json.dumps({"launched": True, "ready": seen.ready, "services": services, "workers": [worker]}))


def shown_live_status(seen: Iterable[Status]) -> None:
    """Each status in the place of the one before, where the screen allows it; until Ctrl-C."""
    shown = ""
    with _until_interrupted():
        for current in seen:
            text = "\n".join(_status_lines(current))
            if text != shown:
                if shown and sys.stdout.isatty():
                    click.echo(f"\033[{shown.count(chr(10)) + 1}A\033[J", nl=False)
                click.echo(text)
            shown = text


def shown_json(data: Any) -> None:
    click.echo(json.dumps(data))


def shown_callbacks(kept: Sequence[Callback], *, state: str | None) -> None:
    if not kept:
        click.echo("No callbacks have failed." if state == "FAILED" else "No callbacks are waiting.")
        return
    now = time.time()
    _table(
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


def shown_tasks(kept: Sequence[UnfinishedTask]) -> None:
    if not kept:
        click.echo("No tasks are running or waiting.")
        return
    now = time.time()
    _table(
        ("TASK", "STATUS", "POSITION", "DELIVERIES", "SINCE", "HOST"),
        [
            (task.task_id, task.status, task.position, task.deliveries, _ago(task.since, now), task.host)
            for task in kept
        ],
    )


def shown_quarantined(kept: Sequence[QuarantinedTask]) -> None:
    if not kept:
        click.echo("No tasks are in quarantine.")
        return
    now = time.time()
    _table(
        ("TASK", "DELIVERIES", "SINCE", "REASON"),
        [(task.task_id, task.deliveries, _ago(task.since, now), task.reason) for task in kept],
    )


def resent(outcome: Outcome) -> None:
    if outcome.done:
        click.echo(f"{_counted(len(outcome.done), 'callback')} sent again now. How it goes: denzel callbacks")
    elif not outcome.unknown:
        click.echo("No callbacks have failed.")


def replayed(outcome: Outcome) -> None:
    if outcome.done:
        click.echo(f"{_counted(len(outcome.done), 'task')} queued again. How it goes: denzel tasks")


def discarded(outcome: Outcome) -> None:
    if outcome.done:
        click.echo(f"{_counted(len(outcome.done), 'task')} discarded.")


def listening(settings: Settings, host: str, port: int) -> None:
    reached = "127.0.0.1" if host == "0.0.0.0" else host
    name = reached if settings.backend == "local" else "host.docker.internal"
    click.echo(f"Listening on port {port}. Use as callback_uri: http://{name}:{port}/")


def received(callbacks: Iterable[ReceivedCallback]) -> None:
    """Callbacks as they arrive, each with its body in the next line; until Ctrl-C."""
    with _until_interrupted():
        for callback in callbacks:
            when = datetime.fromtimestamp(callback.when)
            what = _printable(f"{when:%H:%M:%S} {callback.path} {callback.webhook_id or 'no webhook-id'}")
            click.echo(f"{what} {_signature(callback)}{' (repeated)' if callback.repeated else ''}")
            click.echo(_body(callback.body))


def drilled(figures: Figures) -> None:
    """What a drill came to, in all and part by part."""
    refused = [(f"refused ({reason})", number) for reason, number in sorted(figures.refused.items())]
    failed = [("  with FAILURE", f"{figures.failed}: {figures.failure}")] if figures.failed else []
    strange = [("made twice", len(figures.made_twice))] if figures.made_twice else []
    bad = [("bad signatures", figures.bad_signatures)] if figures.bad_signatures else []
    unfinished = [("not through yet", len(figures.not_through))] if figures.interrupted else []
    click.echo()
    _table(
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
    if figures.parts:
        click.echo()
        _table(
            ("PART", "KILLED", "RECOVERED IN", "CAUGHT UP IN"),
            [(part.part, part.killed, _seconds(part.recovered), _seconds(part.caught_up)) for part in figures.parts],
        )


def benched(figures: measures.Figures) -> None:
    """What a bench has measured: throughput, latencies, their spread, who was busy, and what it comes to."""
    click.echo()
    _table(("REQUESTS", str(figures.sent)), _bench_counts(figures))
    click.echo()
    _table(("LATENCY", "P50", "P90", "P99", "MAX"), _latencies(figures))
    if figures.histogram:
        click.echo()
        most = max(bucket.count for bucket in figures.histogram)
        heads = ("end to end" if figures.accept else "answers").upper()
        _table(
            (heads, "REQUESTS", ""),
            [
                (f"up to {_short(bucket.up_to)}", bucket.count, charts.bar(bucket.count, most, width=_CHART))
                for bucket in figures.histogram
            ],
        )
    if figures.processors is not None:
        click.echo()
        _processors(figures.processors)
    if figures.queue:
        lengths = [look.tasks for look in figures.queue]
        click.echo()
        click.echo(f"QUEUE  {charts.sparkline(lengths, width=_CHART)}  {max(lengths)} tasks at most")
    click.echo()
    click.echo(f"{click.style('Bottleneck:', bold=True)} {figures.verdict.bottleneck or 'none'}: {figures.verdict.why}")


def lines(text: Iterable[str]) -> None:
    """Lines as they come, until they end or Ctrl-C."""
    with _until_interrupted():
        for line in text:
            click.echo(line)


def interrupted() -> None:
    click.echo("Interrupted. What is up now: denzel status", err=True)


def confirm(question: str) -> bool:
    try:
        return click.confirm(question)
    except click.Abort:
        click.echo("No answer. To go on without being asked, pass --yes.", err=True)
        return False


class Watching:
    """Tells of a long command: its phases, the steps of the build, and each service as it comes up.

    With `aside` it tells so on the standard error, beside data.
    """

    def __init__(self, *, aside: bool = False) -> None:
        self._aside = aside
        self._seen: dict[Service | str, State] = {}
        self._step = ""

    def doing(self, text: str) -> None:
        click.echo(f"{text} ...", err=self._aside)

    def note(self, text: str) -> None:
        click.echo(text, err=self._aside)

    def built(self, step: BuildStep) -> None:
        if step.text != self._step:
            click.echo(f"    {step.text}")
        self._step = step.text

    def saw(self, status: Status) -> None:
        for service, report in status.services.items():
            if self._seen.get(service) is not report.state:
                click.echo(_service_line(service, report.state, report.port))
            self._seen[service] = report.state
        if self._seen.get(status.worker.name) is not status.worker.state:
            click.echo(_worker_line(status.worker))
        self._seen[status.worker.name] = status.worker.state


def _status_lines(seen: Status) -> list[str]:
    services = [_service_line(service, report.state, report.port) for service, report in seen.services.items()]
    return ["Services:", *services, _worker_line(seen.worker)]


def _service_line(service: Service, state: State, port: int | None) -> str:
    where = f" [ Port: {port} ]" if port and state is State.UP else ""
    return f"    {service.value} - {_styled(state)}{where}"


def _worker_line(worker: WorkerReport) -> str:
    name = "all" if worker.state is State.LOADING else worker.name
    cause = f" [ {worker.cause} ]" if worker.cause else ""
    return f"Worker: {name} - {_styled(worker.state)}{cause}"


def _styled(state: State) -> str:
    return click.style(state.value, fg=_COLOURS.get(state, "yellow"))


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as what is in them; nothing is cut, so that ids and addresses can be copied."""
    texts = [["-" if value is None else _printable(str(value)) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
    for row in (heads, *texts):
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _bench_counts(figures: measures.Figures) -> list[tuple[str, object]]:
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


def _latencies(figures: measures.Figures) -> list[tuple[str, ...]]:
    rows = [("end to end" if figures.mode == "async" else "answer", figures.end_to_end)]
    if figures.accept is not None:
        rows.insert(0, ("accept", figures.accept))
    return [
        (name, *((_short(seconds) for seconds in (times.p50, times.p90, times.p99, times.max)) if times else "----"))
        for name, times in rows
    ]


def _processors(busy: measures.Processors) -> None:
    shares = [*busy.services.items(), ("denzel bench", busy.generator), ("other programs", busy.others)]
    _table(
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


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun} is" if number == 1 else f"{number} {noun}s are"


def _signature(callback: ReceivedCallback) -> str:
    if not callback.signed:
        return click.style("not signed", fg="yellow")
    if callback.fault:
        return click.style("signature BAD", fg="red") + f": {_printable(callback.fault)}"
    return click.style("signature good", fg="green")


def _body(body: bytes) -> str:
    """A body as JSON in one line; what is none is said to be so, and shown from its beginning."""
    if not body:
        return "(empty)"
    try:
        return _printable(json.dumps(json.loads(body.decode()), ensure_ascii=False))
    except (ValueError, RecursionError):
        shown = _printable(body[:_SHOWN_OF_NO_JSON].decode("utf-8", "backslashreplace"))
        return f"(not JSON) {shown}" + (f"... ({len(body)} bytes)" if len(body) > _SHOWN_OF_NO_JSON else "")


def _printable(text: str) -> str:
    """What others sent, without what a terminal would obey, or has no letter for."""
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _reachable(host: str) -> str:
    return "localhost" if host in ("0.0.0.0", "127.0.0.1") else host


@contextmanager
def _until_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo()
