#!/usr/bin/env bash
# configure.sh DIR: write the configuration of every part to DIR, from the templates beside this script.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
DIR=${1:?usage: configure.sh DIR}
# shellcheck source=deploy/ha/common.sh
. "$here/common.sh"

umask 077
[ -s "$DIR/password" ] || od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$DIR/password"
password=$(<"$DIR/password")
echo "$BASE" >"$DIR/port"

etcd_hosts="" hosts="" ports=""
for n in "${NODES[@]}"; do
    etcd_hosts+="${etcd_hosts:+,}127.0.0.1:$(etcd_port "$n")"
    hosts+="${hosts:+,}127.0.0.1:$(postgres_port "$n")"
    ports+="s|@POSTGRES_PORT$n@|$(postgres_port "$n")|g;s|@REST_PORT$n@|$(rest_port "$n")|g;"
done

fill() { # fill TEMPLATE [MORE EDITS]
    sed "s|@DIR@|$DIR|g;s|@PG_BIN@|$PG_BIN|g;s|@PASSWORD@|$password|g;s|@ETCD_HOSTS@|$etcd_hosts|g
         s|@PROXY_PORT@|$PROXY_PORT|g;s|@BOUNCER_PORT@|$BOUNCER_PORT|g;$ports${2:-}" "$here/$1"
}

for n in "${NODES[@]}"; do
    fill patroni.yml.in "s|@N@|$n|g;s|@REST_PORT@|$(rest_port "$n")|g;s|@POSTGRES_PORT@|$(postgres_port "$n")|g" \
        >"$DIR/patroni$n.yml"
done
fill haproxy.cfg.in >"$DIR/haproxy.cfg"
fill pgbouncer.ini.in >"$DIR/pgbouncer.ini"
echo "\"taskflow\" \"$password\"" >"$DIR/users.txt"

# What Taskflow's processes are given as DATABASE_URL.
user="postgresql://taskflow:$password@"
cat >"$DIR/urls.env" <<END
PROXY_URL=${user}127.0.0.1:$PROXY_PORT/taskflow
MULTI_HOST_URL=$user$hosts/taskflow?target_session_attrs=read-write
POOLED_SESSION_URL=${user}127.0.0.1:$BOUNCER_PORT/taskflow_session
POOLED_TRANSACTION_URL=${user}127.0.0.1:$BOUNCER_PORT/taskflow
END
