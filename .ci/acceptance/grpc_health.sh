#!/usr/bin/env bash
# Probes by the gRPC health protocol against a real grpcio server: it is used when it says SERVING, is taken out when it says
# NOT_SERVING or forgets the service, and comes back, as the status of the admin API tells.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl python3 python3-venv
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

venv grpcio grpcio-health-checking

# Takes the service's next status from each line of a named pipe; tells its port.
cat >"$work/server.py" <<'PYTHON'
import concurrent.futures, sys
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
servicer = health.HealthServicer()
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
port = server.add_insecure_port("127.0.0.1:0")
servicer.set("shop.Orders", health_pb2.HealthCheckResponse.SERVING)
server.start()
print("port", port, flush=True)
for line in iter(sys.stdin.readline, ""):
    servicer.set("shop.Orders", health_pb2.HealthCheckResponse.ServingStatus.Value(line.strip()))
server.stop(0)
PYTHON
mkfifo "$work/orders"
"$work/venv/bin/python" "$work/server.py" <"$work/orders" >"$work/server.out" 2>&1 &
children+=("$!")
exec 4>"$work/orders"
until_true "the gRPC server listens" grep -q '^port' "$work/server.out"
backend=127.0.0.1:$(sed -n 's/^port //p' "$work/server.out")

free 8080
free 9901
cat >"$work/roundel.yaml" <<YAML
listeners: [{ address: "127.0.0.1:8080" }]
upstreams:
  orders:
    backends: [$backend]
    health_check:
      { type: grpc, service: shop.Orders, interval: 1s, timeout: 900ms, fast_interval: 200ms, fall: 2, rise: 2 }
  unknown:
    backends: [$backend]
    health_check: { type: grpc, service: shop.Nobody, interval: 1s, timeout: 900ms }
routes:
  - { name: orders, to: orders }
  - { name: unknown, match: [{ path_prefix: /unknown }], to: unknown }
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >"$work/access.log" 2>"$work/log" &
children+=("$!")

# The state and the reason of the one backend of an upstream.
state_of() {
    curl -fsS http://127.0.0.1:9901/api/v1/status | python3 -c '
import json, sys
upstream = next(u for u in json.load(sys.stdin)["upstreams"] if u["name"] == sys.argv[1])
print(upstream["backends"][0]["state"], "|", upstream["backends"][0]["reason"])' "$1"
}
is() { [[ "$(state_of "$1")" == "$2 |"* ]]; }

becomes() {
    local since=$EPOCHREALTIME
    until_true "$1 is $2" is "$1" "$2"
    say "$3: $(state_of "$1") (after $(((${EPOCHREALTIME/./} - ${since/./}) / 1000)) ms)"
}

becomes orders healthy "SERVING at the start"
becomes unknown unhealthy "a service that the server does not know"
for status in NOT_SERVING SERVING SERVICE_UNKNOWN SERVING UNKNOWN SERVING; do
    printf '%s\n' "$status" >&4
    if [[ "$status" == SERVING ]]; then becomes orders healthy "$status"; else becomes orders unhealthy "$status"; fi
done

say "the metrics agree"
curl -fsS http://127.0.0.1:9901/metrics >"$work/metrics"
grep -F "roundel_backend_up{" "$work/metrics" | grep -F 'upstream="orders"' | grep -q ' 1$' || fail "orders is not up in the metrics"
grep -F "roundel_backend_up{" "$work/metrics" | grep -F 'upstream="unknown"' | grep -q ' 0$' || fail "unknown is up in the metrics"
exec 4>&-
