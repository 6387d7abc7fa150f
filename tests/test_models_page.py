"""docs/models.md: the function of the page that keeps downloads, as it stands there."""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.paths import REPOSITORY
from support.waiting import until

Cached = Callable[[str, Callable[[str], Any]], Path]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    page = (REPOSITORY / "docs" / "models.md").read_text()
    (source,) = re.findall(r"```python\n(import fcntl\n.*?)```", page, re.DOTALL)
    module: dict[str, Any] = {}
    exec(source, module)
    function: Cached = module["cached"]
    return function


def test_of_several_processes_one_downloads(cached: Cached, tmp_path: Path) -> None:
    def download(path: str) -> None:
        with (tmp_path / "downloads").open("a") as log:
            log.write(f"{os.getpid()}\n")
        until(lambda: len(list(tmp_path.glob("begun-*"))) == 4, within=30, what="the others to come too")
        Path(path).write_text("the model")

    def load_model() -> None:
        (tmp_path / f"begun-{os.getpid()}").touch()
        assert cached("iris-7.pkl", download).read_text() == "the model"

    processes = [multiprocessing.get_context("fork").Process(target=load_model) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len((tmp_path / "downloads").read_text().split()) == 1


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_download_that_was_cut_off_is_made_again(cached: Cached, is_folder: bool) -> None:
    def write(path: str, text: str) -> None:
        file = Path(path, "MLmodel") if is_folder else Path(path)
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)

    def fail(path: str) -> None:
        write(path, "half")
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        cached("iris-1", fail)
    path = cached("iris-1", lambda path: write(path, "whole"))
    assert (path / "MLmodel" if is_folder else path).read_text() == "whole"
