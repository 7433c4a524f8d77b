# Recipes for people who work on Taskflow; each uses the locked environment.

set positional-arguments

# List the recipes.
default:
    @just --list --unsorted

# Everything but the tests.
check: lint types imports

# Lint and formatting of Python, the Containerfile and the compose file.
lint:
    uv run --frozen ruff check
    uv run --frozen ruff format --check
    uv run --frozen hadolint Containerfile
    uv run --frozen check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

types:
    uv run --frozen pyright

# The layers of the package: imports point down only.
imports:
    uv run --frozen lint-imports

# Unsafe code, and dependencies with known vulnerabilities (asks a service on the internet).
audit:
    uv run --frozen bandit --quiet --configfile pyproject.toml --recursive taskflow
    uv run --frozen python .ci/audit.py

# Run the tests: just test -k recovery
test *args:
    uv run --frozen pytest "$@"

# Let schemathesis try many requests at every operation of the API.
fuzz examples="200":
    TASKFLOW_TEST_EXAMPLES="$1" uv run --frozen pytest tests/test_api_openapi.py -k schemathesis

# Start everything on an embedded PostgreSQL: just demo --exit
demo *args:
    uv run --frozen taskflow demo "$@"

# Render the Helm chart with its value files, and hold it against Kubernetes' schemas (fetches 100 MB once).
chart *args:
    uv run --frozen --group charts pytest tests/test_chart.py "$@"

# Test, build, and deploy to a local kind cluster: just kind --skip-tests
kind *args:
    deploy/kind.sh "$@"

# Faults under load: processes killed, stopped and restarted, Postgres too; a few minutes, and 20 with just faults long.
faults form="short" *args:
    export TASKFLOW_TEST_FAULTS="$1"; shift; uv run --frozen pytest tests/faults "$@"

# A random fault every 30 seconds under load, and a report: just soak --minutes 60 --report soak.json
soak *args:
    PYTHONPATH=tests uv run --frozen python -m faults.soak "$@"

# The dashboard in a real browser; needs Debian's chromium.
browser *args:
    uv run --frozen --group browser pytest tests/browser "$@"

# Take the pictures of docs/dashboard.md anew, of the demo.
screenshots into="docs/screenshots":
    PYTHONPATH=tests uv run --frozen --group browser python -m browser.screenshots "$1"

# High availability: three nodes under Patroni, faults under load; needs the packages that deploy/ha/README.md names.
ha *args:
    uv run --frozen pytest tests/ha "$@"

# The same three nodes to play with: just ha-up /var/tmp/ha
ha-up dir=".taskflow/ha":
    deploy/ha/up.sh "$1"

ha-down dir=".taskflow/ha":
    deploy/ha/down.sh "$1"

# Build the documentation into build/site; each link is checked, and the reference is written from the code.
docs:
    NO_MKDOCS_2_WARNING=1 uv run --frozen --group docs mkdocs build --strict

fmt:
    uv run --frozen ruff check --fix
    uv run --frozen ruff format

# What CI runs; just ci long: with the long form of the faults, and ten minutes of soak.
ci form="short":
    .ci/run "$1"

# Build sdist and wheel, check them, and run the demo from the wheel.
package:
    .ci/package

# Build the image with Podman or Docker.
image tag="taskflow:local":
    #!/usr/bin/env bash
    set -euo pipefail
    args=(build --file Containerfile --tag "$1" --build-arg "REVISION=$(git rev-parse --short HEAD)")
    if command -v podman >/dev/null; then
        podman "${args[@]}" --format docker . # OCI images carry no HEALTHCHECK
    else
        docker "${args[@]}" .
    fi

# Remove what the tools wrote, but neither .venv nor the data in .taskflow.
clean:
    rm -rf dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage
    find taskflow tests db docs -type d -name __pycache__ -prune -exec rm -rf {} +
