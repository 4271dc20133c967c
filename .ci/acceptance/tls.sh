#!/usr/bin/env bash
# TLS on a listener as others judge it: sslyze finds nothing weak and sessions that resume, curl speaks both versions and is
# known by its certificate, and the PROXY protocol passes to and from HAProxy and nginx.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh curl openssl python3 python3-venv haproxy nginx-light
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

for taken in 8080 8443 8444 8445 8446 8447 9901; do free "$taken"; done

say "certificates"
authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$work/$1.key" -out "$work/$1.pem" \
        -days 30 -subj "/CN=$1" 2>/dev/null
}
issue() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$work/$2.key" -out "$work/$2.csr" \
        -subj "/CN=$2" 2>/dev/null
    openssl x509 -req -in "$work/$2.csr" -CA "$work/$1.pem" -CAkey "$work/$1.key" -CAcreateserial -days 20 \
        -extfile <(printf 'subjectAltName=DNS:%s,IP:127.0.0.1' "$2") -out "$work/$2.pem" 2>/dev/null
}
authority roots
authority clients
issue roots site.example
issue clients alice.example

backend hello
cat >"$work/roundel.yaml" <<YAML
listeners:
  - name: tls
    address: 127.0.0.1:8443
    tls: { certificates: [{ cert: site.example.pem, key: site.example.key }] }
  - name: clients
    address: 127.0.0.1:8444
    tls:
      certificates: [{ cert: site.example.pem, key: site.example.key }]
      client_auth: { ca: clients.pem }
  - name: behind
    address: 127.0.0.1:8445
    proxy_protocol: { from: 127.0.0.1 }
upstreams:
  hello: { backends: [127.0.0.1:$port] }
  haproxy: { backends: [127.0.0.1:8446], send_proxy_protocol: v2, health_check: none }
  nginx: { backends: [127.0.0.1:8447], send_proxy_protocol: v1, health_check: none }
routes:
  - { name: hello, to: hello, filters: [{ response_headers: { set: { x-client: "{client_ip}", x-subject: "{tls_client_subject}" } } }] }
  - { name: haproxy, match: [{ path_prefix: /haproxy }], to: haproxy }
  - { name: nginx, match: [{ path_prefix: /nginx }], to: nginx }
YAML
mkdir -m 0700 "$work/run"
RUNTIME_DIRECTORY="$work/run" "$ROUNDEL" -c "$work/roundel.yaml" >"$work/access.log" 2>"$work/log" &
children+=("$!")
until_true "roundel is ready" curl -fsS http://127.0.0.1:9901/readyz

say "sslyze"
venv sslyze
"$work/venv/bin/sslyze" --json_out="$work/sslyze.json" --sslv2 --sslv3 --tlsv1 --tlsv1_1 --tlsv1_2 --tlsv1_3 \
    --elliptic_curves --compression --early_data --fallback --heartbleed --openssl_ccs --reneg --robot --resum --ems \
    127.0.0.1:8443 >"$work/sslyze.out" 2>&1 || { tail -n 40 "$work/sslyze.out"; fail "sslyze did not run"; }
"$work/venv/bin/python" - "$work/sslyze.json" <<'PYTHON'
import json, sys

scan = json.load(open(sys.argv[1]))["server_scan_results"][0]["scan_result"]
result = {name: part["result"] for name, part in scan.items() if part.get("result") is not None}

for old in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"]:
    assert not result[old + "_cipher_suites"]["accepted_cipher_suites"], f"{old} is spoken"
for new in ["tls_1_2", "tls_1_3"]:
    names = [suite["cipher_suite"]["name"] for suite in result[new + "_cipher_suites"]["accepted_cipher_suites"]]
    assert names and all("GCM" in name or "CHACHA20" in name for name in names), names
    assert new == "tls_1_3" or all(name.startswith("TLS_ECDHE_") for name in names), names
    print("  ", new, " ".join(names))
curves = [curve["name"] for curve in result["elliptic_curves"]["supported_curves"]]
assert curves and set(curves) <= {"X25519", "secp256r1", "prime256v1", "secp384r1"}, curves
print("   curves", " ".join(curves))
assert not result["tls_compression"]["supports_compression"]
assert not result["tls_1_3_early_data"]["supports_early_data"]
assert not result["heartbleed"]["is_vulnerable_to_heartbleed"]
assert not result["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
assert "NOT_VULNERABLE" in result["robot"]["robot_result"], result["robot"]
assert not result["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
assert result["tls_extended_master_secret"]["supports_ems_extension"]
# Of tickets it counts only those that a resumption does not renew, and ours are renewed: OpenSSL is asked below.
assert result["session_resumption"]["session_id_resumption_result"] == "FULLY_SUPPORTED", result["session_resumption"]
PYTHON

say "OpenSSL resumes sessions of both versions by their tickets"
for version in 1_2 1_3; do
    for round in 1 2; do
        saved=(-sess_out "$work/session")
        [[ $round -eq 1 ]] || saved=(-sess_in "$work/session")
        printf 'GET / HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n' |
            openssl s_client -connect 127.0.0.1:8443 "-tls$version" -servername site.example -CAfile "$work/roots.pem" \
                -ign_eof "${saved[@]}" >"$work/s_client.$round" 2>&1
    done
    grep -q '^New, TLSv' "$work/s_client.1" || fail "$version: the first session is not new"
    openssl sess_id -in "$work/session" -noout -text | grep -q 'TLS session ticket:' || fail "$version: there is no ticket"
    grep -q '^Reused, TLSv' "$work/s_client.2" || fail "$version: the second session is not resumed"
done

say "curl with each version, and with a certificate"
ask() { curl -fsS --cacert "$work/roots.pem" --resolve site.example:8443:127.0.0.1 --resolve site.example:8444:127.0.0.1 "$@"; }
for version in 1.2 1.3; do
    [[ "$(ask "--tlsv$version" --tls-max "$version" https://site.example:8443/)" == hello ]] || fail "TLS $version"
done
! ask --tls-max 1.1 https://site.example:8443/ 2>/dev/null || fail "TLS 1.1 is spoken"
! ask https://site.example:8444/ >/dev/null 2>&1 || fail "a client without a certificate is served"
ask --cert "$work/alice.example.pem" --key "$work/alice.example.key" -D "$work/head" https://site.example:8444/ >/dev/null
grep -qi '^x-subject: CN=alice.example' "$work/head" || fail "the client's subject is not told"

say "HAProxy and nginx send the PROXY protocol, and receive it"
cat >"$work/haproxy.cfg" <<CFG
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
frontend sends
    bind 127.0.0.1:8080
    default_backend behind
backend behind
    server behind 127.0.0.1:8445 send-proxy-v2
frontend receives
    bind 127.0.0.1:8446 accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src]"
CFG
haproxy -f "$work/haproxy.cfg" -db >"$work/haproxy.log" 2>&1 &
children+=("$!")
cat >"$work/nginx.conf" <<CONF
daemon off; master_process off; pid $work/nginx.pid; error_log $work/nginx.log;
events {}
http {
    access_log off; client_body_temp_path $work/body; proxy_temp_path $work/proxied;
    fastcgi_temp_path $work/fastcgi; uwsgi_temp_path $work/uwsgi; scgi_temp_path $work/scgi;
    server { listen 127.0.0.1:8447 proxy_protocol; location / { return 200 "\$proxy_protocol_addr"; } }
}
CONF
nginx -c "$work/nginx.conf" >"$work/nginx.out" 2>&1 &
children+=("$!")
until_true "HAProxy passes requests on" curl -fsS http://127.0.0.1:8080/
until_true "nginx listens" curl -sS --haproxy-protocol http://127.0.0.1:8447/
curl -fsS -D "$work/head" --interface 127.0.0.9 http://127.0.0.1:8080/ >/dev/null
grep -qi '^x-client: 127.0.0.9' "$work/head" || fail "the client that HAProxy speaks for is not known"
for receiver in haproxy nginx; do
    told=$(curl -fsS --interface 127.0.0.9 "http://127.0.0.1:8080/$receiver")
    [[ "$told" == 127.0.0.9 ]] || fail "$receiver was told of $told"
    say "$receiver was told of $told"
done

say "a certificate is replaced while it serves"
before=$(openssl x509 -in "$work/site.example.pem" -noout -fingerprint)
issue roots site.example
shown() { openssl s_client -connect 127.0.0.1:8443 -servername site.example </dev/null 2>/dev/null | openssl x509 -noout -fingerprint; }
is_new() { [[ "$(shown)" != "$before" ]]; }
until_true "the new certificate is shown" is_new
