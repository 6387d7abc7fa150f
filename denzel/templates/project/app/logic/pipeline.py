"""The four functions that make this project yours. Edit their bodies, then type `denzel restart`.

Paths are relative to the project folder: put model files in ./app/assets. Put functions of your own in modules beside
this file and import them as `from app.logic import my_module`.
"""


# ---------------------------- runs in the api ----------------------------


def verify_input(json_data):
    """Check that your model can work with a request.

    :param json_data: the parsed JSON body of the request, usually a dict
    :return: what `process` gets, as JSON values; usually json_data itself
    :raises Exception: any exception; its message is what the client reads, with status 400
    """
    return json_data


# --------------------------- runs in the worker --------------------------


def load_model():
    """Load the model, and whatever it needs, into memory; called once in each process that predicts.

    :return: the model, handed to `process` and `predict`
    """
    return None


def process(model, json_data):
    """Turn a verified request into the model's input.

    :param model: what `load_model` returned
    :param json_data: what `verify_input` returned
    :return: what `predict` gets; anything, it does not leave this process
    """
    return json_data


def predict(model, data):
    """Predict, and return the result.

    :param model: what `load_model` returned
    :param data: what `process` returned
    :return: a dict or a list, which may hold NumPy's arrays, pandas' tables, dates and the like
    :raises BadInput: of app.serving: the client is to mend the request
    """
    raise NotImplementedError("predict is not written yet: edit app/logic/pipeline.py")


# A function predict_batch(model, list_of_data), beside predict, gets what `process` returned for several tasks that wait,
# and returns a list with the result of each, in the same order. It is called instead of `predict`.
