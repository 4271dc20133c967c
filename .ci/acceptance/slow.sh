#!/usr/bin/env bash
# A thousand slow clients of three kinds (heads, bodies and readers that drip): each is closed by a deadline, and a client that
# comes meanwhile is served.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl python3 slowhttptest
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

free 8080
free 9901
backend b
b_port=$port
backend a
head -c 1500000 /dev/zero >"$work/a/large"
cat >"$work/roundel.yaml" <<YAML
listeners:
  - address: 127.0.0.1:8080
    timeouts: { header: 3s, body_idle: 3s, write_idle: 3s, keepalive: 3s }
access_log: none
upstreams:
  web: { backends: ["127.0.0.1:$b_port"] }
  files: { backends: ["127.0.0.1:$port"] }
routes:
  - { name: files, match: [{ path_prefix: /large }], to: files }
  - { name: all, to: web }
YAML
mkdir -m 0700 "$work/run"
# For a thousand clients and their backends.
ulimit -n 8192
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >"$work/log" 2>&1 &
children+=("$!")
until_true "the proxy is ready" curl -fsS http://127.0.0.1:9901/readyz

open_connections() { curl -fsS http://127.0.0.1:9901/metrics | sed -n 's/^roundel_connections{listener="127.0.0.1:8080"} //p'; }
all_closed() { [[ "$(open_connections)" == 0 ]]; }

# Runs slowhttptest with 1,000 connections for at most a minute, and a client of our own beside it.
attack() {
    local name=$1 served=0
    shift
    slowhttptest -c 1000 -r 500 -l 60 -u "$@" >"$work/slow" 2>&1 &
    local slow=$!
    children+=("$slow")
    for _ in {1..8}; do
        sleep 1
        curl -fsS --max-time 15 -o "$work/page" http://127.0.0.1:8080/ || fail "$name: a client was not served"
        served=$((served + 1))
    done
    # While the attack goes on: it has not closed them.
    until_true "$name: every connection is closed" all_closed
    kill "$slow" 2>/dev/null || true
    wait "$slow" || true
    say "$name: $served requests of others served, all connections closed by the proxy"
}

attack "slow heads" http://127.0.0.1:8080/ -H -i 2 -x 24
attack "slow bodies" http://127.0.0.1:8080/ -B -i 5 -s 8192 -x 10
attack "slow readers" http://127.0.0.1:8080/large -X -w 10 -y 20 -n 5 -z 32 -k 1
