"""A pipeline whose behaviour the request chooses, for tests on real services."""

import ctypes
import json
import os
import pathlib
import signal
import time

ASSETS = pathlib.Path("./app/assets")
ORDERS = ASSETS / "orders.json"
VERSION = 1


def orders():
    return json.loads(ORDERS.read_text()) if ORDERS.exists() else {}


def verify_input(json_data):
    time.sleep(json_data.get("verify for", 0))
    if json_data.get("refuse"):
        raise ValueError(json_data["refuse"])
    return json_data


def load_model():
    time.sleep(orders().get("load for", 0))
    while "load until" in orders() and not (ASSETS / orders()["load until"]).exists():
        time.sleep(0.05)
    if "crash" in orders():
        ctypes.string_at(0)
    if "fail with" in orders():
        raise RuntimeError(orders()["fail with"])
    return {"loaded by": os.getpid()}


def process(model, json_data):
    print(f"processing {json_data}")
    return json_data


def predict(model, data):
    import numpy as np

    while "until" in data and not (ASSETS / data["until"]).exists():
        time.sleep(0.05)
    time.sleep(data.get("sleep", 0))
    if data.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if "allocate" in data:
        data["allocated"] = [bytearray(b"x" * 2**20) for _ in range(data["allocate"])]
    if "raise" in data:
        raise RuntimeError(data["raise"])
    if data.get("figure"):
        return {"a123": [1, 2, object()]}
    if data.get("numpy"):
        return {
            "label": np.str_("setosa"),
            "count": np.int64(3),
            "row": np.array([[1.5, np.nan]]),
            "yes": np.bool_(True),
        }
    return {"version": VERSION, "loaded by": model["loaded by"], "pid": os.getpid(), "echo": data.get("echo")}
