#!/usr/bin/env bash
# down.sh [DIR]: end what up.sh started in DIR, by pid; what it stored stays.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
DIR=$(realpath -m "${1:-.taskflow/ha}")
# shellcheck source=deploy/ha/common.sh
. "$here/common.sh"

stop pgbouncer 5
stop haproxy 5
for n in "${NODES[@]}"; do stop_patroni "$n" & done # at once: each of them alone would become the primary
wait
for n in "${NODES[@]}"; do stop "etcd$n" 10; done
