"""Line charts as SVG: plain text, readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

#: Size of a panel, and the margins of its plot, for the title, the legend, the ticks and their labels.
WIDTH, HEIGHT = 440, 330
LEFT, RIGHT, TOP, BOTTOM = 66, 20, 92, 52

STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #24292f; }
  .title { font-size: 14px; font-weight: 600; }
  .tick { fill: #57606a; }
  .page { fill: #ffffff; }
  .grid { stroke: #d8dee4; stroke-width: 1; }
  .line { fill: none; stroke-width: 2; }
  .s0 { stroke: #0969da; } .d0 { fill: #0969da; }
  .s1 { stroke: #bc4c00; } .d1 { fill: #bc4c00; }
  .s2 { stroke: #1a7f37; } .d2 { fill: #1a7f37; }
  .s3 { stroke: #8250df; } .d3 { fill: #8250df; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .tick { fill: #9198a1; }
    .page { fill: #0d1117; }
    .grid { stroke: #30363d; }
    .s0 { stroke: #58a6ff; } .d0 { fill: #58a6ff; }
    .s1 { stroke: #f0883e; } .d1 { fill: #f0883e; }
    .s2 { stroke: #3fb950; } .d2 { fill: #3fb950; }
    .s3 { stroke: #bc8cff; } .d3 { fill: #bc8cff; }
  }
"""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart: every series has a value, or None, for each of the places on the x axis."""

    title: str
    x_label: str
    y_label: str
    places: Sequence[str]
    series: Mapping[str, Sequence[float | None]]


def draw(panels: Sequence[Panel], *, title: str) -> str:
    """The text of an SVG file with the panels side by side; `title` is its text alternative."""
    width = WIDTH * len(panels)
    size = f'viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}"'
    groups = [f'<g transform="translate({WIDTH * n} 0)">\n{_panel(one)}\n</g>' for n, one in enumerate(panels)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{width}" height="{HEIGHT}" rx="6"/>',
            *groups,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel) -> str:
    values = [value for series in panel.series.values() for value in series if value is not None]
    step, top = scale(max(values, default=1))
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(place: int) -> float:
        return LEFT + inner_width * (place + 0.5) / len(panel.places)

    def y(value: float) -> float:
        return TOP + inner_height * (1 - value / top)

    parts = [_text(panel.title, 16, 24, "title")]
    for number in range(round(top / step) + 1):
        at, value = y(number * step), number * step
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>')
        parts.append(_text(f"{value:,.10g}", LEFT - 8, at + 4, "tick", anchor="end"))
    parts.extend(
        _text(place, x(number), HEIGHT - BOTTOM + 18, "tick", anchor="middle")
        for number, place in enumerate(panel.places)
    )
    parts.append(_text(panel.x_label, LEFT + inner_width / 2, HEIGHT - 12, "", anchor="middle"))
    middle = TOP + inner_height / 2
    turned = f'x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})"'
    parts.append(f"<text {turned}>{escape(panel.y_label)}</text>")
    for number, (name, series) in enumerate(panel.series.items()):
        parts.append(_legend(number, name, len(panel.series)))
        points = [(x(place), y(value)) for place, value in enumerate(series) if value is not None]
        joined = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        parts.append(f'<polyline class="line s{number}" points="{joined}"/>')
        parts.extend(f'<circle class="d{number}" cx="{across:.1f}" cy="{down:.1f}" r="4"/>' for across, down in points)
    return "\n".join(parts)


def _legend(number: int, name: str, count: int) -> str:
    """The mark and the name of a series; two in a row, or one when there are at most two."""
    across = 16 if count <= 2 else 16 + (number % 2) * (WIDTH - 32) / 2
    down = 46 + 20 * (number if count <= 2 else number // 2)
    return (
        f'<line class="line s{number}" x1="{across}" y1="{down}" x2="{across + 22}" y2="{down}"/>'
        f'<circle class="d{number}" cx="{across + 11}" cy="{down}" r="4"/>' + _text(name, across + 30, down + 4, "")
    )


def _text(text: str, x: float, y: float, style: str, *, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def scale(maximum: float) -> tuple[float, float]:
    """The step of the y axis, a round number, and its end: four to six steps from 0."""
    rough = max(maximum, 1e-9) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return step, step * math.ceil(maximum / step - 1e-9)
