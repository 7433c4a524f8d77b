#!/usr/bin/env bash
# up.sh [DIR]: three etcd, three PostgreSQL under Patroni, HAProxy and PgBouncer, all on loopback and all in DIR.
# What DIR holds from an earlier run is started again. HA_PORT (17000) is the first of some fifty ports.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
DIR=$(realpath -m "${1:-.taskflow/ha}")
# shellcheck source=deploy/ha/common.sh
. "$here/common.sh"

for program in etcd patroni haproxy pgbouncer curl setpriv "$PG_BIN/initdb"; do
    command -v "$program" >/dev/null ||
        fail "$program is missing; on Debian: apt-get install curl etcd-server haproxy patroni pgbouncer postgresql-15"
done

mkdir -p "$DIR/log" "$DIR/run"
"$here/configure.sh" "$DIR"
if [ "$(id -u)" -eq 0 ]; then chown -R postgres:postgres "$DIR"; fi
(as_postgres test -w "$DIR/log") || fail "the user postgres cannot reach $DIR; name a folder that it can"

for n in "${NODES[@]}"; do start_etcd "$n"; done
for n in "${NODES[@]}"; do await 60 "etcd$n" answers "http://127.0.0.1:$(etcd_port "$n")/health"; done
for n in "${NODES[@]}"; do start_patroni "$n"; done
for n in "${NODES[@]}"; do await 120 "node$n" answers "http://127.0.0.1:$(rest_port "$n")/health"; done
start haproxy haproxy -db -f "$DIR/haproxy.cfg"
start pgbouncer pgbouncer "$DIR/pgbouncer.ini"

psql() {
    PGPASSWORD=$(<"$DIR/password") PGCONNECT_TIMEOUT=5 \
        "$PG_BIN/psql" --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"
}
admin() { psql --host=127.0.0.1 --port="$PROXY_PORT" --username=postgres --dbname=postgres "$@"; }
standby_is_synchronous() {
    [ "$(admin --command="SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")" -ge 1 ]
}
await 60 "the primary behind HAProxy" admin --command="SELECT 1"
await 60 "the synchronous standby" standby_is_synchronous
if [ -z "$(admin --command="SELECT 1 FROM pg_database WHERE datname = 'taskflow'")" ]; then
    admin --command="CREATE ROLE taskflow LOGIN PASSWORD '$(<"$DIR/password")'" \
        --command="CREATE DATABASE taskflow OWNER taskflow"
fi
await 30 "PgBouncer" psql --command="SELECT 1" \
    --host=127.0.0.1 --port="$BOUNCER_PORT" --username=taskflow --dbname=taskflow

(as_postgres patronictl -c "$DIR/patroni1.yml" list)
echo "DATABASE_URL: one of $(cut -d= -f1 "$DIR/urls.env" | paste -sd' ') in $DIR/urls.env"
