"""text.py: long text, bounded, and the text of objects of the user's code."""

from __future__ import annotations

import pytest

from app.serving.text import bounded, text_of


@pytest.mark.parametrize(
    ("text", "kept"),
    [("", ""), ("a" * 10, "a" * 10), ("a" * 11, "aaaaaaa..."), ("ä" * 1000, "äääääää...")],
)
def test_a_text_has_at_most_so_many_characters(text: str, kept: str) -> None:
    assert bounded(text, 10) == kept


class Silent:
    """An object whose methods raise."""

    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__


def test_an_object_whose_text_cannot_be_had_has_none() -> None:
    assert (text_of(1), text_of("é", repr)) == ("1", "'é'")
    assert (text_of(Silent()), text_of(Silent(), repr)) == ("", "")
