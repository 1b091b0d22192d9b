"""A rule that comes, changes and goes under load: nobody without a token passes meanwhile."""

import pytest
from tests.conformance.clients import Clients
from tests.conformance.lab import Lab, kubectl

RULE = """
apiVersion: gateway.kyma-project.io/v2
kind: APIRule
metadata: {{name: changing, namespace: default}}
spec:
  hosts: [changing]
  gateway: kyma-system/kyma-gateway
  service: {{name: witness, port: 8000}}
  rules:
{rules}
"""
JWT = "jwt: {{authentications: [{{issuer: '{issuer}', jwksUri: '{issuer}/oauth2/certs'}}]{more}}}"
SCOPES = ", authorizations: [{requiredScopes: [nobody]}]"
GUARDED = "    - {{path: /headers, methods: [GET], {jwt}}}\n"
FORMS = (
    GUARDED,
    "    - {{path: /headers, methods: [GET, POST], {scoped}}}\n",
    "    - {{path: /public, methods: [GET], noAuth: true}}\n"
    + GUARDED.replace("/headers", "'/{{*}}'"),
    GUARDED + "    - {{path: /*, methods: [GET], noAuth: true}}\n",
    "    - {{path: /*, methods: [GET, POST], {jwt}}}\n",
)
"""Whatever each of them opens, /headers needs a token."""


@pytest.mark.parametrize("waits", [True, False], ids=["settled", "hasty"])
def test_no_change_of_a_rule_opens_it_for_a_moment(lab: Lab, *, waits: bool) -> None:
    issuer = f"http://oidc.{lab.instance.domain}:{lab.instance.http_port}"
    jwt = JWT.format(issuer=issuer, more="")
    scoped = JWT.format(issuer=issuer, more=SCOPES)

    with Clients(lab.door, lab.name("changing"), "/headers") as clients:
        for index, form in enumerate(FORMS * 2):
            rules = form.format(jwt=jwt, scoped=scoped)
            kubectl(lab.instance, "apply", "-f", "-", text=RULE.format(rules=rules))
            if waits:
                ready = "--for=jsonpath={.status.state}=Ready"
                kubectl(lab.instance, "wait", "apirule/changing", ready, "--timeout=30s")
            if index % 2:
                kubectl(lab.instance, "delete", "apirule", "changing")

    assert 401 in clients.statuses
    assert set(clients.statuses) <= {401, 403, 404}
