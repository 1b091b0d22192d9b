"""doctor: look at this machine and at what runs on it; for each finding how to mend it."""

from __future__ import annotations

import click

from apirule.cli import instance, output, running, surroundings
from apirule.cli.findings import Verdict

COLORS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@click.command()
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
def doctor(form: str) -> int:
    """Check what `apirule up` depends on, and what runs. Exit code 1: something fails."""
    settings = instance.current()
    is_running = instance.is_running(settings)
    findings = list(surroundings.findings(settings, is_running=is_running))
    if is_running:
        findings += running.findings(settings)
    if form == "json":
        output.answer_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            mark = click.style(f"{finding.verdict:<4}", fg=COLORS[finding.verdict])
            fix = f"   fix: {output.with_state(finding.fix)}" if finding.fix else ""
            output.answer(f"{mark}  {finding.text}{fix}")
    return int(any(finding.verdict is Verdict.FAIL for finding in findings))
