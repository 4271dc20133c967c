#!/usr/bin/env bash
# WebSockets with a real library on both ends: fragments, pings, close codes, messages of 16 MB, a thousand tunnels at
# once, and a drain that lets them go on until their bound.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl python3 python3-venv
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

venv websockets

# Echoes text and binary as they come, in as many fragments as it is asked for; closes with the code it is told.
cat >"$work/server.py" <<'PYTHON'
import asyncio, os, signal
from websockets.asyncio.server import serve

async def handle(socket):
    async for message in socket:
        if isinstance(message, str) and message.startswith("close "):
            await socket.close(int(message.split()[1]), "as asked")
        elif isinstance(message, str) and message.startswith("fragments "):
            await socket.send(["part"] * int(message.split()[1]))
        elif message == "ping me":
            waiter = await socket.ping(b"are you there")
            await waiter
            await socket.send("you are")
        else:
            await socket.send(message)

async def main():
    async with serve(handle, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
PYTHON
"$work/venv/bin/python" "$work/server.py" >"$work/server.out" 2>"$work/server.err" &
children+=("$!")
until_true "the WebSocket server listens" grep -q '^port' "$work/server.out"
backend=127.0.0.1:$(sed -n 's/^port //p' "$work/server.out")

free 8080
free 9901
ulimit -n 8192
cat >"$work/roundel.yaml" <<YAML
listeners: [{ address: "127.0.0.1:8080" }]
drain: { idle: 1s, tunnels: 5s }
access_log: { path: $work/access.log }
upstreams: { chat: { backends: [$backend] } }
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" 2>"$work/log" &
proxy=$!
children+=("$proxy")
until_true "the proxy is ready" curl -fsS http://127.0.0.1:9901/readyz

cat >"$work/client.py" <<'PYTHON'
import asyncio, os, signal, sys
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

URL = "ws://127.0.0.1:8080/chat"
options = dict(max_size=None, ping_interval=None, open_timeout=60)
proxy = int(sys.argv[1])

async def words():
    async with connect(URL, **options) as socket:
        await socket.send("hello")
        assert await socket.recv() == "hello"
        await socket.send(b"\x00\xff" * 5)
        assert await socket.recv() == b"\x00\xff" * 5
        await socket.send(["a", "b", "c"])
        assert await socket.recv() == "abc"
        await socket.send("fragments 50")
        assert await socket.recv() == "part" * 50
        await (await socket.ping(b"round trip"))
        await socket.send("ping me")
        assert await socket.recv() == "you are"
    print("   text, binary, fragments both ways, pings both ways")

async def closes():
    for code in (1000, 1001, 1008, 1011, 3000, 4999):
        async with connect(URL, **options) as socket:
            await socket.send(f"close {code}")
            try:
                await socket.recv()
            except ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (code, "as asked"), closed
            else:
                raise AssertionError("not closed")
    print("   six close codes with their reasons")

async def large():
    async with connect(URL, **options) as socket:
        message = os.urandom(16 * 1024 * 1024)
        for _ in range(3):
            await socket.send(message)
            assert await socket.recv() == message
    print("   three messages of 16 MiB, there and back")

async def many():
    gate = asyncio.Semaphore(64)
    async def one():
        async with gate:
            return await connect(URL, **options)
    sockets = await asyncio.gather(*(one() for _ in range(1000)))
    for round in range(3):
        await asyncio.gather(*(socket.send(f"{round} {number}") for number, socket in enumerate(sockets)))
        answers = await asyncio.gather(*(socket.recv() for socket in sockets))
        assert answers == [f"{round} {number}" for number in range(1000)]
    print("   1000 tunnels at once, three words each")
    return sockets

async def drain(sockets):
    os.kill(proxy, signal.SIGTERM)
    await asyncio.sleep(1.5)
    few = sockets[:50]
    await asyncio.gather(*(socket.send("still here") for socket in few))
    assert await asyncio.gather(*(socket.recv() for socket in few)) == ["still here"] * 50
    print("   tunnels go on while the process drains")
    for socket in sockets:
        try:
            await asyncio.wait_for(socket.recv(), 30)
        except ConnectionClosed:
            continue
        raise AssertionError("a tunnel outlived its bound")
    print("   and end with their bound")

async def main():
    await words()
    await closes()
    await large()
    await drain(await many())

asyncio.run(asyncio.wait_for(main(), 120))
PYTHON
"$work/venv/bin/python" "$work/client.py" "$proxy" || fail "a WebSocket did not get what it was due"
wait "$proxy" || fail "the drain ended with $?"

say "each tunnel has its line, written at its end"
python3 - "$work/access.log" <<'PYTHON' || fail "the access log does not tell of all tunnels"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert len(lines) == 1008, len(lines)
assert all(line["status"] == 101 for line in lines)
assert max(line["bytes_out"] for line in lines) >= 3 * 16 * 1024 * 1024
PYTHON
