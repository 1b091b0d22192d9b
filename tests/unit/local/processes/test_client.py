"""How the control plane asks the supervisor, with a supervisor of this test."""

import socket
import tempfile
from pathlib import Path

import anyio
import anyio.lowlevel

from apirule.local.processes.client import SupervisorClient
from apirule.local.processes.protocol import SOCKET


async def test_an_answer_that_comes_with_the_cancellation_is_no_error() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/{SOCKET}")
        server.listen()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(SupervisorClient(Path(folder)).ask, "list")
            await anyio.wait_readable(server)
            asked, _ = server.accept()
            with asked:
                await anyio.wait_readable(asked)

                asked.sendall(b'{"id": 1}\n')
                # The loop sees the answer and this task's next step in one and the same turn.
                await anyio.lowlevel.cancel_shielded_checkpoint()
                tasks.cancel_scope.cancel()
