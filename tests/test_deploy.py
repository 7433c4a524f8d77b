"""The files that build, deploy and check Taskflow hold what they promise."""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from taskflow import settings

ROOT = Path(__file__).parents[1]
TOOLS = Path(sys.executable).parent
WORKERS = [f"worker-{priority}" for priority in ("high", "normal", "low")]


def run(*command: str | Path) -> None:
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# --- image ------------------------------------------------------------------------------------------------------------


def containerfile() -> str:
    return (ROOT / "Containerfile").read_text()


def test_the_containerfile_passes_hadolint() -> None:
    run(TOOLS / "hadolint", "Containerfile")


def test_the_base_image_is_pinned_by_patch_version() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-slim-bookworm$", containerfile(), re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", containerfile(), re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_the_image_runs_as_a_numeric_user_that_is_not_root() -> None:
    user = re.findall(r"^USER (\d+):\d+$", containerfile(), re.MULTILINE)
    assert [int(uid) > 0 for uid in user] == [True]


def test_the_build_context_holds_what_the_containerfile_copies() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", containerfile(), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == allowed
    assert all((ROOT / name).exists() for name in allowed)
    assert (ROOT / ".containerignore").read_text() == (ROOT / ".dockerignore").read_text()


class Live(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/liveness" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def live_port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Live)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("variables", [["SERVER_PORT"], ["SERVER_PORT", "HEALTH_PORT"]])
def test_the_health_check_asks_the_server_or_the_worker(variables: list[str], live_port: int) -> None:
    written = re.search(r"^HEALTHCHECK .*\n +CMD (.+)$", containerfile(), re.MULTILINE)
    assert written is not None
    _, *arguments = msgspec.json.decode(written[1], type=list[str])
    unused = "1"  # nothing listens on port 1
    ports = dict.fromkeys(["SERVER_PORT", *variables], unused)

    def healthy() -> bool:
        ran = subprocess.run([sys.executable, *arguments], env=os.environ | ports, capture_output=True, check=False)
        return ran.returncode == 0

    assert not healthy()
    ports[variables[-1]] = str(live_port)
    assert healthy()


# --- compose ----------------------------------------------------------------------------------------------------------


class Service(Struct):
    image: str
    environment: dict[str, str | None] = {}
    command: list[str] = []
    profiles: list[str] = []
    volumes: list[str] = []
    restart: str | None = None
    ports: list[str] = []
    stop_grace_period: str | None = None
    read_only: bool = False
    cap_drop: list[str] = []


class Compose(Struct):
    services: dict[str, Service]


@pytest.fixture(scope="module")
def compose() -> Compose:
    return msgspec.yaml.decode((ROOT / "docker-compose.yml").read_text(), type=Compose)


def test_the_compose_file_fits_the_specification() -> None:
    run(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_compose_starts_a_migration_a_server_and_a_worker_per_priority(compose: Compose) -> None:
    always = {name for name, service in compose.services.items() if not service.profiles}
    assert always == {"postgres", "migrate", "server", *WORKERS}
    assert compose.services.keys() - always == {"pgbouncer", "prometheus", "grafana"}
    for name in WORKERS:
        assert compose.services[name].command[-2:] == ["--priority", name.removeprefix("worker-")]


def test_compose_restarts_all_but_the_migration(compose: Compose) -> None:
    restarts = {name: service.restart for name, service in compose.services.items()}
    assert restarts.pop("migrate") == "no"
    assert set(restarts.values()) == {"unless-stopped"}


def test_compose_publishes_ports_on_the_loopback_only(compose: Compose) -> None:
    ports = [port for service in compose.services.values() for port in service.ports]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_needs_no_token_only_where_this_machine_alone_can_come(compose: Compose) -> None:
    open_ones = [service for service in compose.services.values() if service.environment.get("ALLOW_ANONYMOUS")]
    assert [service.command for service in open_ones] == [["taskflow-server"]]
    assert all(port.startswith("127.0.0.1:") for service in open_ones for port in service.ports)


def test_compose_gives_a_worker_more_than_its_grace(compose: Compose) -> None:
    for name in WORKERS:
        worker = compose.services[name]
        assert worker.stop_grace_period is not None
        assert int(worker.stop_grace_period.removesuffix("s")) > int(worker.environment["WORKER_GRACE_IN_SECONDS"] or 0)


def test_compose_pins_its_images_and_mounts_files_that_exist(compose: Compose) -> None:
    for service in compose.services.values():
        assert re.search(r":(v?\d+\.\d+|local$)", service.image)
        mounted = [volume.partition(":")[0] for volume in service.volumes if volume.startswith("./")]
        assert all((ROOT / path).is_file() for path in mounted)


def test_compose_runs_taskflow_with_a_read_only_root_and_no_capabilities(compose: Compose) -> None:
    ours = [service for service in compose.services.values() if service.image.startswith("taskflow")]
    assert len(ours) == 5
    assert all(service.read_only and service.cap_drop == ["ALL"] for service in ours)


def test_compose_knows_each_variable_and_keeps_the_password_out(compose: Compose) -> None:
    for service in compose.services.values():
        if service.image.startswith("taskflow"):
            assert set(service.environment) <= set(settings.VARIABLES)
            assert str(service.environment["DB_PASSWORD"]).startswith("${POSTGRES_PASSWORD:?")


# --- systemd ----------------------------------------------------------------------------------------------------------

UNITS = sorted((ROOT / "deploy" / "systemd").iterdir())


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_runs_a_command_that_exists_and_gives_it_time_to_stop(unit: Path) -> None:
    text = unit.read_text()
    started = re.search(r"/opt/taskflow/bin/([\w-]+)", text)
    assert started is not None
    assert (TOOLS / started[1]).exists()
    patience = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert patience is not None
    grace = settings.Settings().worker_grace_in_seconds if "server" not in unit.name else 0
    assert int(patience[1]) >= grace + 15
    assert "\nDynamicUser=yes\n" in text
    assert "\nRestartPreventExitStatus=2\n" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        name = unit.name.replace("@", "@high-1")
        (tmp_path / name).write_text(unit.read_text().replace("/opt/taskflow/bin", str(TOOLS)))
        ran = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", f"./{name}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert name not in ran.stderr, ran.stderr


def test_the_name_of_a_worker_unit_says_its_priority_and_id() -> None:
    written = re.search(
        r"^ExecStart=/bin/sh -c '(.+)' - %i %H-%i$",
        (ROOT / "deploy" / "systemd" / "taskflow-worker@.service").read_text(),
        re.MULTILINE,
    )
    assert written is not None
    script = written[1].replace("%%", "%").replace("$$", "$").replace("exec /opt/taskflow/bin/", "echo ")
    said = subprocess.run(
        ["sh", "-c", script, "-", "high-1", "host-high-1"], capture_output=True, text=True, check=True
    )
    assert said.stdout == "taskflow-worker --priority high --id host-high-1\n"


# --- project ----------------------------------------------------------------------------------------------------------


def test_env_example_shows_every_setting_with_its_default() -> None:
    lines = re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    defaults = settings.Settings()
    expected = {
        name: msgspec.json.encode(getattr(defaults, field.name)).decode().strip('"').replace("null", "")
        for name, field in settings.VARIABLES.items()
    }
    assert dict(lines) == expected | {"POSTGRES_PASSWORD": ""}  # which only docker-compose.yml reads
    assert len(lines) == len(dict(lines))


def test_the_lock_file_names_the_public_hosts_only() -> None:
    hosts = set(re.findall(r'https?://[^/"]+', (ROOT / "uv.lock").read_text()))
    assert hosts == {"https://pypi.org", "https://files.pythonhosted.org"}


WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_a_workflow_pins_its_actions_bounds_its_time_and_may_write_nothing_by_default(workflow: Path) -> None:
    text = workflow.read_text()
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w/-]+@v\d+(\.\d+)*", action) for action in used)
    assert "\npermissions:\n  contents: read\n" in text
    assert text.count("timeout-minutes:") == text.count("runs-on:")


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", WORKFLOWS),
        ("dependabot", [".github/dependabot.yml"]),
        ("github-issue-forms", [".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/idea.yml"]),
        ("github-issue-config", [".github/ISSUE_TEMPLATE/config.yml"]),
    ],
)
def test_what_the_forge_reads_fits_its_schema(schema: str, files: list[str | Path]) -> None:
    run(TOOLS / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


def test_ci_tests_each_supported_python_with_each_postgres() -> None:
    (found,) = re.findall(r"matrix:\n +python: (.*)\n +postgres: (.*)\n", WORKFLOWS[0].read_text())
    assert found == ('["3.11", "3.12", "3.13", "3.14"]', '["15", "16", "17", "18"]')


def test_the_hooks_of_a_commit_use_the_locked_tools() -> None:
    hooks = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert hooks
    assert all(re.match(r"uv (run --frozen|lock --check)", hook) for hook in hooks)


def test_what_ci_runs_can_be_run() -> None:
    for script in (ROOT / ".ci" / "run", ROOT / ".ci" / "package"):
        assert os.access(script, os.X_OK)
        run("bash", "-n", script)


def test_the_recipes_are_well_formed() -> None:
    run(TOOLS / "just", "--fmt", "--check", "--unstable")
