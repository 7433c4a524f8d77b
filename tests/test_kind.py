"""deploy/kind.sh, with stubs instead of its tools that write down how they are called."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "deploy" / "kind.sh"
TREE = "0123456789ab"

# Where $FAILING is a part of the call, the stub fails; what it prints is in a file named after the tool.
STUB = """#!/bin/sh
call="${0##*/} $*"
echo "$call" >> "$CALLS"
case "$call" in *"${FAILING:-nothing}"*) exit 1 ;; esac
cat "$0.says" 2>/dev/null || true
"""

Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def kind(tmp_path: Path) -> Run:
    """``kind(*arguments, without=…, failing=…, clusters=…)``: exit status, calls and output of the script."""

    def run(
        *arguments: str, without: str = "", failing: str = "nothing", clusters: str = ""
    ) -> tuple[int, list[str], str]:
        tools = tmp_path / "tools"
        tools.mkdir(exist_ok=True)
        for tool in {"git", "uv", "docker", "kind", "kubectl", "helm"} - {without}:
            (tools / tool).write_text(STUB)
            (tools / tool).chmod(stat.S_IRWXU)
        (tools / "git.says").write_text(TREE)
        (tools / "kind.says").write_text(clusters)
        for tool in ("bash", "sh", "dirname", "cat", "grep", "od", "tr"):
            if not (tools / tool).exists():
                found = next(path for each in os.get_exec_path() if (path := Path(each) / tool).exists())
                (tools / tool).symlink_to(found)
        calls = tmp_path / "calls"
        calls.write_text("")
        ran = subprocess.run(
            [tools / "bash", SCRIPT, *arguments],
            env={"PATH": str(tools), "CALLS": str(calls), "FAILING": failing},
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.returncode, calls.read_text().splitlines(), ran.stdout + ran.stderr

    return run


def position(calls: list[str], part: str) -> int:
    (found,) = [index for index, call in enumerate(calls) if part in call]
    return found


def test_it_tests_builds_loads_and_upgrades_in_that_order(kind: Run) -> None:
    status, calls, said = kind(failing="get secret")
    assert status == 0, said
    order = [
        "uv run --frozen pytest",
        f"docker build --file Containerfile --tag taskflow:{TREE}",
        "kind create cluster --name taskflow",
        f"kind load docker-image taskflow:{TREE} --name taskflow",
        "create secret generic taskflow-database",
        "apply --filename deploy/kind-postgres.yaml",
        "helm upgrade --install taskflow deploy/chart --kube-context kind-taskflow",
    ]
    positions = [position(calls, part) for part in order]
    assert positions == sorted(positions)
    assert f"--set-string image.tag={TREE} --wait" in calls[positions[-1]]
    assert "port-forward service/taskflow-server 8086:80" in said.splitlines()[-1]


def test_a_second_run_makes_no_cluster_and_no_secret(kind: Run) -> None:
    status, calls, said = kind("--skip-tests", clusters="other\ntaskflow\n")
    assert status == 0, said
    assert not [call for call in calls if "create" in call and not call.startswith("git")]
    assert not [call for call in calls if call.startswith("uv")]
    assert position(calls, "helm upgrade --install")


@pytest.mark.parametrize("failing", ["uv run", "docker build", "kind load", "rollout status"])
def test_it_stops_at_the_first_failure(kind: Run, failing: str) -> None:
    status, calls, _ = kind(failing=failing)
    assert status != 0
    assert failing in calls[-1]


def test_a_missing_tool_is_told_before_anything_is_done(kind: Run) -> None:
    assert kind(without="helm") == (1, [], "deploy/kind.sh needs helm\n")


def test_an_unknown_option_is_refused(kind: Run) -> None:
    status, calls, said = kind("--fast")
    assert (status, calls) == (2, [])
    assert "usage" in said


def test_the_shell_scripts_pass_shellcheck() -> None:
    scripts = [".ci/run", ".ci/package", *(str(path) for path in (ROOT / "deploy").rglob("*.sh"))]
    shellcheck = Path(sys.executable).parent / "shellcheck"
    ran = subprocess.run([shellcheck, *scripts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
