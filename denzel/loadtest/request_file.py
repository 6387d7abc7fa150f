"""Request files: one request in JSON, a list of them, or JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from denzel.errors import RequestUnusable

_HINT = "Name a file with a request, or a list of requests, as POST /predict takes them: --file FILE"


def read_requests(path: Path) -> list[dict[str, Any]]:
    """The requests in a file: one in JSON, a list of them, or one in each line; raises RequestUnusable."""
    try:
        content = _parse(path, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestUnusable(f"{path} cannot be read: {error.strerror}.", hint=_HINT) from None
    except (ValueError, RecursionError) as error:
        raise RequestUnusable(f"{path} is not JSON: {error}.", hint=_HINT) from None
    requests = content if isinstance(content, list) else [content]
    if not requests:
        raise RequestUnusable(f"{path} holds no request.", hint=_HINT)
    for request in requests:
        if not isinstance(request, dict):
            raise RequestUnusable(
                f"{path} holds {json.dumps(request)[:60]}, which is not a JSON object: it cannot have a callback_uri.",
                hint=_HINT,
            )
    return requests


def _parse(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        whole = error
    requests = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            requests += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            # Not even a first line that is JSON by itself: these are no JSON lines.
            if not requests:
                raise whole from None
            raise RequestUnusable(f"Line {number} of {path} is not JSON: {error}.", hint=_HINT) from None
    return requests
