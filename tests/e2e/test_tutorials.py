"""The blocks of tutorials, how-tos and the like, run as they stand, each page in one go."""

import re
from pathlib import Path

import pytest
from instance import Instance
from tests.e2e import pages

DOCS = pages.ROOT / "docs"
PAGES = sorted(
    [*DOCS.glob("tutorial/*.md"), *DOCS.glob("how-to/*.md"), DOCS / "reference/issuer.md"]
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(instance: Instance, page: Path, tmp_path: Path) -> None:
    ports = {8443: instance.https_port, 8080: instance.http_port, 6443: instance.api_port}
    exported = ""
    for block in pages.blocks(page):
        env = {**instance.environment, "HOME": str(tmp_path)}
        script = pages.with_ports(exported + block.script, ports)
        done = pages.run(script, cwd=tmp_path, env=env)

        assert done.returncode == 0, f"{block}:\n{done.stdout}\n{done.stderr}"
        assert pages.statuses(done.stdout) == block.promised, f"{block}:\n{done.stdout}"
        for words in re.findall(r"^# (Jwt .*)$", block.text, re.MULTILINE):
            assert words in done.stdout
        exported += block.exports


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_has_a_block_that_is_not_run(page: Path) -> None:
    assert pages.shell_blocks_not_run(page) == 0
