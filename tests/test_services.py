"""Facts shared by the command and the serving code: one owner on each side, compared here."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.paths import REPOSITORY

from app.serving.settings import Settings as ServingSettings
from app.serving.store import keys
from app.serving.store.workers import DIED, WorkerState
from denzel import services
from denzel.backends.local import backend as local
from denzel.backends.local.launch_record import CACHES, LaunchRecord, LaunchRecordFile
from denzel.backends.local.supervisor import Supervisor
from denzel.project import dotenv
from denzel.project.dotenv import KEYS
from denzel.project.folder import Project
from denzel.project.scaffold import start_project
from denzel.services import SETTINGS, Service, State, worker_name

Containers = dict[str, dict[str, Any]]
Programs = dict[str, dict[str, str]]

#: What only a backend without containers sets: where the services listen, where the worker logs to, and which server
#: keeps its data where.
UNSET_IN_CONTAINERS = {
    *("API_BIND", "MONITOR_BIND", "WORKER_LOG", "CALLBACK_LOOPBACK"),
    *("REDIS_BIND", "REDIS_DATA", "REDIS_SERVER_PROGRAM"),
}


#: The settings of denzel itself, and of the other backend.
OF_NO_CONCERN_TO_COMPOSE = {"BACKEND", "REDIS_SERVER"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return start_project("iris", tmp_path_factory.mktemp("services"))


@pytest.fixture(scope="module")
def compose(project: Project) -> str:
    return project.compose_file.read_text()


@pytest.fixture(scope="module")
def entrypoints(project: Project) -> str:
    return "\n".join(path.read_text() for path in sorted((project.root / "entrypoints").iterdir()))


# ------------------------------------------------------------------ Redis


def test_redis_keys_are_the_same_on_both_sides() -> None:
    assert services.QUEUE_KEY == keys.QUEUE
    assert services.UNACKED_KEY == keys.UNACKED
    assert services.UNDELIVERED_KEY == keys.UNDELIVERED
    assert services.RESPONSE_KEY == keys.RESPONSE
    assert services.worker_key("worker@iris") == keys.worker("worker@iris")
    assert services.DIED_LOADING == DIED


def test_the_states_of_workers_are_the_same_on_both_sides() -> None:
    assert {state.value for state in WorkerState} <= {state.name for state in State}


# ------------------------------------------------------------------ names


def test_the_health_check_looks_for_the_name_that_status_reads(entrypoints: str) -> None:
    hostname = worker_name("${PROJECT_NAME}")
    assert f'denzel) redis "EXISTS {keys.worker(hostname)}" :1 ;;' in entrypoints


# ------------------------------------------------------------------ one description for both backends

#: Addresses of the other services, passed to a service beside its settings; Redis needs none.
SHARED = {service: {"PROJECT_NAME", "REDIS_URL", "OWN_SERVICES"} for service in Service}
SHARED[Service.REDIS] = {"REDISCLI_AUTH"}


@pytest.fixture(scope="module")
def containers(compose: str) -> Containers:
    """The services as docker-compose.yml has them."""
    described: Containers = yaml.safe_load(compose)["services"]
    return described


@pytest.fixture
def backend(project: Project) -> local.LocalBackend:
    return local.LocalBackend(project, dotenv.load(project.env_file, {}))


@pytest.fixture
def record(project: Project) -> LaunchRecord:
    """A launch, with the settings of the project."""
    settled = dotenv.load(project.env_file, {}).texts
    return LaunchRecord(folder="", venv="", server="", redis_port=4711, settings=settled)


@pytest.fixture
def programs(project: Project, backend: local.LocalBackend, record: local.LaunchRecord) -> Programs:
    """The services as the configuration of supervisord has them."""
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";", "#"))
    parser.read_string(Supervisor(project.root).configuration(backend._programs(record), log="supervisord.log"))
    return {name.partition(":")[2]: dict(parser[name]) for name in parser if name.startswith("program:")}


def environment(program: Mapping[str, str]) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="([^"]*)"', program["environment"]))


def test_both_backends_run_the_same_services(containers: Containers, programs: Programs) -> None:
    assert set(containers) == set(programs) == {service.value for service in Service}


def test_both_backends_start_a_service_by_the_same_entrypoint(
    project: Project, containers: Containers, programs: Programs
) -> None:
    for service in Service:
        script = f"entrypoints/{service.value}.sh"
        assert (project.root / script).exists()
        assert containers[service.value]["command"] == [script]
        assert programs[service.value]["command"] == f"bash {script}"


def test_redis_finds_its_entrypoint_in_an_image_that_is_not_ours(containers: Containers) -> None:
    assert containers["redis"]["working_dir"] == "/"
    assert "./entrypoints:/entrypoints:ro" in containers["redis"]["volumes"]


def test_both_backends_give_a_service_the_same_settings(containers: Containers, programs: Programs) -> None:
    everywhere = set[str]().union(*SHARED.values())
    here_alone = UNSET_IN_CONTAINERS - {"WORKER_LOG", "REDIS_SERVER_PROGRAM"}
    for service in Service:
        assert set(containers[service.value]["environment"]) == SHARED[service] | set(SETTINGS[service])
        assert set(environment(programs[service.value])) == everywhere | here_alone | set(SETTINGS[service])


def test_both_backends_have_a_cache_folder_for_the_same_libraries(project: Project, containers: Containers) -> None:
    folder = "/home/denzel/.cache"
    dockerfile = (project.root / "Dockerfile").read_text()
    expected = {name: f"{folder}/{below}".rstrip("/") for name, below in CACHES.items()}
    assert dict(re.findall(rf"(\w+)=({folder}\S*)", dockerfile)) == expected
    mounted = [name for name, service in containers.items() if f"cache:{folder}" in service.get("volumes", [])]
    assert mounted == ["api", "denzel"]


def test_both_backends_pass_a_setting_under_its_own_name(
    backend: local.LocalBackend, containers: Containers, programs: Programs
) -> None:
    texts = backend._settings.texts
    for service, names in SETTINGS.items():
        for name in names:
            assert containers[service.value]["environment"][name].startswith(f"${{{name}:-"), name
            assert environment(programs[service.value])[name] == texts[name]
    assert environment(programs["api"])["PROJECT_NAME"] == texts["COMPOSE_PROJECT_NAME"]
    assert containers["api"]["environment"]["PROJECT_NAME"] == "${COMPOSE_PROJECT_NAME}"


def test_redis_is_found_the_same_way(backend: local.LocalBackend, containers: Containers, programs: Programs) -> None:
    here = environment(programs["api"])["REDIS_URL"].replace(backend._settings.redis_password, "PASSWORD")
    there = re.sub(r"\$\{REDIS_PASSWORD[^}]*\}", "PASSWORD", containers["api"]["environment"]["REDIS_URL"])
    assert here.replace("127.0.0.1:4711", "ADDRESS") == there.replace("redis:6379", "ADDRESS")


def test_redis_has_one_password(backend: local.LocalBackend, containers: Containers, programs: Programs) -> None:
    assert environment(programs["redis"])["REDISCLI_AUTH"] == backend._settings.redis_password
    assert containers["redis"]["environment"]["REDISCLI_AUTH"] == "${REDIS_PASSWORD}"


def test_both_backends_check_a_services_health_alike(
    project: Project,
    containers: Containers,
    backend: local.LocalBackend,
    record: LaunchRecord,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[list[str], float]] = []

    def note(argv: list[str], *, cwd: Path, variables: Mapping[str, str], timeout: float) -> str:
        assert cwd == project.root
        asked.append((argv, timeout))
        return ""

    monkeypatch.setattr("denzel.runner.run", note)
    monkeypatch.setattr(LaunchRecordFile, "read", lambda self: record)
    for service in Service:
        backend._healthy(service)
        check = containers[service.value]["healthcheck"]
        if service.carries_requirements:
            assert check["test"] == ["CMD", "entrypoints/health.sh", service.value]
        else:
            assert check["test"] == ["CMD-SHELL", "redis-cli ping | grep -q PONG"]
        assert asked.pop() == (["bash", "entrypoints/health.sh", service.value], int(check["timeout"].rstrip("s")))
        assert check["start_period"] == f"{local._START_PERIOD}s"


def test_the_health_check_has_every_service(entrypoints: str) -> None:
    usage = re.search(r"usage: health\.sh (\S+)\"", entrypoints)
    assert usage is not None
    assert set(usage[1].split("|")) == {service.value for service in Service}
    assert "redis) redis PING +PONG ;;" in entrypoints


def test_both_backends_give_a_service_the_same_time_to_stop(containers: Containers, programs: Programs) -> None:
    for service in (service for service in Service if service.carries_requirements):
        assert containers[service.value]["stop_grace_period"] == "${STOP_TIMEOUT:-30}s"
        assert programs[service.value]["stopwaitsecs"] == KEYS["STOP_TIMEOUT"].default


@pytest.mark.docker
def test_compose_reads_its_file_as_these_tests_do(project: Project, containers: Containers) -> None:
    command = ["docker", "compose", "config", "--format", "json"]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=True)
    for name, described in json.loads(done.stdout)["services"].items():
        assert set(described["environment"]) == set(containers[name]["environment"])
        assert described["healthcheck"]["test"] == containers[name]["healthcheck"]["test"]
        assert described["command"] == containers[name]["command"]
        if Service(name).carries_requirements:
            assert described["stop_grace_period"] == "30s"


# ------------------------------------------------------------------ pins


def test_what_is_tested_here_is_what_users_run() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    development = set(declared["project"]["optional-dependencies"]["dev"])
    text = (REPOSITORY / "denzel/templates/project/runtime.txt").read_text()
    lines = {line for line in text.splitlines() if line and not line.startswith("#")}
    assert lines <= development
    assert {pin for pin in development if "==" in pin} <= lines


# ------------------------------------------------------------------ settings


class Noted(Mapping[str, str]):
    """An empty environment that records which variables are read."""

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
    # Kubernetes sets it in each container.
    return environ.read - {"KUBERNETES_SERVICE_HOST"}


def read_by_entrypoints(entrypoints: str) -> set[str]:
    # TMPDIR is the system's, the others are bash's.
    return set(re.findall(r"\$\{?([A-Z][A-Z_]*)", entrypoints)) - {"TMPDIR", "BASH_REMATCH", "BASH_VERSINFO", "OSTYPE"}


def test_compose_passes_what_the_services_read(containers: Containers, entrypoints: str) -> None:
    passed = set[str]().union(*(container["environment"] for container in containers.values()))
    assert passed == (read_by_the_serving_code() | read_by_entrypoints(entrypoints)) - UNSET_IN_CONTAINERS


def test_every_setting_is_used(compose: str) -> None:
    assert set(re.findall(r"\$\{([A-Z_]+)", compose)) == set(KEYS) - OF_NO_CONCERN_TO_COMPOSE


def test_defaults_of_compose_are_those_of_the_settings(compose: str) -> None:
    defaults = set(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", compose))
    assert defaults == {
        (name, key.default)
        for name, key in KEYS.items()
        if name not in {"COMPOSE_PROJECT_NAME", "REDIS_PASSWORD"} | OF_NO_CONCERN_TO_COMPOSE
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
def test_the_serving_code_accepts_what_the_command_allows(bound: str) -> None:
    extremes = {
        "API_THREADS": ("4", "10000"),
        "RESPONSE_TIMEOUT": ("0", "300"),
        "BODY_LIMIT_MB": ("0.001", "500"),
        "QUEUE_LIMIT": ("1", "1000000000"),
        "RESULT_LIFETIME": ("1", "1000000000"),
        "CALLBACK_TIMEOUT": ("0.1", "3600"),
        "BATCH_SIZE": ("1", "10000"),
        "WORKER_MAX_TASKS": ("0", "1000000000"),
        "WORKER_MAX_MB": ("0", "10000000"),
        "TASK_MAX_DELIVERIES": ("1", "1000"),
        "TASK_TIME_LIMIT": ("0", "10000000"),
        "CALLBACK_RETRY_FOR": ("0", "100000000"),
        "CALLBACK_LIFETIME": ("1", "1000000000"),
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


def test_the_env_file_has_the_defaults(project: Project) -> None:
    given = dict(re.findall("^([A-Z_]+)=(.*)$", project.env_file.read_text(), re.MULTILINE))
    own = {
        "COMPOSE_PROJECT_NAME",
        "REDIS_PASSWORD",
        "MONITOR_PASSWORD",
        "CALLBACK_SECRET",
        "PROJECT_UID",
        "PROJECT_GID",
    }
    assert {name: text for name, text in given.items() if name not in own} == {
        name: key.default for name, key in KEYS.items() if name not in own
    }
