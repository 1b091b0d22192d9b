"""APIRule v2 and v2alpha1: one shape, two names (``spec/`` is required in v2 only)."""

from __future__ import annotations

from typing import ClassVar

from apirule.apis.meta import Condition, GroupVersionKind, Resource, Wire
from apirule.names import ObjectName

GROUP = "gateway.kyma-project.io"


class Service(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    port: int
    namespace: str = ""
    external: bool | None = None


class CorsPolicy(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    allow_headers: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_origins: tuple[dict[str, str], ...] = ()
    """Each entry maps ``exact``, ``prefix`` or ``regex`` to a value."""
    allow_credentials: bool | None = None
    expose_headers: tuple[str, ...] = ()
    max_age: int | None = None
    """Seconds."""


class FromHeader(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    prefix: str = ""
    """Cut off as it stands; a blank between scheme and token belongs here."""


class Authentication(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    issuer: str
    jwks_uri: str
    from_headers: tuple[FromHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_parameters: tuple[str, ...] = ()
    """The spelling of a published tutorial; read as ``fromParams``, with a warning."""


class Authorization(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    required_scopes: tuple[str, ...] | None = None
    audiences: tuple[str, ...] | None = None


class Jwt(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    authentications: tuple[Authentication, ...] = ()
    authorizations: tuple[Authorization | None, ...] | None = None


class ExtAuth(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    authorizers: tuple[str, ...] = ()
    restrictions: Jwt | None = None


class RequestModifier(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    headers: dict[str, str] | None = None
    cookies: dict[str, str] | None = None


class Rule(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    path: str
    methods: tuple[str, ...] = ()
    no_auth: bool | None = None
    jwt: Jwt | None = None
    ext_auth: ExtAuth | None = None
    service: Service | None = None
    timeout: int | None = None
    """Seconds."""
    request: RequestModifier | None = None

    @property
    def required_token(self) -> Jwt | None:
        """What is asked of a token, by itself or besides an authorizer; None: nothing."""
        return self.jwt or (self.ext_auth.restrictions if self.ext_auth is not None else None)


class APIRuleSpec(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    hosts: tuple[str, ...] = ()
    service: Service | None = None
    gateway: str | None = None
    external_gateway: str | None = None
    cors_policy: CorsPolicy | None = None
    rules: tuple[Rule, ...] = ()
    timeout: int | None = None
    """Seconds."""


class APIRuleStatus(Wire, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    state: str = ""
    description: str = ""
    last_processed_time: str | None = None
    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()


class APIRule(Resource, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    gvk: ClassVar = GroupVersionKind(GROUP, "v2", "APIRule")
    spec: APIRuleSpec = APIRuleSpec()
    status: APIRuleStatus = APIRuleStatus()

    def service_of(self, rule: Rule) -> ObjectName | None:
        """Return the Service of a rule; its namespace may come from ``spec.service``."""
        service = rule.service or self.spec.service
        if service is None or not service.name:
            return None
        inherited = self.spec.service.namespace if self.spec.service else ""
        return ObjectName(service.namespace or inherited or self.metadata.namespace, service.name)

    def port_of(self, rule: Rule) -> int:
        """Return the port of a rule's Service; 0 if it has none."""
        service = rule.service or self.spec.service
        return service.port if service else 0
