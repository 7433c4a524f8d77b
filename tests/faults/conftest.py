"""What the tests of faults share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.arena import Arena, Measure, Postgres
from taskflow.migrate import migrate


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server of this module's own, with Taskflow's schema."""
    postgres = Postgres(tmp_path_factory.mktemp("postgres"))
    postgres.start()
    try:
        migrate(postgres.dsn)
        yield postgres
    finally:
        postgres.stop()


@pytest.fixture
def arena(
    postgres: Postgres, tmp_path: Path, seed: int, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> Iterator[Arena]:
    """An empty queue and no process yet; all of them are killed after the test."""
    with capsys.disabled():
        print(f"\n{request.node.name}: TASKFLOW_TEST_SEED={seed}")
    arena = Arena(tmp_path, postgres, seed)
    failed = request.session.testsfailed
    try:
        yield arena
        if request.session.testsfailed > failed:
            print(arena.say())
    finally:
        arena.end()


@pytest.fixture
def measure(capsys: pytest.CaptureFixture[str]) -> Measure:
    """``measure(what, seconds)``: show what was measured, for docs/reliability.md."""

    def measure(what: str, seconds: list[float]) -> None:
        figures = sorted(seconds)
        with capsys.disabled():
            print(f"{what}: median {figures[len(figures) // 2]:.2f} s, most {figures[-1]:.2f} s, {len(figures)} times")

    return measure
