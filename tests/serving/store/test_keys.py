"""keys.py: names in Redis, each of which is unique."""

from __future__ import annotations

from app.serving.store import keys

MAKERS = (keys.task, keys.callbacks, keys.dead_letter, keys.idempotency, keys.worker)
OF_KOMBU = {"QUEUE", "UNACKED"}


def constants() -> dict[str, str]:
    """The keys that have one name; the others' names begin with one of ours."""
    return {name: value for name, value in vars(keys).items() if name.isupper() and not value.endswith(":")}


def test_every_name_is_different_even_for_hostile_ids() -> None:
    ids = ("a", "", "callbacks", ":", "task:a", "to:", "sending", "down", "bell")
    names = [*constants().values(), *(make(each) for make in MAKERS for each in ids)]
    assert len(set(names)) == len(names)


def test_what_is_ours_begins_with_our_name() -> None:
    """Only the queue and Celery's own records of taken messages have names that Celery gives."""
    ours = [value for name, value in constants().items() if name not in OF_KOMBU]
    assert [name for name in (*ours, *(make("a") for make in MAKERS)) if not name.startswith("denzel:")] == []


def test_the_name_of_kombu_is_kombus() -> None:
    from kombu.transport.redis import Channel

    assert Channel.unacked_key == keys.UNACKED
