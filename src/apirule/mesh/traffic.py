"""DestinationRule: which one rules a call, what it says of one port and subset, what is wrong.

Istio looks in the namespace of the caller, then of the host, then in the root namespace; in each
the most specific host wins, then the oldest rule. A rule that cannot be expressed, or that a proxy
refused, closes what it rules: without it a call might go out unencrypted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

import msgspec

from apirule import names
from apirule.apis import traffic
from apirule.apis.meta import ObjectRef
from apirule.apis.traffic import DestinationRule, TrafficSettings
from apirule.mesh import checks, durations, hosts
from apirule.mesh.snapshot import Snapshot
from apirule.names import ObjectName
from apirule.problem import SPEC, FieldPath, Problem, Reason, Severity, errors

SIMPLE_BALANCERS = frozenset(
    {"", "UNSPECIFIED", "LEAST_CONN", "LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"}
)
TLS_MODES = frozenset({"DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"})
NO_SETTINGS = TrafficSettings()
_TEXT = re.compile(r"[!-~]{1,1024}")
_FULL = 100
_MAX_COUNT = 2**31 - 1


class Ruling(msgspec.Struct, frozen=True):
    """What rules one cluster. ``closed``: it must not be called, whatever stands in ``settings``.

    ``labels`` are those of the subset, as pairs, so that a ruling can be compared and remembered.
    """

    settings: TrafficSettings = NO_SETTINGS
    labels: tuple[tuple[str, str], ...] = ()
    rule: DestinationRule | None = None
    closed: bool = False


NOTHING = Ruling()


def rule_for(snapshot: Snapshot, host: str, *, home: str, caller: str) -> DestinationRule | None:
    """Return the rule for calls from a namespace to a host whose Service lives in ``home``."""
    if not snapshot.of_kind(DestinationRule):
        return None  # the usual case, and every cluster of every proxy asks
    key = ("destination rule", host, home, caller)
    return snapshot.memo(key, lambda: _rule_for(snapshot, host, home=home, caller=caller))


def _rule_for(snapshot: Snapshot, host: str, *, home: str, caller: str) -> DestinationRule | None:
    for namespace in dict.fromkeys((caller, home, snapshot.settings.root_namespace)):
        rules = [
            rule
            for rule in snapshot.of_kind(DestinationRule, namespace)
            if exported_to(rule.spec.export_to, namespace, caller)
        ]
        found = _closest(rules, host)
        if found is not None:
            return found
    return None


def _closest(rules: list[DestinationRule], host: str) -> DestinationRule | None:
    covering = [rule for rule in rules if hosts.covers(destination_host(rule), host)]
    # The oldest of equals: max keeps the first.
    return max(covering, key=lambda rule: _precision(destination_host(rule)), default=None)


def destination_host(rule: DestinationRule) -> str:
    """Return the host in full. Istio: only a name without dots is short."""
    host = rule.spec.host
    if "." in host or host == "*":
        return host.lower()
    return names.service_host(ObjectName(rule.metadata.namespace, host))


def _precision(host: str) -> tuple[bool, int]:
    return (not host.startswith("*"), len(host))


def exported_to(namespaces: tuple[str, ...], home: str, caller: str) -> bool:
    given = frozenset(namespaces)
    return not given or "*" in given or caller in given or ("." in given and caller == home)


def ruling(
    snapshot: Snapshot, host: str, *, port: int, subset: str, home: str, caller: str
) -> Ruling | None:
    """Return what rules a cluster; None for a subset that nobody defines."""
    rule = rule_for(snapshot, host, home=home, caller=caller)
    if rule is None:
        return None if subset else NOTHING
    closed = rule.ref in snapshot.rejected or bool(errors(_known_problems(snapshot, rule)))
    settings = _of_port(rule.spec.traffic_policy, port)
    if not subset:
        return Ruling(settings, (), rule, closed)
    part = next((part for part in rule.spec.subsets if part.name == subset), None)
    if part is None:
        return Ruling(settings, (), rule, closed=True) if closed else None
    own = part.traffic_policy
    if own is not None:
        settings = _over(settings, own)
        settings = _of_port(own, port, otherwise=settings)
    return Ruling(settings, tuple(sorted((part.labels or {}).items())), rule, closed)


def _of_port(
    policy: traffic.TrafficPolicy | None, port: int, otherwise: TrafficSettings | None = None
) -> TrafficSettings:
    """Istio: what is said of a port replaces everything else, and inherits nothing."""
    if policy is None:
        return NO_SETTINGS
    chosen: TrafficSettings = otherwise or policy
    for own in policy.port_level_settings:
        if own.port.number == port:
            chosen = own
            break
    return TrafficSettings(
        load_balancer=chosen.load_balancer,
        connection_pool=chosen.connection_pool,
        outlier_detection=chosen.outlier_detection,
        tls=chosen.tls,
    )


def _over(base: TrafficSettings, own: TrafficSettings) -> TrafficSettings:
    return TrafficSettings(
        load_balancer=own.load_balancer or base.load_balancer,
        connection_pool=own.connection_pool or base.connection_pool,
        outlier_detection=own.outlier_detection or base.outlier_detection,
        tls=own.tls or base.tls,
    )


# Problems


def all_problems(snapshot: Snapshot) -> Mapping[ObjectRef, tuple[Problem, ...]]:
    """Return what is wrong with each rule, by itself and beside the others."""
    return snapshot.memo("destination rules", lambda: _all_problems(snapshot))


def _all_problems(snapshot: Snapshot) -> Mapping[ObjectRef, tuple[Problem, ...]]:
    seen: defaultdict[tuple[str, str], list[DestinationRule]] = defaultdict(list)
    found: dict[ObjectRef, tuple[Problem, ...]] = {}
    for rule in snapshot.of_kind(DestinationRule):
        wrong = _known_problems(snapshot, rule)
        key = (rule.metadata.namespace, destination_host(rule))
        older = next((each for each in seen[key] if _meet(each, rule)), None)
        seen[key].append(rule)
        if older is not None:
            wrong.append(_second(older, key[1]))
        elif not _is_known(snapshot, key[1]):
            wrong.append(_unknown(key[1]))
        if wrong:
            found[rule.ref] = tuple(wrong)
    return found


def _meet(older: DestinationRule, rule: DestinationRule) -> bool:
    """Whether both may hold for the calls of one namespace."""
    one, other = frozenset(older.spec.export_to), frozenset(rule.spec.export_to)
    return not one or not other or "*" in one | other or not one.isdisjoint(other)


def _is_known(snapshot: Snapshot, host: str) -> bool:
    if host.startswith("*") or hosts.service_of(host) in snapshot.services:
        return True
    entries = snapshot.of_kind(traffic.ServiceEntry)
    return any(host == each.lower() for entry in entries for each in entry.spec.hosts)


def _unknown(host: str) -> Problem:
    return Problem(
        SPEC / "host",
        Reason.NOT_FOUND,
        f'There is no Service and no ServiceEntry "{host}".',
        "Name the Service in full: NAME.NAMESPACE.svc.cluster.local.",
        Severity.WARNING,
    )


def _second(older: DestinationRule, host: str) -> Problem:
    return Problem(
        SPEC / "host",
        Reason.CONFLICT,
        f"DestinationRule {older.object_name} is older and rules {host} already; "
        "this one has no effect.",
        "Write everything of a host into one DestinationRule.",
    )


def _known_problems(snapshot: Snapshot, rule: DestinationRule) -> list[Problem]:
    return problems(rule, has_roots=bool(snapshot.settings.system_roots))


def problems(rule: DestinationRule, *, has_roots: bool) -> list[Problem]:
    """Return what is wrong with a rule. ``has_roots``: this machine has CAs that it trusts."""
    spec = rule.spec
    found = list(_of_host(spec.host))
    found += _of_policy(spec.traffic_policy, SPEC / "trafficPolicy", has_roots=has_roots)
    taken: set[str] = set()
    for index, part in enumerate(spec.subsets):
        at = SPEC / "subsets" / index
        if not names.DNS_LABEL.fullmatch(part.name) or part.name in taken:
            why = "a subset needs a name of its own, of small letters, digits and -"
            found.append(_invalid(at / "name", part.name, why))
        taken.add(part.name)
        found += _of_policy(part.traffic_policy, at / "trafficPolicy", has_roots=has_roots)
    found += export_problems(spec.export_to)
    return found


def names_problems(given: tuple[str, ...], at: FieldPath) -> Iterator[Problem]:
    """Find what cannot be a name in a certificate."""
    for index, name in enumerate(given):
        if not _TEXT.fullmatch(name):
            yield _invalid(at / index, name, "it is not a name in a certificate")


def export_problems(namespaces: tuple[str, ...]) -> Iterator[Problem]:
    for index, name in enumerate(namespaces):
        if name == "~" or not name:
            why = 'it is neither ".", "*" nor a namespace'
            yield _invalid(SPEC / "exportTo" / index, name, why)


def _of_host(host: str) -> Iterator[Problem]:
    if not host or not hosts.is_valid(host):
        yield _invalid(SPEC / "host", host, "it is not a host")


def _of_policy(
    policy: traffic.TrafficPolicy | None, at: FieldPath, *, has_roots: bool
) -> Iterator[Problem]:
    if policy is None:
        return
    yield from _of_settings(policy, at, has_roots=has_roots)
    for index, own in enumerate(policy.port_level_settings):
        place = at / "portLevelSettings" / index
        if not own.port.number:
            yield _invalid(place / "port" / "number", 0, "it is not a port")
        yield from _of_settings(own, place, has_roots=has_roots)


def _of_settings(settings: TrafficSettings, at: FieldPath, *, has_roots: bool) -> Iterator[Problem]:
    if settings.load_balancer is not None:
        yield from _of_balancer(settings.load_balancer, at / "loadBalancer")
    if settings.connection_pool is not None:
        yield from _of_pool(settings.connection_pool, at / "connectionPool")
    if settings.outlier_detection is not None:
        yield from _of_outliers(settings.outlier_detection, at / "outlierDetection")
    if settings.tls is not None:
        yield from _of_tls(settings.tls, at / "tls")
        if not has_roots and trusts_system(settings.tls):
            yield Problem(
                at / "tls" / "credentialName",
                Reason.REQUIRED,
                "This machine has no list of CAs that it trusts, so nobody can be believed.",
                "Name a Secret with the ca.crt of the server, or set SSL_CERT_FILE for apirule up.",
            )


def trusts_system(tls: traffic.ClientTLSSettings) -> bool:
    """Whether a server is believed that shows a certificate this machine trusts."""
    unnamed = not tls.credential_name and not tls.insecure_skip_verify
    return unnamed and tls.mode in ("SIMPLE", "MUTUAL")


def _of_balancer(balancer: traffic.LoadBalancer, at: FieldPath) -> Iterator[Problem]:
    if balancer.simple not in SIMPLE_BALANCERS:
        yield Problem(
            at / "simple",
            Reason.NOT_IMPLEMENTED,
            f"{balancer.simple} is not implemented by the local engine, "
            "which does not know where a connection was going.",
            "Use LEAST_REQUEST, ROUND_ROBIN or RANDOM.",
        )
    consistent = balancer.consistent_hash
    if consistent is None:
        return
    place = at / "consistentHash"
    if balancer.simple:
        yield _invalid(place, balancer.simple, "simple is given as well")
    given = [
        bool(consistent.http_header_name),
        bool(consistent.http_query_parameter_name),
        consistent.http_cookie is not None,
        consistent.use_source_ip,
    ]
    if sum(given) != 1:
        yield _invalid(place, sum(given), "exactly one says which requests are alike")
    header = consistent.http_header_name
    if header and (wrong := checks.header_name(header)):
        yield _invalid(place / "httpHeaderName", header, wrong)
    parameter = consistent.http_query_parameter_name
    if parameter and not _TEXT.fullmatch(parameter):
        yield _invalid(place / "httpQueryParameterName", parameter, "it is not a parameter")
    if consistent.http_cookie is not None:
        yield from _of_cookie(consistent.http_cookie, place / "httpCookie")
        yield from _of_duration(consistent.http_cookie.ttl, place / "httpCookie" / "ttl")


def _of_cookie(cookie: traffic.HTTPCookie, at: FieldPath) -> Iterator[Problem]:
    if checks.header_name(cookie.name) or cookie.name.startswith(":"):
        yield _invalid(at / "name", cookie.name, "it is not the name of a cookie")
    if cookie.path and (not _TEXT.fullmatch(cookie.path) or ";" in cookie.path):
        yield _invalid(at / "path", cookie.path, "it is not a path")


def _of_pool(pool: traffic.ConnectionPool, at: FieldPath) -> Iterator[Problem]:
    tcp, http = pool.tcp or traffic.TCPPool(), pool.http or traffic.HTTPPool()
    yield from _of_duration(tcp.connect_timeout, at / "tcp" / "connectTimeout", is_positive=True)
    yield from _of_duration(tcp.max_connection_duration, at / "tcp" / "maxConnectionDuration")
    yield from _of_duration(http.idle_timeout, at / "http" / "idleTimeout")
    for place, number in (
        (at / "tcp" / "maxConnections", tcp.max_connections),
        (at / "http" / "http1MaxPendingRequests", http.http1_max_pending_requests),
        (at / "http" / "http2MaxRequests", http.http2_max_requests),
        (at / "http" / "maxRequestsPerConnection", http.max_requests_per_connection),
        (at / "http" / "maxRetries", http.max_retries),
    ):
        if not 0 <= number <= _MAX_COUNT:
            yield _invalid(place, number, "it is not a number of things")


def _of_outliers(outliers: traffic.OutlierDetection, at: FieldPath) -> Iterator[Problem]:
    yield from _of_duration(outliers.interval, at / "interval", is_positive=True)
    yield from _of_duration(outliers.base_ejection_time, at / "baseEjectionTime", is_positive=True)
    for place, count in (
        (at / "consecutive5xxErrors", outliers.consecutive5xx_errors),
        (at / "consecutiveGatewayErrors", outliers.consecutive_gateway_errors),
    ):
        if not 0 <= (count or 0) <= _MAX_COUNT:
            yield _invalid(place, count, "it is not a number of answers")
    for place, number in (
        (at / "maxEjectionPercent", outliers.max_ejection_percent),
        (at / "minHealthPercent", outliers.min_health_percent),
    ):
        if not 0 <= number <= _FULL:
            yield _invalid(place, number, "it lies between 0 and 100")


def _of_tls(tls: traffic.ClientTLSSettings, at: FieldPath) -> Iterator[Problem]:
    if tls.mode not in TLS_MODES:
        known = ", ".join(sorted(TLS_MODES))
        yield _invalid(at / "mode", tls.mode, f"it is not one of {known}")
    if tls.mode == "MUTUAL" and not tls.credential_name:
        yield _invalid(at / "credentialName", "", "MUTUAL needs a certificate to show")
    if tls.credential_name and tls.mode not in ("SIMPLE", "MUTUAL"):
        yield _invalid(
            at / "credentialName", tls.credential_name, f"it has no meaning with {tls.mode}"
        )
    if tls.sni and (tls.sni.startswith("*") or not hosts.is_valid(tls.sni)):
        yield _invalid(at / "sni", tls.sni, "it is not a name that can be asked for")
    yield from names_problems(tls.subject_alt_names, at / "subjectAltNames")
    if tls.insecure_skip_verify:
        if tls.mode not in ("SIMPLE", "MUTUAL") or tls.subject_alt_names:
            why = "it goes with SIMPLE or MUTUAL, and without subjectAltNames"
            yield _invalid(at / "insecureSkipVerify", "true", why)
        yield Problem(
            at / "insecureSkipVerify",
            Reason.INSECURE,
            "Nobody checks who answers.",
            "Name the CA of the server with credentialName.",
            Severity.WARNING,
        )


def _of_duration(
    text: str | None, at: FieldPath, *, is_positive: bool = False
) -> Iterator[Problem]:
    if not text:
        return
    length = durations.parse(text)
    if length is None or (is_positive and not length):
        yield _invalid(at, text, "it is not a duration such as 30s or 1m30s")


def _invalid(at: FieldPath, value: object, why: str) -> Problem:
    return Problem(at, Reason.INVALID, f'"{value}" cannot be used: {why}.', "Correct the value.")
