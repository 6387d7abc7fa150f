"""screen.py: what progress bars draw, and which lines the log gets of it."""

from __future__ import annotations

import io

import pytest
from doubles.clock import Clock
from tqdm import tqdm

from app.serving.logs.screen import LEFT_FOR, MAX_ROW, MAX_ROWS, SHOW_INTERVAL, Screen


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shown() -> list[str]:
    return []


@pytest.fixture
def screen(shown: list[str], clock: Clock) -> Screen:
    return Screen(shown.append, clock=clock)


def draw_bar(screen: Screen, clock: Clock, *, steps: int, seconds: float) -> None:
    for step in range(1, steps + 1):
        clock.now += seconds
        screen.draw(f"\r{100 * step // steps:3}%|##| {step}/{steps}")


def test_of_a_bar_its_last_state_is_shown_at_the_end(screen: Screen, shown: list[str], clock: Clock) -> None:
    draw_bar(screen, clock, steps=8, seconds=0.1)
    assert shown == []
    screen.end()
    assert shown == ["100%|##| 8/8"]
    assert not screen.is_used


def test_a_bar_that_is_complete_is_shown_at_once(screen: Screen, shown: list[str], clock: Clock) -> None:
    draw_bar(screen, clock, steps=8, seconds=0.1)
    screen.draw("\n")
    assert shown == ["100%|##| 8/8"]
    screen.end()
    assert len(shown) == 1


def test_a_long_bar_is_shown_now_and_then(screen: Screen, shown: list[str], clock: Clock) -> None:
    draw_bar(screen, clock, steps=1000, seconds=SHOW_INTERVAL / 400)
    screen.end()
    assert [line.split()[-1] for line in shown] == ["401/1000", "801/1000", "1000/1000"]


def test_a_bar_above_another_is_not_shown_each_time_that_the_other_is_drawn(
    screen: Screen, shown: list[str], clock: Clock
) -> None:
    for outer in range(5):
        screen.draw(f"\router {outer}/5")
        for inner in range(5):
            clock.now += 0.1
            # As tqdm draws a bar at position 1.
            screen.draw("\n")
            screen.draw(f"\rinner {inner}/5")
            screen.draw("\x1b[A")
    screen.end()
    assert shown == ["outer 4/5", "inner 4/5"]


def test_a_row_that_was_left_is_shown_while_the_next_one_is_drawn(
    screen: Screen, shown: list[str], clock: Clock
) -> None:
    screen.draw("\rstopped at 7%\n")
    assert shown == []
    clock.now += LEFT_FOR
    screen.draw("\rthe next")
    assert shown == ["stopped at 7%"]


def test_what_was_wiped_out_is_not_shown(screen: Screen, shown: list[str]) -> None:
    screen.draw("\r 99%|# |\r         \r")
    screen.end()
    assert shown == []


def test_a_text_that_ends_in_a_carriage_return_is_drawn_over_by_the_next(screen: Screen, shown: list[str]) -> None:
    for number in range(9):
        screen.draw(f"file {number}\r")
    screen.end()
    assert shown == ["file 8"]


def test_what_it_keeps_is_bounded(screen: Screen, shown: list[str]) -> None:
    screen.draw("\r" + "x" * 10 * MAX_ROW)
    for number in range(3 * MAX_ROWS):
        screen.draw(f"\n\rrow {number}")
    assert len(shown) == 2 * MAX_ROWS + 1
    assert shown[0] == "x" * MAX_ROW


def test_more_rows_up_than_there_are_is_the_first_row(screen: Screen, shown: list[str]) -> None:
    screen.draw("\rone\x1b[A\x1b[A\x1b[A\rtwo")
    screen.end()
    assert shown == ["two"]


def test_the_top_row_is_passed_on_when_it_changes(clock: Clock) -> None:
    drawn: list[str] = []
    screen = Screen(lambda line: None, on_draw=drawn.append, clock=clock)
    screen.draw("\r 10%|# | 1/10")
    screen.draw("\n\rinner\x1b[A")
    screen.draw("\r 20%|##| 2/10")
    assert drawn == [" 10%|# | 1/10", " 20%|##| 2/10"]


def nested(file: io.StringIO) -> None:
    for _ in tqdm(range(20), desc="outer", file=file, mininterval=0):
        for _ in tqdm(range(20), desc="inner", file=file, mininterval=0, leave=False):
            pass


def test_tqdm_for_real_is_a_line_for_each_bar_that_is_left(screen: Screen, shown: list[str]) -> None:
    written: list[str] = []

    class File(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            screen.draw(text)
            return len(text)

    nested(File())
    screen.end()
    assert len(written) > 400
    assert [line.split("|")[0] for line in shown] == ["outer: 100%"]
