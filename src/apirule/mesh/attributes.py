"""What the fields and keys of an AuthorizationPolicy compare: one matcher for one value.

Each table maps a field (or a key of ``when``) to the function that builds the matcher; ``rbac``
combines them. A builder raises ``ValueError`` when the value cannot be expressed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from envoy.config.rbac.v3.rbac_pb2 import Permission, Principal, SourcedMetadata
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.matcher.v3.path_pb2 import PathMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from apirule import names
from apirule.apis.security import When
from apirule.mesh import matchers
from apirule.mesh.config import MeshSettings

MAX_PORT = 65535
NEVER = Permission(not_rule=Permission(any=True))
_SPIFFE_PARTS = 5
"""``<trust domain>/ns/<namespace>/sa/<service account>``."""


class Context(NamedTuple):
    """What a value means depends on: the mesh, the policy's namespace, the port it guards."""

    settings: MeshSettings
    namespace: str
    port: int


PermissionOf = Callable[[str, Context], Permission]
PrincipalOf = Callable[[str, Context], Principal]


def _host(value: str, context: Context) -> Permission:
    any_port = context.settings.is_port_in_host_ignored
    either = [Permission(header=header) for header in matchers.host(value, any_port=any_port)]
    return Permission(or_rules=Permission.Set(rules=either))


def _method(value: str, _: Context) -> Permission:
    return Permission(header=matchers.header(":method", value))


def _path(value: str, _: Context) -> Permission:
    if not matchers.is_template(value):
        return Permission(url_path=matchers.path(value))
    matcher = matchers.template(matchers.checked(value))
    if isinstance(matcher, PathMatcher):
        return Permission(url_path=matcher)
    return Permission(uri_template=matcher)


def _path_widely(value: str, _: Context) -> Permission:
    return Permission(url_path=matchers.wide_path(value))


def _port(value: str, context: Context) -> Permission:
    """Compare now: the port on the wire is the sidecar's, the policy means the workload's."""
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 0 < int(value) <= MAX_PORT:
        raise ValueError(f"{value!r} is not a port.")
    return Permission(any=True) if int(value) == context.port else NEVER


def _own_address(value: str, _: Context) -> Permission:
    """Compare on the wire: a Pod's address is where its sidecar listens, on this machine too."""
    return Permission(destination_ip=matchers.cidr(value))


def _sni(value: str, _: Context) -> Permission:
    return Permission(requested_server_name=matchers.string(value))


def _identity(name: StringMatcher) -> Principal:
    return Principal(authenticated=Principal.Authenticated(principal_name=name))


def _principal(value: str, context: Context) -> Principal:
    if value.startswith("spiffe://"):
        raise ValueError(f"{value!r} begins with `spiffe://`, which Istio adds itself.")
    parts = matchers.checked(value).split("/")
    domains = context.settings.trust_domains
    # Istio reads `cluster.local` as "this mesh", whatever its trust domain is.
    if len(parts) != _SPIFFE_PARTS or parts[0] not in (names.TRUST_DOMAIN, *domains):
        return _identity(matchers.string(value, prefix="spiffe://"))
    named = [
        _identity(matchers.string("/".join((domain, *parts[1:])), prefix="spiffe://"))
        for domain in domains
    ]
    return named[0] if len(named) == 1 else Principal(or_ids=Principal.Set(ids=named))


def _namespace(value: str, _: Context) -> Principal:
    wanted = matchers.quoted(matchers.checked(value)).replace(r"\*", ".*")
    return _identity(matchers.regex(f".*/ns/{wanted}/.*"))


def _service_account(value: str, context: Context) -> Principal:
    namespace, slash, account = matchers.checked(value).rpartition("/")
    if "*" in value or "/" in namespace or not account or (slash and not namespace):
        raise ValueError(f"{value!r} is not the name of a service account, or `namespace/name`.")
    home = matchers.quoted(namespace or context.namespace)
    name = matchers.quoted(account)
    return _identity(matchers.regex(f"spiffe://.+/ns/{home}/(.+/|)sa/{name}(/.+)?"))


def _trust_domain(value: str, _: Context) -> Principal:
    if "/" in matchers.checked(value):
        raise ValueError(f"{value!r} is not a trust domain.")
    if value == "*":
        return _identity(StringMatcher(prefix="spiffe://"))
    if "*" in value:
        return _identity(
            matchers.regex(f"spiffe://{matchers.quoted(value)}/.*".replace(r"\*", "[^/]*"))
        )
    return _identity(StringMatcher(prefix=f"spiffe://{value}/"))


def _direct_address(value: str, _: Context) -> Principal:
    return Principal(direct_remote_ip=matchers.cidr(value))


def _client_address(value: str, _: Context) -> Principal:
    return Principal(remote_ip=matchers.cidr(value))


def _metadata(matcher: MetadataMatcher) -> Principal:
    return Principal(sourced_metadata=SourcedMetadata(metadata_matcher=matcher))


def _request_principal(value: str, _: Context) -> Principal:
    issuer, subject = _issuer_and_subject(matchers.checked(value))
    both = [
        _metadata(matchers.payload(["iss"], issuer)),
        _metadata(matchers.payload(["sub"], subject)),
    ]
    return Principal(and_ids=Principal.Set(ids=both))


def _issuer_and_subject(value: str) -> tuple[StringMatcher, StringMatcher]:
    """Read ``<issuer>/<subject>``; the last slash divides, as issuers contain slashes."""
    issuer, slash, subject = value.rpartition("/")
    if not slash:
        return _issuer_or_subject(value)
    if issuer.startswith("*"):
        return matchers.string(issuer), StringMatcher(exact=subject)
    if subject.endswith("*"):
        return StringMatcher(exact=issuer), matchers.string(subject)
    return StringMatcher(exact=issuer), StringMatcher(exact=subject)


def _issuer_or_subject(value: str) -> tuple[StringMatcher, StringMatcher]:
    if value.endswith("*"):
        return matchers.string(value), matchers.ANYTHING
    if value.startswith("*"):
        return matchers.ANYTHING, matchers.string(value)
    return StringMatcher(exact=value), StringMatcher(exact="")


def _claim_in_list(path: Sequence[str]) -> PrincipalOf:
    def build(value: str, _: Context) -> Principal:
        return _metadata(matchers.payload_list(path, matchers.string(value)))

    return build


def _presenter(value: str, _: Context) -> Principal:
    return _metadata(matchers.payload(["azp"], matchers.string(value)))


def _header(name: str) -> PrincipalOf:
    matchers.header_name(name)

    def build(value: str, _: Context) -> Principal:
        return Principal(header=matchers.header(name.lower(), matchers.checked(value)))

    return build


OPERATION: Mapping[str, PermissionOf] = {
    "hosts": _host,
    "methods": _method,
    "paths": _path,
    "ports": _port,
}
WIDE_OPERATION: Mapping[str, PermissionOf] = {**OPERATION, "paths": _path_widely}
"""For what is to be refused: rather too much than too little."""
SOURCE_WITHOUT_TOKEN: Mapping[str, PrincipalOf] = {
    "principals": _principal,
    "namespaces": _namespace,
    "service_accounts": _service_account,
    "trust_domains": _trust_domain,
    "ip_blocks": _direct_address,
    "remote_ip_blocks": _client_address,
}
SOURCE: Mapping[str, PrincipalOf] = {
    **SOURCE_WITHOUT_TOKEN,
    "request_principals": _request_principal,
}


class PermissionCondition(msgspec.Struct, frozen=True):
    """A key of ``when`` that speaks of the operation."""

    build: PermissionOf


class PrincipalCondition(msgspec.Struct, frozen=True):
    """A key of ``when`` that speaks of the source. ``of_token``: of its token."""

    build: PrincipalOf
    of_token: bool = False


Condition = PermissionCondition | PrincipalCondition

CONDITIONS: Mapping[str, Condition] = {
    "connection.sni": PermissionCondition(_sni),
    "destination.ip": PermissionCondition(_own_address),
    "destination.port": PermissionCondition(_port),
    "source.ip": PrincipalCondition(_direct_address),
    "remote.ip": PrincipalCondition(_client_address),
    "source.principal": PrincipalCondition(_principal),
    "source.namespace": PrincipalCondition(_namespace),
    "source.serviceAccount": PrincipalCondition(_service_account),
    "source.trustDomain": PrincipalCondition(_trust_domain),
    "request.auth.principal": PrincipalCondition(_request_principal, of_token=True),
    "request.auth.audiences": PrincipalCondition(_claim_in_list(["aud"]), of_token=True),
    "request.auth.presenter": PrincipalCondition(_presenter, of_token=True),
}
_HEADER_KEY = re.compile(r"request\.headers\[([^\[\]]+)\]")
_CLAIM_KEY = re.compile(r"request\.auth\.claims((?:\[[^\[\]]+\])+)")


def condition_of(key: str) -> Condition:
    """Return what a key of ``when`` compares. ValueError: nothing we know."""
    if key in CONDITIONS:
        return CONDITIONS[key]
    header = _HEADER_KEY.fullmatch(key)
    if header:
        return PrincipalCondition(_header(header[1]))
    claim = _CLAIM_KEY.fullmatch(key)
    if claim:
        return PrincipalCondition(_claim_in_list(claim[1][1:-1].split("][")), of_token=True)
    raise ValueError(f"The key {key!r} is not supported.")


def speaks_of_token(key: str) -> bool:
    """Whether a condition is about the token of a request; False for a key we do not know."""
    try:
        condition = condition_of(key)
    except ValueError:
        return False
    return isinstance(condition, PrincipalCondition) and condition.of_token


def needs_token(when: When) -> bool:
    """Whether only a request with a token can meet a condition."""
    condition = condition_of(when.key)
    return isinstance(condition, PrincipalCondition) and condition.of_token and bool(when.values)
