"""The house: layers hold, modules say what they are, every setting and reason is documented."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apirule.problem import Reason
from apirule.settings import Settings

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_imports_follow_the_layers() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_a_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())

    assert not tree.body or ast.get_docstring(tree)


def test_every_setting_is_in_the_reference() -> None:
    reference = (ROOT / "docs/reference/settings.md").read_text()

    missing = [name for name in Settings.__struct_fields__ if f"`{name}`" not in reference]

    assert missing == []


def test_every_reason_is_explained() -> None:
    page = (ROOT / "docs/problems.md").read_text()

    missing = [reason for reason in Reason if f"## {reason}" not in page]

    assert missing == []


def test_help_is_fast_because_it_imports_no_server() -> None:
    heavy = {"rich", "aiohttp", "yaml", "starlette", "grpc", "cryptography", "anyio", "joserfc"}
    code = "import sys, apirule.cli\ntry: apirule.cli.main(['--help'])\n"
    code += "except SystemExit: print(*{m.split('.')[0] for m in sys.modules})"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert heavy.isdisjoint(done.stdout.splitlines()[-1].split())


def _links() -> Iterator[tuple[Path, str]]:
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                yield page, target


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page.name}: {target}" for page, target in _links() if not (page.parent / target).exists()
    ]

    assert broken == []


def test_every_deviation_is_told() -> None:
    page = (ROOT / "docs/differences.md").read_text()
    told = {int(number) for number in re.findall(r"^\| D(\d+) \|", page, re.MULTILINE)}
    texts = [
        path.read_text()
        for folder in ("src", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(__file__)
    ]
    named = {
        int(number)
        for text in texts
        for number in re.findall(r"(?:\bD|\btest_d)(\d{1,2})(?![0-9A-Za-z])", text)
    }

    assert named <= told
    assert told == set(range(1, 33))
