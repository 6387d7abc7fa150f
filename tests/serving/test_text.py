"""text.py: long text, bounded."""

from __future__ import annotations

import pytest

from app.serving.text import bounded


@pytest.mark.parametrize(
    ("text", "kept"),
    [("", ""), ("a" * 10, "a" * 10), ("a" * 11, "aaaaaaa..."), ("ä" * 1000, "äääääää...")],
)
def test_a_text_has_at_most_so_many_characters(text: str, kept: str) -> None:
    assert bounded(text, 10) == kept
