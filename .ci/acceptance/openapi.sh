#!/usr/bin/env bash
# The admin API does what its OpenAPI document says: schemathesis asks a running proxy some hundred questions, good and bad.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl python3 python3-venv
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

free 8088
free 9908
backend a
a=127.0.0.1:$port
echo s3cret >"$work/token"
chmod 600 "$work/token"
cat >"$work/roundel.yaml" <<YAML
admin: { address: 127.0.0.1:9908, token_file: token }
listeners: [{ address: 127.0.0.1:8088 }]
upstreams:
  web:
    backends: [$a]
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >/dev/null 2>"$work/log" &
proxy=$!
children+=("$proxy")
until_true "the proxy is ready" curl -fsS http://127.0.0.1:9908/readyz
curl -fsS http://127.0.0.1:8088/ >/dev/null

venv schemathesis
say "schemathesis asks"
# The events never end, and an upgrade ends this process, so that they are left to the integration tests.
timeout 150 "$work/venv/bin/schemathesis" run http://127.0.0.1:9908/api/v1/openapi.json --url http://127.0.0.1:9908 \
    --header 'Authorization: Bearer s3cret' --exclude-path /api/v1/events --exclude-path /api/v1/upgrade \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,response_headers_conformance \
    --phases examples,coverage,fuzzing --max-examples 30 --exclude-checks unsupported_method || fail "schemathesis has found something"
kill -0 "$proxy" || fail "the proxy has ended"
say "the proxy answers as before"
curl -fsS http://127.0.0.1:9908/readyz >/dev/null
