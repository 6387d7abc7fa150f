"""ASGI entry point that gunicorn serves: `app`, wired from the environment and the user's pipeline."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from app.serving.api.app import create_app
from app.serving.api.predict import PipelineUnusable, VerifyInput
from app.serving.contract import ContractError
from app.serving.errors import describe
from app.serving.logs.current import logged_as
from app.serving.logs.lines import TaskFormatter, log_output
from app.serving.pipeline import PIPELINE, find_verify_input
from app.serving.queue.client import TaskQueue
from app.serving.settings import Settings
from app.serving.store.connection import connect

log = logging.getLogger("app")


def import_verify_input() -> tuple[VerifyInput, str]:
    """The pipeline's verify_input, and an empty text; if the pipeline cannot be used, one that rejects every request
    with the reason, and that.
    """
    try:
        return with_own_lines(find_verify_input()), ""
    except ContractError as error:
        fault = f"pipeline.py cannot be used: {error}"
        log.error(fault)
    except (Exception, SystemExit) as error:
        log.exception("%s cannot be imported", PIPELINE)
        fault = f"pipeline.py cannot be imported: {describe(error)}"

    def reject(json_data: Any) -> Any:
        raise PipelineUnusable(fault)

    return reject, fault


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
verify_input, fault = import_verify_input()
app = create_app(
    TaskQueue(connect(settings.redis_url), settings),
    verify_input,
    info=Path("app/assets/info.txt"),
    settings=settings,
    fault=fault,
)
