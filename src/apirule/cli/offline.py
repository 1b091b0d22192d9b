"""validate and render: what a manifest would become, and everything that is wrong with it.

Both use what the running instance knows, if there is one, and the files alone otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click
import msgspec

from apirule import manifest, schema
from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef, Resource
from apirule.cli import instance, manifests, output
from apirule.facts import Facts
from apirule.manifest import Finding, Manifest
from apirule.problem import SPEC, FieldPath, Problem, Reason, SetupError, Severity
from apirule.validate import validate as validate_rule

if TYPE_CHECKING:
    from apirule.kube.client import Client

DEFAULT_GATEWAY = "kyma-system/kyma-gateway"
SWAPPED_DEFAULT = "kyma-gateway/kyma-system"

file_option = click.option(
    "-f", "--filename", "files", multiple=True, required=True, help="File, folder or -."
)
offline_option = click.option(
    "--offline", is_flag=True, help="Do not ask the running instance what exists."
)


@click.command()
@file_option
@offline_option
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
def validate(files: tuple[str, ...], offline: bool, strict: bool, form: str) -> int:
    """Find every mistake, each with file, line, column and the mend."""
    loaded, findings = _read(files)
    facts = _facts([one.object for one in loaded], offline=offline)
    for one in loaded:
        findings += [one.locate(problem) for problem in _problems(one.object, facts)]
    findings.sort(key=lambda finding: (finding.source, finding.position))
    if form == "json":
        output.answer_json([_as_json(finding) for finding in findings])
    else:
        _print(findings)
    counted = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    return int(any(finding.problem.severity in counted for finding in findings))


@click.command()
@click.option("-f", "--filename", "files", multiple=True, help="File, folder or -.")
@offline_option
@click.option(
    "--to",
    "target",
    type=click.Choice(["istio", "envoy"]),
    default="istio",
    help="What to print: Istio resources, or the configuration of each Envoy.",
)
@click.option("--proxy", help="With --to envoy: only the proxy of this Pod (NAMESPACE/POD).")
def render(files: tuple[str, ...], offline: bool, target: str, proxy: str | None) -> int:
    """Print what the controller would create, or what the proxies would be told.

    `render --to envoy` without files prints what the proxies are told now.
    """
    if not files and target == "istio":
        raise click.UsageError("Name manifests: -f FILE.")
    loaded, findings = _read(files)
    objects = [one.object for one in loaded]
    known = _known(objects, offline=offline)
    facts = Facts.of(_decoded(known))
    rendered: list[Object] = []
    for one in loaded:
        resources, problems = _translate(one.object, facts)
        findings += [one.locate(problem) for problem in problems]
        rendered += resources
    _print(findings)
    if any(finding.problem.severity is Severity.ERROR for finding in findings):
        return 1
    if target == "istio":
        output.answer(manifest.dump(rendered).rstrip())
        return 0
    return _render_envoy([*known, *rendered], proxy)


def _read(files: tuple[str, ...]) -> tuple[list[Manifest], list[Finding]]:
    loaded: list[Manifest] = []
    findings: list[Finding] = []
    for source, text in manifests.texts(files):
        found = manifest.load(text, source=source)
        loaded += found.manifests
        findings += found.findings
    return loaded, findings


def _problems(obj: Object, facts: Facts | None) -> Iterator[Problem]:
    """Yield what the API server would say, then what the controller would."""
    gvk = GroupVersionKind.of(obj)
    kind = _kinds().get(gvk)
    if kind is None:
        problem = unserved(gvk)
        yield from [] if problem is None else [problem]
        return
    admission = schema.admit(obj, kind)
    for path in admission.unknown_fields:
        yield Problem(
            _path(path), Reason.UNKNOWN_FIELD, f'unknown field "{path}"', "Remove or mend it."
        )
    yield from admission.problems
    if admission.problems or (gvk.group, gvk.kind) != (v2.GROUP, "APIRule"):
        return
    rule = scheme.decode(admission.object, v2.APIRule)
    if facts is None and rule.spec.gateway == SWAPPED_DEFAULT:
        # Without an instance nobody knows which Gateways there are, but for this one.
        yield Problem(
            SPEC / "gateway",
            Reason.MISLEADING,
            f"{SWAPPED_DEFAULT} looks swapped",
            f"Write the namespace first: {DEFAULT_GATEWAY}.",
            Severity.WARNING,
        )
    yield from validate_rule(rule, facts)


def unserved(gvk: GroupVersionKind) -> Problem | None:
    """Return what is wrong with an APIRule of a version that is not served; None: nothing is."""
    if gvk.group != v2.GROUP or gvk in _kinds():
        return None
    versions = sorted(kind.version for kind in _kinds() if kind[::2] == (gvk.group, gvk.kind))
    if not versions:
        fix = f"Write kind: APIRule, of apiVersion: {v2.GROUP}/v2."
        return Problem(
            FieldPath("kind"), Reason.NOT_SUPPORTED, f"no kind {gvk.kind} is served", fix
        )
    return Problem(
        FieldPath("apiVersion"),
        Reason.NOT_SUPPORTED,
        f"version {gvk.version} of {gvk.kind} is not served, only {' and '.join(versions)}",
        f"Write apiVersion: {v2.GROUP}/v2, with `hosts: [HOST]` for `host`; with `jwt`, `noAuth` "
        "or `extAuth` for `accessStrategies`, issuer and jwksUri for `jwks_urls`; and with "
        "path: /* for /.*",
    )


def _translate(obj: Object, facts: Facts) -> tuple[list[Object], list[Problem]]:
    from apirule.translate import translate

    problems = list(_problems(obj, None))
    if (ObjectRef.of(obj).kind != "APIRule") or any(p.severity is Severity.ERROR for p in problems):
        return [], problems
    outcome = translate(scheme.decode(obj, v2.APIRule), facts)
    return [scheme.encode(resource) for resource in outcome.resources or ()], [*outcome.problems]


def _kinds() -> dict[GroupVersionKind, schema.KindInfo]:
    kinds = [*schema.builtin_kinds()]
    for crd in schema.bundled_crds():
        kinds += schema.from_crd(crd)
    return {kind.gvk: kind for kind in kinds}


def _facts(objects: list[Object], *, offline: bool) -> Facts | None:
    """Return what is known to exist; None when nothing is, so that nothing counts as missing."""
    known = _known(objects, offline=offline)
    kinds = {ObjectRef.of(obj).kind for obj in known}
    return Facts.of(_decoded(known)) if "Gateway" in kinds else None


KINDS_OF_FACTS = ("Namespace", "Service", "Pod", "Gateway", "VirtualService")
KINDS_OF_MESH = (
    *KINDS_OF_FACTS,
    *("EndpointSlice", "Secret", "ConfigMap"),
    *("DestinationRule", "ServiceEntry", "EnvoyFilter"),
    *("RequestAuthentication", "AuthorizationPolicy", "PeerAuthentication"),
)


def _known(objects: list[Object], *, offline: bool) -> list[Object]:
    """Return the objects of the instance, each replaced by that of the files if it is there."""
    live = [] if offline else _live()
    given = {ObjectRef.of(obj): obj for obj in objects}
    return [*(obj for obj in live if ObjectRef.of(obj) not in given), *objects]


def _live() -> list[Object]:
    async def work(client: Client) -> list[Object]:
        found: list[Object] = []
        for kind in scheme.TYPES.values():
            if kind.gvk.kind in KINDS_OF_MESH:
                found += (await client.list(kind.gvk)).items
        return found

    try:
        return instance.with_client(work)
    except SetupError:
        return []


def _decoded(objects: Iterable[Object]) -> Iterator[Resource]:
    """Decode what has a typed form; what does not fit it is reported by ``validate``."""
    for obj in objects:
        kind = scheme.type_of(GroupVersionKind.of(obj))
        if kind is None:
            continue
        try:
            yield scheme.decode(obj, kind)
        except msgspec.ValidationError:
            continue


def _render_envoy(objects: list[Object], only: str | None) -> int:
    """Print the configuration of proxies, made as the engine makes it."""
    from apirule.local.mesh_settings import mesh_settings
    from apirule.local.store import Change, EventType
    from apirule.local.xds.view import View
    from apirule.local.xds.world import World
    from apirule.mesh.build import build
    from apirule.mesh.render import render as as_document

    world = World()
    world.apply(Change(0, EventType.ADDED, "", obj) for obj in objects)
    moment = world.moment()
    snapshot = View(moment, rejected={}).snapshot(mesh_settings(instance.current()))
    documents = [
        {"proxy": str(proxy.name), **as_document(build(snapshot, proxy))}
        for proxy in snapshot.proxies()
        if only in (None, str(proxy.name))
    ]
    if not documents:
        raise SetupError(
            f"There is no proxy {only or 'here'}.", "See them with `kubectl get pods -A`."
        )
    output.answer(manifest.dump(documents).rstrip())
    return 0


def _path(text: str) -> FieldPath:
    """Read a field path as it is printed: ``spec.rules[0].path``."""
    parts: list[str | int] = []
    for word in text.split("."):
        name, *indexes = word.replace("]", "").split("[")
        parts += [name, *(int(index) for index in indexes)]
    return FieldPath(*parts)


def _print(findings: list[Finding]) -> None:
    output.findings(findings)
    count = sum(finding.problem.severity is Severity.ERROR for finding in findings)
    if count:
        output.say(output.plural(count, "error"))


def _as_json(finding: Finding) -> dict[str, Any]:
    problem = finding.problem
    return {
        "source": finding.source,
        "line": finding.position.line,
        "column": finding.position.column,
        "severity": problem.severity,
        "field": str(problem.field),
        "reason": problem.reason,
        "message": problem.message,
        "fix": problem.fix,
    }
