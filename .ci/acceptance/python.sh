#!/usr/bin/env bash
# Three lines of configuration before two of Python's web servers: strictly in turn, no error when one is killed under
# load, its share again when it is back, and both moments in the log.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl wrk python3
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

url=http://127.0.0.1:8080/
free 8080
free 9901
backend a
a=127.0.0.1:$port
backend b
b=127.0.0.1:$port
b_pid=$pid
b_port=$port

cat >"$work/roundel.yaml" <<YAML
upstreams:
  web:
    backends: [$a, $b]
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >"$work/access.log" 2>"$work/log" &
proxy=$!
children+=("$proxy")
until_true "the proxy is ready" curl -fsS http://127.0.0.1:9901/readyz

say "20 requests, strictly in turn"
last=
for _ in {1..20}; do
    now=$(curl -fsS "$url")
    [[ "$now" != "$last" ]] || fail "$now answered twice in a row"
    last=$now
done

# Runs wrk for 8 s and kills the backend b in its midst, if told so.
load() {
    wrk -t1 -c4 -d8s "$url" >"$work/wrk" &
    local wrk=$!
    children+=("$wrk")
    sleep 3
    "$@"
    wait "$wrk"
    sed 's/^/   /' "$work/wrk"
    ! grep -E 'Socket errors|Non-2xx' "$work/wrk" || fail "a request failed under load"
    grep -qE '^ *[1-9][0-9]* requests in' "$work/wrk" || fail "no request was answered"
}

say "killing $b under load"
kill_b() {
    kill -9 "$b_pid"
    wait "$b_pid" 2>/dev/null || true
}
load kill_b
for _ in {1..10}; do
    [[ "$(curl -fsS "$url")" == a ]] || fail "the dead backend answered"
done

say "starting $b again under load"
revive() { backend b "$b_port"; }
load revive
answers_b() { [[ "$(curl -fsS "$url")" == b ]]; }
until_true "b is used again" answers_b
share=0
for _ in {1..20}; do
    ! answers_b || share=$((share + 1))
done
[[ "$share" -eq 10 ]] || fail "b has $share of 20 requests, not its half"

say "the log tells both moments"
grep -F "$b" "$work/log" | sed 's/^/   /'
grep -F "$b" "$work/log" | grep -qE 'backend is (ejected|down)' || fail "the log does not tell that $b went out"
grep -F "$b" "$work/log" | sed -E '1,/backend is (ejected|down)/d' | grep -q 'backend is up' || fail "the log does not tell that $b came back"

say "SIGTERM ends it"
kill -TERM "$proxy"
wait "$proxy" || fail "SIGTERM ended it with $?"
