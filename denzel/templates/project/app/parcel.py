"""Running a parcel: several tasks that a pool process was handed in one go, and whose ends are told in one go."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from redis import RedisError

from app.answers import failure
from app.board import ALL, Board
from app.messages import TASK_NAME
from app.predictor import Predictor, ends_process
from app.records import FAILURE, SUCCESS, TaskEnd, TaskRecords

log = logging.getLogger(__name__)

#: Seconds after which ends are told although the parcel goes on; and bytes of results that are told at once at most, so
#: that it does not take long.
TELL_AFTER = 0.02
TELL_BYTES = 1024 * 1024

#: Seconds between two tries to tell them while Redis is away, at first and at most.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0

#: The dashboard shows results up to this many characters.
SHOWN_RESULT = 1024


class Item(NamedTuple):
    """One task of a parcel: its id, the delivery tag of its message, and the body of that (base64)."""

    task_id: str
    tag: str
    body: str


class Ended(NamedTuple):
    """One task that has ended: its id and status, the seconds it took, and its result for the dashboard."""

    task_id: str
    status: str
    runtime: float
    shown: str


class Outcome(NamedTuple):
    """What a pool process says of a parcel: the tasks that ended, how many wait, whether it predicts batches."""

    ended: list[Ended]
    waiting: int
    predicts_batches: bool


class ParcelRunner:
    """Runs parcels in one pool process."""

    def __init__(
        self,
        predictor: Predictor,
        records: TaskRecords,
        board: Board,
        *,
        lifetime: int,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Results are kept for `lifetime` seconds."""
        self._predictor = predictor
        self._records = records
        self._board = board
        self._lifetime = lifetime
        self._sleep = sleep

    def run(self, slot: int, items: list[Item]) -> Outcome:
        """Run the tasks, and store how each ended. What the board cuts off does not run."""
        batch = self._predictor.predicts_batches
        ended: list[Ended] = []
        ends: list[TaskEnd] = []
        started = told_at = time.perf_counter()
        waiting = untold = 0
        for item, result, runtime in self._together(slot, items) if batch else self._in_turn(slot, items):
            end = _end(item, result)
            if isinstance(result, BaseException):
                log.error("task %s[%s] failed", TASK_NAME, item.task_id, exc_info=result)
            ended.append(Ended(item.task_id, end.status, runtime, end.result[:SHOWN_RESULT]))
            ends.append(end)
            untold += len(end.result)
            if untold > TELL_BYTES or (not batch and time.perf_counter() - told_at > TELL_AFTER):
                waiting = self._tell(ends)
                ends, told_at, untold = [], time.perf_counter(), 0
        if ends:
            waiting = self._tell(ends)
        log.info(
            "ended in %.3f s: %s",
            time.perf_counter() - started,
            ", ".join(f"{one.task_id} {one.status}" for one in ended),
        )
        return Outcome(ended, waiting, batch)

    def _in_turn(self, slot: int, items: list[Item]) -> Iterator[tuple[Item, Any, float]]:
        for place, item in enumerate(items):
            if not self._board.enter(slot, place):
                return
            started = time.perf_counter()
            result = self._predict(item)
            yield item, result, time.perf_counter() - started
        self._board.enter(slot, len(items))

    def _together(self, slot: int, items: list[Item]) -> Iterator[tuple[Item, Any, float]]:
        self._board.enter(slot, ALL)
        started = time.perf_counter()
        results = self._predictor.predict_batch([_input(item) for item in items])
        self._board.enter(slot, len(items))
        runtime = time.perf_counter() - started
        for item, result in zip(items, results, strict=True):
            yield item, result, runtime

    def _predict(self, item: Item) -> Any:
        try:
            return self._predictor.predict(_input(item))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if ends_process(error):
                raise
            return error

    def _tell(self, ends: list[TaskEnd]) -> int:
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._records.end_all(ends, lifetime=self._lifetime)
            except RedisError as error:
                log.warning("%d results could not be stored, trying again: %s", len(ends), error)
                self._sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)


def _input(item: Item) -> Any:
    """What verify_input returned."""
    (json_data,), _, _ = json.loads(base64.b64decode(item.body))
    return json_data


def _end(item: Item, result: Any) -> TaskEnd:
    failed = isinstance(result, BaseException)
    return TaskEnd(
        task_id=item.task_id,
        tag=item.tag,
        status=FAILURE if failed else SUCCESS,
        result=json.dumps(failure(result) if failed else result),
    )
