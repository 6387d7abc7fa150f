"""app/keys.py: the names in Redis, of which no two may meet."""

from __future__ import annotations

from app import keys


def test_every_name_is_different_even_for_hostile_ids() -> None:
    names = [keys.QUEUE, keys.UNACKED, keys.CALLBACKS, keys.ENDED, keys.RESPONSE, keys.WORKERS]
    names += [make(each) for make in (keys.task, keys.worker) for each in ("a", "", "callbacks", ":", "task:a")]
    assert len(set(names)) == len(names)


def test_what_is_ours_begins_with_our_name() -> None:
    """Only the queue and Celery's own hash of taken messages have names that Celery gives."""
    ours = [keys.CALLBACKS, keys.ENDED, keys.RESPONSE, keys.WORKERS, keys.task("a"), keys.worker("a")]
    assert [name for name in ours if not name.startswith("denzel:")] == []


def test_the_names_of_kombu_are_kombus() -> None:
    from kombu.transport.redis import Channel

    assert Channel.unacked_key == keys.UNACKED
