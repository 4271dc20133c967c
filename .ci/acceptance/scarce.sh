#!/usr/bin/env bash
# Too few descriptors, too little memory, no room for the log: the proxy serves those that it has, turns others away, and recovers by
# itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl python3
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

some_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
backend web
web=$port

# Starts the proxy under LIMITS (arguments of ulimit): proxy NAME LIMITS... Sets `listen`, `admin` and `proxy`.
proxy() {
    local name=$1
    shift
    listen=$(some_port)
    admin=$(some_port)
    mkdir -m 0700 "$work/$name.run"
    cat >"$work/$name.yaml" <<YAML
listeners: [{ address: "127.0.0.1:$listen", timeouts: { header: 20s, keepalive: 20s } }]
admin: { address: "127.0.0.1:$admin" }
access_log: { path: "$work/$name.log" }
upstreams: { web: { backends: ["127.0.0.1:$web"] } }
YAML
    (
        ulimit "$@"
        RUNTIME_DIRECTORY="$work/$name.run" exec "$ROUNDEL" -c "$work/$name.yaml" >"$work/$name.out" 2>&1
    ) &
    proxy=$!
    children+=("$proxy")
    until_true "$name: the proxy is ready" curl -fsS "http://127.0.0.1:$admin/readyz"
}

served() { curl -fsS --max-time 10 "http://127.0.0.1:$listen/"; }

# Opens so many connections and holds them for some seconds: clients that came before them are served meanwhile.
flood() {
    python3 - "$listen" "$1" "$2" <<'PYTHON'
import resource, socket, sys, time

port, count, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 64, max(count + 64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))


def ask(stream):
    stream.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = b""
    while not answer.endswith(b"web\n"):
        more = stream.recv(65536)
        if not more:
            sys.exit(f"a client that came before the flood was closed: {answer!r}")
        answer += more


clients = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(8)]
for client in clients:
    ask(client)
crowd = []
for _ in range(count):
    stream = socket.socket()
    stream.setblocking(False)
    stream.connect_ex(("127.0.0.1", port))
    crowd.append(stream)
until, asked = time.monotonic() + seconds, 0
while time.monotonic() < until:
    for client in clients:
        ask(client)
        asked += 1
    time.sleep(0.1)
refused = 0
for stream in crowd:
    try:
        refused += stream.recv(4096).startswith(b"HTTP/1.1 503")
    except OSError:
        pass
print(f"   {asked} requests of clients that were there before, {refused} of {count} newcomers were told 503")
PYTHON
}

say "descriptors: 256, and 1,000 connections"
proxy descriptors -n 256
flood 1000 5
until_true "descriptors: it serves again" served
turned_away=$(curl -fsS "http://127.0.0.1:$admin/metrics" | sed -n 's/^roundel_connections_refused_total{.*reason="descriptors"} //p')
[[ "$turned_away" -gt 0 ]] || fail "descriptors: nobody was turned away"
[[ $(grep -c "cannot accept" "$work/descriptors.out" || true) -le 1 ]] || fail "a shortage was told more than once"
kill -0 "$proxy" || fail "descriptors: the proxy has died"

say "memory: 1 GiB of addresses, and 2,000 connections"
proxy memory -v 1048576
flood 2000 5
until_true "memory: it serves again" served
kill -0 "$proxy" || fail "memory: the proxy has died"

say "no room for the log: files of at most 64 KiB"
proxy disk -f 64
for _ in {1..400}; do served >/dev/null; done
for _ in {1..10}; do [[ "$(served)" == web ]] || fail "not served while the log is full"; done
kill -0 "$proxy" || fail "disk: the proxy has died"
full=$(wc -l <"$work/disk.log")
: >"$work/disk.log"
for _ in {1..20}; do served >/dev/null; done
has_lines() { [[ $(wc -l <"$work/disk.log") -gt 0 ]]; }
until_true "disk: lines are written again once there is room" has_lines
say "$full lines were written until it was full, and lines again after there was room"
