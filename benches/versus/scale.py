#!/usr/bin/env python3
"""How the cost of roundel grows: with backends, routes, open connections, threads, certificates, the size of a reload, and what is told.

    python3 benches/versus/scale.py [--roundel PATH] [--only backends routes ...] [--most 10000]

Small keep-alive requests (full handshakes for certificates) through one thread on one core, as in run.py; a thing of which there
are N is there in the configuration N times. Writes scale.json, which report.py shows in docs/performance.md. Each measurement
is bounded, and all of it ends within --minutes.
"""

import argparse
import atexit
import base64
import http.client
import json
import pathlib
import shutil
import signal
import socket
import sys
import threading
import time

from clients import Clients
from peers import Missing, Origin, Proxy, free_port, program
from run import CACHE, Late, build, late, make_certificate, own_cores, scratch
from workloads import Workload

SECONDS = 1.5
ROUNDS = 3
PAIRS = 7
SMALL = ("--path", "/", "--expect", "32")


class Scaled(Proxy):
    """Roundel with a configuration of any size."""

    def __init__(self, bench, *parts, threads=1, listener="", lane="auto", kept=128, log=True):
        directory = bench.directory / f"scale-{free_port()}"
        directory.mkdir()
        self.binary, self.admin = bench.binary, directory / "admin.sock"
        ports = {"plain": free_port()}
        super().__init__(directory, directory / "roundel.yaml", bench.cores[:threads], ports)
        self.head = [
            f"server: {{ threads: {threads}, upstream_keepalive_pool_size: {kept} }}",
            f"admin: {{ address: 'unix:{self.admin}' }}",
            f"access_log: {{ path: {directory}/access.log }}" if log else "access_log: none",
            f"listeners: [{{ address: '127.0.0.1:{ports['plain']}', lane: {lane}, limits: {{ keepalive_requests: 1000000000 }}{listener} }}]",
        ]
        self.write(*parts)

    def write(self, *parts):
        self.file.write_text("\n".join([*self.head, *parts]) + "\n")

    def command(self):
        return [self.binary, "-c", str(self.file)]

    def ask(self, method, path):
        """Asks the admin API; the status and the body."""
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self.admin))
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def ready(self):
        """Waits until every backend has been probed once; the seconds since the start."""
        begun = time.monotonic()
        while self.ask("GET", "/readyz")[0] != 200:
            if time.monotonic() - begun > 60:
                raise Missing(f"not ready within a minute: {self.ask('GET', '/readyz')[1][:200]}")
            time.sleep(0.02)
        return self.ready_after + time.monotonic() - begun


class Bare(Proxy):
    """The least load balancer that Pingora allows: examples/bare.rs."""

    def __init__(self, bench):
        directory = bench.directory / f"bare-{free_port()}"
        directory.mkdir()
        self.backends = [f"127.0.0.1:{port}" for port in (bench.origin.one, bench.origin.two)]
        self.binary = build("--example", "bare")
        super().__init__(directory, directory / "none", bench.cores[:1], {"plain": free_port()})

    def command(self):
        return [str(self.binary), f"127.0.0.1:{self.ports['plain']}", *self.backends]


class Bench:
    def __init__(self, options):
        self.binary = str((options.roundel or build()).resolve())
        self.directory = scratch()
        self.clients = Clients(CACHE)
        self.cores = own_cores()
        self.load_cpus = self.cores[1:]
        nginx = program("nginx", CACHE)
        # Every address of 127/8 is a backend of its own.
        self.origin = Origin(nginx, self.directory, self.load_cpus, "0.0.0.0")
        atexit.register(self.origin.stop)

    def pair(self):
        return upstream([f"127.0.0.1:{self.origin.one}", f"127.0.0.1:{self.origin.two}"])

    def cost(self, proxy, flags=SMALL, connections=32, warm=0.3):
        """Processor time of a request in µs: the median of some runs. Any error ends it."""
        workload = Workload("scale", "", "plain", flags, connections=connections)
        self.drive(proxy, workload, warm)
        found = [self.cost_once(proxy, workload) for _ in range(ROUNDS)]
        (proxy.directory / "access.log").write_text("")
        return median(found)

    def cost_once(self, proxy, workload):
        before = proxy.cpu_seconds()
        seen = self.drive(proxy, workload, SECONDS)
        return 1e6 * (proxy.cpu_seconds() - before) / max(1, seen["requests"])

    def drive(self, proxy, workload, seconds):
        seen = self.clients.drive(workload, proxy.ports["plain"], seconds, self.load_cpus)
        errors = {kind: count for kind, count in seen["errors"].items() if count}
        if errors:
            raise Missing(f"errors: {errors} (see {proxy.directory})")
        return seen


def upstream(addresses, more=""):
    return f"upstreams:\n  web:\n    backends: {json.dumps(addresses)}\n{more}"


def median(numbers):
    return sorted(numbers)[len(numbers) // 2]


def mib(proxy):
    return proxy.memory() / 2**20


def steps(most):
    """1, 10, 100 and so on."""
    return [10**power for power in range(9) if 10**power <= most]


def backends(bench, most):
    """Backends in turn, all kept connected; probed every 10 s, and not probed."""
    for count in steps(most):
        addresses = [f"127.{1 + number // 62500}.{number // 250 % 250}.{1 + number % 250}:{bench.origin.one}" for number in range(count)]
        row = {"count": count}
        for name, more in (("probed", ""), ("unprobed", "    health_check: none\n")):
            with Scaled(bench, upstream(addresses, more), kept=20_000) as proxy:
                row[f"{name}_ready_s"] = proxy.ready()
                row[f"{name}_mib"] = mib(proxy)
                # Long enough that each backend has been asked once, and its connection is there.
                row[f"{name}_us"] = bench.cost(proxy, warm=0.5 + count / 2000)
        yield row


def routes(bench, most):
    """Routes of one host, by prefix; each request asks for another."""
    for count in steps(most):
        listed = [f"  - {{ name: r{n}, match: [{{ path_prefix: /r{n} }}], to: web }}" for n in range(count)]
        with Scaled(bench, bench.pair(), "routes:", *listed) as proxy:
            ready, memory = proxy.ready(), mib(proxy)
            yield {"count": count, "us": bench.cost(proxy, (*SMALL, "--paths", str(count))), "ready_s": ready, "mib": memory}


def connections(bench, most):
    """Connections that stay open, idle, while 32 others are busy."""
    with Scaled(bench, bench.pair()) as proxy:
        proxy.ready()
        yield {"count": 1, "us": bench.cost(proxy), "mib": mib(proxy)}
    for count in [*steps(most)[1:], *([14_000] if most >= 10_000 else [])]:
        with Scaled(bench, bench.pair()) as proxy:
            proxy.ready()
            with bench.clients.hold(proxy.ports["plain"], count, bench.load_cpus, SMALL) as seen:
                if seen["requests"] != count:
                    raise Missing(f"{seen['requests']} of {count} connections answered: {seen['errors']}")
                yield {"count": count, "us": bench.cost(proxy), "mib": mib(proxy)}


def threads(bench, _):
    """One thread on one core; two on two, which the clients share where there are no others."""
    for count in (1, 2):
        with Scaled(bench, bench.pair(), threads=count) as proxy:
            proxy.ready()
            yield {"count": count, "us": bench.cost(proxy, connections=64), "mib": mib(proxy)}


def certificates(bench, most):
    """Certificates chosen by SNI, each handshake another; and what looking at their files costs while nothing happens."""
    template = make_certificate(bench.directory, "h00000.bench.test")
    key, pem = template / "key.pem", (template / "cert.pem").read_text()
    whole = base64.b64decode("".join(line for line in pem.splitlines() if "-----" not in line))
    for count in steps(most):
        directory = bench.directory / f"certificates-{count}"
        directory.mkdir()
        for number in range(count):
            # They differ in their name alone. No client checks the signature.
            der = base64.encodebytes(whole.replace(b"h00000", f"h{number:05}".encode())).decode()
            (directory / f"{number}.pem").write_text(f"-----BEGIN CERTIFICATE-----\n{der}-----END CERTIFICATE-----\n")
        pairs = ", ".join(f"{{ cert: {directory}/{number}.pem, key: {key} }}" for number in range(count))
        with Scaled(bench, bench.pair(), listener=f", tls: {{ certificates: [{pairs}] }}") as proxy:
            ready, memory = proxy.ready(), mib(proxy)
            before = proxy.cpu_seconds()
            time.sleep(4)
            idle = 100 * (proxy.cpu_seconds() - before) / 4
            flags = (*SMALL, "--tls", "--close", "--names", str(count))
            yield {"count": count, "us": bench.cost(proxy, flags), "ready_s": ready, "mib": memory, "idle_cpu_percent": idle}
        shutil.rmtree(directory)


def reload(bench, most):
    """A reload in which one route of N changes and one backend of N is new, under 1,000 requests a second."""
    for count in steps(most):
        one = reload_text(bench, count, 0)
        with Scaled(bench, *one) as proxy:
            proxy.ready()
            found = [reload_once(bench, proxy, reload_text(bench, count, number)) for number in range(1, 4)]
            found.sort(key=lambda row: row["reload_ms"])
            yield {"count": count, **found[1]}


def reload_text(bench, count, number):
    addresses = [f"127.{1 + n // 62500}.{n // 250 % 250}.{1 + n % 250}:{bench.origin.one}" for n in range(count)]
    listed = [f"  - {{ name: r{n}, match: [{{ path_prefix: /r{n} }}], to: web }}" for n in range(1, count)]
    changed = f"  - {{ name: r0, match: [{{ path_prefix: / }}], timeouts: {{ request: {30 + number}s }}, to: web }}"
    return upstream([*addresses, f"127.0.0.{1 + number}:{bench.origin.two}"]), "routes:", changed, *listed


def reload_once(bench, proxy, parts):
    """Milliseconds to the answer of the admin API, processor time, and the slowest request meanwhile."""
    proxy.write(*parts)
    flags = ["--port", proxy.ports["plain"], "--connections", 32, "--seconds", 2, "--rate", 1000, *SMALL]
    client = bench.clients.begin(flags, bench.load_cpus)
    time.sleep(0.5)
    before, begun = proxy.cpu_seconds(), time.monotonic()
    status, body = proxy.ask("POST", "/api/v1/reload")
    took, used = time.monotonic() - begun, proxy.cpu_seconds() - before
    seen = json.loads(client.communicate(timeout=30)[0])
    if status != 200 or any(seen["errors"].values()):
        raise Missing(f"reload: {status} {body[:300]!r}, {seen['errors']}")
    return {"reload_ms": 1000 * took, "reload_cpu_ms": 1000 * used, "slowest_ms": seen["latency_us"]["max"] / 1000}


def telling(bench, _):
    """All that tells what happens, turned on (a JSON log, 1 % of requests traced, metrics scraped every second) beside none of it."""
    workload = Workload("scale", "", "plain", SMALL, connections=32)
    traced = f"tracing: {{ otlp: 'http://127.0.0.1:{bench.origin.one}', sample: 1% }}"
    with Scaled(bench, bench.pair(), traced) as loud, Scaled(bench, bench.pair(), log=False) as mute:
        over = threading.Event()
        scraper = threading.Thread(target=scrape, args=(loud, over))
        scraper.start()
        try:
            yield beside(bench, loud, mute, workload)
        finally:
            over.set()
            scraper.join()


def general(bench, _):
    """The general road, with everything that is on by default, beside bare Pingora of the same build."""
    workload = Workload("scale", "", "plain", SMALL, connections=32)
    with Scaled(bench, bench.pair(), lane="off") as ours, Bare(bench) as bare:
        yield beside(bench, ours, bare, workload)


def beside(bench, one, other, workload):
    """Processor time of a request in µs at two proxies, in turn."""
    pairs = [(bench.cost_once(one, workload), bench.cost_once(other, workload)) for _ in range(PAIRS)]
    return {
        "one_us": median([one for one, _ in pairs]),
        "other_us": median([other for _, other in pairs]),
        "ratio": median([one / other for one, other in pairs]),
    }


def scrape(proxy, over):
    while not over.wait(1):
        proxy.ask("GET", "/metrics")


EXPERIMENTS = {
    "backends": backends,
    "routes": routes,
    "connections": connections,
    "threads": threads,
    "certificates": certificates,
    "reload": reload,
    "telling": telling,
    "general": general,
}


def go_on(name, rows, results):
    """One experiment: as far as it goes."""
    try:
        for row in rows:
            print(name, json.dumps({key: round(value, 3) for key, value in row.items()}), flush=True)
            results.append(row)
    except Missing as why:
        print(f"{name} ends here: {why}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--roundel", type=pathlib.Path, help="the binary to measure, instead of building one")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--most", type=int, default=10_000, help="how far each goes (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=8, help="after which it ends (default: %(default)s)")
    parser.add_argument("--json", type=pathlib.Path, default=CACHE / "scale.json", help="default: %(default)s")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench(options)
    results = json.loads(options.json.read_text()) if options.json.exists() else {}
    signal.signal(signal.SIGALRM, late)
    signal.alarm(int(60 * options.minutes))
    try:
        for name in options.only:
            results[name] = []
            go_on(name, EXPERIMENTS[name](bench, options.most), results[name])
            options.json.write_text(json.dumps({name: rows for name, rows in results.items() if rows}, indent=1) + "\n")
    except Late:
        print("the time is over", file=sys.stderr)
    signal.alarm(0)


if __name__ == "__main__":
    try:
        main()
    except Missing as why:
        sys.exit(f"scale: {why}")
