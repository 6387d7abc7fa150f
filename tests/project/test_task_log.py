"""task_log.py: the lines of one task, by its id or the beginning of that."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.serving.worker import log_file as writer
from denzel.errors import NotLaunched, TaskUnknown
from denzel.project.task_log import follow_task, read_task

A, B, C = (f"{letter}{number}286e41-3652-44a7-98ee-bfa91693e544" for letter, number in ("a0", "a1", "b2"))


def head(second: int, label: str = "", level: str = "INFO", process: str = "Process-1") -> str:
    return f"[2026-12-01 14:03:{second:02},968: {level}/{process}{label and f' {label}'}]"


LOG = f"""\
{head(1)} model loaded in 0.1 s
{head(2, A)} shape (3, 4) mean 0.5
{head(2, B, process="Process-2")} printed by another, about {A}
{head(3, A, "ERROR")} task app.tasks.invoke_predict[{A}] failed
Traceback (most recent call last):
  File "pipeline.py", line 3, in predict
KeyError: 'rows'
{head(4)} ended: {B} SUCCESS in 0.100 s, {A} FAILURE in 0.200 s
{head(5, f"{B}+1")} batch of 2 tasks: {B}, {C}
{head(5, f"{B}+1")} of both
{head(6, f"{A}+1")} of a batch with another
{head(7, process="MainProcess")} task {C} was cancelled; killing the process that runs it
below it
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "worker.log"
    path.write_text(LOG)
    return path


def test_lines_of_a_task_are_its_own_its_tracebacks_and_its_part_of_lists(path: Path) -> None:
    assert read_task(path, [], A) == [
        f"{head(2, A)} shape (3, 4) mean 0.5",
        f"{head(3, A, 'ERROR')} task app.tasks.invoke_predict[{A}] failed",
        "Traceback (most recent call last):",
        '  File "pipeline.py", line 3, in predict',
        "KeyError: 'rows'",
        f"{head(4)} ended: {A} FAILURE in 0.200 s",
    ]


@pytest.mark.parametrize("given", [C, "b2", "b2286e41-3"])
def test_lines_of_its_batches_are_a_tasks_too(path: Path, given: str) -> None:
    assert read_task(path, [], given) == [
        f"{head(5, f'{B}+1')} batch of 2 tasks: {B}, {C}",
        f"{head(5, f'{B}+1')} of both",
        f"{head(7, process='MainProcess')} task {C} was cancelled; killing the process that runs it",
        "below it",
    ]


def test_rotated_files_are_read_the_oldest_first(path: Path) -> None:
    for number in range(12):
        writer.rotate(path, at=1, keep=20)
        path.write_text(f"{head(9, A)} number {number}\n")
    assert [line.split()[-1] for line in read_task(path, [], A)][-12:] == [str(number) for number in range(12)]
    assert len(read_task(path, [], A)) == 6 + 12


def test_what_other_processes_of_the_services_log_is_sorted_in_and_nothing_comes_twice(path: Path) -> None:
    outputs = [f"denzel | {line}" for line in LOG.splitlines()] + [
        f"denzel | {head(3, process='Callbacks')} callbacks delivered: {B} to http://b, {A} to http://a",
        f"api-1  | {head(0, process='app')} task {A} is accepted, but cannot be waited for",
        "denzel | printed by native code",
    ]
    lines = read_task(path, outputs, A)
    assert lines[0] == f"{head(0, process='app')} task {A} is accepted, but cannot be waited for"
    assert lines[-2] == f"{head(3, process='Callbacks')} callbacks delivered: {A} to http://a"
    assert len(lines) == 6 + 2


@pytest.mark.parametrize("given", ["c", "286e41", A + "0", A[1:], "model", "[2026", ".*"])
def test_an_unknown_id_is_named(path: Path, given: str) -> None:
    with pytest.raises(TaskUnknown) as unknown:
        read_task(path, [], given)
    assert str(unknown.value) == f"No line of a task {given} is in the logs."
    assert "denzel tasks" in unknown.value.hint


def test_the_beginning_of_several_ids_is_refused_with_some_of_them(path: Path) -> None:
    with pytest.raises(TaskUnknown) as ambiguous:
        read_task(path, [], "a")
    assert str(ambiguous.value) == f"a is the beginning of 2 ids: {A}, {B}."
    path.write_text("".join(f"{head(1, f'a{number}')} printed\n" for number in range(100)))
    with pytest.raises(TaskUnknown, match="100 ids: a0, a1, a2, a3, a4 and 95 more"):
        read_task(path, [], "a")
    # A whole id may be the beginning of others.
    assert read_task(path, [], "a7") == [f"{head(1, 'a7')} printed"]


@pytest.mark.parametrize("task_id", ["an id", "[1]", "a.b*", "x" * 255, "7"])
def test_ids_of_other_clients_are_found(path: Path, task_id: str) -> None:
    path.write_text(f"{head(1, task_id)} printed\n{head(2)} ended: {task_id} SUCCESS in 0.1 s\n")
    assert read_task(path, [], task_id) == path.read_text().splitlines()


def test_without_a_log_there_is_a_hint(tmp_path: Path) -> None:
    with pytest.raises(NotLaunched):
        read_task(tmp_path / "worker.log", [], A)


def test_following_goes_on_with_new_lines_of_the_task_alone(path: Path) -> None:
    path.write_text(f"{head(1, A)} one\n{head(1, B)} another\n")
    writer.rotate(path, at=1)
    path.write_text(f"{head(2, A)} two\n{head(2, B)} another\n")
    lines = follow_task(path, A)
    assert [next(lines), next(lines)] == [f"{head(1, A)} one", f"{head(2, A)} two"]
    with path.open("a") as file:
        file.write(f"{head(3, B)} another\n{head(3, A)} three\nbelow it\n")
    assert [next(lines), next(lines)] == [f"{head(3, A)} three", "below it"]
    lines.close()


def test_a_whole_id_is_followed_before_its_first_line(path: Path) -> None:
    new = A.replace("a0", "ff")
    lines = follow_task(path, new)
    with path.open("a") as file:
        file.write(f"{head(9, new)} begun\n")
    assert next(lines) == f"{head(9, new)} begun"
    lines.close()
    with pytest.raises(TaskUnknown):
        next(follow_task(path, "ee"))
