"""The tutorial's pipeline, called directly, as every peer serves it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pipeline  # examples/iris/pipeline.py


def load_model() -> Any:
    """The tutorial's model, and as many megabytes as MODEL_MB beside it."""
    model = pipeline.load_model()
    model.ballast = np.ones(int(os.environ.get("MODEL_MB", "0")) * 2**20 // 8)
    return model


def predict(model: Any, request: Any) -> dict[str, str]:
    """The answer to one request; raises the errors of verify_input."""
    return pipeline.predict(model, pipeline.process(model, pipeline.verify_input(request)))


def predict_batch(model: Any, requests: list[Any]) -> list[dict[str, str]]:
    """The answers to many requests, by one call of the model."""
    data = [pipeline.process(model, pipeline.verify_input(request)) for request in requests]
    labels = iter(model.predict(np.concatenate([rows for _, rows in data])))
    return [dict(zip(ids, labels, strict=False)) for ids, _ in data]
