"""Receive callbacks and print each one: the path it came to, and its JSON body.

Usage: python receiver.py PORT, until Ctrl-C. Listens on every interface, so that containers of this machine reach it.
"""

import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print(self.path, body.decode(), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        """Be quiet: the callbacks are all there is to print."""


port = int(sys.argv[1])
with ThreadingHTTPServer(("0.0.0.0", port), Receiver) as server, suppress(KeyboardInterrupt):
    print(f"listening on port {port}", flush=True)
    server.serve_forever()
