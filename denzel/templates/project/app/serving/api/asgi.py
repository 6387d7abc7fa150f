"""ASGI entry point that gunicorn serves: `app`, wired from the environment and the user's pipeline."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from app.serving.api.app import create_app
from app.serving.api.predict import PipelineUnusable, VerifyInput
from app.serving.errors import describe
from app.serving.logs.current import logged_as
from app.serving.logs.lines import TaskFormatter, log_output
from app.serving.pipeline import PIPELINE, find_verify_input
from app.serving.queue.client import TaskQueue
from app.serving.settings import Settings
from app.serving.store.connection import connect

log = logging.getLogger("app")


def import_verify_input() -> VerifyInput:
    """The pipeline's verify_input; if it cannot be imported, one that rejects every request with the reason."""
    try:
        verify_input: VerifyInput = find_verify_input()
    except (Exception, SystemExit) as error:
        log.exception("%s cannot be imported", PIPELINE)
        cause = describe(error)
    else:
        return with_own_lines(verify_input)

    def reject(json_data: Any) -> Any:
        raise PipelineUnusable(cause)

    return reject


def with_own_lines(verify_input: VerifyInput) -> VerifyInput:
    """The function, with what it prints logged when it returns, also without a newline."""

    def verify(json_data: Any) -> Any:
        with logged_as():
            return verify_input(json_data)

    return verify


logging.basicConfig(level=logging.INFO)
for handler in logging.getLogger().handlers:
    handler.setFormatter(TaskFormatter("%(name)s"))
log_output(tuple(logging.getLogger().handlers), of_all_threads=False)
settings = Settings.from_environment(os.environ)
app = create_app(
    TaskQueue(connect(settings.redis_url), settings),
    import_verify_input(),
    info=Path("app/assets/info.txt"),
    settings=settings,
)
