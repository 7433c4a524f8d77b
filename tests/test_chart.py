"""The Helm chart, rendered by Helm's own engine and held against Kubernetes' schemas; no cluster has seen it.

Needs the dependency group `charts`: uv run --group charts pytest tests/test_chart.py
"""

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from taskflow import settings
from taskflow.model import Status

helm: Any = pytest.importorskip("helm_python", reason="needs uv run --group charts")
kubernetes: Any = pytest.importorskip("kubernetes_validate", reason="needs uv run --group charts")

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "chart"
FILES = ["values.yaml", *sorted(path.name for path in CHART.glob("values-*.yaml"))]
KUBERNETES = ["1.30", "1.33", "1.37"]

# Operators bring these kinds; their schemas are not at hand in a test.
CUSTOM = {
    "Cluster", "ExternalSecret", "ObjectStore", "PodMonitor", "Pooler", "PrometheusRule", "ScaledObject",
    "ScheduledBackup", "ServiceMonitor", "TriggerAuthentication",
}  # fmt: skip

Values = dict[str, Any]
Manifest = dict[str, Any]


@cache
def chart() -> Any:
    return helm.Chart.load(str(CHART))


def values(*names: str) -> Values:
    """What several -f give, as Helm merges them."""
    merged: Values = {}
    for name in names:
        merge(merged, msgspec.yaml.decode((CHART / name).read_text()))
    return merged


def merge(into: Values, other: Values) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], other[key])
        else:
            into[key] = value


def render(given: Values, release: str = "taskflow") -> list[Manifest]:
    texts: dict[str, str] = chart().render(given, name=release, namespace="tasks")
    return [manifest for name, text in texts.items() if name.endswith(".yaml") for manifest in manifests_of(text)]


def manifests_of(text: str) -> list[Manifest]:
    documents = re.split(r"^---$", text, flags=re.MULTILINE)
    return [found for each in documents if (found := msgspec.yaml.decode(each, type=Manifest | None))]


@cache
def _rendered(name: str) -> list[Manifest]:
    return render(values(name))


def rendered(name: str) -> list[Manifest]:
    return copy.deepcopy(_rendered(name))


def pod_of(manifest: Manifest) -> Manifest:
    spec = manifest["spec"]
    return spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]


def with_pods(manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in {"Deployment", "Job", "CronJob"}]


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [each for each in manifests if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def named(manifests: list[Manifest], kind: str) -> set[str]:
    return {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == kind}


def environment(container: Manifest) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container["env"]}


@pytest.mark.parametrize("name", FILES)
def test_helm_finds_nothing_to_criticise(name: str) -> None:
    report = helm.lint(str(CHART), values(name), strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if "icon" not in message["error"]] == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_what_is_rendered_fits_the_schemas_of_kubernetes(version: str) -> None:
    seen = manifests_of((ROOT / "deploy" / "kind-postgres.yaml").read_text())
    for manifest in seen:
        kubernetes.validate(manifest, version, strict=True)
    for name in FILES:
        for manifest in rendered(name):
            shape = manifest | {"metadata": {"name": "any"}}
            if manifest["kind"] not in CUSTOM and shape not in seen:
                kubernetes.validate(manifest, version, strict=True)
                seen.append(shape)
    assert len(seen) > 20


def test_no_object_is_rendered_twice_under_one_name() -> None:
    for name in FILES:
        names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in rendered(name)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("name", FILES)
def test_each_pod_is_restricted_limited_and_pinned(name: str) -> None:
    for manifest in with_pods(rendered(name)):
        pod = pod_of(manifest)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {key for volume in pod["volumes"] for key in volume} <= {"name", "emptyDir", "secret"}
        for container in pod["containers"]:
            assert re.fullmatch(r"[\w./-]*taskflow:\d+\.\d+\.\d+", container["image"])
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


@pytest.mark.parametrize("name", FILES)
def test_each_deployment_is_probed_spread_and_protected(name: str) -> None:
    manifests = rendered(name)
    budgets = [each["spec"]["selector"] for each in manifests if each["kind"] == "PodDisruptionBudget"]
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            selector, template = manifest["spec"]["selector"], manifest["spec"]["template"]
            assert selector["matchLabels"].items() <= template["metadata"]["labels"].items()
            assert selector in budgets
            (container,) = template["spec"]["containers"]
            assert container["readinessProbe"]["httpGet"]["path"] == "/readiness"
            assert container["livenessProbe"]["httpGet"]["path"] == "/liveness"
            spread = template["spec"]["topologySpreadConstraints"]
            assert [each["labelSelector"] for each in spread] == [selector, selector]


@pytest.mark.parametrize("name", FILES)
def test_all_settings_exist_and_no_secret_is_among_them(name: str) -> None:
    for manifest in with_pods(rendered(name)):
        (container,) = pod_of(manifest)["containers"]
        given = environment(container)
        assert given.keys() - {"POD_NAME"} <= settings.VARIABLES.keys()
        assert given.get("DB_PASSWORD") is None
        assert len(given) == len(container["env"])
        loaded = settings.load({key: value for key, value in given.items() if value is not None})
        assert loaded.log_level == "info"


@pytest.mark.parametrize("name", FILES)
def test_a_worker_gets_fifteen_seconds_more_than_its_grace(name: str) -> None:
    for manifest in rendered(name):
        if "-worker-" in manifest["metadata"]["name"] and manifest["kind"] == "Deployment":
            pod = pod_of(manifest)
            grace = float(environment(pod["containers"][0])["WORKER_GRACE_IN_SECONDS"])
            assert pod["terminationGracePeriodSeconds"] == grace + 15


def test_by_default_there_are_a_server_a_worker_per_priority_a_migration_and_a_recovery_by_hand() -> None:
    manifests = rendered("values.yaml")
    assert named(manifests, "Deployment") == {
        "taskflow-server", "taskflow-worker-high", "taskflow-worker-normal", "taskflow-worker-low",
    }  # fmt: skip
    worker = find(manifests, "Deployment", "taskflow-worker-high")["spec"]["template"]["spec"]["containers"][0]
    assert worker["args"] == ["taskflow-worker", "--priority=high", "--id", "$(POD_NAME)"]
    assert worker["env"][0] == {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    migration = find(manifests, "Job", "taskflow-migrate")
    assert migration["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    recovery = find(manifests, "CronJob", "taskflow-recovery")
    assert recovery["spec"]["suspend"] is True
    assert pod_of(recovery)["containers"][0]["args"] == ["taskflow-recovery", "failed", "3600", "100"]


@pytest.mark.parametrize(("priority", "number"), [("high", "1"), ("normal", "2"), ("low", "3")])
def test_a_numbered_worker_is_a_release_of_its_own(priority: str, number: str) -> None:
    manifests = rendered(f"values-worker-{priority}-{number}.yaml")
    (worker,) = with_pods(manifests)
    assert worker["spec"]["strategy"] == {"type": "Recreate"}
    assert worker["spec"]["replicas"] == 1
    assert pod_of(worker)["containers"][0]["args"][1:] == [f"--priority={priority}", "--id", number]


def test_a_server_is_not_open_to_everybody() -> None:
    (container,) = pod_of(find(rendered("values.yaml"), "Deployment", "taskflow-server"))["containers"]
    assert "ALLOW_ANONYMOUS" not in environment(container)
    assert "taskflow token create" in chart().render({}, name="taskflow")["taskflow/templates/NOTES.txt"]


def test_a_worker_with_an_id_is_never_scaled() -> None:
    worker = {"id": "7", "replicas": 3, "autoscaling": {"enabled": True}}
    manifests = render({"workers": {"high": worker}})
    assert find(manifests, "Deployment", "taskflow-worker-high")["spec"]["replicas"] == 1
    assert named(manifests, "ScaledObject") | named(manifests, "HorizontalPodAutoscaler") == set()


def test_what_is_scaled_has_no_number_of_replicas() -> None:
    manifests = rendered("values-production.yaml")
    targets = {
        manifest["spec"]["scaleTargetRef"]["name"]
        for manifest in manifests
        if manifest["kind"] in {"ScaledObject", "HorizontalPodAutoscaler"}
    }
    assert targets == {"taskflow-server", *(f"taskflow-worker-{name}" for name in ("normal", "low", "reports"))}
    for name in targets:
        assert "replicas" not in find(manifests, "Deployment", name)["spec"]
    assert find(manifests, "ScaledObject", "taskflow-worker-low")["spec"]["minReplicaCount"] == 0


async def test_keda_asks_what_is_due_and_how_long_it_has_waited(
    conn: psycopg.AsyncConnection[Any], make_task: Any
) -> None:
    scaled = find(rendered("values-production.yaml"), "ScaledObject", "taskflow-worker-low")
    depth, age = (trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"])

    async def ask(query: str) -> float:
        row = await (await conn.execute(query.encode())).fetchone()
        assert row is not None
        return row[0]

    assert (await ask(depth), await ask(age)) == (0, 0)
    await make_task(priority="low", scheduled_at="2020-01-01")
    await make_task(priority="low", scheduled_at="2100-01-01")
    await make_task(priority="high")
    await make_task(Status.RUNNING, priority="low")
    assert await ask(depth) == 2
    assert await ask(age) > 1e8


def test_a_database_of_the_release_is_trusted_by_its_own_authority() -> None:
    manifests = rendered("values-production.yaml")
    cluster = find(manifests, "Cluster", "taskflow-postgres")["spec"]
    assert cluster["instances"] == 3
    assert cluster["postgresql"]["synchronous"] == {
        "method": "any", "number": 1, "dataDurability": "required", "failoverQuorum": True,
    }  # fmt: skip
    pod = pod_of(find(manifests, "Deployment", "taskflow-server"))
    given = environment(pod["containers"][0])
    assert given["DB_HOST"] == "taskflow-postgres-rw.tasks.svc"
    assert (given["DB_SSL_MODE"], given["DB_SSL_ROOT_CERT"]) == ("verify-full", "/etc/taskflow/ca.crt")
    (ca,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "ca"]
    assert ca == {"secretName": "taskflow-postgres-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    hook = find(manifests, "Job", "taskflow-migrate")["metadata"]["annotations"]["helm.sh/hook"]
    assert hook == "post-install,pre-upgrade"


def test_a_managed_database_is_named_by_host_or_by_the_url_in_the_secret() -> None:
    for database, host in (({}, None), ({"host": "db.example.com", "caSecret": "ca"}, "db.example.com")):
        (container,) = pod_of(find(render({"database": database}), "Deployment", "taskflow-server"))["containers"]
        assert environment(container).get("DB_HOST") == host
        assert container["envFrom"] == [{"secretRef": {"name": "taskflow-database"}}]


def test_prometheus_and_grafana_get_the_files_as_they_are() -> None:
    manifests = rendered("values-production.yaml")
    rules = (CHART / "files" / "rules.yaml").read_text()
    assert find(manifests, "PrometheusRule", "taskflow-alerts")["spec"] == msgspec.yaml.decode(rules)
    shown = find(manifests, "ConfigMap", "taskflow-dashboard")["data"]["taskflow.json"]
    assert msgspec.json.decode(shown) == msgspec.json.decode((CHART / "files" / "dashboard.json").read_bytes())
    (endpoint,) = find(manifests, "ServiceMonitor", "taskflow-server")["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "taskflow-metrics", "key": "token"}}


def test_a_secret_can_come_from_a_store_before_the_migration_needs_it() -> None:
    manifests = render({"database": {"externalSecret": {"enabled": True, "store": {"name": "vault"}}}})
    secret = find(manifests, "ExternalSecret", "taskflow-database")
    assert secret["spec"]["target"] == {"name": "taskflow-database", "creationPolicy": "Orphan"}
    assert secret["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"


@pytest.mark.parametrize(
    ("given", "named_fault"),
    [
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"config": {"DB_PASSWORD": "geheim"}}, "DB_PASSWORD"),
        ({"config": {"WORKER_CONCURRENCY": 100}}, "/config/WORKER_CONCURRENCY"),
        ({"workers": {"high": {"replica": 2}}}, "/workers/high"),
        ({"workers": {"high": {"priorities": ["urgent"]}}}, "/workers/high/priorities/0"),
        ({"workers": {"Night_Shift": {}}}, "Night_Shift"),
        ({"server": {"resources": {"limits": {"cpu": None, "memory": "1Gi"}}}}, "/server/resources/limits"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(given: Values, named_fault: str) -> None:
    with pytest.raises(helm.errors.HelmError, match=named_fault):
        render(given)


def test_the_chart_has_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert chart().metadata["version"] == chart().metadata["appVersion"] == version[1]
