"""The pipeline of the Iris classifier: the tutorial's four functions."""

import pickle

import numpy as np

FEATURES = ["sepal-length", "sepal-width", "petal-length", "petal-width"]


# ---------------------------- runs in the api ----------------------------


def verify_input(json_data):
    """Check that a request names a callback and has four measurements for each example."""
    if "callback_uri" not in json_data:
        raise ValueError("callback_uri not supplied")
    if "data" not in json_data:
        raise ValueError("no data to predict for!")
    if not isinstance(json_data["data"], dict):
        raise ValueError('json_data["data"] must be a mapping between unique id and features')
    for features in json_data["data"].values():
        if not all(name in features for name in FEATURES):
            raise ValueError(f"For each example all of the features [{FEATURES}] must be present")
        if not all(isinstance(value, float) for value in features.values()):
            raise ValueError("All feature values must be floats")
    return json_data


# --------------------------- runs in the worker --------------------------


def load_model():
    """Load the trained classifier."""
    with open("./app/assets/iris_svc.pkl", "rb") as file:
        return pickle.load(file)


def process(model, json_data):
    """Put the measurements of each example in the order the model was trained with."""
    ids = list(json_data["data"])
    rows = [[features[name] for name in FEATURES] for features in json_data["data"].values()]
    return ids, np.array(rows)


def predict(model, data):
    """Name the species of each example."""
    ids, rows = data
    return dict(zip(ids, model.predict(rows)))
