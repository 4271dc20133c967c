#!/usr/bin/env bash
# HTTP/2 by clients that others have written: curl, h2load, httpx of Python and undici of Node, by prior knowledge and by ALPN.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl nghttp2-client nodejs openssl python3 python3-venv
# The packages of Node from elsewhere than Debian bring npm along.
command -v npm >/dev/null || .ci/install.sh npm
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

venv 'httpx[http2]' hypercorn
(cd "$work" && npm install --silent --no-fund --no-audit undici@6 >/dev/null)

# Answers with what it was sent, over HTTP/1.1 and h2c.
cat >"$work/echo.py" <<'PYTHON'
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        event = await receive()
        body, more = body + event.get("body", b""), event.get("more_body", False)
    fields = [(b"x-version", scope["http_version"].encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})
PYTHON
free 18090
# A connection that it ends after a thousand requests, those under way included, would be the backend's failure and no test of ours.
echo 'keep_alive_max_requests = 1000000' >"$work/echo.toml"
(cd "$work" && exec "$work/venv/bin/hypercorn" --config echo.toml --workers 0 --bind 127.0.0.1:18090 echo:app) >"$work/echo.log" 2>&1 &
children+=("$!")
until_true "the backend listens" curl -fsS http://127.0.0.1:18090/

openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
free 18080
free 18443
free 19901
cat >"$work/roundel.yaml" <<YAML
admin: { address: "127.0.0.1:19901" }
listeners:
  - { address: "127.0.0.1:18080", protocols: [h2, h1], limits: { keepalive_requests: 1000000 } }
  - address: "127.0.0.1:18443"
    tls: { certificates: [{ cert: cert.pem, key: key.pem }] }
    limits: { keepalive_requests: 1000000 }
upstreams:
  one: { backends: [127.0.0.1:18090] }
  two: { backends: [127.0.0.1:18090], protocol: h2 }
routes:
  - { match: [{ path_prefix: /one }], to: one }
  - { match: [{ path_prefix: /two }], to: two }
  - { match: [{ path_prefix: /here }], respond: { status: 200, body: "here" } }
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >"$work/access.log" 2>"$work/log" &
children+=("$!")
until_true "the proxy is ready" curl -fsS http://127.0.0.1:19901/readyz

head -c 5000000 /dev/urandom >"$work/body"
for how in "--http1.1 http://127.0.0.1:18080" "--http2-prior-knowledge http://127.0.0.1:18080" \
    "--http1.1 --cacert $work/cert.pem https://localhost:18443" "--http2 --cacert $work/cert.pem https://localhost:18443"; do
    for backend in one two; do
        # shellcheck disable=SC2086
        curl -fsS --data-binary @"$work/body" -o "$work/back" -D "$work/head" ${how% *} "${how##* }/$backend"
        cmp -s "$work/body" "$work/back" || fail "curl ${how%% *} to $backend: another body came back"
        want=1.1
        [[ $backend == one ]] || want=2
        grep -qi "^x-version: $want" "$work/head" || fail "curl ${how%% *} to $backend: not over HTTP/$want"
    done
    say "curl ${how%% *} ${how##* }: 5 MB there and back, to HTTP/1.1 and to HTTP/2"
done

for address in http://127.0.0.1:18080 https://127.0.0.1:18443; do
    for path in here one two; do
        h2load -n 5000 -c 10 -m 20 "$address/$path" >"$work/load" 2>&1 || fail "h2load $address/$path: $(tail -5 "$work/load")"
        grep -q '5000 succeeded, 0 failed' "$work/load" || fail "h2load $address/$path: $(grep requests: "$work/load")"
        say "h2load $address/$path: $(grep -o '5000 succeeded, 0 failed' "$work/load")"
    done
done

cat >"$work/client.py" <<'PYTHON'
import asyncio, sys
import httpx

async def main():
    async with httpx.AsyncClient(http1=False, http2=True, verify=sys.argv[1], timeout=30) as client:
        for base in ("http://127.0.0.1:18080", "https://localhost:18443"):
            answers = await asyncio.gather(*(client.post(f"{base}/two", content=f"{n}".encode() * 1000) for n in range(200)))
            for n, answer in enumerate(answers):
                assert answer.status_code == 200 and answer.http_version == "HTTP/2", answer
                assert answer.content == f"{n}".encode() * 1000

asyncio.run(main())
PYTHON
"$work/venv/bin/python" "$work/client.py" "$work/cert.pem"
say "httpx: 200 requests at once over one connection, by prior knowledge and by ALPN"

cat >"$work/client.mjs" <<'NODE'
import { readFileSync } from "node:fs";
import { Agent, request } from "undici";
const ca = readFileSync(process.argv[2]);
const dispatcher = new Agent({ allowH2: true, connect: { ca } });
const answers = await Promise.all([...Array(100).keys()].map(async (n) => {
  const { statusCode, body } = await request("https://localhost:18443/two", { method: "POST", body: `number ${n}`, dispatcher });
  return statusCode === 200 && (await body.text()) === `number ${n}`;
}));
if (!answers.every(Boolean)) process.exit(1);
await dispatcher.close();
NODE
(cd "$work" && node client.mjs "$work/cert.pem") || fail "undici"
say "undici: 100 requests at once by ALPN"
[[ "$(grep -c '"protocol":"HTTP/2.0"' "$work/access.log")" -gt 30000 ]] || fail "the access log does not tell of HTTP/2"
! grep -q '"status":5' "$work/access.log" || fail "$(grep -m1 '"status":5' "$work/access.log")"
