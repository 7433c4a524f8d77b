"""CI's look for known vulnerabilities: a finding fails, and only a service that is away is no failure."""

import runpy
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import msgspec
import pytest

judge = runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "audit.py"))["judge"]

CLEAN: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
FOUND: dict[str, Any] = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN: dict[str, Any] = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1)"}


def told(*dependencies: dict[str, Any], stderr: str = "") -> CompletedProcess[str]:
    """What pip-audit says of *dependencies*; of none: nothing but *stderr*."""
    stdout = msgspec.json.encode({"dependencies": dependencies}).decode() if dependencies else ""
    return CompletedProcess([], 1, stdout, stderr)


@pytest.mark.parametrize(
    ("answer", "verdict", "is_failure"),
    [
        (told(CLEAN, CLEAN), "no known vulnerability in 2 dependencies", False),
        (told(CLEAN, FOUND), "b 2: CVE-1, fixed in ['3']", True),
        (told(FOUND, UNKNOWN), "b 2: CVE-1, fixed in ['3']", True),
        (told(CLEAN, UNKNOWN), "could not be audited", True),
        (told(UNKNOWN, UNKNOWN), "NOT AUDITED, the package index here tells no vulnerabilities", False),
        (told(stderr="ERROR: Could not connect to the feed"), "NOT AUDITED, no vulnerability service can be", False),
        (told(stderr="Traceback …\nKeyError: 'x'"), "NOT AUDITED: KeyError", True),
    ],
)
def test_a_finding_fails_and_a_service_that_is_away_does_not(
    answer: CompletedProcess[str], verdict: str, is_failure: bool
):
    said, failed = judge(answer)
    assert verdict in said
    assert failed is is_failure
