# shellcheck shell=bash
# Sourced by the scripts beside it: where everything is, and how processes are started and ended.
# The caller has set DIR to an absolute path.

PG_BIN=${PG_BIN:-/usr/lib/postgresql/15/bin}
# The cluster's own port wins: etcd's members know each other by theirs.
BASE=$(cat "$DIR/port" 2>/dev/null || echo "${HA_PORT:-17000}")
NODES=(1 2 3)
PATH=$PATH:/usr/sbin:/sbin

export PROXY_PORT=$BASE BOUNCER_PORT=$((BASE + 1))
etcd_port() { echo $((BASE + 10 + $1)); }
peer_port() { echo $((BASE + 20 + $1)); }
rest_port() { echo $((BASE + 30 + $1)); }
postgres_port() { echo $((BASE + 40 + $1)); }

fail() {
    echo "$*" >&2
    exit 1
}

# PostgreSQL refuses to run as root, so root becomes postgres, the user of Debian's packages.
as_postgres() {
    if [ "$(id -u)" -eq 0 ]; then
        exec setpriv --reuid=postgres --regid=postgres --clear-groups env HOME="$DIR" "$@"
    fi
    exec env HOME="$DIR" "$@"
}

# The pid of what was started as NAME, if it still runs: its command line or folder must lie in DIR.
pid_of() {
    local pid
    pid=$(cat "$DIR/run/$1" 2>/dev/null) && belongs "$pid" && echo "$pid"
}

# The pid of the postmaster of node N, if it runs.
postmaster_of() {
    local pid
    pid=$(head -n 1 "$DIR/postgres$1/postmaster.pid" 2>/dev/null) && belongs "$pid" && echo "$pid"
}

belongs() {
    [ -d "/proc/$1" ] || return 1
    [[ "$(tr '\0' ' ' <"/proc/$1/cmdline" 2>/dev/null)" == *"$DIR/"* ]] && return 0
    [[ "$(readlink "/proc/$1/cwd" 2>/dev/null)" == "$DIR"/* ]]
}

# start NAME COMMAND…: in the background, with its output in log/NAME and its pid in run/NAME.
start() {
    local name=$1
    shift
    if pid_of "$name" >/dev/null; then return; fi
    (as_postgres setsid "$@") </dev/null >>"$DIR/log/$name" 2>&1 &
    echo $! >"$DIR/run/$name"
}

# stop NAME SECONDS: SIGTERM, and SIGKILL for what is still there after so many seconds.
stop() {
    local pid
    pid=$(pid_of "$1") || return 0
    kill -TERM "$pid" 2>/dev/null || true
    gone "$pid" "$2" || kill -KILL "$pid" 2>/dev/null || true
    rm -f "$DIR/run/$1"
}

gone() {
    local deadline=$((SECONDS + $2))
    while belongs "$1"; do
        if ((SECONDS >= deadline)); then return 1; fi
        sleep 0.1
    done
}

# await SECONDS WHAT COMMAND…: until COMMAND succeeds.
await() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then fail "$what did not come up; see $DIR/log"; fi
        sleep 0.3
    done
}

answers() { curl --silent --fail --noproxy '*' --max-time 2 "$1"; }

start_etcd() {
    local n=$1 peers="" m
    for m in "${NODES[@]}"; do peers+="${peers:+,}etcd$m=http://127.0.0.1:$(peer_port "$m")"; done
    # Slower heartbeats than etcd's own: three members share a machine with everything else here.
    start "etcd$n" etcd --name "etcd$n" --data-dir "$DIR/etcd$n" \
        --heartbeat-interval 250 --election-timeout 2500 --logger zap --log-level warn \
        --initial-cluster "$peers" --initial-cluster-token taskflow --initial-cluster-state new \
        --listen-peer-urls "http://127.0.0.1:$(peer_port "$n")" \
        --initial-advertise-peer-urls "http://127.0.0.1:$(peer_port "$n")" \
        --listen-client-urls "http://127.0.0.1:$(etcd_port "$n")" \
        --advertise-client-urls "http://127.0.0.1:$(etcd_port "$n")"
}

start_patroni() { start "patroni$1" patroni "$DIR/patroni$1.yml"; }

# Patroni stops its Postgres when told to end. One that outlived a killed Patroni is told itself.
stop_patroni() {
    local postmaster
    stop "patroni$1" 30
    postmaster=$(postmaster_of "$1") || return 0
    kill -INT "$postmaster" 2>/dev/null || true
    gone "$postmaster" 10 || kill -QUIT "$postmaster" 2>/dev/null || true
    gone "$postmaster" 5 || true
}
