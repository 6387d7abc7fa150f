"""Time and bytes of results: conversion to JSON values, and to text.

Usage: python benchmarks/json_results.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "denzel" / "templates" / "project"))

from app.serving.json_values import json_text, json_values

#: Repetitions, of which the quickest counts.
ROUNDS = 5


def results() -> dict[str, Any]:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "id": np.arange(20_000),
            "score": random.random(20_000),
            "label": random.choice(["setosa", "virginica"], 20_000),
            "when": pd.date_range("2025-01-01", periods=20_000, freq="min"),
        }
    )
    boxes = random.random((10_000, 3, 4))
    return {
        "a plain dict of 3 strings": {"a": "setosa", "b": "virginica", "c": "versicolor"},
        "an array of 10,000 x 3 x 4 floats": {"boxes": boxes},
        "the same as lists": {"boxes": boxes.tolist()},
        "an array of 1,000,000 floats": {"row": random.random(1_000_000)},
        "the same with a NaN": {"row": np.append(random.random(999_999), np.nan)},
        "a DataFrame of 20,000 records": {"rows": frame},
        "the same as to_dict('records')": {"rows": frame.drop(columns="when").to_dict("records")},
    }


def quickest(function: Any, argument: Any) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        function(argument)
        times.append(time.perf_counter() - began)
    return min(times) * 1000


def main() -> None:
    print(f"{'':38}{'values ms':>11}{'text ms':>11}{'bytes':>13}")
    for name, result in results().items():
        values = json_values(result)
        size = len(json_text(values).encode())
        print(f"{name:38}{quickest(json_values, result):11.3f}{quickest(json_text, values):11.3f}{size:13,}")


if __name__ == "__main__":
    main()
