"""LitServe with batches of 32: python serve.py PORT PROCESSES."""

from __future__ import annotations

import sys
from typing import Any

import iris
import litserve


class Iris(litserve.LitAPI):
    """The tutorial's model."""

    def setup(self, device: str) -> None:
        self.model = iris.load_model()

    # LitServe reads the annotation: none stands for the JSON body as it is.
    def decode_request(self, request):
        return request

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: list[Any]) -> list[dict[str, str]]:
        return iris.predict_batch(self.model, inputs)

    def unbatch(self, output: list[dict[str, str]]) -> list[dict[str, str]]:
        return output

    def encode_response(self, output: dict[str, str]) -> dict[str, str]:
        return {name: str(label) for name, label in output.items()}


if __name__ == "__main__":
    api = Iris(max_batch_size=32, batch_timeout=0.001)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(sys.argv[2]))
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
