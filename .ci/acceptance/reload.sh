#!/usr/bin/env bash
# A thousand reloads in a row under load, forth and back between two configurations that differ in listeners, upstreams,
# routes, weights and logs: requests over HTTP/1.1 and HTTP/2, a WebSocket and a long download notice nothing; memory and
# descriptors do not grow; an ejected backend stays ejected, and a hashed key keeps its backend.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl wrk python3 python3-venv
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

reloads=${RELOADS:-1000}
venv websockets h2

cat >"$work/echo.py" <<'PYTHON'
import asyncio
from websockets.asyncio.server import serve

async def handle(socket):
    async for message in socket:
        await socket.send(message)

async def main():
    async with serve(handle, "127.0.0.1", 0, ping_interval=None) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
PYTHON
# One WebSocket for the whole run: each word must come back before the next is sent.
cat >"$work/talk.py" <<'PYTHON'
import asyncio, os, sys
from websockets.asyncio.client import connect

async def main():
    words = 0
    async with connect("ws://127.0.0.1:8080/ws", ping_interval=None) as socket:
        while not os.path.exists(sys.argv[1]):
            await socket.send(f"word {words}")
            assert await socket.recv() == f"word {words}"
            words += 1
            await asyncio.sleep(0.02)
    print("words", words)

asyncio.run(main())
PYTHON
"$work/venv/bin/python" "$work/echo.py" >"$work/echo.out" 2>"$work/echo.err" &
children+=("$!")
until_true "the WebSocket server listens" grep -q '^port' "$work/echo.out"
chat=127.0.0.1:$(sed -n 's/^port //p' "$work/echo.out")
backend a
a=127.0.0.1:$port
backend b
b=127.0.0.1:$port
head -c 64M /dev/urandom >"$work/a/large"
sum=$(sha256sum <"$work/a/large")

free 8080
free 8081
free 9901
common="
admin: { address: \"127.0.0.1:9901\" }
log: { level: warn }
"
upstreams="
  keyed: { backends: [$a, $b], balance: { hash: { key: \"query:k\" } } }
  chat: { backends: [$chat] }
  large: { backends: [$a] }
  sick:
    backends: [127.0.0.1:1, $a]
    health_check: none
    outlier: { consecutive_errors: 1, base_ejection: 1h, max_ejection: 1h }
"
routes="
  - { name: web, to: web }
  - { name: keyed, match: [{ path_prefix: /, query: { by: key } }], to: keyed }
  - { name: chat, match: [{ path: /ws }], to: chat }
  - { name: large, match: [{ path: /large }], to: large }
  - { name: sick, hosts: [sick.example], to: sick }
"
cat >"$work/one.yaml" <<YAML
$common
access_log: none
listeners: [{ address: "127.0.0.1:8080", protocols: [h2, h1] }]
upstreams:
  web: { backends: [$a, $b] }
$upstreams
routes:
$routes
YAML
cat >"$work/two.yaml" <<YAML
$common
access_log: { path: $work/access.log, sample: 1% }
listeners:
  - { address: "127.0.0.1:8080", protocols: [h2, h1], timeouts: { keepalive: 30s } }
  - { name: second, address: "127.0.0.1:8081" }
upstreams:
  web: { backends: [{ address: "$a", weight: 3 }, $b], balance: least_requests, timeouts: { connect: 2s } }
  more: { backends: [$b] }
$upstreams
routes:
$routes
  - name: more
    hosts: [more.example]
    filters: [{ response_headers: { set: { x-more: "1" } } }]
    to: more
YAML
cp "$work/one.yaml" "$work/roundel.yaml"
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" 2>"$work/log" &
proxy=$!
children+=("$proxy")
until_true "the proxy is ready" curl -fsS http://127.0.0.1:9901/readyz
socket=$(echo "$work"/run/admin-*.sock)

keys() { for key in {1..20}; do curl -fsS "http://127.0.0.1:8080/?by=key&k=$key"; done; }
ejected() {
    curl -fsS http://127.0.0.1:9901/api/v1/status | python3 -c '
import json, sys
sick = [one for one in json.load(sys.stdin)["upstreams"] if one["name"] == "sick"][0]
print(sick["backends"][0]["state"], sick["backends"][0]["since"])'
}
memory() { awk '/^VmRSS/ { print $2 }' "/proc/$proxy/status"; }
descriptors() { find "/proc/$proxy/fd" -mindepth 1 | wc -l; }

for _ in {1..4}; do curl -fsS -H 'Host: sick.example' http://127.0.0.1:8080/ >"$work/sick"; done
before=$(ejected)
[[ "$before" == ejected* ]] || fail "the backend that refuses is $before"
keys >"$work/keys.before"

wrk -t1 -c8 -d600s http://127.0.0.1:8080/ >"$work/wrk" &
wrk=$!
children+=("$wrk")
"$work/venv/bin/python" .ci/acceptance/h2_requests.py 8080 2 4 >"$work/tally2" 2>"$work/faults2" &
streams=$!
children+=("$streams")
"$work/venv/bin/python" "$work/talk.py" "$work/enough" >"$work/talk" 2>&1 &
talk=$!
children+=("$talk")
curl -fsS --limit-rate 3M http://127.0.0.1:8080/large -o "$work/large" &
large=$!
children+=("$large")

say "$reloads reloads"
begin=$SECONDS
for round in $(seq "$reloads"); do
    if ((round % 2)); then version=two; else version=one; fi
    cp "$work/$version.yaml" "$work/fresh.yaml"
    mv "$work/fresh.yaml" "$work/roundel.yaml"
    status=$(curl -sS -o "$work/answer" -w '%{http_code}' -X POST --unix-socket "$socket" 'http://localhost/api/v1/reload?confirm_loss=true')
    [[ "$status" == 200 ]] || fail "reload $round: $(cat "$work/answer")"
    if ((round == reloads / 5)); then
        settled_memory=$(memory)
        settled_descriptors=$(descriptors)
    fi
done
say "took $((SECONDS - begin)) s"

say "what went on meanwhile"
wait "$large" || fail "the download broke"
[[ "$(sha256sum <"$work/large")" == "$sum" ]] || fail "the download is not what the origin has"
touch "$work/enough"
wait "$talk" || fail "the WebSocket broke: $(cat "$work/talk")"
sed 's/^/   WebSocket: /' "$work/talk"
kill -TERM "$streams"
wait "$streams" || fail "the load over HTTP/2 broke"
say "$(cat "$work/tally2")"
[[ ! -s "$work/faults2" ]] || fail "over HTTP/2: $(head -n 5 "$work/faults2")"
kill -INT "$wrk" || fail "the load ended before the reloads"
wait "$wrk" || true
grep -E 'requests in|Socket errors|Non-2xx' "$work/wrk" | sed 's/^/   /'
! grep -E 'Socket errors|Non-2xx' "$work/wrk" || fail "a request failed"
grep -qE '^ *[1-9][0-9]* requests in' "$work/wrk" || fail "no request was answered"

say "what was kept"
[[ "$(ejected)" == "$before" ]] || fail "the ejected backend is $(ejected), and was $before"
keys | cmp - "$work/keys.before" || fail "a key has another backend"

say "what has grown: memory $settled_memory kB -> $(memory) kB, descriptors $settled_descriptors -> $(descriptors)"
few() { [[ "$(descriptors)" -le $((settled_descriptors + 8)) ]]; }
until_true "the descriptors are given back" few
[[ "$(memory)" -le $((settled_memory + settled_memory / 4 + 4096)) ]] || fail "memory has grown"
curl -fsS http://127.0.0.1:9901/metrics | grep -E "^roundel_config_(generation|reloads_total)" | sed 's/^/   /'
kill -TERM "$proxy"
