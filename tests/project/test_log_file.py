"""Reading and following log files across rotations, one or several."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.serving.worker import log_file as writer
from denzel.errors import NotLaunched
from denzel.project.log_file import follow_log, merge_logs, read_log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_the_lines_of_the_file_are_read(path: Path) -> None:
    append(path, "one\ntwo\nthree")
    assert list(read_log(path)) == ["one", "two", "three"]


def test_what_is_not_text_does_not_stop_the_reader(path: Path) -> None:
    path.write_bytes(b"one\n\xff\ntwo\n")
    assert list(read_log(path)) == ["one", "\N{REPLACEMENT CHARACTER}", "two"]


@pytest.mark.parametrize("read", [read_log, follow_log])
def test_a_missing_file_has_a_hint(path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(NotLaunched, match=str(path)) as missing:
        next(read(path))
    assert "denzel launch" in missing.value.hint


def test_following_gives_the_old_lines_then_each_new_one(path: Path) -> None:
    append(path, "one\n")
    chapters = iter(["two\nthr", "ee\n"])
    lines = follow_log(path, sleep=lambda seconds: append(path, next(chapters)))
    assert [next(lines) for _ in range(3)] == ["one", "two", "three"]
    lines.close()


def test_following_goes_on_in_the_new_file_after_a_rotation(path: Path) -> None:
    append(path, "one\n")

    def rotate(seconds: float) -> None:
        append(path, "last of the old\n")
        writer.rotate(path, at=1)
        append(path, "first of the new\n")

    lines = follow_log(path, sleep=rotate)
    assert [next(lines) for _ in range(3)] == ["one", "last of the old", "first of the new"]
    lines.close()


def test_following_waits_while_there_is_no_file_between_two(path: Path) -> None:
    append(path, "one\n")
    story = iter([lambda: path.rename(f"{path}.1"), lambda: None, lambda: append(path, "two\n"), lambda: None])
    lines = follow_log(path, sleep=lambda seconds: next(story)())
    assert [next(lines), next(lines)] == ["one", "two"]
    lines.close()


# ------------------------------------------------------------------ several together


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """The logs of two services that have printed, and of one that never ran."""
    append(tmp_path / "api.log", "a1\na2\na3\n")
    append(tmp_path / "monitor.log", "m1\n")
    return {name: tmp_path / f"{name}.log" for name in ("api", "monitor", "redis")}


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (None, ["api     | a1", "api     | a2", "api     | a3", "monitor | m1"]),
        (2, ["api     | a2", "api     | a3", "monitor | m1"]),
        (0, []),
    ],
)
def test_merged_lines_come_after_the_name_of_their_file(
    paths: dict[str, Path], tail: int | None, expected: list[str]
) -> None:
    assert list(merge_logs(paths, follow=False, tail=tail)) == expected


def test_an_unfinished_last_line_is_shown(paths: dict[str, Path]) -> None:
    append(paths["api"], "Killed")
    assert list(merge_logs({"api": paths["api"]}, follow=False, tail=1)) == ["api | Killed"]


def test_nothing_merged_is_nothing(tmp_path: Path) -> None:
    assert list(merge_logs({}, follow=False, tail=None)) == []
    assert list(merge_logs({"api": tmp_path / "api.log"}, follow=False, tail=5)) == []


def test_following_several_gives_each_new_line_of_each(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(seconds: float) -> None:
        append(paths["monitor"], "m2\n")
        writer.rotate(paths["api"], at=1)
        append(paths["api"], "a4\n")

    monkeypatch.setattr("time.sleep", wait)
    lines = merge_logs(paths, follow=True, tail=1)
    seen = [next(lines) for _ in range(4)]
    lines.close()
    assert seen[:2] == ["api     | a3", "monitor | m1"]
    assert set(seen[2:]) == {"monitor | m2", "api     | a4"}
