"""pipeline_env.py: variables of the user's own code, with the values that Docker Compose reads, or an error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from denzel.backends.local.launch_record import shell_script
from denzel.errors import SettingInvalid
from denzel.project import pipeline_env

VALUES = {
    "A=1": "1",
    "A = 1": "1",
    "A= 1 ": "1",
    "  A=1": "1",
    "A\t=1": "1",
    "export A=1": "1",
    "export  A=1": "1",
    "A=": "",
    "A=1\nA=2": "2",
    "\ufeffA=1": "1",
    "A=1\r\nB=2\r\n": "1",
    "# A=0\n\n   # no\nA=1\n": "1",
    "A=x=y": "x=y",
    "A==": "=",
    "A=a#b": "a#b",
    "A=a #b": "a",
    "A=a\t#c": "a\t#c",
    "A=#ff0000": "#ff0000",
    "A=1 # it's": "1",
    "A=x y  z ": "x y  z",
    "A=x'y": "x'y",
    "A=x\\": "x\\",
    "A=a\\nb": "a\\nb",
    "A=é☃": "é☃",
    "A='x'": "x",
    "A='x'  # c": "x",
    "A='a\t#c'\t#c": "a\t#c",
    "A='a$b ${C} $$'": "a$b ${C} $$",
    "A='a\\'b'": "a'b",
    "A='a\\nb'": "a\\nb",
    "A='a\\\\b'": "a\\\\b",
    "A='a\nb'": "a\nb",
    "A='a\r\nb'\r\nB=1": "a\r\nb",
    "A='{\"a\": [1, 2]}'": '{"a": [1, 2]}',
    "A=' x '": " x ",
    'A="x"': "x",
    'A="a\\"b"': 'a"b',
    'A="it\'s"': "it's",
    'A="a\\nb\\tc"': "a\nb\tc",
    'A="a\nb"': "a\nb",
    'A="a\\$b"': "a$b",
    'A="a\\\\b"': "a\\b",
    'A="a\\\\n"': "a\\n",
    'A="a\\qb"': "a\\qb",
    'A="x\\\\"': "x\\",
    "A='-----BEGIN KEY-----\nab+/=\n-----END KEY-----\n'\nB=2": "-----BEGIN KEY-----\nab+/=\n-----END KEY-----\n",
}

MALFORMED = {
    "A": "is not a variable",
    "A: x": "is not a variable",
    "1A=2": "is not a variable",
    "A-B=1": "is not a variable",
    "A B=1": "is not a variable",
    "hf_secret_token": "is not a variable",
    "A=x$y": "has a $ in the value of A, which Docker Compose would replace",
    "A=${B}": "has a $ in the value of A",
    'A="$B"': "has a $ in the value of A",
    'A="\\\\$B"': "has a $ in the value of A",
    "A='x": "begins a value of A that has no closing '",
    'A="x\nB=1': 'begins a value of A that has no closing "',
    "A='x\\'": "begins a value of A that has no closing '",
    "A='x'y": "has more than a comment after the quotes of A",
    "A='it''s'": "has more than a comment after the quotes of A",
    "A= # later": "has a comment in place of a value of A",
    'A="\\a"': "has \\a in the value of A",
    'A="\\033[1m"': "has \\0 in the value of A",
    "A='\0'": "has a zero byte in the value of A",
}


def read(folder: Path, text: str) -> dict[str, str]:
    path = folder / "pipeline.env"
    path.write_bytes(text.encode())
    return pipeline_env.read(path)


def refusal(folder: Path, text: str) -> SettingInvalid:
    with pytest.raises(SettingInvalid) as caught:
        read(folder, text)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(("text", "value"), VALUES.items(), ids=map(repr, VALUES))
def test_a_value_is_read_whole(text: str, value: str, tmp_path: Path) -> None:
    assert read(tmp_path, text)["A"] == value


@pytest.mark.parametrize("text", VALUES, ids=map(repr, VALUES))
def test_compose_reads_the_same_value(text: str, tmp_path: Path) -> None:
    if shutil.which("docker") is None and not os.environ.get("DENZEL_REQUIRE_TOOLS"):
        pytest.skip("docker is not installed")
    variables = read(tmp_path, text)
    compose = {"services": {"a": {"image": "none", "env_file": [{"path": "pipeline.env", "required": False}]}}}
    (tmp_path / "docker-compose.yml").write_text(json.dumps(compose))
    command = ["docker", "compose", "config", "--format", "json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    # It is to be read again, so each $ is doubled.
    by_compose = {
        name: value.replace("$$", "$")
        for name, value in json.loads(done.stdout)["services"]["a"]["environment"].items()
    }
    assert by_compose == variables


@pytest.mark.parametrize("value", [*VALUES.values(), "'\"'\"", "`id` $(id)", "\\", "!!", "~", "*"], ids=repr)
def test_a_shell_reads_the_same_value(value: str, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(shell_script({"A": value}), encoding="utf-8")
    done = subprocess.run(["bash", "-c", ". ./script; printenv -0 A"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.decode() == f"{value}\0"


@pytest.mark.parametrize(("text", "reason"), MALFORMED.items(), ids=map(repr, MALFORMED))
def test_a_malformed_line_is_named_by_its_number(text: str, reason: str, tmp_path: Path) -> None:
    problem = refusal(tmp_path, f"# tokens\nB='1\n2'\n{text}")
    assert str(problem).startswith(f"Line 4 of {tmp_path / 'pipeline.env'} {reason}")


@pytest.mark.parametrize("text", ["hf_abcdefgh", "HF_TOKEN='hf_abcdefgh", 'HF_TOKEN="hf_abcdefgh$x"'])
def test_no_error_shows_a_value(text: str, tmp_path: Path) -> None:
    problem = refusal(tmp_path, text)
    assert "abcdefgh" not in f"{problem} {problem.hint}"


def test_a_setting_of_denzels_belongs_into_the_other_file(tmp_path: Path) -> None:
    problem = refusal(tmp_path, "API_PORT=8001")
    assert str(problem).endswith("pipeline.env sets API_PORT, which is a setting of denzel's.")
    assert problem.hint == "Set API_PORT in .env."


@pytest.mark.parametrize("name", ["PATH", "REDIS_URL", "PROJECT_NAME", "DENZEL_HEARTBEAT_FD"])
def test_what_denzel_sets_itself_is_refused(name: str, tmp_path: Path) -> None:
    assert f"sets {name}, which denzel sets itself" in str(refusal(tmp_path, f"{name}=x"))


def test_a_project_without_the_file_has_no_variables(tmp_path: Path) -> None:
    assert pipeline_env.read(tmp_path / "pipeline.env") == {}


def test_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.env"
    path.write_bytes("A=é".encode("latin-1"))
    with pytest.raises(SettingInvalid, match="cannot be read") as caught:
        pipeline_env.read(path)
    assert caught.value.hint == "Save it as UTF-8."
