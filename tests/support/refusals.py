"""Errors that a user can act on, as tests expect them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from denzel.errors import DenzelError


@contextmanager
def refused(kind: type[DenzelError], match: str) -> Iterator[None]:
    """An error of this kind is raised meanwhile, and says what to do."""
    with pytest.raises(kind, match=match) as caught:
        yield
    assert caught.value.hint
