"""ASGI application: routes, error handlers and authorization."""

from __future__ import annotations

from pathlib import Path

import falcon
import falcon.asgi

from app.serving.api import problems
from app.serving.api.auth import Authorization
from app.serving.api.resources import Info, Live, Predict, Ready, Status, VerifyInput
from app.serving.queue.client import BrokerAway, TaskQueue
from app.serving.settings import Settings

AsgiApp = falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]


def create_app(queue: TaskQueue, verify_input: VerifyInput, *, info: Path, settings: Settings) -> AsgiApp:
    """Build the application over a queue, the user's verify_input and the file that GET /info serves."""
    app = falcon.asgi.App(middleware=[Authorization(settings.api_keys)])
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = falcon.media.JSONHandler()
    app.set_error_serializer(problems.serialize)
    app.add_error_handler(BrokerAway, problems.broker_away)
    app.add_sink(problems.unknown_path)
    app.add_route("/info", Info(info))
    app.add_route("/predict", Predict(queue, verify_input, settings))
    app.add_route("/status/{task_id}", Status(queue))
    for prefix in ("/health", "/v2/health"):
        app.add_route(f"{prefix}/live", Live())
        app.add_route(f"{prefix}/ready", Ready(queue))
    return app
