"""An application that writes down every request it gets, byte for byte, and shows it to the caller.

``witness.py PORT FILE``: one JSON line for each request. What is not in the file never got here.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Witness(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen = Path()

    def __getattr__(self, name: str) -> Any:
        # The server asks for `do_<METHOD>`; here every method is one.
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length).decode("latin-1")
        request = {
            "method": self.command,
            "target": self.path,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "body": body,
        }
        line = json.dumps(request).encode()
        with self.seen.open("ab") as log:
            log.write(line + b"\n")
        if self.headers.get("upgrade", "").lower() == "websocket":
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.end_headers()
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(line)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(line)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base
        """Say nothing: the file says it all."""


if __name__ == "__main__":
    Witness.seen = Path(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Witness).serve_forever()
