"""The discovery document: what the issuer offers, and where."""

from __future__ import annotations

from typing import Any

from apirule.local.issuer.clients import Algorithm, Directory, GrantType


def metadata(url: str, directory: Directory) -> dict[str, Any]:
    """Return the discovery document (OpenID Connect Discovery, 3; RFC 8414)."""
    scopes = sorted({scope for one in directory.clients for scope in one.scopes})
    ways = ["client_secret_basic", "client_secret_post", "none"]
    return {
        "issuer": url,
        "authorization_endpoint": f"{url}/oauth2/authorize",
        "token_endpoint": f"{url}/oauth2/token",
        "jwks_uri": f"{url}/oauth2/certs",
        "userinfo_endpoint": f"{url}/oauth2/userinfo",
        "introspection_endpoint": f"{url}/oauth2/introspect",
        "revocation_endpoint": f"{url}/oauth2/revoke",
        "end_session_endpoint": f"{url}/oauth2/logout",
        "scopes_supported": scopes,
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": [one.value for one in GrantType],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [one.value for one in Algorithm],
        "token_endpoint_auth_methods_supported": ways,
        "introspection_endpoint_auth_methods_supported": ways[:2],
        "revocation_endpoint_auth_methods_supported": ways,
        "code_challenge_methods_supported": ["S256"],
        "claims_supported": [
            *("iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "at_hash"),
            *("email", "email_verified", "groups", "name"),
        ],
        "prompt_values_supported": ["none", "login"],
        "authorization_response_iss_parameter_supported": True,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }
