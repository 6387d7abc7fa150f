"""signature.py: signatures, verified with the library of Standard Webhooks as by an endpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from support.whsec import OTHER_SECRET, SECRET, whsec

from app.serving.callbacks.signature import read_secret, webhook_headers
from app.serving.settings import SettingError

BODY = '{"a123": "naïve ☃"}'.encode()


def signed(body: bytes = BODY, *, webhook_id: str = "the-id", at: int | None = None) -> dict[str, str]:
    at = int(time.time()) if at is None else at
    return webhook_headers(read_secret(SECRET), webhook_id=webhook_id, at=at, body=body)


def test_the_library_of_the_standard_verifies_a_signature() -> None:
    assert Webhook(SECRET).verify(BODY, signed()) == json.loads(BODY)


@pytest.mark.parametrize(
    ("header", "change"),
    [
        ("webhook-id", lambda value: "another"),
        ("webhook-timestamp", lambda value: str(int(value) + 60)),
        ("webhook-signature", lambda value: "v1,AAAA"),
    ],
)
def test_the_library_rejects_a_changed_request(header: str, change: Callable[[str], str]) -> None:
    headers = signed()
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, {**headers, header: change(headers[header])})


def test_the_library_rejects_another_body_and_another_secret() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY + b" ", signed())
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER_SECRET).verify(BODY, signed())


def test_the_library_rejects_an_old_attempt_that_is_repeated() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, signed(at=int(time.time()) - 3600))


def test_the_example_of_the_specification_has_its_signature() -> None:
    """https://github.com/standard-webhooks/standard-webhooks, the secret of its libraries' tests."""
    headers = webhook_headers(
        read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        webhook_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        at=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_a_secret_nothing_is_signed() -> None:
    assert webhook_headers(read_secret(""), webhook_id="the-id", at=12, body=BODY) == {
        "webhook-id": "the-id",
        "webhook-timestamp": "12",
    }


@pytest.mark.parametrize("size", [24, 64])
def test_a_secret_has_24_to_64_bytes(size: int) -> None:
    assert read_secret(whsec(size)) == bytes(range(size))


@pytest.mark.parametrize(
    "secret",
    [
        *("secret", "whsec_", "whsec_?", "whsec_abc", "whsec_naïve", SECRET.upper(), SECRET.removeprefix("whsec_")),
        *(whsec(1), whsec(23), whsec(65)),
    ],
)
def test_an_invalid_secret_is_rejected_and_not_repeated(secret: str) -> None:
    with pytest.raises(SettingError, match=r"^CALLBACK_SECRET must be whsec_ and 24 to 64 bytes in base64, or empty$"):
        read_secret(secret)
