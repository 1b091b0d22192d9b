"""What a container's image means on this machine: a program.

There are no containers here, so an image is only a name. The ones of the tutorials stand for
programs we bring along; for any other the container has to say its ``command``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import PurePath
from shutil import which

import msgspec

HTTPBIN = "kennethreitz/httpbin"
CURL = "curlimages/curl"
PROXY = "istio/proxyv2"

_FOREVER: tuple[str, ...] = ("sleep", "infinity")
_ADDRESS = "$(APIRULE_ADDRESS)"


class Program(msgspec.Struct, frozen=True):
    """``argv`` as in a Pod: ``$(NAME)`` is replaced by a variable of the environment."""

    argv: tuple[str, ...]
    note: str
    """For the Event that a container runtime calls ``Pulled``."""
    bundled: bool = False
    """A server that we bring along: it listens on the address in ``APIRULE_ADDRESS``, which may be
    a unix socket, and calls nobody when it starts."""


class NotMapped(msgspec.Struct, frozen=True):
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
    is_program: Callable[[str], bool] = lambda word: which(word) is not None,
) -> Program | NotMapped:
    """Return what runs for a container. The proxy is not asked for here: it is an Envoy.

    ``installed`` says whether a Python module is, ``is_program`` whether a word can be executed.
    """
    name = repository(image)
    if name in _HTTPBINS and _runs_own_server(name, command or args):
        return _httpbin(image, command or args, installed)
    if name == CURL and not command:
        return _curl(image, args, is_program)
    # The images of httpbin have no entrypoint: arguments alone replace their server.
    if command or name in _HTTPBINS:
        return _own(image, command, args)
    return NotMapped(
        f'Image "{image}" stands for no program on this machine. Containers are local processes '
        "here: give the container a `command` (and `args`) to run instead, or use an image that "
        f"is mapped: {', '.join(sorted((*_HTTPBINS, CURL)))}."
    )


def port_of(image: str, command: tuple[str, ...], args: tuple[str, ...]) -> int | None:
    """Return the port an image is known to listen on. None: it is not, or runs something else."""
    name = repository(image)
    known = name in _HTTPBINS and _runs_own_server(name, command or args)
    return _HTTPBINS[name].port if known else None


class _Server(msgspec.Struct, frozen=True):
    """What an image runs by itself, and where that listens."""

    program: str
    port: int


_HTTPBINS: Mapping[str, _Server] = {
    HTTPBIN: _Server("gunicorn", 80),
    "kong/httpbin": _Server("gunicorn", 80),
    "mccutchen/go-httpbin": _Server("go-httpbin", 8080),
}

_Words = tuple[str, ...]


def _runs_own_server(name: str, words: _Words) -> bool:
    """Say whether a container runs what its image is known for: by its name, or with options."""
    first = words[0] if words else ""
    return not first or first.startswith("-") or PurePath(first).name == _HTTPBINS[name].program


def _own(image: str, command: _Words, args: _Words) -> Program:
    return Program(command + args, f'Image "{image}" is not used: the command runs on this machine')


def _httpbin(image: str, words: _Words, installed: Callable[[str], bool]) -> Program | NotMapped:
    missing = [module for module in ("httpbin", "waitress") if not installed(module)]
    if missing:
        return NotMapped(
            f'Image "{image}" is the Python package httpbin here, and {" and ".join(missing)} is '
            "not installed. Install it where apirule is: pip install 'apirule[demo]'"
        )
    argv = (sys.executable, "-m", "apirule.local.processes.httpbin", _ADDRESS)
    ignored = "; it listens where it is told to, its options are not used" if words else ""
    return Program(argv, f'Image "{image}" is the Python package httpbin here{ignored}', True)


def _curl(image: str, args: _Words, is_program: Callable[[str], bool]) -> Program:
    """Run as the image's entrypoint does: what is no program is an option or address for curl."""
    argv = args or _FOREVER
    if args and (args[0].startswith("-") or not is_program(args[0])):
        argv = ("curl", *args)
    return Program(argv, f'Image "{image}" is the curl of this machine')
