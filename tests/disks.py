"""Disks that are full: what a store meets when nothing more can be written."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from apirule.local.store import Store


class FullDisk:
    """A database on a disk that takes no statement beginning with ``refused``."""

    def __init__(self, database: Any, refused: tuple[str, ...]) -> None:
        self._database = database
        self._refused = refused

    def execute(self, statement: str, *values: Any) -> Any:
        if statement.lstrip().startswith(self._refused):
            raise sqlite3.OperationalError("disk I/O error")
        return self._database.execute(statement, *values)

    def close(self) -> None:
        self._database.close()


@contextmanager
def full_disk(store: Store, *refused: str) -> Iterator[None]:
    """Let every write fail, or those statements only."""
    database: Any = store._database
    store._database = FullDisk(database, refused or ("INSERT", "UPDATE", "DELETE"))  # type: ignore[assignment]  # stands in for it
    try:
        yield
    finally:
        store._database = database
