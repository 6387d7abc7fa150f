"""Lines of one task, from the worker's log files across their rotations and from the output of services."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from denzel.errors import TaskUnknown
from denzel.project.log_file import follow_log, read_log

# `[time: LEVEL/process id] message`, as in app/serving/logs/lines.py: the id is missing in lines that are of no task,
# and `id+3` is a batch of four. Lines without this are of the record above them.
_HEAD = re.compile(r"\[(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}): [A-Z]+/[^\s\]]+(?: (?P<label>.+?))?\] ")
_ENDED = re.compile(r"(.+?) [A-Z]+ in [\d.]+ s(?:, |$)")
_IN_BATCH = re.compile(r"\+\d+$")

#: What denzel logs of several tasks in one line, each with more words.
_LISTS = ("batch of ", "ended: ", "callbacks delivered: ")

_UUID = re.compile(r"(?<![\w-])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![\w-])")

#: Ids that an error names at most.
_MAX_NAMED = 5


def read_task(path: Path, outputs: Iterable[str], given: str) -> list[str]:
    """The lines of a task by its id, or the beginning of one: of the worker's log at `path` with its rotated files, and
    of what services printed, `outputs`, as a backend gives them. Records are in the order of their times.

    Raises NotLaunched without a log, and TaskUnknown.
    """
    # Without what stands below them: it may be of another process.
    printed = [line for output in outputs if _HEAD.match(line := output.partition(" | ")[2])]
    task_id = _find_id([*_read_all(path), *printed], given)
    records = list(_records(_read_all(path), task_id))
    # The worker's records are in its service's output too.
    known = {lines[0] for _, lines in records}
    records += [record for record in _records(printed, task_id) if record[1][0] not in known]
    return [line for _, lines in sorted(records, key=lambda record: record[0]) for line in lines]


def follow_task(path: Path, given: str) -> Iterator[str]:
    """The lines of a task in the worker's log so far, then each new one, without end. Raises as `read_task` does, but
    takes a whole id of which there is no line yet.
    """
    task_id = given if _UUID.fullmatch(given) else _find_id(_read_all(path), given)
    select = _Selection(task_id)
    for older in _rotated(path):
        yield from map(select.shown, filter(select, read_log(older)))
    for line in follow_log(path):
        if select(line):
            yield select.shown(line)


class _Selection:
    """True for each line of a task, given all lines in their order."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._labels = {task_id}
        self._mention = re.compile(rf"(?<![\w-]){re.escape(task_id)}(?![\w-])")
        self._is_in = False

    def __call__(self, line: str) -> bool:
        head = _HEAD.match(line)
        if head is not None:
            label, message = head["label"] or "", line[head.end() :]
            mentions = self._mention.search(message) is not None
            if mentions and message.startswith("batch of ") and _IN_BATCH.search(label):
                self._labels.add(label)
            self._is_in = label in self._labels or (mentions and not label)
        return self._is_in

    def shown(self, line: str) -> str:
        """The line, of a list the part that is of the task."""
        head = _HEAD.match(line)
        for words in _LISTS if head is not None and not head["label"] else ():
            begin, is_list, parts = line.partition(f"] {words}")
            if is_list:
                return begin + is_list + ", ".join(part for part in parts.split(", ") if self._mention.match(part))
        return line


def _records(lines: Iterable[str], task_id: str) -> Iterator[tuple[str, list[str]]]:
    """The records of a task: the time of each, and its lines."""
    select = _Selection(task_id)
    time = ""
    record: list[str] = []
    for line in lines:
        if not select(line):
            continue
        head = _HEAD.match(line)
        if head is not None and record:
            yield time, record
            record = []
        time = head["time"] if head is not None else time
        record.append(select.shown(line))
    if record:
        yield time, record


def _find_id(lines: Iterable[str], given: str) -> str:
    """The one id in the logs that begins so."""
    found: dict[str, None] = {}
    for line in lines:
        head = _HEAD.match(line) if given in line else None
        if head is not None:
            found |= dict.fromkeys(
                one for one in _ids(head["label"] or "", line[head.end() :]) if one.startswith(given)
            )
    if given in found or len(found) == 1:
        return given if given in found else next(iter(found))
    if not found:
        raise TaskUnknown(
            f"No line of a task {given} is in the logs.",
            hint="It may not have begun, which denzel tasks shows, or be too old: the oldest lines are removed.",
        )
    some = ", ".join([*found][:_MAX_NAMED])
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    raise TaskUnknown(f"{given} is the beginning of {len(found)} ids: {some}{more}.", hint="Type more of the id.")


def _ids(label: str, message: str) -> list[str]:
    """The ids that a line of the log is of. Those of other clients need not be UUIDs."""
    if message.startswith("batch of ") and _IN_BATCH.search(label):
        return message.partition(": ")[2].split(", ")
    if label:
        return [_IN_BATCH.sub("", label)]
    ended = _ENDED.findall(message.removeprefix("ended: ")) if message.startswith("ended: ") else []
    return [*ended, *_UUID.findall(message)]


def _read_all(path: Path) -> Iterator[str]:
    for older in _rotated(path):
        yield from read_log(older)
    yield from read_log(path)


def _rotated(path: Path) -> list[Path]:
    """The older files of a log, the oldest first: worker.log.1 is the newest of them."""
    numbered = [(int(one.suffix[1:]), one) for one in path.parent.glob(f"{path.name}.*") if one.suffix[1:].isdigit()]
    return [one for _, one in sorted(numbered, reverse=True)]
