"""Lifecycle of a project on real services: changed, stopped, broken, fixed, removed."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import time

import pytest
from doubles.package_index import PASSWORD, package_index
from support.driving import BACKENDS, DENZEL, Driven, Render, denzel, docker
from support.lab import ALL_DOWN, ALL_UP
from support.ports import find_free_port
from support.waiting import until

from denzel.project import dotenv


def test_status_prints_the_lines_of_the_manual(lab: Driven) -> None:
    env = dotenv.read(lab.root / ".env")
    assert lab.denzel("status").splitlines() == [
        "Services:",
        "    denzel - UP",
        f"    monitor - UP [ Port: {env['MONITOR_PORT']} ]",
        f"    api - UP [ Port: {env['API_PORT']} ]",
        "    redis - UP",
        f"Worker: worker@{lab.name} - UP",
    ]


def test_commands_work_from_any_folder_inside_the_project(lab: Driven) -> None:
    assert f"worker@{lab.name} - UP" in denzel("status", cwd=lab.root / "app" / "logic")


def test_launch_of_a_launched_project_points_to_start(lab: Driven) -> None:
    assert 'Project already launched! Did you mean "denzel start"?' in lab.denzel("launch", code=1)


def test_edited_code_answers_after_a_restart_and_no_accepted_task_is_lost(lab: Driven) -> None:
    tasks = [lab.submit({"sleep": 0.5, "echo": n}) for n in range(8)]
    lab.pipeline.write_text(lab.pipeline.read_text().replace("VERSION = 1", "VERSION = 2"))
    lab.denzel("restart")
    assert lab.post({}, prefer="wait=30").json()["version"] == 2
    assert [lab.ended(task)["result"]["echo"] for task in tasks] == list(range(8))


def test_a_prediction_longer_than_the_stop_timeout_is_requeued(lab: Driven) -> None:
    with lab.occupied() as tasks:
        lab.denzel("restart")
        assert lab.task(tasks[0])["status"] in ("PENDING", "STARTED")
    assert [lab.ended(task)["result"]["echo"] for task in tasks] == [0, 1]


def test_settings_in_quotes_with_a_comment_reach_the_services(lab: Driven) -> None:
    env_file = lab.root / ".env"
    before = env_file.read_text()
    lines = {"BODY_LIMIT_MB=10": "BODY_LIMIT_MB='0.001' # ours", "API_THREADS=64": 'API_THREADS="5"\t# it\'s "ours"'}
    changed = before
    for line, another in lines.items():
        assert f"\n{line}\n" in changed
        changed = changed.replace(f"\n{line}\n", f"\n{another}\n")
    env_file.write_text(changed)
    try:
        lab.denzel("restart")
        shown = lab.denzel("shell", "--service", "api", stdin='echo "[$BODY_LIMIT_MB] [$API_THREADS]"\n')
        assert "[0.001] [5]" in shown
        assert lab.post({"echo": "x" * 2000}).status_code == 413
    finally:
        env_file.write_text(before)
        lab.denzel("restart")


def test_stop_and_start_may_be_repeated(lab: Driven) -> None:
    task = lab.submit({"sleep": 1})
    lab.denzel("stop")
    lab.denzel("stop")
    assert lab.states() == ALL_DOWN
    assert lab.status()["workers"][0]["state"] == "DOWN"
    assert "is not running" in lab.denzel("shell", code=1, stdin="true\n")
    lab.denzel("start")
    lab.denzel("start")
    assert lab.states() == ALL_UP
    assert lab.ended(task)["status"] == "SUCCESS"


@pytest.mark.parametrize("service", ["api", "denzel", "monitor", "redis"])
def test_a_service_whose_main_process_dies_comes_back(lab: Driven, service: str) -> None:
    process = lab.pid(service)
    os.kill(process, signal.SIGKILL)
    until(lambda: lab.pid(service) not in (process, 0), what="it to be started again")
    until(lambda: lab.status().get("ready"), within=60, what="the project to be ready again")
    assert lab.post({"echo": 1}, prefer="wait=30").json()["echo"] == 1


def test_the_worker_is_loading_while_its_model_loads_however_long(lab: Driven) -> None:
    with lab.held() as order:
        lab.order(load_until=order["until"])
        lab.denzel("restart", "--no-wait")
        began = time.monotonic()
        # Those before have ended, and these are held.
        loaded = lab.log.count("model loaded")
        assert lab.denzel("status").splitlines()[-1] == "Worker: all - LOADING..."
        until(lambda: lab.states() == ALL_UP, within=60, what="the services, which do not wait for the model")
        task = lab.submit({"echo": "soon"})
        # Celery gives its processes 4 s.
        until(lambda: time.monotonic() > began + 5, what="its time to be over")
        assert lab.status()["workers"][0]["state"] == "LOADING..."
    until(lambda: lab.status()["ready"], what="the model")
    assert lab.ended(task)["result"]["echo"] == "soon"
    until(lambda: lab.log.count("model loaded") == loaded + 2, what="each process to load it, once")
    lab.order()


def test_a_model_that_does_not_load_is_reported_and_fixed_by_a_restart(lab: Driven) -> None:
    lab.order(fail_with="weights are missing")
    said = lab.denzel("restart", code=1)
    assert "Error: The model could not be loaded: RuntimeError: weights are missing." in said
    assert "denzel logworker. When fixed: denzel restart" in said
    assert "in load_model" in said
    worker = lab.status()["workers"][0]
    assert worker == {"name": f"worker@{lab.name}", "state": "ERROR", "cause": "RuntimeError: weights are missing"}
    lab.until_the_api_is_up()
    task = lab.submit({"echo": "waited"})
    lab.order()
    lab.denzel("restart")
    assert lab.ended(task)["result"]["echo"] == "waited"


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_packages_of_a_private_index_behind_a_proxy_and_a_cache_that_stays(backend: str, render: Render) -> None:
    project = render(backend)
    keep, read = 'mkdir -p "$XDG_CACHE_HOME"; echo kept >"$XDG_CACHE_HOME/model"\n', 'cat "$XDG_CACHE_HOME/model"\n'
    with package_index("0.0.0.0") as index:
        index.add("of_our_own", "1.0")
        index.add("of_our_own_too", "2.0")
        machine = "127.0.0.1"
        if backend == "docker":
            machine = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
        (project.root / "requirements.txt").write_text("of-our-own\n")
        denzel("launch", "--backend", backend, cwd=project.root, variables=index.variables(machine))
        project.denzel("shell", "--service", "denzel", stdin=keep)
        (project.root / "requirements.txt").write_text("of-our-own\nof-our-own-too\n")
        denzel("updatepipreqs", cwd=project.root, variables=index.variables(machine))
    modules = "import of_our_own, of_our_own_too; print(of_our_own_too.__version__)"
    assert project.denzel("shell", stdin=f"python -c '{modules}'\n") == "2.0\n"
    assert project.denzel("shell", "--service", "api", stdin=read) == "kept\n"
    if backend == "docker":
        image = f"denzel/{project.name}"
        facts = docker("history", "--no-trunc", image) + docker("inspect", image)
        assert PASSWORD not in facts
        assert str(index.port) not in facts


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["process", "fork"])
def test_a_model_that_ends_its_process_is_reported_with_its_cause_at_every_attempt(lab: Driven, sharing: str) -> None:
    cause = "load_model ended its process with signal 11 (SIGSEGV)"
    lab.order(crash=True)
    dotenv.change(lab.root / ".env", {"MODEL_SHARING": sharing})
    try:
        said = lab.denzel("restart", code=1)
        assert f"Error: The model could not be loaded: {cause}." in said
        assert "Memory may have run out" in said
        # With MODEL_SHARING=fork, the worker is started again and again meanwhile.
        failing = {"name": f"worker@{lab.name}", "state": "ERROR", "cause": cause}
        until_then = time.monotonic() + 8
        while time.monotonic() < until_then:
            assert lab.status()["workers"] == [failing]
        log = lab.denzel("logs", "--service", "denzel")
        assert "Fatal Python error: Segmentation fault" in log
        assert re.search(r'pipeline.py", line \d+ in load_model', log)
        lab.order()
        lab.denzel("restart")
        assert lab.status()["ready"]
    finally:
        lab.order()
        if sharing != "process":
            dotenv.change(lab.root / ".env", {"MODEL_SHARING": "process"})
            lab.denzel("restart")


@pytest.mark.parametrize(
    ("line", "cause", "hint"),
    [
        ("def (", "SyntaxError: invalid syntax (pipeline.py, line", "denzel restart"),
        ("import pandas", "ModuleNotFoundError: No module named 'pandas'", "denzel updatereqs"),
        ("open('./app/assets/model.pkl')", "FileNotFoundError: [Errno 2] No such file", "app/assets"),
    ],
)
def test_errors_in_the_pipeline_are_reported_before_anything_is_stopped(
    lab: Driven, line: str, cause: str, hint: str
) -> None:
    lab.pipeline.write_text(f"{lab.pipeline.read_text()}\n{line}\n")
    process = lab.pid("denzel")
    error, hinted = lab.denzel("restart", code=1).splitlines()[-2:]
    assert error.startswith(f"Error: pipeline.py cannot be imported: {cause}")
    assert error.endswith(". Nothing was stopped.")
    assert hint in hinted
    assert lab.pid("denzel") == process
    assert lab.post({"echo": 1}, prefer="wait=20").json()["echo"] == 1

    lab.denzel("stop")
    error, hinted = lab.denzel("start", code=1).splitlines()[-2:]
    assert error.startswith(f"Error: The model could not be loaded: {cause}")
    assert hinted.startswith("Hint: ")
    assert hint in hinted
    lab.until_the_api_is_up()
    assert lab.get("/info").status_code == 200
    answer = lab.post({})
    assert (answer.status_code, answer.json()["title"]) == (500, "Pipeline error")
    assert cause in answer.json()["description"]


def test_logs_show_a_service_and_follow_it_until_interrupted(lab: Driven) -> None:
    assert "gunicorn" in lab.denzel("logs", "--service", "api")
    assert {line.partition("|")[0].strip().removesuffix("-1") for line in lab.denzel("logs").splitlines()} == {
        "api",
        "denzel",
        "monitor",
        "redis",
    }
    for command in (["logs", "--service", "denzel", "--live"], ["logworker", "--live"], ["status", "--live"]):
        following = subprocess.Popen([DENZEL, *command], cwd=lab.root, stdout=subprocess.PIPE, text=True)
        assert following.stdout is not None
        assert following.stdout.readline()
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=30)
        assert following.returncode == 0, command


def test_shell_runs_what_is_piped_in(lab: Driven) -> None:
    folder = "/project" if lab.backend == "docker" else os.path.realpath(lab.root)
    assert lab.denzel("shell", stdin="pwd; echo $PROJECT_NAME\n").splitlines() == [folder, lab.name]
    lab.denzel("shell", stdin="exit 7\n", code=7)


def test_shell_is_interactive_at_a_terminal(lab: Driven) -> None:
    ours, theirs = pty.openpty()
    shell = subprocess.Popen([DENZEL, "shell"], cwd=lab.root, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = ""
    try:
        os.write(ours, b"test -t 0 && echo a-real-$((1 + 1))-terminal; exit\n")
        while "a-real-2-terminal" not in said:
            said += os.read(ours, 1024).decode(errors="replace")
        shell.wait(timeout=30)
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def test_a_requirement_that_cannot_be_installed_leaves_the_running_version_up(lab: Driven) -> None:
    process, requirements = lab.pid("api"), lab.root / "requirements.txt"
    requirements.write_text("numpy\nno-such-package-of-denzel\n")
    try:
        said = lab.denzel("updatereqs", code=1)
    finally:
        requirements.write_text("numpy\n")
    assert any("no-such-package-of-denzel" in line for line in said.splitlines() if line.startswith("Error: "))
    assert lab.states() == ALL_UP
    assert lab.pid("api") == process
    assert dotenv.read(lab.root / ".env")["PIP_REQUIREMENTS_UPDATED"] == ""


def test_new_packages_are_installed_and_imported(lab: Driven) -> None:
    (lab.root / "requirements.txt").write_text("numpy\nsix\n")
    updating = subprocess.Popen([DENZEL, "updatepipreqs"], cwd=lab.root, stdout=subprocess.PIPE, text=True)
    seen = until(
        lambda: lab.states()["api"] == "PIP INSTALLING..." or updating.poll() is not None,
        within=120,
        what="the installation to be announced",
    )
    announced = updating.poll() is None
    output, _ = updating.communicate(timeout=600)
    assert updating.returncode == 0, output
    assert seen
    assert announced
    assert lab.denzel("shell", stdin="python -c 'import six; print(six.__name__)'\n").split() == ["six"]
    assert dotenv.read(lab.root / ".env")["PIP_REQUIREMENTS_UPDATED"] != ""


def test_shutdown_keeps_tasks_and_launch_with_other_ports_runs_them(lab: Driven) -> None:
    installed = lab.installed()
    lab.order(load_for=5)
    lab.denzel("restart", "--no-wait")
    lab.until_the_api_is_up()
    task = lab.submit({"echo": "kept"})
    lab.denzel("shutdown")
    lab.denzel("shutdown")
    assert "The project is not launched." in lab.denzel("status", code=1)
    assert "The project is not launched." in lab.denzel("start", code=1)
    port = find_free_port()
    said = lab.denzel("launch", "--api-port", str(port))
    assert f"http://localhost:{port}/info" in said
    assert lab.ended(task)["result"]["echo"] == "kept"
    assert lab.installed() == installed, "nothing is installed again"
    lab.order()


def test_launch_names_the_taken_port_and_its_option(render: Render, lab: Driven) -> None:
    other = render(lab.backend)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--api-port", "--monitor-port"):
            said = other.denzel("launch", "--backend", lab.backend, option, str(port), code=1)
            assert f"Error: Port {port} is already taken" in said
            assert f"Hint: Pass another one with {option}." in said
    assert dotenv.read(other.root / ".env")["API_PORT"] != str(port)
    assert other.status() == {"launched": False}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_purge_asks_waits_for_nothing_that_runs_and_leaves_nothing(render: Render, backend: str) -> None:
    project = render(backend)
    # Longer than any command may take here.
    dotenv.change(project.root / ".env", {"STOP_TIMEOUT": "3600"})
    project.launch("--no-wait")
    project.until_the_api_is_up()
    task = project.submit({"sleep": 3600})
    until(lambda: project.task(task)["status"] == "STARTED", what="the task to run")
    said = project.denzel("shutdown", "--purge", code=1, stdin="n\n")
    assert "1 unfinished task and 0 unsent callbacks are stored" in said
    said = project.denzel("shutdown", "--purge", code=1)
    assert said.endswith("Error: There was no answer.\nHint: To go on without being asked, pass --yes.\n")
    assert project.task(task)["status"] == "STARTED"
    project.denzel("shutdown", "--purge", "--yes")
    project.denzel("shutdown", "--purge")
    assert "not launched" in project.denzel("status", code=1)
    if backend == "docker":
        label = f"label=com.docker.compose.project={project.name}"
        for kind in (["ps", "--all"], ["volume", "ls"], ["network", "ls"]):
            assert docker(*kind, "--quiet", "--filter", label) == ""
        assert docker("images", "--quiet", f"denzel/{project.name}") == ""
        assert docker("images", "--quiet", "redis:8") != ""
