#!/usr/bin/env bash
# Prometheus reads the metrics: promtool finds nothing to say of them, the alerts are sound, and every query of the alerts and
# of the Grafana dashboard is answered by a real Prometheus that has scraped a proxy under load and in an outage.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl prometheus python3
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

free 8089
free 9909
free 19090
backend a
a=127.0.0.1:$port
backend b
b=127.0.0.1:$port
b_pid=$pid
cat >"$work/roundel.yaml" <<YAML
admin: { address: 127.0.0.1:9909 }
listeners: [{ address: 127.0.0.1:8089 }]
upstreams:
  web:
    backends: [$a, $b]
    health_check: { interval: 1s, fast_interval: 200ms, timeout: 100ms }
    retry: { statuses: [503] }
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >/dev/null 2>"$work/log" &
children+=("$!")
until_true "the proxy is ready" curl -fsS http://127.0.0.1:9909/readyz

say "promtool finds nothing to say of the metrics"
curl -fsS http://127.0.0.1:8089/ >/dev/null
curl -fsS http://127.0.0.1:9909/metrics | promtool check metrics || fail "promtool has something to say"

say "the alerts and the scrape configuration are sound"
promtool check rules deploy/prometheus/roundel.rules.yaml
promtool check config deploy/prometheus/prometheus.yaml

say "a Prometheus scrapes it, under load and in an outage"
sed -e "s#roundel.rules.yaml#$PWD/deploy/prometheus/roundel.rules.yaml#" -e 's/: 15s/: 1s/' -e 's/:9901/:9909/' deploy/prometheus/prometheus.yaml >"$work/prometheus.yaml"
prometheus --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/tsdb" \
    --web.listen-address=127.0.0.1:19090 >/dev/null 2>"$work/prometheus.log" &
children+=("$!")
until_true "Prometheus is ready" curl -fsS http://127.0.0.1:19090/-/ready
load() { for _ in {1..100}; do curl -s -o /dev/null http://127.0.0.1:8089/; done; }
load
kill -9 "$b_pid"
wait "$b_pid" 2>/dev/null || true
load
sleep 3
load
sleep 2

say "every query of the dashboard and of the alerts is answered"
python3 - <<'PY' || fail "a query is not answered"
import json, re, subprocess, sys, urllib.parse, urllib.request

def ask(query):
    url = "http://127.0.0.1:19090/api/v1/query?" + urllib.parse.urlencode({"query": query})
    return json.load(urllib.request.urlopen(url))["data"]["result"]

# What no plain outage provokes: these are answered with nothing, and their series must exist all the same.
rare = re.compile(r"ejections|retries")
bad = 0
dashboard = json.load(open("deploy/grafana/roundel.json"))
for panel in dashboard["panels"]:
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", "30s")
        answer = ask(query)
        if not answer and not rare.search(query):
            print(f"   nothing: {panel['title']}: {query}")
            bad += 1
rules = json.load(urllib.request.urlopen("http://127.0.0.1:19090/api/v1/rules"))["data"]["groups"][0]["rules"]
for rule in rules:
    if rule["health"] == "err":
        print(f"   not evaluated: {rule['name']}: {rule.get('lastError')}")
        bad += 1
    names = set(re.findall(r"roundel_[a-z_]+", rule["query"]))
    known = set(json.load(urllib.request.urlopen("http://127.0.0.1:19090/api/v1/label/__name__/values"))["data"])
    described = open("docs/metrics.md").read()
    for name in names - known:
        if re.sub(r"_(bucket|sum|count)$", "", name) not in described:
            print(f"   unknown metric: {rule['name']}: {name}")
            bad += 1
down = [rule["name"] for rule in rules if rule["state"] != "inactive"]
print("   alerts under way:", ", ".join(down))
if "RoundelBackendDown" not in down:
    print("   the dead backend raised no alert")
    bad += 1
sys.exit(1 if bad else 0)
PY
