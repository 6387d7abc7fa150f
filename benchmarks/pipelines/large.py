"""The tutorial's pipeline, with 512 MB beside its model."""

import numpy as np

from app.logic import iris
from app.logic.iris import predict, process, verify_input

__all__ = ["load_model", "predict", "process", "verify_input"]


def load_model():
    """Load the classifier and 512 MB beside it, which are never read."""
    model = iris.load_model()
    model.ballast = np.ones(512 * 2**20 // 8)
    return model
