"""bars.py: what is read from a progress bar."""

from __future__ import annotations

import io

import pytest
from tqdm import tqdm

from app.serving.logs.bars import read_bar


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (" 36%|###6      | 72/200 [00:01<00:03, 38.39it/s]", (0.36, "72/200")),
        ("outer:  10%|█         | 2/20 [00:01<00:03]", (0.1, "outer 2/20")),
        ("page: of 3: 100%|##########| 3/3 [00:01<00:00, 2.1it/s, loss=0.3]", (1.0, "page: of 3 3/3")),
        (" 50%|#####     | 1.50k/3.00k [00:01<00:01]", (0.5, "1.50k/3.00k")),
        ("model.bin:  25%|##5       | 128M/512M [00:02<00:06, 64MB/s]", (0.25, "model.bin 128M/512M")),
        ("  0%|          | 0/0 [00:00<?, ?it/s]", (0.0, "0/0")),
        ("  0%|          | 0/20 [00:00<?, ?it/s]", (0.0, "0/20")),
        (f" 50%|#####     | {'9' * 400}/1 [00:01<?]", (0.5, "9" * 400 + "/1")),
        ("reading 12.5 % of a.csv", (0.125, "reading 12.5 % of a.csv")),
        ("12345it [00:01, 9999it/s]", None),
        ("\\", None),
        ("", None),
    ],
)
def test_a_bar_is_a_fraction_and_a_few_words(text: str, read: tuple[float, str] | None) -> None:
    assert read_bar(text) == read


def test_tqdm_draws_what_is_read() -> None:
    drawn = io.StringIO()
    for _ in tqdm(range(7), desc="shards", file=drawn, mininterval=0):
        pass
    states = [read_bar(text) for text in drawn.getvalue().strip().split("\r")]
    assert states[0] == (0.0, "shards 0/7")
    assert states[-1] == (1.0, "shards 7/7")
