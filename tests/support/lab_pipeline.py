"""A pipeline whose behaviour the request chooses, for tests on real services; paths start at the project's folder."""

import contextlib
import ctypes
import json
import os
import signal
import time
from pathlib import Path

ORDERS = Path("app/assets/orders.json")
VERSION = 1

#: How often this process, or one that it was forked from, has loaded the model.
loads = 0


def orders():
    return json.loads(ORDERS.read_text()) if ORDERS.exists() else {}


def until_there(path):
    while not Path(path).exists():
        time.sleep(0.02)


def verify_input(json_data):
    time.sleep(json_data.get("verify for", 0))
    if json_data.get("print"):
        print("verify_input", "prints", json_data["print"], end="")
    if json_data.get("refuse"):
        raise ValueError(json_data["refuse"])
    return json_data


def load_model():
    global loads
    print("loading the model", flush=True)
    time.sleep(orders().get("load for", 0))
    if "load until" in orders():
        until_there(orders()["load until"])
    if "crash" in orders():
        ctypes.string_at(0)
    if "exit with" in orders():
        os._exit(orders()["exit with"])
    if "fail with" in orders():
        raise RuntimeError(orders()["fail with"])
    loads += 1
    # In a container nothing can be written here.
    with contextlib.suppress(OSError), Path("loads").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return {"loaded by": os.getpid(), "loads": loads}


def process(model, json_data):
    print(f"processing {json_data}")
    return json_data


def predict(model, data):
    if "count" in data:
        with Path(data["count"]).open("a") as file:
            file.write(".")
    if "once" in data:
        if Path(data["once"]).exists():
            return {"run": "again"}
        Path(data["once"]).touch()
    if "yield" in data:
        return numbers(data)
    if "until" in data:
        until_there(data["until"])
    time.sleep(data.get("sleep", 0))
    if data.get("die") and not Path(data.get("unless", "never")).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if data.get("crash"):
        ctypes.string_at(0)
    if "allocate" in data:
        data["allocated"] = [bytearray(b"x" * 2**20) for _ in range(data["allocate"])]
    if "exit" in data:
        raise SystemExit(data["exit"])
    if "raise" in data:
        raise RuntimeError(data["raise"])
    return {"version": VERSION, **model, "pid": os.getpid(), "echo": data.get("echo")}


def numbers(data):
    """Yields so many numbers, and in the middle does what the request says."""
    # Here: an earlier release has no such package.
    from app.serving import progress

    for number in range(data["yield"]):
        if number == data["yield"] // 2:
            if "until" in data:
                until_there(data["until"])
            if data.get("die") and not Path(data["unless"]).exists():
                Path(data["unless"]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        yield number
        progress((number + 1) / data["yield"], f"number {number + 1}")
        time.sleep(data.get("pause", 0))
