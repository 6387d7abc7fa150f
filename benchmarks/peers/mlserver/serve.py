"""MLServer with a runtime of our own, over its V2 protocol: python serve.py PORT PROCESSES."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import iris
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Iris(MLModel):
    """The tutorial's model; the rows come as a tensor."""

    async def load(self) -> bool:
        self.model = iris.load_model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        labels = self.model.predict(NumpyCodec.decode_input(payload.inputs[0]))
        output = StringCodec.encode_output("predict", [str(label) for label in labels])
        return InferenceResponse(model_name=self.name, outputs=[output])


if __name__ == "__main__":
    port, processes = sys.argv[1:]
    # Its two other servers get ports of their own beside the first.
    settings = {
        "host": "127.0.0.1",
        "http_port": int(port),
        "grpc_port": int(os.environ["SECOND_PORT"]),
        "metrics_endpoint": None,
        "parallel_workers": int(processes),
        "debug": False,
    }
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps({"name": "iris", "implementation": "serve.Iris"}))
    os.execvp("mlserver", ["mlserver", "start", str(folder)])
