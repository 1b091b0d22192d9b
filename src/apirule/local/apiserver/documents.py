"""What is served besides objects: discovery, OpenAPI, version and health."""

from __future__ import annotations

import platform
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from apirule.apis.meta import Object
from apirule.local.apiserver import discovery, errors
from apirule.local.apiserver.http import Request, Response, encode
from apirule.local.apiserver.kinds import Kinds
from apirule.schema import openapi

GIT_VERSION = "v1.33.1+apirule"
"""kubectl compares its own version with this one, and some choose their binary by it."""

_VERSION: Object = {
    "major": "1",
    "minor": "33",
    "emulationMajor": "1",
    "emulationMinor": "33",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "27",
    "gitVersion": GIT_VERSION,
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "cpython",
    "platform": f"{platform.system().lower()}/{platform.machine()}",
}

_HEALTH = frozenset(("healthz", "livez", "readyz"))

# OpenAPI v2 with nothing in it, as JSON and in protobuf: swagger "2.0", info, no paths. kubectl up
# to 1.28 refuses to apply without the document, later ones word an error worse.
_SWAGGER: Object = {
    "swagger": "2.0",
    "info": {"title": "apirule", "version": GIT_VERSION},
    "paths": {},
}
_SWAGGER_TYPE = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"


class Documents:
    """Documents derived of the kinds; kept until those change."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._made: dict[tuple[str, ...], Response | None] = {}
        self._made_for = -1

    def find(self, request: Request) -> Response | None:
        """Return the document at a path. None: it is no document. StatusError 404, 405."""
        make = self._maker(request)
        if make is None:
            return None
        if request.method not in ("GET", "HEAD"):
            raise errors.method_not_allowed(f"{request.method} is not offered here: use GET")
        response = make()
        if response is None:
            raise errors.no_such_path()
        return response

    def _maker(  # noqa: PLR0911 - the table of paths
        self, request: Request
    ) -> Callable[[], Response | None] | None:
        path = request.path
        if not path:
            return lambda: Response.json({"paths": ["/api", "/apis", "/openapi/v3", "/version"]})
        if path[0] in _HEALTH:
            return lambda: Response.text(_health(path[0], verbose="verbose" in request.query))
        match path:
            case ("version",):
                return lambda: Response.json(_VERSION)
            case ("openapi", "v2"):
                return lambda: _swagger(request)
            case ("openapi", "v3", *parts):
                return lambda: self._openapi(tuple(parts))
            case ("api",) | ("apis",):
                return lambda: self._groups(request)
            case ("api", _) | ("apis", _) | ("apis", _, _):
                return lambda: self._kept(path, self._legacy, path)
            case _:
                return None

    def _legacy(self, path: tuple[str, ...]) -> Response | None:
        found = None
        match path:
            case ("api", version):
                found = discovery.resource_list(self._kinds, "", version)
            case ("apis", group):
                found = discovery.group(self._kinds, group)
            case ("apis", group, version):
                found = discovery.resource_list(self._kinds, group, version)
            case _:
                pass
        return Response.json(found) if found is not None else None

    def _kept(
        self, key: tuple[str, ...], make: Callable[..., Response | None], *args: Any
    ) -> Response | None:
        if self._made_for != self._kinds.generation:
            self._made.clear()
            self._made_for = self._kinds.generation
        if key not in self._made:
            self._made[key] = make(*args)
        return self._made[key]

    def _groups(self, request: Request) -> Response:
        core = request.path == ("api",)
        version = discovery.aggregated_version(request.accepts)
        if version is not None:
            body = encode(discovery.aggregated(self._kinds, version, core=core))
            headers = (("etag", f'"{sha256(body).hexdigest()}"'), ("vary", "Accept"))
            return Response(body, 200, discovery.aggregated_media_type(version), headers)
        if core:
            host, port = request.scope.get("server") or ("127.0.0.1", 0)
            return Response.json(discovery.core_versions(f"{host}:{port}"))
        return Response.json(discovery.group_list(self._kinds))

    def _index(self) -> Object:
        paths = {}
        for group, versions in self._kinds.groups().items():
            for version in versions:
                place = openapi.path_of(group, version)
                response = self._openapi(tuple(place.split("/")))
                if response is not None:
                    digest = sha256(response.body).hexdigest().upper()
                    paths[place] = {"serverRelativeURL": f"/openapi/v3/{place}?hash={digest}"}
        return {"paths": paths}

    def _openapi(self, place: tuple[str, ...]) -> Response | None:
        if not place:
            return Response.json(self._index())
        return self._kept(("openapi", *place), self._described, place)

    def _described(self, place: tuple[str, ...]) -> Response | None:
        match place:
            case ("api", version):
                group = ""
            case ("apis", group, version):
                pass
            case _:
                return None
        served = self._kinds.groups().get(group, {}).get(version)
        if not served:
            return None
        return Response.json(openapi.document([kind.info for kind in served]))


def _health(endpoint: str, *, verbose: bool) -> str:
    """Return what a server says of itself: that it answers at all is all there is to check."""
    return f"[+]ping ok\n{endpoint} check passed\n" if verbose else "ok"


def _swagger(request: Request) -> Response:
    if any(accepted.name == _SWAGGER_TYPE for accepted in request.accepts):
        info = _field(1, b"apirule") + _field(2, GIT_VERSION.encode())
        body = _field(1, b"2.0") + _field(2, info) + _field(8, b"")
        # Asked for with an @, which is no legal media type; answered as Kubernetes does.
        return Response(body, 200, _SWAGGER_TYPE.replace("@", "."))
    return Response.json(_SWAGGER)


def _field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited protobuf field of less than 128 bytes."""
    return bytes((number << 3 | 2, len(content))) + content
