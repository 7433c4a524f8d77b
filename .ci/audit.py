"""Whether a locked dependency has a known vulnerability; a finding fails.

Where the vulnerability service cannot be reached, nothing was audited: that is said, and is no failure.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

UNREACHABLE = ("Could not connect", "ConnectionError", "Max retries exceeded", "timed out", "not found on PyPI")
"""In what pip-audit says without network, or through a package index that has no vulnerabilities to tell."""


def look_up() -> subprocess.CompletedProcess[str]:
    """Ask about what the lock file names, with hashes, so that nothing has to be resolved."""
    with tempfile.TemporaryDirectory() as scratch:
        locked = Path(scratch) / "requirements.txt"
        export = ["uv", "export", "--frozen", "--quiet", "--no-emit-project", "--output-file", str(locked)]
        subprocess.run(export, check=True)
        audit = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--format=json"]
        return subprocess.run([*audit, f"--requirement={locked}"], capture_output=True, text=True, check=False)


def judge(asked: subprocess.CompletedProcess[str]) -> tuple[str, bool]:
    """What to say of pip-audit's answer, and whether that is a failure."""
    try:
        dependencies: list[dict[str, Any]] = msgspec.json.decode(asked.stdout)["dependencies"]
    except msgspec.DecodeError:
        is_away = any(sign in asked.stderr for sign in UNREACHABLE)
        told = asked.stderr.strip().rpartition("\n")[2]
        return f"NOT AUDITED{', no vulnerability service can be reached' if is_away else ''}: {told}", not is_away
    findings = [
        f"{found['name']} {found['version']}: {vulnerability['id']}, fixed in {vulnerability['fix_versions']}"
        for found in dependencies
        for vulnerability in found.get("vulns", ())
    ]
    skipped = [found["skip_reason"] for found in dependencies if "skip_reason" in found]
    if findings:
        return "\n".join(findings), True
    if len(skipped) == len(dependencies) and all(UNREACHABLE[-1] in reason for reason in skipped):
        return "NOT AUDITED, the package index here tells no vulnerabilities: " + skipped[0], False
    if skipped:
        return "could not be audited:\n" + "\n".join(skipped), True
    return f"no known vulnerability in {len(dependencies)} dependencies", False


if __name__ == "__main__":
    verdict, is_failure = judge(look_up())
    sys.stdout.write(verdict + "\n")
    sys.exit(is_failure)
