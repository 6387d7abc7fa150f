"""settings.py: every variable, its default, a value, and the message for an invalid one."""

from __future__ import annotations

import dataclasses

import pytest

from app.serving.settings import ResponseMode, SettingError, Settings


def test_without_variables_the_defaults_of_the_contract_apply() -> None:
    assert Settings.from_environment({}) == Settings(
        project_name="project",
        redis_url="redis://127.0.0.1:6379/0",
        response=ResponseMode(synchronous=False, timeout=5.0),
        api_threads=64,
        api_keys=frozenset(),
        shares_model=False,
        body_limit=10 * 1024 * 1024,
        queue_limit=10_000,
        result_lifetime=86_400,
        worker_max_tasks=None,
        worker_max_mb=None,
        batch_size=32,
        task_max_deliveries=3,
        task_time_limit=None,
        callback_timeout=10.0,
        callback_secret="",
        callback_retry_for=86_400,
        callback_lifetime=604_800,
        callback_allow=(),
        callback_deny=(),
        callback_loopback=False,
        own_services=(),
        kubernetes_service_host="",
        stop_timeout=30.0,
        worker_log="logs/worker.log",
    )


def test_every_variable_is_read() -> None:
    environ = {
        "PROJECT_NAME": "iris",
        "REDIS_URL": "redis://:secret@redis:6379/0",
        "RESPONSE_MODE": "sync",
        "RESPONSE_TIMEOUT": "2.5",
        "API_THREADS": "8",
        "API_KEYS": "one,two",
        "MODEL_SHARING": "fork",
        "BODY_LIMIT_MB": "0.5",
        "QUEUE_LIMIT": "3",
        "RESULT_LIFETIME": "60",
        "WORKER_MAX_TASKS": "1000",
        "WORKER_MAX_MB": "2048",
        "BATCH_SIZE": "8",
        "TASK_MAX_DELIVERIES": "2",
        "TASK_TIME_LIMIT": "1.5",
        "CALLBACK_TIMEOUT": "1",
        "CALLBACK_SECRET": "whsec_c2VjcmV0",
        "CALLBACK_RETRY_FOR": "60",
        "CALLBACK_LIFETIME": "120",
        "CALLBACK_ALLOW": "10.0.0.0/8, *.example.com",
        "CALLBACK_DENY": "127.0.0.1",
        "CALLBACK_LOOPBACK": "open",
        "OWN_SERVICES": "redis,localhost:8000",
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "STOP_TIMEOUT": "20",
        "WORKER_LOG": "elsewhere/worker.log",
    }
    assert Settings.from_environment(environ) == Settings(
        project_name="iris",
        redis_url="redis://:secret@redis:6379/0",
        response=ResponseMode(synchronous=True, timeout=2.5),
        api_threads=8,
        api_keys=frozenset({"one", "two"}),
        shares_model=True,
        body_limit=512 * 1024,
        queue_limit=3,
        result_lifetime=60,
        worker_max_tasks=1000,
        worker_max_mb=2048.0,
        batch_size=8,
        task_max_deliveries=2,
        task_time_limit=1.5,
        callback_timeout=1.0,
        callback_secret="whsec_c2VjcmV0",
        callback_retry_for=60,
        callback_lifetime=120,
        callback_allow=("10.0.0.0/8", "*.example.com"),
        callback_deny=("127.0.0.1",),
        callback_loopback=True,
        own_services=("redis", "localhost:8000"),
        kubernetes_service_host="10.96.0.1",
        stop_timeout=20.0,
        worker_log="elsewhere/worker.log",
    )


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_counts_as_unset(empty: str) -> None:
    """Compose passes `${KEY:-}` as an empty text."""
    names = [
        "PROJECT_NAME",
        "RESPONSE_MODE",
        "RESPONSE_TIMEOUT",
        "API_THREADS",
        "API_KEYS",
        "MODEL_SHARING",
        "QUEUE_LIMIT",
        "WORKER_LOG",
    ]
    assert Settings.from_environment(dict.fromkeys(names, empty)) == Settings.from_environment({})


def test_whitespace_around_a_value_is_ignored() -> None:
    values = {"MODEL_SHARING": "fork", "RESPONSE_MODE": "sync", "BATCH_SIZE": "8", "CALLBACK_SECRET": "whsec_x"}
    spaced = {name: f" {value}\t" for name, value in values.items()}
    assert Settings.from_environment(spaced) == Settings.from_environment(values)
    assert Settings.from_environment(spaced).shares_model


def test_whitespace_around_api_keys_and_empty_keys_are_dropped() -> None:
    assert Settings.from_environment({"API_KEYS": "one, two ,,"}).api_keys == {"one", "two"}


def test_only_commas_mean_no_key_rather_than_an_empty_key() -> None:
    assert Settings.from_environment({"API_KEYS": ",,"}).api_keys == frozenset()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("RESPONSE_TIMEOUT", "soon", "a number of 0 or more"),
        ("RESPONSE_TIMEOUT", "-1", "a number of 0 or more"),
        ("RESPONSE_TIMEOUT", "nan", "a number of 0 or more"),
        ("RESPONSE_TIMEOUT", "inf", "a number of 0 or more"),
        ("API_THREADS", "3", "a number of 4 or more"),
        ("API_THREADS", "8.5", "a number of 4 or more"),
        ("BODY_LIMIT_MB", "10MB", "a number of 0 or more"),
        ("QUEUE_LIMIT", "0", "a number of 1 or more"),
        ("QUEUE_LIMIT", "1e3", "a number of 1 or more"),
        ("RESULT_LIFETIME", "0", "a number of 1 or more"),
        ("CALLBACK_TIMEOUT", "-0.5", "a number of"),
        ("STOP_TIMEOUT", "9", "a number of 10 or more"),
        ("RESPONSE_MODE", "both", "one of async, sync"),
        ("RESPONSE_MODE", "SYNC", "one of async, sync"),
    ],
)
def test_a_bad_value_is_refused_by_name_value_and_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingError) as refused:
        Settings.from_environment({name: value})
    assert str(refused.value).startswith(f"{name} is {value!r}; it must be {allowed}")


def test_a_callback_timeout_of_zero_is_refused() -> None:
    """With a time-out of zero, no callback would ever be delivered."""
    with pytest.raises(SettingError, match="CALLBACK_TIMEOUT"):
        Settings.from_environment({"CALLBACK_TIMEOUT": "0"})


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings.from_environment({}).queue_limit = 1  # type: ignore[misc]


def test_secrets_are_not_shown() -> None:
    environ = {
        "REDIS_URL": "redis://:redis-secret@redis/0",
        "API_KEYS": "key-secret",
        "CALLBACK_SECRET": "whsec_secret",
    }
    assert "secret" not in repr(Settings.from_environment(environ)).replace("callback_secret", "")
