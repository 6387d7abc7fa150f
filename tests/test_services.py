"""Facts that both sides must know, the tool and the serving code, have one owner on each: here they are compared."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from app import keys
from app.settings import Settings as ServingSettings
from app.workers import WorkerState
from denzel import services
from denzel.project import Project
from denzel.scaffold import start_project
from denzel.services import Service, State, worker_name
from denzel.settings import KEYS

REPOSITORY = Path(__file__).parents[1]

#: What only a backend without containers sets: where the services listen, and where the worker logs to.
UNSET_IN_CONTAINERS = {"API_BIND", "MONITOR_BIND", "WORKER_LOG"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return start_project("iris", tmp_path_factory.mktemp("services"))


@pytest.fixture(scope="module")
def compose(project: Project) -> str:
    return project.compose_file.read_text()


@pytest.fixture(scope="module")
def entrypoints(project: Project) -> str:
    return "\n".join(path.read_text() for path in sorted((project.root / "entrypoints").iterdir()))


def blocks(compose: str, key: str) -> dict[str, str]:
    """The lines below each `key` of a service, or of the top level, by the name of what it belongs to."""
    found: dict[str, str] = {}
    for part in re.split(r"\n(?=  ?\S|\S)", compose):
        name = part.strip().partition(":")[0]
        match = re.search(rf"^( *){key}:\n((?:\1 +.*\n?)+)", part, re.MULTILINE)
        if match:
            found[name] = match[2]
    return found


# ------------------------------------------------------------------ Redis


def test_redis_keys_are_the_same_on_both_sides() -> None:
    assert services.QUEUE_KEY == keys.QUEUE
    assert services.UNACKED_KEY == keys.UNACKED
    assert services.CALLBACKS_KEY == keys.CALLBACKS
    assert services.RESPONSE_KEY == keys.RESPONSE
    assert services.worker_key("worker@iris") == keys.worker("worker@iris")


def test_the_health_check_asks_for_the_workers_report(entrypoints: str) -> None:
    assert f"EXISTS {keys.worker('%s')}" in entrypoints


def test_the_states_of_workers_have_a_word_on_the_other_side() -> None:
    assert {state.value for state in WorkerState} <= {state.name for state in State}


# ------------------------------------------------------------------ names


def test_services_are_those_of_compose(compose: str) -> None:
    listed = re.findall(r"^  (\w+):$", compose.partition("\nservices:")[2].partition("\nvolumes:")[0], re.MULTILINE)
    assert set(listed) == {service.value for service in Service}


def test_each_service_of_the_image_has_its_entrypoint_and_health_check(project: Project, compose: str) -> None:
    for service in Service:
        script = f"entrypoints/{service.value}.sh"
        assert (project.root / script).exists() is service.carries_requirements
        assert (f"command: [{script}]" in compose) is service.carries_requirements
        assert (f"test: [CMD, entrypoints/health.sh, {service.value}]" in compose) is service.carries_requirements


def test_the_worker_has_the_name_that_status_looks_for(entrypoints: str) -> None:
    hostname = worker_name("${PROJECT_NAME}")
    assert f'--hostname "{hostname}"' in entrypoints
    assert f'denzel) reports "{hostname}" ;;' in entrypoints


# ------------------------------------------------------------------ pins


def test_what_is_tested_here_is_what_users_run() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    tested = {pin for pin in declared["project"]["optional-dependencies"]["dev"] if "==" in pin}
    lines = (REPOSITORY / "denzel/templates/project/runtime.txt").read_text().splitlines()
    assert tested == {line for line in lines if line and not line.startswith("#")}


# ------------------------------------------------------------------ settings


class Noted(Mapping[str, str]):
    """An empty environment that notes which variables are read."""

    def __init__(self) -> None:
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def read_by_the_serving_code() -> set[str]:
    environ = Noted()
    ServingSettings.from_environment(environ)
    return environ.read


def read_by_entrypoints(entrypoints: str) -> set[str]:
    return set(re.findall(r"\$\{?([A-Z][A-Z_]*)", entrypoints)) - {"BASH_REMATCH"}


def test_compose_passes_what_the_services_read(compose: str, entrypoints: str) -> None:
    passed = {
        name
        for owner, block in blocks(compose, "environment").items()
        if owner != "redis"
        for name in re.findall(r"^ +([A-Z_]+):", block, re.MULTILINE)
    }
    shared = re.search(r"x-environment:.*\n((?:  .*\n)+)", compose)
    assert shared is not None
    passed |= set(re.findall(r"^  ([A-Z_]+):", shared[1], re.MULTILINE))
    assert passed == (read_by_the_serving_code() | read_by_entrypoints(entrypoints)) - UNSET_IN_CONTAINERS


def test_every_setting_is_used_by_somebody(compose: str) -> None:
    assert set(re.findall(r"\$\{([A-Z_]+)", compose)) == set(KEYS) - {"BACKEND"}


def test_defaults_of_compose_are_those_of_the_settings(compose: str) -> None:
    defaults = set(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", compose))
    assert defaults == {
        (name, key.default)
        for name, key in KEYS.items()
        if name not in ("COMPOSE_PROJECT_NAME", "BACKEND", "REDIS_PASSWORD")
    }


def test_defaults_of_entrypoints_are_those_of_the_settings(entrypoints: str) -> None:
    defaults = re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", entrypoints)
    assert {(name, text) for name, text in defaults if name in KEYS} == {
        (name, KEYS[name].default) for name, _ in defaults if name in KEYS
    }


def test_defaults_of_the_serving_code_are_those_of_the_settings() -> None:
    defaults = {name: key.default for name, key in KEYS.items()}
    assert ServingSettings.from_environment({}) == ServingSettings.from_environment(defaults)


@pytest.mark.parametrize("bound", ["least", "most"])
def test_what_the_tool_allows_the_serving_code_takes(bound: str) -> None:
    extremes = {
        "API_THREADS": ("4", "10000"),
        "RESPONSE_TIMEOUT": ("0", "300"),
        "BODY_LIMIT_MB": ("0.001", "500"),
        "QUEUE_LIMIT": ("1", "1000000000"),
        "RESULT_LIFETIME": ("1", "1000000000"),
        "CALLBACK_TIMEOUT": ("0.1", "3600"),
        "STOP_TIMEOUT": ("10", "86400"),
    }
    texts = {name: texts[bound == "most"] for name, texts in extremes.items()}
    for name, text in texts.items():
        KEYS[name].parse(text)
    ServingSettings.from_environment(texts)


def test_the_env_file_has_every_key_in_order_below_a_comment(project: Project) -> None:
    text = project.env_file.read_text()
    assert re.findall("^([A-Z_]+)=", text, re.MULTILINE) == list(KEYS)
    for block in text.strip().split("\n\n"):
        assert block.startswith("# "), block


def test_the_env_file_says_the_defaults(project: Project) -> None:
    given = dict(re.findall("^([A-Z_]+)=(.*)$", project.env_file.read_text(), re.MULTILINE))
    own = {"COMPOSE_PROJECT_NAME", "REDIS_PASSWORD", "MONITOR_PASSWORD", "PROJECT_UID", "PROJECT_GID"}
    assert {name: text for name, text in given.items() if name not in own} == {
        name: key.default for name, key in KEYS.items() if name not in own
    }
