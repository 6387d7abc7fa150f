"""What gunicorn serves: `app`, wired from the environment and the user's pipeline."""

from __future__ import annotations

import importlib
import logging
import os
from pathlib import Path
from typing import Any

from app.api import PipelineUnusable, VerifyInput, create_app
from app.broker import connect
from app.predictor import PIPELINE, describe
from app.queue import TaskQueue
from app.settings import Settings

log = logging.getLogger("app")


def import_verify_input() -> VerifyInput:
    """The pipeline's verify_input; one that answers every request with the reason when it can not be imported."""
    try:
        verify_input: VerifyInput = importlib.import_module(PIPELINE).verify_input
    except (Exception, SystemExit) as error:
        log.exception("%s can not be imported", PIPELINE)
        cause = describe(error)
    else:
        return verify_input

    def refuse(json_data: Any) -> Any:
        raise PipelineUnusable(cause)

    return refuse


logging.basicConfig(level=logging.INFO, format="[%(asctime)s: %(levelname)s/%(name)s] %(message)s")
settings = Settings.from_environment(os.environ)
app = create_app(
    TaskQueue(connect(settings.redis_url), settings),
    import_verify_input(),
    info=Path("app/assets/info.txt"),
    settings=settings,
)
