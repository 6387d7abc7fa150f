"""Settings: .env, overridden by the environment, and refused texts."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from support.whsec import whsec

from denzel.errors import SettingInvalid
from denzel.project import dotenv
from denzel.project.dotenv import KEYS
from denzel.project.env_file import replace_text

NEEDED = {"COMPOSE_PROJECT_NAME": "iris", "REDIS_PASSWORD": "eight-or-more"}


RECEIVERS: dict[str, object] = {
    "": (),
    "localhost": ("localhost",),
    "hooks.example.com,*.internal": ("hooks.example.com", "*.internal"),
    "10.0.0.0/8,::1,fd00::/8": ("10.0.0.0/8", "::1", "fd00::/8"),
}
NO_RECEIVERS = [
    "*",
    "a b",
    "a, b",
    "http://a.example",
    "a.example:9000",
    "a.*",
    "10.0.0.1/8",
    "10.0.0.0/33",
    "a/b",
    "ä",
]

# Of each key: texts that are allowed with the value each becomes, and texts that are not.
VALUES: dict[str, tuple[dict[str, object], list[str]]] = {
    "COMPOSE_PROJECT_NAME": (
        {"iris": "iris", "iris_2-a": "iris_2-a"},
        ["Iris", "2iris", "-iris", "a b", "a/b", "ü", "a-", "a-_b"],
    ),
    "BACKEND": ({"docker": "docker", "local": "local"}, ["Docker", "podman", "docker,local"]),
    "API_HOST": ({"127.0.0.1": "127.0.0.1", "0.0.0.0": "0.0.0.0"}, ["localhost", "127.0.0.256", "::1", "127.1"]),
    "API_PORT": ({"1": 1, "65535": 65535}, ["0", "65536", "-1", "8000.5", "http", "8 000", "0x50"]),
    "API_WORKERS": ({"1": 1, "4": 4}, ["0", "two", "1.5", "1001"]),
    "API_THREADS": ({"4": 4, "64": 64}, ["3", "0", "many", "10001"]),
    "API_KEYS": ({"": "", "a": "a", "a1.~+/=_-,b": "a1.~+/=_-,b"}, [",", "a,", "a, b", "a b", "ä"]),
    "RESPONSE_MODE": ({"async": "async", "sync": "sync"}, ["asynchronous", "Sync", "true"]),
    "RESPONSE_TIMEOUT": ({"0": 0.0, "2.5": 2.5, "300": 300.0}, ["-1", "301", "nan", "inf", "1e2", "5s"]),
    "BODY_LIMIT_MB": ({"0.001": 0.001, "500": 500.0}, ["0", "501", "10MB"]),
    "QUEUE_LIMIT": ({"1": 1, "1000000": 1000000}, ["0", "-5", "unlimited"]),
    "WORKER_CONCURRENCY": ({"": "", "1": 1, "16": 16}, ["0", "auto", "1.5"]),
    "MODEL_SHARING": ({"process": "process", "fork": "fork"}, ["spawn", "Fork", "1"]),
    "WORKER_MEMORY_MB": ({"0": 0, "512": 512}, ["-1", "2g", "1.5", "10000001"]),
    "WORKER_MAX_TASKS": ({"0": 0, "1000": 1000}, ["-1", "1.5", "never", "1000000001"]),
    "WORKER_MAX_MB": ({"0": 0, "2048": 2048}, ["-1", "2g", "0.5", "10000001"]),
    "RESULT_LIFETIME": ({"1": 1, "604800": 604800}, ["0", "1 day", "0.5"]),
    "BATCH_SIZE": ({"1": 1, "10000": 10000}, ["0", "10001", "1.5", "all"]),
    "TASK_MAX_DELIVERIES": ({"1": 1, "1000": 1000}, ["0", "1001", "-1", "1.5", "often"]),
    "TASK_TIME_LIMIT": ({"0": 0.0, "0.5": 0.5, "7200": 7200.0}, ["-1", "10000001", "2h", "none"]),
    "CALLBACK_TIMEOUT": ({"0.1": 0.1, "60": 60.0}, ["0", "-1", "forever"]),
    "CALLBACK_RETRY_FOR": ({"0": 0, "86400": 86400}, ["-1", "1.5", "1 day", "100000001"]),
    "CALLBACK_LIFETIME": ({"1": 1, "604800": 604800}, ["0", "1.5", "1 week", "1000000001"]),
    "CALLBACK_SECRET": (
        {secret: secret for secret in ("", whsec(24), whsec(32), whsec(64))},
        [whsec(23), whsec(65), whsec(32)[6:], "whsec_", "whsec_" + "!" * 32, "WHSEC_" + whsec(32)[6:], whsec(32)[:-1]],
    ),
    "CALLBACK_ALLOW": (RECEIVERS, NO_RECEIVERS),
    "CALLBACK_DENY": (RECEIVERS, NO_RECEIVERS),
    "STOP_TIMEOUT": ({"10": 10, "3600": 3600}, ["9", "30s", "12.5"]),
    "MONITOR_HOST": ({"127.0.0.1": "127.0.0.1", "0.0.0.0": "0.0.0.0"}, ["*", "localhost"]),
    "MONITOR_PORT": ({"5555": 5555}, ["0", "99999", ":5555"]),
    "MONITOR_USER": ({"ada.l-1": "ada.l-1"}, ["a:b", "a b"]),
    "MONITOR_PASSWORD": ({"": "", "s3cret": "s3cret"}, ["a:b", "a b", "$HOME"]),
    "REDIS_PASSWORD": ({"eight-or-more": "eight-or-more"}, ["short", "with a space", "quote'quote"]),
    "REDIS_MEMORY_MB": ({"0": 0, "2048": 2048}, ["-1", "2gb", "0.5", "10000001"]),
    "REDIS_FSYNC": ({"everysec": "everysec", "always": "always"}, ["no", "Always", "1"]),
    "REDIS_SERVER": ({"bundled": "bundled", "system": "system"}, ["System", "redis-server", "/usr/bin/redis-server"]),
    "PROJECT_UID": ({"1000": 1000}, ["0", "-1", "root"]),
    "PROJECT_GID": ({"1000": 1000}, ["0", "-1", "root"]),
    "OS_REQUIREMENTS_UPDATED": ({"": "", "2026-01-02T03:04:05Z": "2026-01-02T03:04:05Z"}, ["yesterday", "$(date)"]),
    "PIP_REQUIREMENTS_UPDATED": ({"": "", "2026-01-02T03:04:05Z": "2026-01-02T03:04:05Z"}, ["yesterday", "$(date)"]),
}

GOOD = [(name, text, value) for name, (good, _) in VALUES.items() for text, value in good.items()]
BAD = [(name, text) for name, (_, bad) in VALUES.items() for text in bad]


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """An .env with the required keys, and a comment."""
    path = tmp_path / ".env"
    path.write_text("# Ours\nCOMPOSE_PROJECT_NAME=iris\n\nREDIS_PASSWORD=eight-or-more\n")
    path.chmod(0o600)
    return path


def write(env_file: Path, *lines: str) -> Path:
    env_file.write_text(env_file.read_text() + "".join(f"{line}\n" for line in lines))
    return env_file


def files_of(env_file: Path) -> list[Path]:
    return [path for path in env_file.parent.rglob("*") if not path.is_dir()]


def problem(env_file: Path) -> SettingInvalid:
    with pytest.raises(SettingInvalid) as caught:
        dotenv.load(env_file, {})
    assert caught.value.hint
    return caught.value


def composed(env_file: Path) -> str:
    """API_PORT as Docker Compose understands the file, without the space around it."""
    (env_file.parent / "compose.yml").write_text("services: {a: {image: a, labels: {port: '${API_PORT}'}}}")
    done = subprocess.run(
        ["docker", "compose", "config", "--format", "json"],
        cwd=env_file.parent,
        env={name: value for name, value in os.environ.items() if name not in KEYS},
        capture_output=True,
        text=True,
        check=True,
    )
    port: str = json.loads(done.stdout)["services"]["a"]["labels"]["port"]
    return port.strip()


def test_every_key_is_tried_here() -> None:
    assert list(VALUES) == list(KEYS)


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_an_allowed_text_becomes_a_value(name: str, text: str, value: object) -> None:
    assert dotenv.check({**NEEDED, name: text})[name] == value


@pytest.mark.parametrize(("name", "text"), BAD)
def test_another_text_is_refused_with_key_value_and_what_is_allowed(name: str, text: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        dotenv.check({**NEEDED, name: text})
    assert str(caught.value) == f"{name} is {text!r}; allowed is {KEYS[name].allowed}."
    assert name in caught.value.hint


@pytest.mark.parametrize("name", [name for name in KEYS if name not in NEEDED])
def test_a_key_that_is_absent_or_empty_has_its_default(name: str) -> None:
    default = KEYS[name].parse(KEYS[name].default)
    assert dotenv.check(NEEDED)[name] == default
    assert dotenv.check({**NEEDED, name: ""})[name] == default


@pytest.mark.parametrize("name", NEEDED)
def test_a_key_without_default_is_needed(name: str) -> None:
    with pytest.raises(SettingInvalid, match=f"{name} is ''"):
        dotenv.check({key: text for key, text in NEEDED.items() if key != name})


def test_load_gives_typed_values_and_every_text(env_file: Path) -> None:
    loaded = dotenv.load(write(env_file, "API_PORT=8001", "RESPONSE_TIMEOUT=2.5"), {})
    assert (loaded.compose_name, loaded.api_port, loaded.response_timeout) == ("iris", 8001, 2.5)
    assert list(loaded.texts) == list(KEYS)
    assert loaded.texts["API_PORT"] == "8001"
    assert loaded.texts["MONITOR_PORT"] == "5555"


def test_options_beat_the_environment_which_beats_the_file(env_file: Path) -> None:
    write(env_file, "API_PORT=8001", "MONITOR_PORT=5556")
    environ = {"API_PORT": "8002", "MONITOR_PORT": "5557", "PATH": "/bin"}
    loaded = dotenv.load(env_file, environ, {"API_PORT": "8003"})
    assert (loaded.api_port, loaded.monitor_port) == (8003, 5557)
    assert loaded.texts["API_PORT"] == "8003"


def test_an_empty_variable_of_the_environment_counts_as_absent(env_file: Path) -> None:
    assert dotenv.load(write(env_file, "API_PORT=8001"), {"API_PORT": ""}).api_port == 8001


def test_a_bad_value_in_the_environment_is_refused(env_file: Path) -> None:
    with pytest.raises(SettingInvalid, match="API_PORT is 'eighty'") as caught:
        dotenv.load(env_file, {"API_PORT": "eighty"})
    assert "environment" in caught.value.hint


def test_an_unknown_key_is_refused_with_the_one_that_was_meant(env_file: Path) -> None:
    refused = problem(write(env_file, "API_PROT=8001"))
    assert str(refused) == f"Line 5 of {env_file} sets API_PROT, which is unknown."
    assert refused.hint == "Did you mean API_PORT? What your own code reads belongs into pipeline.env."


def test_an_unknown_key_like_no_other_is_refused_with_where_to_look(env_file: Path) -> None:
    assert "docs/settings.md" in problem(write(env_file, "TOKEN_OF_MINE=1")).hint


def test_a_key_of_an_earlier_release_is_accepted_and_passed_on_where_it_is_set(env_file: Path) -> None:
    texts = dotenv.load(write(env_file), {}).texts
    assert dotenv.load(write(env_file, "BATCH_WAIT_MS=2"), {}).texts == {**texts, "BATCH_WAIT_MS": "2"}
    assert dotenv.load(env_file, {"BATCH_WAIT_MS": "3"}).texts["BATCH_WAIT_MS"] == "3"
    assert dotenv.load(write(env_file, "BATCH_WAIT_MS="), {}).texts == texts
    refused = problem(write(env_file, "BATCH_WAIT_MS=soon"))
    assert str(refused) == "BATCH_WAIT_MS is 'soon'; allowed is a number of milliseconds from 0 to 10000."


def test_the_keys_of_docker_and_compose_are_left_to_them(env_file: Path) -> None:
    loaded = dotenv.load(write(env_file, "COMPOSE_PROFILES=x", "DOCKER_BUILDKIT=1", "BUILDKIT_PROGRESS=plain"), {})
    assert "COMPOSE_PROFILES" not in loaded.texts


@pytest.mark.parametrize("line", ["API_PORT 8001", "API_PORT: 8001", "= 1", "2ND=1", "a-b=1", "API_PORT"])
def test_a_malformed_line_is_quoted_with_its_number(env_file: Path, line: str) -> None:
    assert str(problem(write(env_file, line))) == f"Line 5 of {env_file} is {line!r}."


# Lines that say the port 8001, to denzel and to Docker Compose.
ACCEPTED = [
    "API_PORT=8001",
    "API_PORT = 8001",
    "  API_PORT=8001  ",
    "API_PORT\t=\t8001\t",
    "API_PORT=8001\r",
    "export API_PORT=8001",
    "export\tAPI_PORT = '8001' # ours",
    "API_PORT='8001'",
    'API_PORT="8001"',
    "API_PORT=8001 # ours",
    "API_PORT=8001 # it's ours # and only ours",
    "API_PORT='8001' # ours",
    'API_PORT="8001" # ours',
    "API_PORT='8001' # it's 'ours'",
    'API_PORT="8001" # it\'s "ours"',
    "API_PORT='8001'#ours",
    "API_PORT='8001'\t# ours\r",
    "API_PORT=' 8001 ' # ours",
    "API_PORT='' # ours\nAPI_PORT=8001",
    "API_PORT=1\nAPI_PORT=8001",
]

# Lines of which Compose makes an error, or something else than a port.
REFUSED = {
    "API_PORT='8001": "'8001",
    'API_PORT="8001': '"8001',
    "API_PORT=\"8001'": "\"8001'",
    "API_PORT='8001' or so": "'8001' or so",
    "API_PORT='8001'1": "'8001'1",
    "API_PORT='8001'1'": "'8001'1'",
    "API_PORT='8001' MONITOR_PORT=1": "'8001' MONITOR_PORT=1",
    "API_PORT='8001\\' # ours": "'8001\\' # ours",
    "API_PORT='8001\nAPI_PORT=8001": "'8001",
    "API_PORT='80 # 01' # ours": "80 # 01",
    "API_PORT='#8001'": "#8001",
    "API_PORT=8001#ours": "8001#ours",
    "API_PORT=8001\t# ours": "8001\t# ours",
    "API_PORT= # ours": "# ours",
    "API_PORT=8001'": "8001'",
    "API_PORT=$HOME": "$HOME",
}


@pytest.mark.parametrize("line", ACCEPTED)
def test_a_line_is_read_as_compose_reads_it(env_file: Path, line: str) -> None:
    assert dotenv.load(write(env_file, line), {}).api_port == 8001


@pytest.mark.docker
@pytest.mark.parametrize("line", ACCEPTED)
def test_compose_reads_the_same_from_an_accepted_line(env_file: Path, line: str) -> None:
    assert composed(write(env_file, line)) == "8001"


@pytest.mark.parametrize(("line", "value"), REFUSED.items())
def test_another_line_is_refused_with_key_value_and_what_is_allowed(env_file: Path, line: str, value: str) -> None:
    refused = problem(write(env_file, line))
    assert str(refused).startswith(f"API_PORT is {value!r}; allowed is {KEYS['API_PORT'].allowed}")
    assert ".env" in refused.hint


def test_quotes_that_are_not_closed_are_refused_with_their_line_and_what_to_do(env_file: Path) -> None:
    refused = problem(write(env_file, "API_PORT='8001' or so"))
    allowed = "a port number from 1 to 65535, without quotes or within one pair"
    assert str(refused) == f"API_PORT is \"'8001' or so\"; allowed is {allowed}."
    assert refused.hint == f"Fix line 5 of {env_file}: after the closing quote, only # and a comment may follow."


def test_quotes_of_composes_own_keys_are_closed_too(env_file: Path) -> None:
    """For Compose, the next lines would belong to the value."""
    assert str(problem(write(env_file, "COMPOSE_PROFILES='a", "API_PORT=8001"))).startswith(
        'COMPOSE_PROFILES is "\'a";'
    )


@pytest.mark.parametrize("sign", ["\r", "\x0c", "\x85", "\u2028"])
def test_only_a_line_feed_begins_a_line(env_file: Path, sign: str) -> None:
    assert dotenv.load(write(env_file, f"# ours{sign}API_PORT=8001"), {}).api_port == 8000
    dotenv.change(env_file, {"API_PORT": "8002"})
    assert f"# ours{sign}API_PORT=8001\nAPI_PORT=8002\n" in env_file.read_bytes().decode()


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_space_around_a_value_does_not_count(env_file: Path, name: str, text: str, value: object) -> None:
    plain = dotenv.load(write(env_file, f"{name}={text}"), {}).texts
    for line in (f"{name}= {text}", f"{name} =\t{text} ", f'{name}=" {text} "', f"{name}= ' {text}'"):
        assert dotenv.load(write(env_file, line), {}).texts == plain, line
    assert dotenv.load(write(env_file, f"{name}={text}"), {name: f" {text} "}).texts == plain
    assert dotenv.check(plain)[name] == value


def test_space_alone_is_no_value(env_file: Path) -> None:
    assert dotenv.load(write(env_file, 'MODEL_SHARING=" "'), {"API_PORT": "  "}).texts["MODEL_SHARING"] == "process"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / ".env") in str(problem(tmp_path / ".env"))


def test_a_file_that_is_not_text_is_named(env_file: Path) -> None:
    env_file.write_bytes(b"API_PORT=\xff\xfe")
    assert str(env_file) in str(problem(env_file))


def test_change_leaves_every_other_line_as_it_is(env_file: Path) -> None:
    env_file.write_text(
        "# Ours\nAPI_PORT=8000\n#API_PORT=1\n\nCOMPOSE_PROJECT_NAME = iris\nREDIS_PASSWORD=eight-or-more"
    )
    dotenv.change(env_file, {"API_PORT": "8001", "MONITOR_PORT": "5556"})
    assert env_file.read_text() == (
        "# Ours\nAPI_PORT=8001\n#API_PORT=1\n\nCOMPOSE_PROJECT_NAME = iris\nREDIS_PASSWORD=eight-or-more\n"
        "MONITOR_PORT=5556\n"
    )


def test_change_finds_a_line_with_quotes_and_a_comment(env_file: Path) -> None:
    dotenv.change(write(env_file, "export API_PORT='8000' # ours"), {"API_PORT": "8001"})
    assert env_file.read_text().splitlines()[-1] == "API_PORT=8001"


def test_change_leaves_line_ends_of_windows(env_file: Path) -> None:
    env_file.write_bytes(
        b"\xef\xbb\xbfAPI_PORT=1\r\n# Ours\r\nCOMPOSE_PROJECT_NAME=iris\r\nREDIS_PASSWORD=eight-or-more\r\n"
    )
    dotenv.change(env_file, {"API_PORT": "8001"})
    assert env_file.read_bytes() == (
        b"API_PORT=8001\n# Ours\r\nCOMPOSE_PROJECT_NAME=iris\r\nREDIS_PASSWORD=eight-or-more\r\n"
    )
    assert dotenv.load(env_file, {}).api_port == 8001


def test_change_keeps_the_file_private(env_file: Path) -> None:
    dotenv.change(env_file, {"API_PORT": "8001"})
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    assert files_of(env_file) == [env_file]


def test_change_is_read_back(env_file: Path) -> None:
    dotenv.change(env_file, {"API_PORT": "8001"})
    assert dotenv.load(env_file, {}).api_port == 8001


def test_change_refuses_a_bad_value_and_leaves_the_file(env_file: Path) -> None:
    before = env_file.read_text()
    with pytest.raises(SettingInvalid, match="API_PORT is '0'"):
        dotenv.change(env_file, {"API_PORT": "0"})
    assert env_file.read_text() == before


def test_change_refuses_a_broken_file_and_leaves_it(env_file: Path) -> None:
    before = write(env_file, "what is this").read_text()
    with pytest.raises(SettingInvalid):
        dotenv.change(env_file, {"API_PORT": "8001"})
    assert env_file.read_text() == before


def test_a_write_that_fails_half_way_leaves_the_file(env_file: Path) -> None:
    before = env_file.read_text()
    with pytest.raises(UnicodeEncodeError):
        replace_text(env_file, "x" * 100_000 + "\udcff")
    assert env_file.read_text() == before
    assert files_of(env_file) == [env_file]
