"""Progress bars as text: tqdm's format, and a percentage in any other."""

from __future__ import annotations

import re

# `description:  36%|###6      | 72/200 [00:01<00:03, 38.39it/s]`, as tqdm draws a bar by default.
_TQDM = re.compile(r"(?P<about>.*?):?\s*(?P<percent>\d{1,3})%\|[^|]*\|\s*(?P<count>[^\[]*)")
# Numbers that a float can hold.
_COUNT = re.compile(r"(\d{1,15})/(\d{1,15})")
_PERCENT = re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d+)?)\s?%")


def read_bar(text: str) -> tuple[float, str] | None:
    """The part of a bar that is done, from 0 to 1, and its words in short; None for what shows no percentage."""
    bar = _TQDM.match(text)
    if bar is None:
        percent = _PERCENT.search(text)
        return (float(percent[1]) / 100, text.strip()) if percent else None
    count = _COUNT.match(bar["count"])
    fraction = int(count[1]) / int(count[2]) if count and int(count[2]) else int(bar["percent"]) / 100
    return fraction, f"{bar['about'].strip()} {bar['count'].strip()}".strip()
