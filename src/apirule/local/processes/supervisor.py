"""The parent of every program: starts, restarts and stops them, and keeps their logs.

``python -m apirule.local.processes.supervisor --state DIR``. It lives while the control plane is
restarted, so it must not fail and must not grow: standard library only, one thread, one event
loop, no state on disk. It knows nothing of Pods; a process has a name, a kind (the order in which
all are stopped), and a restart policy.

A process is ``running``, ``stopping``, ``backing-off`` (restarted at ``retry_at``) or ``exited``
(and kept until somebody reads it and stops it).
"""

from __future__ import annotations

import heapq
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from apirule.local.processes import guard, protocol
from apirule.local.processes.child import START_FAILED, Log, StartFailed, read_output, spawn
from apirule.local.processes.lock import sign_lock, take_lock
from apirule.local.processes.peers import Peer, listen
from apirule.local.processes.process import Process
from apirule.local.processes.protocol import Message, Refused
from apirule.local.processes.vigil import Vigil

_Answer = Callable[[Message], None]
_Operation = Callable[[Message, _Answer, Peer], None]

_DRAIN_READS = 64
"""Reads of the output that an ended process left in its pipe: up to 4 MiB."""


class Supervisor:
    """``now`` reads the wall clock; only what is shown uses it. ``guarded_by``: a pid."""

    def __init__(self, run: Path, *, now: Callable[[], float], guarded_by: int) -> None:
        self._run = run
        self._guarded_by = guarded_by
        self._now = now
        self._selector = selectors.DefaultSelector()
        self._processes: dict[str, Process] = {}
        self._by_pid: dict[int, Process] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._revision = 0
        self._peers: set[Peer] = set()
        self._progress: list[Message] = []
        self._shutting_down = False
        self._done = False
        self._on_shutdown: list[Callable[[], None]] = []

    def serve(self, *, started: Callable[[], None]) -> None:
        """Serve until shut down; ``started`` is called when clients can connect."""
        guard.adopt_orphans()
        server = listen(self._run / protocol.SOCKET)
        self._selector.register(server, selectors.EVENT_READ, lambda: self._accept(server))
        signals = self._watch_signals()
        started()
        try:
            while not self._done or any(peer.has_output for peer in self._peers):
                for key, _ in self._selector.select(self._until_next_timer()):
                    # What one call closes, and perhaps opens anew under the same number, is not
                    # what the next event of this round was about.
                    if self._selector.get_map().get(key.fd) is key:
                        _survive(key.data)
                self._run_timers()
        finally:
            (self._run / protocol.SOCKET).unlink(missing_ok=True)
            for peer in tuple(self._peers):
                peer.close()
            server.close()
            signal.set_wakeup_fd(-1)
            signals.close()

    # Requests.

    def handle(self, request: Message, peer: Peer) -> None:
        """Carry out one request of a peer, and answer it, perhaps later."""
        operation = getattr(self, f"_op_{request.get('op')}", None)
        if operation is None:
            raise Refused(
                f"operation {request.get('op')!r} is unknown",
                "Let the command line and the running supervisor be of one version: apirule down, "
                "then apirule up.",
            )
        operation(request, lambda result: peer.send({"id": request.get("id"), **result}), peer)

    def _op_start(self, request: Message, answer: _Answer, peer: Peer) -> None:
        if self._shutting_down:
            raise Refused("everything is being stopped", "Wait for it, then run apirule up.")
        definition: Message = request["process"]
        protocol.check_definition(definition)
        known = self._processes.get(definition["name"])
        if known is None:
            answer({"process": self._add(definition).describe(), "adopted": False})
        elif known.state != "stopping" and protocol.same_definition(known.definition, definition):
            answer({"process": known.describe(), "adopted": True})
        else:

            def stopped() -> None:
                self._forget(known)
                self._answered(self._op_start, request, answer, peer)

            self._stop(known, stopped)

    def _op_run(self, request: Message, answer: _Answer, peer: Peer) -> None:
        """Run a session: as the process it is ``within`` runs, and no longer than that or the peer.

        The peer gets the answer when it has started, and an event when it has ended.
        """
        if self._shutting_down:
            raise Refused("everything is being stopped", "Wait for it, then run apirule up.")
        definition: Message = request["process"]
        protocol.check_definition(definition)
        host = self._processes.get(definition["within"])
        if host is None or host.state != "running":
            raise Refused(f"{definition['within']} does not run", "List them: apirule status.")
        if definition["name"] in self._processes:
            raise Refused(f"there is a process {definition['name']} already")
        environment = {**host.definition.get("env", {}), **definition.get("env", {})}
        place = {"cwd": host.definition["cwd"]} if "cwd" in host.definition else {}
        process = self._add({**place, **definition, "env": environment, "restart": "never"})
        answer({"process": process.describe()})
        if process.state == "exited":
            self._forget(process)
            return

        def ended() -> None:
            peer.send({"event": "ended", "last": process.last})
            self._forget(process)

        process.on_exit = ended
        peer.on_close.append(lambda: self._stop(process, lambda: None))

    def _op_stop(self, request: Message, answer: _Answer, _: Peer) -> None:
        process = self._processes.get(request["name"])
        if process is None:
            answer({"stopped": False})
            return

        def stopped() -> None:
            self._forget(process)
            answer({"stopped": True, "last": process.last})

        self._stop(process, stopped, grace_s=request.get("grace_s"))

    def _op_restart(self, request: Message, answer: _Answer, _: Peer) -> None:
        process = self._processes.get(request["name"])
        if process is None:
            raise Refused(f"no process is named {request['name']}", "List them: apirule status.")

        def stopped() -> None:
            process.coming_back = False
            if not self._shutting_down and process.name in self._processes:
                process.failures = 0
                self._restart(process)
            answer({"process": process.describe()})

        process.coming_back = True
        self._stop(process, stopped)

    def _op_fail(self, request: Message, answer: _Answer, _: Peer) -> None:
        """End a process that does not do its work; then all is as if it had ended by itself."""
        process = self._processes.get(request["name"])
        if process is None or process.state != "running":
            answer({"process": process.describe() if process else None})
            return
        self._stop(process, lambda: answer({"process": process.describe()}))
        process.failing = True

    def _op_alive(self, request: Message, answer: _Answer, _: Peer) -> None:
        """Hear that a process is well. Who has said so once is killed if it then falls silent."""
        process = self._processes.get(request["name"])
        if process and process.state == "running" and process.vigil is None:
            process.vigil = Vigil(float(request["within_s"]), time.monotonic())
            self._watch(process, process.vigil)
        elif process and process.vigil:
            process.vigil.hear()
        answer({})

    def _watch(self, process: Process, vigil: Vigil) -> None:
        def look() -> None:
            if process.vigil is not vigil or process.state != "running":
                return
            if not vigil.look(time.monotonic()):
                self._watch(process, vigil)
                return
            text = f"{process.name} hangs: silent for {vigil.within_s:g} s, killed\n"
            sys.stderr.write(text)
            if process.log:
                process.log.write(text.encode())
            guard.kill(process.pid, signal.SIGKILL)

        self._after(vigil.every_s, look)

    def _op_list(self, request: Message, answer: _Answer, _: Peer) -> None:
        processes = [process.describe() for process in self._processes.values()]
        answer({"processes": processes, "pid": os.getpid(), "guard": self._guarded_by})

    def _op_subscribe(self, request: Message, answer: _Answer, peer: Peer) -> None:
        """Answer what there is now; from then on the peer gets every event."""
        peer.subscribed = True
        processes = [process.describe() for process in self._processes.values()]
        answer({"processes": processes, "progress": self._progress, "pid": os.getpid()})

    def _op_publish(self, request: Message, answer: _Answer, _: Peer) -> None:
        event = {"event": "progress", "at": self._now(), "progress": request.get("progress")}
        self._progress = [*self._progress, event][-protocol.KEPT_PROGRESS :]
        self._emit(event)
        answer({})

    def _op_shutdown(self, request: Message, answer: _Answer, _: Peer) -> None:
        self._shut_down(lambda: answer({"stopped": True}))

    def _answered(
        self, operation: _Operation, request: Message, answer: _Answer, peer: Peer
    ) -> None:
        """Carry out what had to wait; a refusal is an answer too."""
        try:
            operation(request, answer, peer)
        except Refused as refusal:
            answer({"error": {"message": refusal.message, "fix": refusal.fix}})

    # Processes.

    def _add(self, definition: Message) -> Process:
        process = Process(definition)
        self._processes[process.name] = process
        self._start(process)
        return process

    def _start(self, process: Process) -> None:
        process.ticket += 1
        process.started_at, process.started = self._now(), time.monotonic()
        process.vigil = None
        if process.definition["kind"] == "control-plane":
            self._progress = []  # told by the one that ended
        try:
            if process.log:
                process.log.begin(fresh=process.definition.get("fresh_log", False))
            process.pid, process.output = spawn(process.definition)
        except (StartFailed, OSError) as error:
            self._ended(process, {"code": START_FAILED, "signal": 0, "error": str(error)})
            return
        process.state = "running"
        self._by_pid[process.pid] = process
        self._selector.register(
            process.output, selectors.EVENT_READ, lambda: self._copy_output(process)
        )
        self._report("started", process)

    def _restart(self, process: Process) -> None:
        process.restarts += 1
        self._start(process)

    def _ended(self, process: Process, how: Message) -> None:
        process.pid = 0
        process.ticket += 1
        stopping = process.state == "stopping" and not process.failing
        process.last = {**how, "started_at": process.started_at, "finished_at": self._now()}
        steady_s = protocol.HEALTHY_S if process.failing else protocol.STEADY_S
        steady = time.monotonic() - process.started >= steady_s
        process.failing = False
        process.failures = 1 if steady else process.failures + 1
        restarts = not stopping and not self._shutting_down and process.wants_restart()
        delay_s = self._back_off(process) if restarts else 0.0
        if not restarts:
            # Whoever watches must not take a pause for the end.
            process.state = "backing-off" if process.coming_back else "exited"
        self._report("exited", process)
        if delay_s:
            self._report("backing-off", process, delay_s=delay_s)
        process.on_exit()
        self._call_ended(process)

    def _back_off(self, process: Process) -> float:
        delay_s = protocol.backoff_s(process.failures)
        process.state = "backing-off"
        process.retry_at = self._now() + delay_s
        ticket = process.ticket

        def retry() -> None:
            if process.ticket == ticket:
                self._restart(process)

        self._after(delay_s, retry)
        return delay_s

    def _stop(
        self, process: Process, then: Callable[[], None], *, grace_s: float | None = None
    ) -> None:
        """End a process and call ``then`` when nothing of it is left."""
        process.on_end.append(then)
        process.failing = False
        if process.state == "stopping" and grace_s is None:
            return
        if not process.pid:
            process.ticket += 1
            process.state = "exited"
            self._call_ended(process)
            return
        if process.state != "stopping":
            guard.kill_group(process.pid, process.definition.get("signal", signal.SIGTERM))
        process.state = "stopping"
        process.ticket += 1
        ticket, pid = process.ticket, process.pid
        if grace_s is None:
            grace_s = process.definition.get("grace_s", protocol.DEFAULT_GRACE_S)

        def lost_patience() -> None:
            if process.ticket == ticket:
                guard.kill(pid, signal.SIGKILL)

        self._after(grace_s, lost_patience)

    def _call_ended(self, process: Process) -> None:
        waiting, process.on_end = process.on_end, []
        for call in waiting:
            call()

    def _forget(self, process: Process) -> None:
        if self._processes.get(process.name) is process and not process.pid:
            del self._processes[process.name]
            self._report("removed", process)
        if process.log:
            process.log.close()

    def _copy_output(self, process: Process) -> bool:
        """Move output to the log; False when there is nothing more for now."""
        text = read_output(process.output)
        if text and process.log:
            process.log.write(text)
        if text == b"":  # it closed its output and lives on
            self._close_output(process)
        return bool(text)

    def _close_output(self, process: Process) -> None:
        if process.output >= 0:
            self._selector.unregister(process.output)
            os.close(process.output)
            process.output = -1

    def _reap(self) -> None:
        for pid, status in _ended_children():
            process = self._by_pid.pop(pid, None)
            # What was below it is below us now.
            guard.end_strays(self._by_pid)
            if process is None:
                continue  # an orphan we adopted
            self._end_sessions(process)
            for _ in range(_DRAIN_READS):
                if process.output < 0 or not self._copy_output(process):
                    break
            self._close_output(process)
            code = os.waitstatus_to_exitcode(status)
            self._ended(
                process, {"code": code if code >= 0 else 128 - code, "signal": max(-code, 0)}
            )

    def _end_sessions(self, host: Process) -> None:
        for process in self._processes.values():
            if process.definition.get("within") == host.name and process.pid:
                guard.kill(process.pid, signal.SIGKILL)

    # Shutting down.

    def _shut_down(self, then: Callable[[], None]) -> None:
        self._on_shutdown.append(then)
        if not self._shutting_down:
            self._shutting_down = True
            self._emit({"event": "shutting-down"})
            self._stop_kinds(iter(protocol.STOP_ORDER))

    def _stop_kinds(self, kinds: Iterator[str]) -> None:
        """Stop all of one kind, then all of the next."""
        kind = next(kinds, None)
        if kind is None:
            for call in self._on_shutdown:
                call()
            self._done = True
            return
        waiting = [p for p in self._processes.values() if p.definition["kind"] == kind]
        left = len(waiting)

        def one_ended() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self._stop_kinds(kinds)

        if not waiting:
            self._stop_kinds(kinds)
        for process in waiting:
            self._stop(process, one_ended)

    # The loop.

    def _report(self, event: str, process: Process, **more: float) -> None:
        self._revision += 1
        process.revision = self._revision
        self._emit({"event": event, "process": process.describe(), **more})

    def _emit(self, event: Message) -> None:
        for peer in tuple(self._peers):
            if peer.subscribed:
                peer.send(event)

    def _accept(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except OSError:
            return  # gone again, or out of descriptors: whoever connects tries again
        self._peers.add(Peer(connection, self._selector, self.handle, self._peers.discard))

    def _watch_signals(self) -> socket.socket:
        wakeup, ours = socket.socketpair()
        wakeup.setblocking(False)
        ours.setblocking(False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wakeup.detach(), warn_on_full_buffer=False)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._on_signals(ours))
        return ours

    def _on_signals(self, ours: socket.socket) -> None:
        numbers = set(ours.recv(4096))
        if numbers - {signal.SIGCHLD}:
            if self._shutting_down:  # asked twice: no more patience
                for pid in self._by_pid:
                    guard.kill(pid, signal.SIGKILL)
            self._shut_down(lambda: None)
        self._reap()

    def _after(self, delay_s: float, call: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._timers, (time.monotonic() + delay_s, self._sequence, call))

    def _until_next_timer(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            _survive(heapq.heappop(self._timers)[2])


def _survive(call: Callable[[], object]) -> None:
    """Call, and go on whatever it raises: with the supervisor everything else would end."""
    try:
        call()
    except Exception:  # the log has it
        traceback.print_exc()


def _ended_children() -> Iterator[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        yield pid, status


def main(arguments: list[str]) -> int:
    """Run. Exit code 3: the surroundings do not allow it; the reason is on stderr."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    if "--state" not in options or set(options) - {"--state", "--run"}:
        sys.stderr.write("usage: supervisor --state DIR [--run DIR]\n")
        return 2
    os.umask(0o077)
    state = Path(options["--state"]).absolute()
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    run = Path(options.get("--run", state / "run")).absolute()

    def started() -> None:
        # Whoever launched us waits for this line, and closes the pipes when it has read it.
        sys.stdout.write(f"ready {os.getpid()}\n")
        sys.stdout.flush()
        log = Log(os.fspath(state / "logs" / "supervisor.log"))
        log.begin(fresh=True)
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        log.close()

    try:
        lock = take_lock(run)
        guarded_by = guard.stand_guard(lock)
        sign_lock(lock)
        now = time.time  # noqa: TID251 - the one clock here
        Supervisor(run, now=now, guarded_by=guarded_by).serve(started=started)
    except Refused as refusal:
        sys.stderr.write(f"{refusal.message}\n{refusal.fix}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
