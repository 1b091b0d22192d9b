"""validate and render: what a manifest would become, and everything that is wrong with it.

Both use what the running instance knows, if there is one, and the files alone otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click
import msgspec

from apirule import manifest
from apirule.apis import scheme
from apirule.apis.gateway import v2
from apirule.apis.meta import GroupVersionKind, Object, ObjectRef, Resource
from apirule.cli import assumptions, checking, instance, manifests, output
from apirule.facts import Facts
from apirule.local.mesh_settings import mesh_settings
from apirule.manifest import Finding, Manifest
from apirule.problem import SetupError, Severity

if TYPE_CHECKING:
    from apirule.kube.client import Client

KINDS_OF_MESH = (
    *("Namespace", "Service", "Pod", "Gateway", "VirtualService"),
    *("EndpointSlice", "Secret", "ConfigMap"),
    *("DestinationRule", "ServiceEntry", "EnvoyFilter"),
    *("RequestAuthentication", "AuthorizationPolicy", "PeerAuthentication"),
)

offline_option = click.option(
    "--offline", is_flag=True, help="Do not ask the running instance what exists."
)
namespace_option = click.option(
    *("-n", "--namespace"),
    default="default",
    show_default=True,
    help="Of the objects that name none.",
)


@click.command()
@click.option(
    *("-f", "--filename", "files"), multiple=True, required=True, help="File, folder, URL or -."
)
@namespace_option
@offline_option
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
def validate(files: tuple[str, ...], namespace: str, offline: bool, strict: bool, form: str) -> int:
    """Find every mistake, each with file, line, column and the mend."""
    given = _read(files, namespace, offline=offline)
    facts, mesh = given.facts_for_validation(), mesh_settings(instance.current())
    for one in given.manifests:
        # Without an instance nobody knows which CRDs there are.
        foreign = Severity.WARNING if given.live is None else Severity.ERROR
        problems = checking.problems(one.object, facts, given.kinds, foreign=foreign, mesh=mesh)
        given.findings += [one.locate(problem) for problem in problems]
    given.sort()
    if form == "json":
        output.answer_json([_as_json(finding) for finding in given.findings])
    else:
        _print(given.findings)
    counted = {Severity.ERROR, Severity.WARNING} if strict else {Severity.ERROR}
    wrong = any(finding.problem.severity in counted for finding in given.findings)
    return manifests.EXIT_UNREADABLE if given.unreadable else int(wrong)


@click.command()
@click.option("-f", "--filename", "files", multiple=True, help="File, folder, URL or -.")
@namespace_option
@offline_option
@click.option(
    "--to",
    "target",
    type=click.Choice(["istio", "envoy"]),
    default="istio",
    help="What to print: Istio resources, or the configuration of each Envoy.",
)
@click.option("--proxy", help="With --to envoy: only the proxy of this Pod (NAMESPACE/POD).")
def render(
    files: tuple[str, ...], namespace: str, offline: bool, target: str, proxy: str | None
) -> int:
    """Print what the controller would create, or what the proxies would be told.

    `render --to envoy` without files prints what the proxies are told now. Without an instance,
    what the files leave out is taken for granted, and said.
    """
    if not files and target == "istio":
        raise click.UsageError("Name manifests: -f FILE.")
    if not files and offline:
        raise click.UsageError("--offline leaves nothing to look at; name manifests: -f FILE.")
    given = _read(files, namespace, offline=offline)
    if not files and given.live is None:
        raise instance.not_running()
    facts = given.facts_for_rendering()
    rendered: list[Object] = []
    for one in given.manifests:
        foreign = Severity.WARNING  # nothing is made of other kinds anyway
        problems = list(checking.problems(one.object, facts, given.kinds, foreign=foreign))
        given.findings += [one.locate(problem) for problem in problems]
        if not any(problem.severity is Severity.ERROR for problem in problems):
            rendered += _translated(one.object, facts)
    given.sort()
    _print(given.findings)
    if manifests.has_errors(given.findings):
        return manifests.EXIT_UNREADABLE if given.unreadable else 1
    if target == "istio":
        output.answer(manifest.dump(rendered).rstrip())
        return 0
    return _render_envoy([*given.known, *rendered], proxy)


@dataclass
class _Given:
    """The manifests, and the objects of the instance if there is one."""

    manifests: list[Manifest]
    findings: list[Finding]
    unreadable: bool
    live: list[Object] | None
    """None: there is no instance, or it is not to be asked."""
    kinds: checking.Kinds

    @property
    def known(self) -> list[Object]:
        """Return the objects of the instance, each replaced by that of the files if it is there."""
        objects = [one.object for one in self.manifests]
        given = {ObjectRef.of(obj) for obj in objects}
        return [*(obj for obj in self.live or () if ObjectRef.of(obj) not in given), *objects]

    def facts_for_validation(self) -> Facts | None:
        """Return what exists; None when nobody knows, so that nothing counts as missing."""
        kinds = {ObjectRef.of(obj).kind for obj in self.known}
        return self._facts(quiet=True) if "Gateway" in kinds else None

    def facts_for_rendering(self) -> Facts:
        return self._facts(quiet=False)

    def sort(self) -> None:
        """Bring the findings into the order of the text."""
        self.findings.sort(key=lambda finding: (finding.source, finding.position))

    def _facts(self, *, quiet: bool) -> Facts:
        objects = [one.object for one in self.manifests]
        known = [*self.known, *assumptions.pods_of_deployments(objects, self.known)]
        if self.live is None:
            rules = [rule for rule in _decoded(objects) if isinstance(rule, v2.APIRule)]
            settings = instance.current()
            assumed = assumptions.without_instance(_decoded(known), rules, settings)
            known += assumed.objects
            for sentence in () if quiet else assumed.sentences:
                output.warn(sentence)
        return Facts.of(_decoded(known))


def _read(files: tuple[str, ...], namespace: str, *, offline: bool) -> _Given:
    loaded = manifests.load(files)
    live = None if offline else _live()
    kinds = checking.served([*(live or ()), *loaded.objects])
    placed = [
        replace(one, object=checking.with_namespace(one.object, namespace, kinds))
        for one in loaded.manifests
    ]
    return _Given(placed, loaded.findings, loaded.unreadable, live, kinds)


def _live() -> list[Object] | None:
    """Return the objects of the instance; None: there is none."""
    if not instance.is_running(instance.current()):
        return None
    kinds = [kind.gvk for kind in scheme.TYPES.values() if kind.gvk.kind in KINDS_OF_MESH]

    async def work(client: Client) -> list[Object]:
        return [obj for gvk in (*kinds, checking.CRD) for obj in (await client.list(gvk)).items]

    return instance.with_client(work)


def _translated(obj: Object, facts: Facts) -> Iterator[Object]:
    from apirule.translate import translate

    rule = checking.decoded_rule(obj) if ObjectRef.of(obj).kind == "APIRule" else None
    if isinstance(rule, v2.APIRule):
        for resource in translate(rule, facts).resources or ():
            yield scheme.encode(resource)


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
        whose = f"Pod {only} has no proxy" if only else "There is no Pod with a proxy"
        raise SetupError(
            f"{whose} among what is known.",
            "Start an instance (apirule up), or give the Pods with -f.",
        )
    output.answer(manifest.dump(documents).rstrip())
    return 0


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
