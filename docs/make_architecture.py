"""Draw docs/architecture.svg from the imports of denzel's two halves: `python docs/make_architecture.py`.

The floors of `imports.py` are the rows. A package without words in here, and words without a package, are an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from imports import COMMAND, SERVING, Half
from layered import Layout, Place, lay_out, reduce

PICTURE = Path(__file__).with_name("architecture.svg")

#: Two short lines for each package; those at the foot have one.
COMMAND_WORDS = {
    "cli": "every command,|on one page",
    "terminal": "options, progress,|texts, tables",
    "loadtest.drill": "fault injection:|kill, recover, count",
    "loadtest.bench": "load, metrics,|bottleneck",
    "loadtest": "client, receiver,|log of requests",
    "lifecycle": "launch, start, stop;|policy, status",
    "admin": "client of the|serving code",
    "webhooks": "callback receiver,|signature check",
    "watch": "client of a task's|stream of events",
    "backends": "opens the backend|that .env names",
    "backends.docker": "Docker Compose,|Docker's SDK",
    "backends.local": "supervisord, uv,|processes",
    "backends.base": "the contract:|few primitives",
    "project": "folder, .env, lock,|logs, scaffold",
    "runner": "starts programs",
    "services": "services, states",
    "errors": "messages, hints",
    "text": "plurals",
}
SERVING_WORDS = {
    "api.http": "HTTP below ASGI,|limits for clients",
    "worker": "Celery's worker,|its pool, shutdown",
    "supervisor": "replaces, stops its|two children",
    "monitor": "the dashboard:|Flower",
    "admin": "lists and orders|for operators",
    "api": "routes, events,|headers, errors",
    "api.bodies": "JSON, forms, files,|compression",
    "queue": "submit, wait,|look up, cancel",
    "worker.batching": "place, runner,|scoreboard",
    "worker.model": "your model in a|process",
    "callbacks": "delivery, retries,|egress policy",
    "store": "all that is in Redis|and its Lua scripts",
    "pipeline": "imports your|logic/pipeline.py",
    "running_task": "progress, for your|pipeline",
    "contract": "four functions",
    "callback_uri": "syntax of a URI",
    "errors": "failures as JSON",
    "json_values": "results as JSON",
    "json_forms": "types of results",
    "settings": "the environment",
    "logs": "lines of the log,|with ids of tasks",
    "heartbeat": "bytes in a pipe",
    "cores": "cores, threads",
    "memory": "memory held",
    "verify_origin": "the api's import",
    "backoff": "pauses of tries",
    "text": "bounded text",
}

#: Letters that fit into a line of a box, and into a column of the foot, in the widest of the fonts.
MAX_LETTERS, MAX_IN_FOOT = 20, 16

WIDTH, MARGIN, GUTTER, PADDING = 1160, 20, 28, 12
HALF = (WIDTH - 2 * MARGIN - GUTTER) // 2
INNER = HALF - 2 * PADDING
TOP, BOX_WIDTH, BOX_HEIGHT, ROW_GAP = 88, 148, 66, 46
CAPTION_HEIGHT = 70

#: The foot: its modules in one row, the height of a row, and what is above and below the rows.
PER_ROW, FOOT_ROW, FOOT_HEAD = 4, 48, 44

#: So many arrows to a package give it and them a colour of their own.
MANY = 4

HALVES = (
    ("command", "The command", "denzel/ · what pip installs: it makes projects, and starts their services"),
    ("serving", "The serving code", "app/serving/ · copied into each project: it runs in the services"),
)

CAPTION = """\
An arrow means “imports”, and points down. It is left out where another way leads there already (A to C, beside A to B \
to C), and to the foot.
Lines that join lead to the same package; packages with many arrows have a colour of their own. The two halves do not \
import each other."""

STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #57606a; }
  .title { font-size: 19px; font-weight: 600; fill: #1f2328; }
  .name { font: 600 14.5px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
  .name { fill: #1f2328; }
  .middle { text-anchor: middle; }
  .page { fill: #ffffff; }
  .half { fill: #f6f8fa; stroke: #d1d9e0; }
  .box { fill: #ffffff; stroke-width: 1.2; }
  .foot { fill: none; stroke-width: 1.2; stroke-dasharray: 4 4; }
  .arrow { fill: none; stroke-width: 1.5; }
  .command .box, .command .foot { stroke: #54aeff; } .command .arrow { stroke: #0969da; }
  .command .head { fill: #0969da; }
  .serving .box, .serving .foot { stroke: #4ac26b; } .serving .arrow { stroke: #1a7f37; }
  .serving .head { fill: #1a7f37; }
  .to0 .box { stroke: #8250df; } .to0 .arrow { stroke: #8250df; } .to0 .head { fill: #8250df; }
  .to1 .box { stroke: #bc4c00; } .to1 .arrow { stroke: #bc4c00; } .to1 .head { fill: #bc4c00; }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1; }
    .title, .name { fill: #f0f6fc; }
    .page { fill: #0d1117; }
    .half { fill: #151b23; stroke: #3d444d; }
    .box { fill: #0d1117; }
    .command .box, .command .foot { stroke: #1f6feb; } .command .arrow { stroke: #4493f8; }
    .command .head { fill: #4493f8; }
    .serving .box, .serving .foot { stroke: #238636; } .serving .arrow { stroke: #3fb950; }
    .serving .head { fill: #3fb950; }
    .to0 .box { stroke: #8957e5; } .to0 .arrow { stroke: #bc8cff; } .to0 .head { fill: #bc8cff; }
    .to1 .box { stroke: #bd561d; } .to1 .arrow { stroke: #f0883e; } .to1 .head { fill: #f0883e; }
  }
"""


def picture() -> str:
    """The text of docs/architecture.svg."""
    drawn = [_Half(COMMAND, COMMAND_WORDS), _Half(SERVING, SERVING_WORDS)]
    inner = max(half.least_height for half in drawn)
    foot = max(half.foot_height for half in drawn)
    bottom = TOP + inner + ROW_GAP + foot + PADDING
    size = f'width="{WIDTH}" height="{bottom + CAPTION_HEIGHT}"'
    title = "The packages of denzel, and which imports which"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + CAPTION_HEIGHT}" {size} role="img">',
        "<!-- Made by docs/make_architecture.py from the imports: type `make docs`. -->",
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" {size} rx="8"/>',
    ]
    for number, ((name, heading, about), half) in enumerate(zip(HALVES, drawn, strict=True)):
        parts += [
            f'<g class="{name}" transform="translate({MARGIN + number * (HALF + GUTTER) + PADDING} 0)">',
            _rectangle("half", -PADDING + 0.5, MARGIN + 0.5, HALF, bottom - MARGIN),
            _text(heading, 4, MARGIN + 28, "title"),
            _text(about, 4, MARGIN + 50),
            *half.draw(inner, foot),
            "</g>",
        ]
    parts += [_text(line, MARGIN, bottom + 28 + 22 * number) for number, line in enumerate(CAPTION.splitlines())]
    return "\n".join([*parts, "</svg>\n"])


class _Half:
    """One half: its packages in rows, the lines between them, and the foot, to which no lines are drawn."""

    def __init__(self, half: Half, words: Mapping[str, str]) -> None:
        if {*words} != {*half.packages}:
            raise ValueError(f"every package of {half.prefix} needs words, and no other has any")
        self._words = words
        floors = [*half.floors]
        self._foot: tuple[str, ...] = ()
        while all((half.root / f"{package}.py").exists() for package in floors[-1]):
            self._foot = floors.pop() + self._foot
        for name, text in words.items():
            lines = [text] if name in self._foot else text.split("|")
            if max(map(len, lines)) > (MAX_IN_FOOT if name in self._foot else MAX_LETTERS):
                raise ValueError(f"the words of {name} are too long: {text}")
        arrows = reduce(arrow for arrow in half.arrows() if not {*arrow} & {*self._foot})
        self._many = [name for name in half.packages if sum(end == name for _, end in arrows) >= MANY]
        self._layout: Layout = lay_out(floors, arrows, width=INNER, box=BOX_WIDTH)

    @property
    def least_height(self) -> int:
        return len(self._layout.rows) * (BOX_HEIGHT + ROW_GAP) - ROW_GAP

    @property
    def foot_height(self) -> int:
        return FOOT_HEAD + FOOT_ROW * math.ceil(len(self._foot) / PER_ROW)

    def draw(self, inner: int, foot: int) -> Iterator[str]:
        """The half's elements, with its rows spread over a height of `inner`, and a foot of the height `foot`."""
        rows = self._layout.rows
        tops = [TOP + (inner - BOX_HEIGHT) / (len(rows) - 1) * number for number in range(len(rows))]
        boxes = [place for row in rows for place in row if not place.passes]
        # What has a colour of its own lies on top.
        for box in sorted(boxes, key=lambda box: box.name in self._many):
            hue = self._many.index(box.name) % 2 if box.name in self._many else ""
            yield f'<g class="to{hue}">'
            yield from self._lines_to(box, tops)
            yield from self._box(box.name, self._layout.x[box], tops[box.row])
            yield "</g>"
        yield from self._draw_foot(TOP + inner + ROW_GAP, foot)

    def _lines_to(self, box: Place, tops: Sequence[float]) -> Iterator[str]:
        x, path = self._layout.x, ""
        for start, ends in sorted(self._layout.below.items(), key=repr):
            leaving = sorted(ends, key=lambda end: x[end])
            for number, end in enumerate(leaving):
                if end.name == box.name:
                    # Those that leave one box do so side by side.
                    out, to = x[start] + 14 * (number - (len(leaving) - 1) / 2), x[end]
                    above, down = tops[start.row] + BOX_HEIGHT, tops[end.row] - (0 if end.passes else 7)
                    half_way = (above + down) / 2
                    path += f"M{out:.1f} " + (f"{tops[start.row]:.1f}V{above:.1f}" if start.passes else f"{above:.1f}")
                    path += f"C{out:.1f} {half_way:.1f} {to:.1f} {half_way:.1f} {to:.1f} {down:.1f}"
        if path:
            yield f'<path class="arrow" d="{path}"/>'
            yield f'<path class="head" d="M{x[box] - 5:.1f} {tops[box.row] - 9:.1f}h10l-5 9z"/>'

    def _box(self, name: str, x: float, top: float) -> Iterator[str]:
        yield _rectangle("box", x - BOX_WIDTH / 2, top, BOX_WIDTH, BOX_HEIGHT)
        yield _text(name, x, top + 22, "middle name")
        for number, line in enumerate(self._words[name].split("|")):
            yield _text(line, x, top + 41 + 16 * number, "middle")

    def _draw_foot(self, top: float, height: int) -> Iterator[str]:
        yield _rectangle("foot", 0, top, INNER, height)
        yield _text("the foot: single modules below the packages", 12, top + 22)
        for number, name in enumerate(self._foot):
            row, column = divmod(number, PER_ROW)
            x, y = 12 + column * INNER / PER_ROW, top + 52 + FOOT_ROW * row
            yield _text(name, x, y, "name")
            yield _text(self._words[name], x, y + 18)


def _rectangle(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7"/>'


def _text(text: str, x: float, y: float, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
