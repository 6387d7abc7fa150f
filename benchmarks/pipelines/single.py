"""The tutorial's pipeline as it is."""

from app.logic.iris import load_model, predict, process, verify_input

__all__ = ["load_model", "predict", "process", "verify_input"]
