"""Bare FastAPI under uvicorn: python serve.py PORT PROCESSES."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import iris
import uvicorn
from fastapi import FastAPI

#: Callbacks in flight.
SENDERS = 32


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.model = iris.load_model()
    app.state.accepted = asyncio.Queue()
    async with aiohttp.ClientSession() as session:
        senders = [asyncio.create_task(send(app, session)) for _ in range(SENDERS)]
        yield
        for sender in senders:
            sender.cancel()


async def send(app: FastAPI, session: aiohttp.ClientSession) -> None:
    while True:
        request = await app.state.accepted.get()
        async with session.post(request["callback_uri"], json=iris.predict(app.state.model, request)):
            pass


app = FastAPI(lifespan=lifespan)


# Not in a thread: the model takes less time than the way to one.
@app.post("/predict")
async def predict(request: dict[str, Any]) -> dict[str, str]:
    return iris.predict(app.state.model, request)


@app.post("/accept")
async def accept(request: dict[str, Any]) -> dict[str, str]:
    """Answers at once; the prediction is posted later, from memory."""
    app.state.accepted.put_nowait(request)
    return {"task_id": str(uuid.uuid4())}


if __name__ == "__main__":
    uvicorn.run("serve:app", host="127.0.0.1", port=int(sys.argv[1]), workers=int(sys.argv[2]), access_log=False)
