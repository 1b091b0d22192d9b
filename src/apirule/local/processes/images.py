"""What a container's image means on this machine: a program.

There are no containers here, so an image is only a name. The ones of the tutorials stand for
programs we bring along; for any other the container has to say its ``command``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

HTTPBIN = "kennethreitz/httpbin"
CURL = "curlimages/curl"
PROXY = "istio/proxyv2"

_HTTPBINS = (HTTPBIN, "mccutchen/go-httpbin", "kong/httpbin")
_FOREVER = ("sleep", "infinity")
_ADDRESS = "$(APIRULE_ADDRESS)"


@dataclass(frozen=True, slots=True)
class Program:
    """``argv`` as in a Pod: ``$(NAME)`` is replaced by a variable of the environment."""

    argv: tuple[str, ...]
    note: str
    """For the Event that a container runtime calls ``Pulled``."""
    bundled: bool = False
    """A server that we bring along: it listens on the address in ``APIRULE_ADDRESS``, which may be
    a unix socket, and calls nobody when it starts."""


@dataclass(frozen=True, slots=True)
class NotMapped:
    """Nobody here knows what the image would run; ``message`` says what to do."""

    message: str


def repository(image: str) -> str:
    """Return the last two parts of an image's name: no registry, tag or digest."""
    name = image.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    last = last.partition(":")[0]
    return f"{folder.rpartition('/')[2]}/{last}" if slash else last


def program_of(
    image: str,
    command: tuple[str, ...],
    args: tuple[str, ...],
    *,
    installed: Callable[[str], bool] = lambda module: find_spec(module) is not None,
) -> Program | NotMapped:
    """Return what runs for a container. The proxy is not asked for here: it is an Envoy."""
    known = _KNOWN.get(repository(image))
    if known is not None:
        return known(image, command, args, installed)
    if command:
        return _own(image, command, args)
    return NotMapped(
        f'Image "{image}" stands for no program on this machine. Containers are local processes '
        "here: give the container a `command` (and `args`) to run instead, or use an image that "
        f"is mapped: {', '.join(sorted(_KNOWN))}."
    )


_Installed = Callable[[str], bool]
_Words = tuple[str, ...]


def _own(image: str, command: _Words, args: _Words) -> Program:
    return Program(command + args, f'Image "{image}" is not used: the command runs on this machine')


def _httpbin(
    image: str, command: _Words, args: _Words, installed: _Installed
) -> Program | NotMapped:
    missing = [module for module in ("httpbin", "waitress") if not installed(module)]
    if missing:
        return NotMapped(
            f'Image "{image}" is the Python package httpbin here, and {" and ".join(missing)} is '
            "not installed. Install it where apirule is: pip install 'apirule[demo]'"
        )
    argv = (sys.executable, "-m", "apirule.local.processes.httpbin", _ADDRESS)
    ignored = "; its command is not used" if command or args else ""
    return Program(argv, f'Image "{image}" is the Python package httpbin here{ignored}', True)


def _curl(image: str, command: _Words, args: _Words, _: _Installed) -> Program:
    if command:
        return _own(image, command, args)
    argv = ("curl", *args) if args else _FOREVER
    return Program(argv, f'Image "{image}" is the curl of this machine')


_KNOWN: Mapping[str, Callable[[str, _Words, _Words, _Installed], Program | NotMapped]] = {
    **dict.fromkeys(_HTTPBINS, _httpbin),
    CURL: _curl,
}
