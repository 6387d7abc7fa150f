"""Layout of a layered graph: boxes in rows, and lines that lead down between them without touching a box.

The steps are the usual ones: leave out what other ways make up for, let long lines pass each row at a place of their
own, order each row so that few lines cross, then put each place near its neighbours. The result is the same everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Arrow = tuple[str, str]

#: Between two places of a row: at least, and where there is room. And the width of a line that passes a row.
SPACE, ROOM, LINE = 11, 26, 6

#: Orders of the rows to begin with, shuffled ones but for the first.
TRIES = 60

#: Boxes that one row may have.
MAX_BOXES = 3


@dataclass(frozen=True)
class Place:
    """One place of a row: a box, or the lines that pass the row on their way down to it."""

    row: int
    name: str
    passes: bool


@dataclass(frozen=True)
class Layout:
    """The rows from the top, each from left to right; the lines from place to place; the middle of each place."""

    rows: Sequence[Sequence[Place]]
    below: Mapping[Place, Sequence[Place]]
    x: Mapping[Place, float]


def reduce(arrows: Iterable[Arrow]) -> set[Arrow]:
    """The arrows without those that another way makes up for."""
    below: dict[str, set[str]] = {}
    for start, end in arrows:
        below.setdefault(start, set()).add(end)

    def reached(name: str) -> set[str]:
        return {name}.union(*map(reached, below.get(name, ())))

    return {(a, c) for a, ends in below.items() for c in ends if not any(c in reached(b) for b in ends - {c})}


def lay_out(floors: Iterable[Sequence[str]], arrows: set[Arrow], *, width: float, box: float) -> Layout:
    """The best of several layouts: one with few crossings, and of those the one with the shortest lines."""
    named = _joined(floors, arrows)
    below = _lines(arrows, {name: number for number, row in enumerate(named) for name in row})
    rows = [[Place(number, name, passes=False) for name in row] for number, row in enumerate(named)]
    for place in sorted({*below, *(end for ends in below.values() for end in ends)}, key=repr):
        if place.passes:
            rows[place.row].append(place)
    shuffle = random.Random(0).shuffle
    tries: list[list[list[Place]]] = []
    for _ in range(TRIES):
        ordered = _ordered([list(row) for row in rows], below)
        if ordered not in tries:
            tries.append(ordered)
        for row in rows:
            shuffle(row)
    fewest = min(_crossings(one, below) for one in tries)
    best = [one for one in tries if _crossings(one, below) == fewest]
    return min((Layout(one, below, _spread(one, below, width, box)) for one in best), key=_aside)


def _joined(floors: Iterable[Sequence[str]], arrows: set[Arrow]) -> list[list[str]]:
    """The floors as rows: one joins the row above when nothing there leads to it, and there is room."""
    rows: list[list[str]] = []
    for floor in floors:
        apart = not rows or any((above, below) in arrows for above in rows[-1] for below in floor)
        if apart or len(rows[-1]) + len(floor) > MAX_BOXES:
            rows.append([])
        rows[-1] += floor
    return rows


def _lines(arrows: Iterable[Arrow], row_of: Mapping[str, int]) -> dict[Place, list[Place]]:
    """Each arrow from row to row; those to one box join in the first row that both pass."""
    below: dict[Place, list[Place]] = {}
    for start, end in sorted(arrows):
        way = [Place(row_of[start], start, passes=False)]
        way += [Place(row, end, passes=True) for row in range(row_of[start] + 1, row_of[end])]
        way.append(Place(row_of[end], end, passes=False))
        for here, there in pairwise(way):
            if there not in below.setdefault(here, []):
                below[here].append(there)
    return below


def _ordered(rows: list[list[Place]], below: Mapping[Place, Sequence[Place]]) -> list[list[Place]]:
    """The rows, each place of which was moved to where the fewest lines cross, until none moves."""
    moved = True
    while moved:
        moved = False
        for number, row in enumerate(rows):
            for place in list(row):
                rest = [other for other in rows[number] if other != place]
                tried = [[*rest[:at], place, *rest[at:]] for at in range(len(row))]
                costs = [_tangle([*rows[:number], one, *rows[number + 1 :]], number, below) for one in tried]
                if min(costs) < _tangle(rows, number, below):
                    rows[number], moved = tried[costs.index(min(costs))], True
    return rows


def _tangle(rows: Sequence[Sequence[Place]], number: int, below: Mapping[Place, Sequence[Place]]) -> tuple[int, float]:
    """The crossings above and below one row, and how far its lines lead aside."""
    crossings, aside = 0, 0.0
    for upper in (number - 1, number):
        if not 0 <= upper < len(rows) - 1:
            continue
        at = [{place: (index + 0.5) / len(row) for index, place in enumerate(row)} for row in rows[upper : upper + 2]]
        lines = [(at[0][start], at[1][end]) for start in rows[upper] for end in below.get(start, ())]
        crossings += sum((a - c) * (b - d) < 0 for n, (a, b) in enumerate(lines) for c, d in lines[n + 1 :])
        aside += sum(abs(a - b) for a, b in lines)
    return crossings, round(aside, 6)


def _crossings(rows: Sequence[Sequence[Place]], below: Mapping[Place, Sequence[Place]]) -> int:
    return sum(_tangle(rows, number, below)[0] for number in range(0, len(rows), 2))


def _aside(layout: Layout) -> float:
    return sum((layout.x[start] - layout.x[end]) ** 2 for start, ends in layout.below.items() for end in ends)


def _spread(
    rows: Sequence[Sequence[Place]], below: Mapping[Place, Sequence[Place]], width: float, box: float
) -> dict[Place, float]:
    """The middle of each place: near its neighbours above and below, in the row's order."""
    near: dict[Place, list[Place]] = {place: [] for row in rows for place in row}
    for start, ends in below.items():
        for end in ends:
            near[start].append(end)
            near[end].append(start)

    def wanted(place: Place) -> float:
        """The mean of the neighbours. A line goes on straight, if it can; a box is drawn to the middle a little."""
        weights = [(x[one], 30.0 if place.passes and one.passes else 1.0) for one in near[place]]
        weights += [] if place.passes else [(width / 2, 1.0)]
        return sum(at * weight for at, weight in weights) / sum(weight for _, weight in weights)

    x = dict.fromkeys(near, width / 2)
    for turn in range(200):
        for row in rows if turn % 2 == 0 else rows[::-1]:
            x.update(zip(row, _apart(row, [wanted(place) for place in row], width, box), strict=True))
    return {place: round(middle, 1) for place, middle in x.items()}


def _apart(row: Sequence[Place], wanted: Sequence[float], width: float, box: float) -> list[float]:
    """The middles nearest to those that are wanted: in order, apart, and within the width (isotonic regression)."""
    sizes = [LINE if place.passes else box for place in row]
    space = max(SPACE, min(ROOM, (width - sum(sizes)) / max(len(row) - 1, 1)))
    offsets = [0.0]
    for (left, size), (right, next_size) in pairwise(zip(row, sizes, strict=True)):
        offsets.append(offsets[-1] + (size + next_size) / 2 + (SPACE if left.passes and right.passes else space))
    blocks: list[tuple[float, float, int]] = []
    for place, middle, offset in zip(row, wanted, offsets, strict=True):
        blocks.append((middle - offset, 5.0 if place.passes else 1.0, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, v, m), (b, w, n) = blocks[-2:]
            blocks[-2:] = [((a * v + b * w) / (v + w), v + w, m + n)]
    first, last = sizes[0] / 2, width - sizes[-1] / 2 - offsets[-1]
    if first > last:
        raise ValueError(f"a row is too wide: {row}")
    bases = [min(max(base, first), last) for base, _, number in blocks for _ in range(number)]
    return [base + offset for base, offset in zip(bases, offsets, strict=True)]
