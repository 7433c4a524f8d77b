"""The alerts and the dashboard use metrics that exist, and the alerts fire when they should."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).parents[1]
FILES = ROOT / "deploy" / "chart" / "files"
NAME = re.compile(r"\btaskflow_\w+")


def rules() -> list[dict[str, Any]]:
    (group,) = msgspec.yaml.decode((FILES / "rules.yaml").read_text())["groups"]
    return group["rules"]


def panels() -> list[dict[str, Any]]:
    return msgspec.json.decode((FILES / "dashboard.json").read_bytes())["panels"]


def queries() -> dict[str, str]:
    """Every query, by the alert or panel that asks it."""
    asked = {rule["alert"]: rule["expr"] for rule in rules()}
    return asked | {panel["title"]: " ; ".join(each["expr"] for each in panel["targets"]) for panel in panels()}


def described() -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of each metric that docs/metrics.md describes."""
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| ([\w, ]*) ?\|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
    return {
        name: (kind, {label.strip() for label in labels.split(",") if label.strip()}) for name, kind, labels in rows
    }


def test_alerts_and_dashboard_use_metrics_that_are_described() -> None:
    metrics = described()
    for asker, query in queries().items():
        for name in NAME.findall(query):
            base = name.removesuffix("_bucket")
            assert base in metrics, f"{asker} asks for {name}"
            assert (name != base) == (metrics[base][0] == "histogram"), f"{asker} asks for {name}"


def test_alerts_and_dashboard_group_by_labels_that_are_there() -> None:
    metrics = described()
    for asker, query in queries().items():
        labels = {label for name in NAME.findall(query) for label in metrics[name.removesuffix("_bucket")][1]}
        grouped = {label.strip() for by in re.findall(r"(?:by|on) \(([^)]*)\)", query) for label in by.split(",")}
        selected = set(re.findall(r"(\w+)=~?\"", query))
        assert grouped | selected <= labels | {"le", "instance"}, asker


def test_counters_are_asked_for_their_rate() -> None:
    counters = {name for name, (kind, _) in described().items() if kind == "counter"}
    for asker, query in queries().items():
        for name in counters & set(NAME.findall(query)):
            assert re.search(rf"(rate|increase)\({name}", query), asker


def test_each_alert_says_how_bad_it_is_and_what_is_wrong() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["for"]


def test_the_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool (Debian: prometheus)")
def test_the_alerts_fire_when_they_should() -> None:
    ran = subprocess.run(
        ["promtool", "test", "rules", "rules_test.yaml"],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool (Debian: prometheus)")
def test_prometheus_understands_its_configuration(tmp_path: Path) -> None:
    config = (ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(config.replace("/etc/prometheus/rules.yaml", str(FILES / "rules.yaml")))
    ran = subprocess.run(
        ["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
