"""Who was started by whom, as /proc tells it."""

from pathlib import Path


def below(pid: int) -> list[int]:
    """Return all that run below a process, whatever session or environment they took."""
    found: list[int] = []
    wanted = {pid}
    parents = dict(_parents())
    while wanted := {child for child, parent in parents.items() if parent in wanted}:
        found += wanted
    return found


def alive(pid: int) -> bool:
    return _read(pid)[0] not in ("Z", "X")


def parent(pid: int) -> int:
    return int(_read(pid)[1])


def _parents() -> list[tuple[int, int]]:
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [(pid, parent(pid)) for pid in pids if alive(pid)]


def _read(pid: int) -> list[str]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ["X", "0"]
    return stat.rpartition(")")[2].split()
