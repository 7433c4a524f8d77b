#!/usr/bin/env bash
# Test, build, and deploy what is checked out here to a local kind cluster; again after each change.
#   deploy/kind.sh [--skip-tests]
# KIND_CLUSTER names the cluster (taskflow); it is made where it is missing, with a throw-away PostgreSQL.
set -euo pipefail
cd "$(dirname "$0")/.."

cluster=${KIND_CLUSTER:-taskflow}
namespace=taskflow
kube=(kubectl --context "kind-$cluster" --namespace "$namespace")

step() { printf '\n== %s\n' "$*"; }

case "${1-}" in "" | --skip-tests) ;; *) echo "usage: deploy/kind.sh [--skip-tests]" >&2; exit 2 ;; esac

missing=()
for tool in git uv docker kind kubectl helm; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "deploy/kind.sh needs ${missing[*]}" >&2
    exit 1
fi

# The tag names the content: what has not changed is not rolled out again.
commit=$(git stash create)
version=$(git rev-parse --short=12 "${commit:-HEAD}^{tree}")

if [ "${1-}" != --skip-tests ]; then
    step "tests"
    uv run --frozen pytest --quiet
fi

step "image taskflow:$version"
docker build --file Containerfile --tag "taskflow:$version" --build-arg "VERSION=$version" .

step "cluster $cluster"
if ! kind get clusters | grep -qx "$cluster"; then
    kind create cluster --name "$cluster" --wait 2m
fi
kind load docker-image "taskflow:$version" --name "$cluster"

step "PostgreSQL"
if ! "${kube[@]}" get namespace "$namespace" >/dev/null 2>&1; then
    "${kube[@]}" create namespace "$namespace"
fi
"${kube[@]}" label --overwrite namespace "$namespace" pod-security.kubernetes.io/enforce=restricted
if ! "${kube[@]}" get secret taskflow-database >/dev/null 2>&1; then
    password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    "${kube[@]}" create secret generic taskflow-database \
        --from-literal=DB_USERNAME=taskflow "--from-literal=DB_PASSWORD=$password"
fi
"${kube[@]}" apply --filename deploy/kind-postgres.yaml
"${kube[@]}" rollout status statefulset/postgres --timeout=3m

step "chart"
helm upgrade --install taskflow deploy/chart --kube-context "kind-$cluster" --namespace "$namespace" \
    --values deploy/chart/values-kind.yaml --set-string "image.tag=$version" --wait --timeout 5m

step "done; the API on http://127.0.0.1:8086:"
echo "kubectl --context kind-$cluster --namespace $namespace port-forward service/taskflow-server 8086:80"
