#!/usr/bin/env bash
# A hundred upgrades in a row under load: requests over kept and over fresh connections and over HTTP/2, downloads, WebSockets. No
# request fails, no connection is refused; memory and descriptors of the last process are those of the first.
#
# UPGRADES=N runs another number of them.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl python3 python3-venv
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

upgrades=${UPGRADES:-100}
venv websockets h2

# Backends: small answers, downloads of 4 MB, and an echo over WebSockets.
cat >"$work/origin.py" <<'PYTHON'
import asyncio
from websockets.asyncio.server import serve

BIG = bytes(4_000_000)

async def http(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = BIG if head.startswith(b"GET /big") else b"ok"
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def echo(socket):
    async for message in socket:
        await socket.send(message)

async def main():
    plain = await asyncio.start_server(http, "127.0.0.1", 0)
    tunnels = await serve(echo, "127.0.0.1", 0, ping_interval=None)
    print("ports", plain.sockets[0].getsockname()[1], tunnels.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().create_future()

asyncio.run(main())
PYTHON
"$work/venv/bin/python" "$work/origin.py" >"$work/origin.out" 2>"$work/origin.err" &
children+=("$!")
until_true "the backends listen" grep -q ports "$work/origin.out"
read -r _ plain tunnels <"$work/origin.out"

# Clients that count what fails: whatever is not the whole answer expected, a refused connection included.
cat >"$work/clients.py" <<'PYTHON'
import asyncio, collections, json, signal, sys
from websockets.asyncio.client import connect

PORT = int(sys.argv[1])
done, failed, stop = collections.Counter(), collections.Counter(), asyncio.Event()

def fail(kind, error):
    failed[kind] += 1
    print(kind, repr(error), file=sys.stderr, flush=True)

async def get(reader, writer, path, close):
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{'Connection: close' + chr(13) + chr(10) if close else ''}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.startswith("http/1.1 200"), head
    length = int(head.split("content-length:")[1].split()[0])
    while length:
        chunk = await reader.read(min(length, 65536))
        assert chunk, "cut short"
        length -= len(chunk)
        if path == "/big":
            await asyncio.sleep(0.005)
    return "connection: close" in head

async def one(kind, action):
    try:
        async with asyncio.timeout(30):
            result = await action
        done[kind] += 1
        return result
    except Exception as error:
        fail(kind, error)
        return True

async def requests(kind, path, close):
    streams = None
    while not stop.is_set():
        try:
            streams = streams or await asyncio.open_connection("127.0.0.1", PORT)
        except OSError as error:
            fail("connect", error)
            continue
        if await one(kind, get(*streams, path, close)) or close:
            streams[1].close()
            streams = None
        await asyncio.sleep(0.002)

async def tunnel():
    async with connect(f"ws://127.0.0.1:{PORT}/ws", ping_interval=None) as socket:
        for number in range(60):
            await socket.send(str(number))
            assert await socket.recv() == str(number)
            await asyncio.sleep(0.02)

async def tunnels():
    while not stop.is_set():
        await one("websockets", tunnel())

async def main():
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    workers = [requests("kept", "/", False) for _ in range(6)] + [requests("fresh", "/", True) for _ in range(4)]
    workers += [requests("downloads", "/big", False) for _ in range(2)] + [tunnels() for _ in range(4)]
    await asyncio.gather(*workers)
    print(json.dumps({"done": dict(done), "failed": dict(failed)}))

asyncio.run(main())
PYTHON

free 8080
cat >"$work/roundel.yaml" <<YAML
listeners: [{ address: 127.0.0.1:8080, protocols: [h2, h1] }]
admin: { address: "unix:$work/admin.sock" }
access_log: none
upstreams:
  web: { backends: ["127.0.0.1:$plain"] }
  ws: { backends: ["127.0.0.1:$tunnels"] }
routes:
  - { name: ws, match: [{ path: /ws }], to: ws }
  - { name: web, to: web }
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >"$work/out" 2>"$work/log" &
first=$!
children+=("$first")
pid_file() { cat "$work"/run/roundel-*.pid; }
serving() {
    pid_file >"$work/pid" 2>/dev/null && [[ -S "$work/admin.sock" ]] \
        && curl -fsS --unix-socket "$work/admin.sock" http://localhost/readyz
}
until_true "the proxy is ready" serving
size() { printf 'resident %s kB, %s descriptors' "$(awk '/VmRSS/ { print $2 }' "/proc/$1/status")" "$(find "/proc/$1/fd" -mindepth 1 | wc -l)"; }

"$work/venv/bin/python" "$work/clients.py" 8080 >"$work/tally" 2>"$work/faults" &
clients=$!
children+=("$clients")
"$work/venv/bin/python" .ci/acceptance/h2_requests.py 8080 2 4 >"$work/tally2" 2>"$work/faults2" &
streams=$!
children+=("$streams")
sleep 1
say "the first process: $(size "$first")"

begun=$SECONDS
for number in $(seq "$upgrades"); do
    "$ROUNDEL" upgrade --admin "unix:$work/admin.sock" >>"$work/upgrades" 2>&1 || {
        tail -n 5 "$work/upgrades"
        tail -n 20 "$work/log"
        fail "upgrade $number"
    }
    children+=("$(pid_file)")
done
say "$upgrades upgrades in $((SECONDS - begun)) s; the last: $(tail -n 1 "$work/upgrades")"
sort -n -t ' ' -k 3 <(sed -n 's/^upgraded in \([0-9.]*\)s.*/a b \1/p' "$work/upgrades") | awk '{ v[NR] = $3 }
    END { printf "   one takes %s s in the middle, %s s at most\n", v[int((NR + 1) / 2)], v[NR] }'
last=$(pid_file)
# The first, which has stayed in front, and the last.
only_two() { [[ "$(pgrep -c -x -f -- "$ROUNDEL -c $work/roundel.yaml")" -le 2 ]]; }
until_true "the old ones have drained" only_two
say "the last process: $(size "$last")"

kill -TERM "$clients" "$streams"
wait "$clients" "$streams"
say "$(cat "$work/tally")"
say "$(cat "$work/tally2")"
cat "$work/faults2" >>"$work/faults"
[[ ! -s "$work/faults" ]] || {
    head -n 20 "$work/faults"
    fail "$(wc -l <"$work/faults") requests failed"
}
! grep -q ERROR "$work/log" || {
    grep ERROR "$work/log" | head
    fail "errors in the log"
}

say "a binary that is none leaves the last one serving"
! "$ROUNDEL" upgrade --admin "unix:$work/admin.sock" --binary /bin/false 2>"$work/refusal" || fail "/bin/false serves"
sed 's/^/   /' "$work/refusal"
[[ "$(pid_file)" == "$last" ]] || fail "the pid file names another"
curl -fsS http://127.0.0.1:8080/ >/dev/null || fail "nobody serves"

say "SIGTERM to the first process, which has stayed in front, ends the last"
kill -TERM "$first"
wait "$first" || fail "it ended with $?"
[[ -z "$(ls "$work/run")" ]] || fail "left in the runtime directory: $(ls "$work/run")"
