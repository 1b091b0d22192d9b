"""Exposure to VirtualService: which requests go where."""

from __future__ import annotations

from apirule import names, ownership
from apirule.apis import networking
from apirule.apis.networking import VirtualService, VirtualServiceSpec
from apirule.translate.exposure import Cors, Exposure, OriginMatch, Path, Route

CORS_RESPONSE_HEADERS = (
    "Access-Control-Allow-Origin",
    "Access-Control-Expose-Headers",
    "Access-Control-Allow-Headers",
    "Access-Control-Allow-Credentials",
    "Access-Control-Allow-Methods",
    "Access-Control-Max-Age",
)
_FORWARDED_HOST = "x-forwarded-host"
_REQUESTED_HOST = "%REQ(:AUTHORITY)%"
"""Envoy's own expression: the host the client asked for."""


def emit(exposure: Exposure) -> VirtualService:
    return VirtualService(
        metadata=ownership.metadata(exposure.owner, exposure.owner.namespace, "VirtualService"),
        spec=VirtualServiceSpec(
            hosts=(exposure.host,),
            gateways=(str(exposure.gateway),),
            http=tuple(_http_route(route, exposure) for route in exposure.routes),
        ),
    )


def _http_route(route: Route, exposure: Exposure) -> networking.HTTPRoute:
    return networking.HTTPRoute(
        match=(
            networking.HTTPMatchRequest(
                uri=_uri(route.path),
                method=networking.StringMatch(regex=f"^({'|'.join(route.methods)})$"),
            ),
        ),
        route=(
            networking.HTTPRouteDestination(
                destination=networking.Destination(
                    host=names.service_host(route.backend.service),
                    port=networking.PortSelector(number=route.backend.port),
                ),
                weight=100,
            ),
        ),
        timeout=f"{route.timeout_s}s",
        headers=_headers(route, exposure),
        cors_policy=_cors_policy(exposure.cors),
    )


def _uri(path: Path) -> networking.StringMatch:
    if path.text == "/*":
        return networking.StringMatch(prefix="/")
    if path.has_metacharacter and not path.has_operator:
        return networking.StringMatch(exact=path.text)
    # An exact match would say the same for the rest; the regular expression is what the Kyma
    # operator writes, so objects of either stay as they are.
    return networking.StringMatch(regex=path.regex)


def _headers(route: Route, exposure: Exposure) -> networking.Headers:
    request = dict(route.request_headers)
    if _FORWARDED_HOST not in map(str.lower, request):
        host = _REQUESTED_HOST if exposure.has_wildcard_host else exposure.host
        request = {_FORWARDED_HOST: host, **request}
    return networking.Headers(
        request=networking.HeaderOperations(set=request),
        response=None
        if exposure.cors.keeps_backend_headers
        else networking.HeaderOperations(remove=CORS_RESPONSE_HEADERS),
    )


def _cors_policy(cors: Cors) -> networking.CorsPolicy | None:
    if not cors.origins:
        return None
    return networking.CorsPolicy(
        allow_origins=tuple(_origin(origin) for origin in cors.origins),
        allow_methods=cors.methods,
        allow_headers=cors.headers,
        expose_headers=cors.expose_headers,
        allow_credentials=cors.credentials,
        max_age=None if cors.max_age_s is None else f"{cors.max_age_s}s",
    )


def _origin(origin: OriginMatch) -> networking.StringMatch:
    match origin.kind:
        case "exact":
            return networking.StringMatch(exact=origin.value)
        case "regex":
            return networking.StringMatch(regex=origin.value)
        case _:
            return networking.StringMatch(prefix=origin.value)
