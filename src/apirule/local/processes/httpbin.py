"""The real httpbin, as a program: ``python -m apirule.local.processes.httpbin ADDRESS``.

``ADDRESS`` is ``unix:/path`` or ``127.0.0.1:port``. waitress serves it: one process, answers
chunked requests, and 25 MB smaller than gunicorn with its two.
"""

from __future__ import annotations

import signal
import sys


def main(address: str) -> None:
    """Serve until SIGTERM."""
    import httpbin  # type: ignore[import-untyped]  # noqa: PLC0415 - of the extra "demo"
    import waitress  # type: ignore[import-untyped]  # noqa: PLC0415

    path = address.removeprefix("unix:")
    where = {"listen": address} if path == address else {"unix_socket": path}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    waitress.serve(
        httpbin.app,
        **where,
        unix_socket_perms="600",
        threads=8,
        ident=None,
        # It is behind a proxy of ours, whose headers it must show as they came.
        clear_untrusted_proxy_headers=False,
    )


if __name__ == "__main__":
    main(sys.argv[1])
