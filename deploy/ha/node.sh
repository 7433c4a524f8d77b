#!/usr/bin/env bash
# node.sh start|stop|kill|orphan N [DIR]: what may happen to node N.
#   stop    shut it down: its Patroni, with it Postgres, and its etcd
#   kill    kill -9 its Patroni and its Postgres, as a crash of the machine would; its etcd lives
#   orphan  kill -9 its Patroni alone: Postgres goes on, and nobody tells it that another is the primary now
#   start   bring it back; Patroni makes it a standby, with pg_rewind where it must
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
verb=${1:?usage: node.sh start|stop|kill|orphan N [DIR]}
n=${2:?usage: node.sh start|stop|kill|orphan N [DIR]}
DIR=$(realpath -m "${3:-.taskflow/ha}")
# shellcheck source=deploy/ha/common.sh
. "$here/common.sh"

case $verb in
start)
    start_etcd "$n"
    start_patroni "$n"
    ;;
stop)
    stop_patroni "$n"
    stop "etcd$n" 10
    ;;
kill)
    patroni=$(pid_of "patroni$n") || fail "no Patroni of node $n runs"
    postmaster=$(postmaster_of "$n") || fail "no Postgres of node $n runs"
    kill -KILL "$patroni" "$postmaster"
    ;;
orphan)
    patroni=$(pid_of "patroni$n") || fail "no Patroni of node $n runs"
    kill -KILL "$patroni"
    ;;
*) fail "start, stop, kill or orphan?" ;;
esac
