"""apirule: expose a Service and secure it with JWT from one small resource."""

__version__ = "0.1.0"
