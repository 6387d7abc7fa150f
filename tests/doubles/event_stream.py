"""An api that streams a task's events, as far as a test asks for it."""

from __future__ import annotations

from doubles.receiver import Handler, Server

STARTED = b'id: 1\nevent: started\ndata: {"delivery": 1}\n\n'
OUTPUT = b'id: 2\nevent: output\ndata: "the"\n\n'
ENDED = b'id: 3\nevent: ended\ndata: {"status": "SUCCESS"}\n\n'


class EventApi(Server):
    """Answers each request with the next of these: a status with a problem, or parts of a stream that breaks off."""

    def __init__(self, *answers: int | list[bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = list(answers)
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.address = "127.0.0.1", self.server_port


class _Handler(Handler):
    server: EventApi

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        answer = self.server.answers.pop(0)
        if isinstance(answer, int):
            self.answer_json(answer, {"description": f"the answer is {answer}"})
            return
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in answer:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
