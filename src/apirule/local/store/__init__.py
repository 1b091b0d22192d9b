"""The store of the local API server: every object, and every change in one order.

``sqlite`` keeps the log on disk, ``watch`` hands the changes to those who wait for them. A store
belongs to one event loop: nothing here is locked against threads.
"""

from apirule.local.store.sqlite import Store, UnwritableError
from apirule.local.store.watch import Change, Event, EventType, Expired, Record

__all__ = ["Change", "Event", "EventType", "Expired", "Record", "Store", "UnwritableError"]
