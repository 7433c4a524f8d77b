"""The Containerfile's build stage, step by step in a folder instead of a container."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from commands import environment

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("uv") is None, reason="there is no uv")


def build_stage() -> list[tuple[str, str]]:
    """Its instructions and their arguments, continued lines joined."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    _, stage, _ = re.split(r"^FROM .*\n", text, flags=re.MULTILINE)
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in stage.splitlines())]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the final stage gets as /opt/taskflow."""
    root = tmp_path_factory.mktemp("image")
    sources, built = root / "src", root / "taskflow"
    sources.mkdir()
    variables = {**os.environ, "UV_PYTHON": sys.executable, "UV_SYSTEM_CERTS": "1"}

    def here(text: str) -> str:
        return text.replace("/opt/uv/bin/uv", "uv").replace("/opt/taskflow", str(built))

    for word, arguments in build_stage():
        if word == "ENV":
            variables |= dict(each.split("=", 1) for each in shlex.split(here(arguments)))
            variables.pop("UV_NO_CACHE", None)
        elif word == "COPY":
            *names, _ = arguments.split()
            for name in names:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, sources)
        elif word == "RUN" and "uv " in here(arguments) and "pip install" not in arguments:
            ran = subprocess.run(
                ["sh", "-ec", here(arguments)], cwd=sources, env=variables, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, ran.stderr
    return built


def test_the_image_has_every_command_and_needs_no_sources(built: Path) -> None:
    shutil.rmtree(built.parent / "src", ignore_errors=True)
    for command in ("taskflow", "taskflow-server", "taskflow-worker", "taskflow-recovery"):
        ran = subprocess.run(
            [built / "bin" / command, "--version"], cwd="/", capture_output=True, text=True, check=False
        )
        assert re.fullmatch(r"taskflow \d+\.\d+\.\d+\n", ran.stdout), ran.stderr


def test_the_image_migrates_a_database_and_writes_no_file(built: Path, empty_database: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.rglob("*")}
    variables = environment(DATABASE_URL=empty_database, PYTHONDONTWRITEBYTECODE="1", LOGNAME="taskflow")
    ran = subprocess.run(
        [built / "bin" / "taskflow", "migrate"], cwd="/", env=variables, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "applied 0001.tasks" in ran.stdout
    assert {path: path.stat().st_mtime_ns for path in built.rglob("*")} == before


def test_the_image_holds_what_its_bill_of_materials_lists_and_no_tools(built: Path) -> None:
    bill = msgspec.json.decode((built / "sbom.cdx.json").read_bytes())
    listed = {component["name"] for component in bill["components"]}
    (packages,) = built.glob("lib/python*/site-packages")
    installed = {
        re.sub(r"[-_.]+", "-", path.name.rsplit("-", 2)[0]).lower() for path in packages.glob("*-*.dist-info")
    } - {"taskflow-pg"}
    assert {"litestar", "msgspec", "psycopg"} <= installed <= listed
    assert not listed & {"pytest", "ruff", "pyright"}
