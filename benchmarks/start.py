"""Time from `denzel start` to the first prediction, and to the return of the command.

Usage: python benchmarks/start.py PROJECT_FOLDER REQUEST.json [TIMES]; the project is launched, and is stopped first.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import requests

from denzel.project import dotenv


def first_answer(folder: Path, body: bytes) -> tuple[float, float]:
    """Seconds from `denzel start` to the first prediction, and to the end of the command."""
    denzel = str(Path(sys.executable).with_name("denzel"))
    port = dotenv.load(folder / ".env", {}).api_port
    subprocess.run([denzel, "stop"], cwd=folder, check=True, capture_output=True)
    started = time.monotonic()
    starting = subprocess.Popen([denzel, "start"], cwd=folder, stdout=subprocess.DEVNULL)
    while True:
        try:
            answer = requests.post(
                f"http://127.0.0.1:{port}/predict", data=body, headers={"Prefer": "wait=60"}, timeout=70
            )
        except requests.ConnectionError:
            time.sleep(0.02)
            continue
        if answer.status_code == 200:
            break
        time.sleep(0.02)
    answered = time.monotonic() - started
    if starting.wait():
        sys.exit("denzel start has failed")
    return answered, time.monotonic() - started


def main(folder: Path, request: Path, times: int) -> None:
    body = request.read_bytes()
    results = [first_answer(folder, body) for _ in range(times)]
    for answered, returned in results:
        print(f"first answer after {answered:5.2f} s, denzel start returned after {returned:5.2f} s")
    median = statistics.median(answered for answered, _ in results)
    print(f"median of the first answers: {median:.2f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 3)
