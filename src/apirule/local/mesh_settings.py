"""What the whole mesh has in common: what was chosen, and what is found on this machine."""

from __future__ import annotations

import ssl

from apirule.mesh.config import MeshSettings
from apirule.settings import Settings


def mesh_settings(settings: Settings) -> MeshSettings:
    return MeshSettings(
        missing_token_status=settings.missing_token_status,
        is_port_in_host_ignored=settings.host_with_port == "ignored",
        # As for every program that uses OpenSSL, SSL_CERT_FILE names another file.
        system_roots=ssl.get_default_verify_paths().cafile or "",
    )
