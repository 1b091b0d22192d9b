"""The README's blocks, run as they stand by a newcomer's shell, one after another."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ports import free_ports
from tests.e2e import pages

from apirule.cli import surroundings

PAGE = pages.ROOT / "README.md"
BLOCKS = {block.name: block for block in pages.blocks(PAGE)}
PORTS = {8443: "APIRULE_HTTPS_PORT", 8080: "APIRULE_HTTP_PORT", 6443: "APIRULE_API_PORT", 9000: ""}
"""The ports on the page, and the settings that give others."""


@dataclass
class Newcomer:
    """A home of its own, the default state folder, and the default ports where they are free."""

    home: Path
    ports: dict[int, int]
    exported: str = ""
    done: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("APIRULE_", "XDG_", "KUBE"))
        }
        others = {PORTS[old]: str(new) for old, new in self.ports.items() if old != new}
        env = {**kept, **others, "HOME": str(self.home)}
        env.pop("", None)
        return pages.run(pages.with_ports(script, self.ports), cwd=pages.ROOT, env=env)

    def read(self, block: pages.Block) -> subprocess.CompletedProcess[str]:
        """Do what a block says, in a shell that has what earlier ones exported."""
        done = self.done[block.name] = self.run(self.exported + block.script)
        self.exported += block.exports
        return done


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    # Whoever has tried `make demo` before has an instance on them.
    taken = {port for port in PORTS if surroundings.why_not_free(port)}
    others = dict(zip(taken, free_ports(len(taken)), strict=True))
    found = Newcomer(tmp_path_factory.mktemp("home"), {p: others.get(p, p) for p in PORTS})
    yield found
    found.run("apirule down --purge")


def test_the_blocks_do_what_they_say(newcomer: Newcomer) -> None:
    for name, block in BLOCKS.items():
        done = newcomer.read(block)

        assert done.returncode == 0, f"{name}:\n{done.stdout}\n{done.stderr}"
        promised = block.promised if name != "demo" else ["401", "200"]
        answered = pages.statuses(done.stdout)
        assert answered == promised, f"{name}:\n{done.stdout}\n{done.stderr}"


def test_the_first_block_shows_the_refusal_and_the_answer(newcomer: Newcomer) -> None:
    shown = newcomer.done["first"].stdout.lower()

    host = f"httpbin.kyma.localhost:{newcomer.ports[8443]}"
    assert f'www-authenticate: bearer realm="{host}"' in shown
    assert f'"host": "{host}"' in shown


def test_the_credential_flow_gives_a_bearer_token(newcomer: Newcomer) -> None:
    shown = newcomer.done["credentials"].stdout

    assert '"access_token"' in shown
    assert '"token_type"' in shown


def test_what_went_wrong_is_told_in_the_words_of_the_page(newcomer: Newcomer) -> None:
    shown = newcomer.done["wrong"].stdout

    for words in ("Reconciled successfully", "kind: AuthorizationPolicy", "would be accepted by"):
        assert words in shown
    assert "it has no token; APIRule shop/shop rule 1 asks for one of http://oidc." in shown


def test_no_block_of_the_page_is_not_run() -> None:
    assert pages.shell_blocks_not_run(PAGE) == 0
