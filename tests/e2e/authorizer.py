"""An external authorizer for the tests: it lets in whoever sends ``x-pass: yes``."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Authorizer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        passes = self.headers.get("x-pass") == "yes"
        self.send_response(200 if passes else 403)
        self.send_header("x-user", "ada")
        self.send_header("x-reason", "no pass")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Authorizer).serve_forever()
