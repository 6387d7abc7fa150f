"""ASGI application: routes, error handlers and authorization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import falcon
import falcon.asgi

from app.serving.api import problems
from app.serving.api.auth import Authorization
from app.serving.api.events import Events
from app.serving.api.predict import Predict, VerifyInput
from app.serving.api.resources import Info, Live, Ready, Status
from app.serving.queue.client import BrokerAway, TaskQueue
from app.serving.settings import Settings


def create_app(queue: TaskQueue, verify_input: VerifyInput, *, info: Path, settings: Settings, fault: str = "") -> Any:
    """Build the application over a queue, the user's verify_input and the file that GET /info serves.

    `fault` is why the pipeline cannot be used, if so.
    """
    authorization = Authorization(settings.api_keys)
    predict = Predict(queue, verify_input, authorization, settings)
    events = Events(queue, authorization)
    app = falcon.asgi.App(middleware=[authorization])
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = falcon.media.JSONHandler()
    app.set_error_serializer(problems.serialize)
    app.add_error_handler(BrokerAway, problems.broker_away)
    app.add_sink(problems.unknown_path)
    app.add_route("/info", Info(info))
    app.add_route("/predict", predict)
    app.add_route("/status/{task_id}", Status(queue))
    app.add_route("/status/{task_id}/events", events)
    for prefix in ("/health", "/v2/health"):
        app.add_route(f"{prefix}/live", Live())
        app.add_route(f"{prefix}/ready", Ready(queue, fault))
    return predict.before(events.before(app))
