"""What of the surroundings settings change for a while."""

import os
import ssl
from pathlib import Path

import pytest
from tests.shells.certificates import TestCa

from apirule import settings


def test_without_the_cas_of_the_system_a_context_trusts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(TestCa(tmp_path).file))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    before = dict(os.environ)

    with settings.without_system_cas():
        inside = ssl.create_default_context()
    outside = ssl.create_default_context()

    assert (inside.verify_mode, inside.cert_store_stats()["x509_ca"]) == (ssl.CERT_REQUIRED, 0)
    assert outside.cert_store_stats()["x509_ca"] == 1
    assert dict(os.environ) == before
