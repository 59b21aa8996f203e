"""What every subcommand of ``zenml-upgrade`` prints alike, and the options that several of them have."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from zenml_upgrade_kit.findings import Finding, Severity

GLYPHS = {Severity.BLOCK: "✗ block", Severity.WARN: "! warn", Severity.INFO: "i info"}
STORE = (
    "sqlite:////abs/zenml.db, mysql://user@host/db, a ZenML config directory, or env:NAME"
    " (default: your own ZenML configuration)"
)


def tell(text: str) -> None:
    """Progress and messages go to stderr: stdout belongs to the answer."""
    print(text, file=sys.stderr, flush=True)


def print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(f"{GLYPHS[finding.severity]} {finding.id} {finding.subject}\n    {finding.message}")
        if finding.remedy:
            print(f"    do this: {finding.remedy}")


def choose_format(parser: argparse.ArgumentParser, *formats: str) -> None:
    parser.add_argument("--format", choices=formats, default=formats[0], help=f"what stdout holds ({formats[0]})")
