"""Check of the settings that the sender of callbacks needs, for what starts it."""

from __future__ import annotations

from app.serving.callbacks.egress import EgressPolicy
from app.serving.callbacks.signature import read_secret
from app.serving.settings import Settings


def check_settings(settings: Settings) -> None:
    """Raise SettingError where the sender could not start: better no worker than one whose callbacks cannot be sent."""
    EgressPolicy.of(settings)
    read_secret(settings.callback_secret)
