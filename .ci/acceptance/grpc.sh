#!/usr/bin/env bash
# gRPC by grpcio on both ends: all kinds of calls, all statuses, metadata, cancellation, deadlines, 300 calls at once, 20 MB messages.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl python3 python3-venv
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

venv grpcio
cat >"$work/server.py" <<'PYTHON'
import concurrent.futures, sys, threading, time
import grpc

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
cancelled = threading.Event()

def unary(request, context):
    context.send_initial_metadata([("x-initial", dict(context.invocation_metadata()).get("x-sent", ""))])
    context.set_trailing_metadata([("x-trailing", "end"), ("x-bytes-bin", b"\x00\xff")])
    return request

def fail(request, context):
    context.abort(list(grpc.StatusCode)[int(request)], "said so: 100 %")

def slow(request, context):
    context.add_callback(cancelled.set)
    time.sleep(5)
    return request

def was_cancelled(request, context):
    return b"yes" if cancelled.wait(5) else b"no"

def many(request, context):
    for n in range(int(request)):
        yield b"%d" % n

def collect(requests, context):
    return b",".join(requests)

def bidi(requests, context):
    yield from requests

kinds = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary), "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow), "Cancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    "Many": grpc.unary_stream_rpc_method_handler(many), "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
}
server = grpc.server(concurrent.futures.ThreadPoolExecutor(320), options=OPTIONS)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", kinds),))
print("port", server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
server.wait_for_termination()
PYTHON
"$work/venv/bin/python" "$work/server.py" >"$work/server.out" 2>&1 &
children+=("$!")
until_true "the gRPC server listens" grep -q '^port' "$work/server.out"
backend=127.0.0.1:$(sed -n 's/^port //p' "$work/server.out")
free 18080
free 19901
cat >"$work/roundel.yaml" <<YAML
admin: { address: "127.0.0.1:19901" }
listeners: [{ address: "127.0.0.1:18080", protocols: [h2], limits: { h2_streams: 1000 } }]
upstreams:
  calls: { backends: [$backend], protocol: h2 }
  gone: { backends: ["127.0.0.1:1"], protocol: h2, health_check: none }
routes:
  - { match: [{ path_prefix: /test.Echo }], to: calls }
  - { match: [{ path_prefix: /test.Gone }], to: gone }
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >"$work/access.log" 2>"$work/log" &
children+=("$!")
until_true "the proxy is ready" curl -fsS http://127.0.0.1:19901/readyz

cat >"$work/client.py" <<'PYTHON'
import time
import grpc

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
channel = grpc.insecure_channel("127.0.0.1:18080", options=OPTIONS)
say = lambda text: print("   " + text, flush=True)

def outcome(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK

unary = channel.unary_unary("/test.Echo/Unary")
answer, call = unary.with_call(b"ping", metadata=[("x-sent", "metadata")], timeout=10)
assert answer == b"ping" and ("x-initial", "metadata") in [(m.key, m.value) for m in call.initial_metadata()]
assert {m.key: m.value for m in call.trailing_metadata()} == {"x-trailing": "end", "x-bytes-bin": b"\x00\xff"}
assert [*channel.unary_stream("/test.Echo/Many")(b"1000", timeout=20)] == [b"%d" % n for n in range(1000)]
assert channel.stream_unary("/test.Echo/Collect")(iter([b"a", b"b", b"c"]), timeout=10) == b"a,b,c"
assert [*channel.stream_stream("/test.Echo/Bidi")(iter(b"%d" % n for n in range(500)), timeout=20)] == [b"%d" % n for n in range(500)]
say("all four kinds of calls, with metadata before and after")

fail = channel.unary_unary("/test.Echo/Fail")
for index, code in enumerate(grpc.StatusCode):
    if code is not grpc.StatusCode.OK:
        try:
            fail(b"%d" % index, timeout=10)
            raise AssertionError(code)
        except grpc.RpcError as error:
            assert (error.code(), error.details()) == (code, "said so: 100 %"), (error.code(), code)
say("every status, with its message")

slow = channel.unary_unary("/test.Echo/Slow")
assert outcome(lambda: slow(b"", timeout=0.5)) is grpc.StatusCode.DEADLINE_EXCEEDED
future = slow.future(b"", timeout=10)
time.sleep(0.3)
future.cancel()
assert channel.unary_unary("/test.Echo/Cancelled")(b"", timeout=10) == b"yes"
say("a deadline, and a cancelled call that the server hears of")

calls = [unary.future(b"%d" % n, timeout=30) for n in range(300)]
assert [call.result() for call in calls] == [b"%d" % n for n in range(300)]
large = bytes(20_000_000)
assert unary(large, timeout=60) == large
say("300 calls at once; 20 MB there and back")

assert outcome(lambda: channel.unary_unary("/test.Gone/Call")(b"", timeout=10)) is grpc.StatusCode.UNAVAILABLE
assert outcome(lambda: channel.unary_unary("/test.Nowhere/Call")(b"", timeout=10)) is grpc.StatusCode.UNIMPLEMENTED
say("failures of the proxy: UNAVAILABLE for a backend that is gone, UNIMPLEMENTED for no route")
PYTHON
timeout 120 "$work/venv/bin/python" "$work/client.py"
