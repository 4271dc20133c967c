#!/usr/bin/env python3
"""What the balancing and the health checks of roundel do, beside nginx, HAProxy and Envoy.

    ROUNDEL=target/release/roundel benches/balance_peers/measure.py shares|slow|eject|probes [--peers roundel,nginx]

Prints tables in Markdown and writes plots to --plots. All traffic is on loopback, and each run ends by itself. See
README.md for what is to be installed, docs/balancing.md for results.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import threading
import time

from load import closed_loop, fixed_rate, many_clients, percentile
from peers import HERE, POLICIES, Peer, free_port, version

sys.path.append(str(HERE.parent))
import svg  # noqa: E402


class Origin:
    """The backends of a run, in a process of their own."""

    def __init__(self, names):
        command = [sys.executable, str(HERE / "origin.py"), *names]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.process.stdout.readline()

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.process.stdin.close()
        self.process.wait(5)


def addresses(count):
    return [f"127.0.0.1:{free_port()}" for _ in range(count)]


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join("---" for _ in head) + " |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def settle(peer):
    """Waits until a proxy's probes have told it who is dead, for those that find out by requests alone."""
    time.sleep(4.5 if peer.kind in ("haproxy", "envoy") else 0.5)


def shares(options):
    """The share of each backend in REQUESTS requests, for every policy, with equal and unequal weights, all alive and one
    dead."""
    for weights in ([5, 1, 1], [1, 1, 1, 1]):
        for dead in (None, len(weights) - 1):
            alive = [weight for index, weight in enumerate(weights) if index != dead]
            ideal = " / ".join(f"{100 * weight / sum(alive):.2f}" for weight in alive)
            what = "all alive" if dead is None else "the last one dead"
            print(f"### Weights {':'.join(map(str, weights))}, {what} (ideal {ideal} %)\n")
            policies = list(POLICIES["roundel"])
            rows = [share_row(policy, weights, dead, options) for policy in policies]
            table(["policy", *options.peers], rows)


def share_row(policy, weights, dead, options):
    cells = []
    for kind in options.peers:
        has = policy in POLICIES[kind]
        cells.append(share_cell(kind, policy, weights, dead, options.requests) if has else "–")
    return [policy, *cells]


def share_cell(kind, policy, weights, dead, requests):
    names = addresses(len(weights))
    living = [name for index, name in enumerate(names) if index != dead]
    with Origin(living) as origin, Peer(kind, policy, list(zip(names, weights))) as peer:
        if dead is not None:
            settle(peer)
        if policy == "hash_client_ip":
            statuses = asyncio.run(many_clients(peer.port, requests // 5, 5))
        elif policy == "hash_uri":
            statuses = asyncio.run(closed_loop(peer.port, requests, 16, lambda number: f"/item/{number}"))
        else:
            statuses = asyncio.run(closed_loop(peer.port, requests, 16))
        counts = origin.tell("counts")
    total = sum(counts.values())
    errors = sum(count for status, count in statuses.items() if status != 200)
    cell = " / ".join(f"{100 * counts[name] / total:.2f}" for name in living)
    return cell + (f" ({errors} errors)" if errors else "")


def slow(options):
    """Latency at a fixed rate where one backend of three takes 200 ms and the others 5 ms."""
    cases = [
        ("roundel", "round_robin"),
        ("roundel", "least_requests"),
        ("roundel", "peak_ewma"),
        ("nginx", "round_robin"),
        ("nginx", "least_requests"),
        ("haproxy", "round_robin"),
        ("haproxy", "least_requests"),
        ("envoy", "round_robin"),
        ("envoy", "least_requests"),
    ]
    rows = collections.defaultdict(list)
    for _ in range(options.rounds):
        for kind, policy in cases:
            if kind in options.peers:
                rows[kind, policy].append(slow_case(kind, policy, options))
    body = []
    for (kind, policy), runs in rows.items():
        middle = [sorted(values)[len(values) // 2] for values in zip(*runs)]
        p50, p90, p99, share, errors = middle
        body.append([kind, policy, f"{p50:.1f}", f"{p90:.1f}", f"{p99:.1f}", f"{share:.1f} %", errors])
    print(f"{options.rate} requests/s for {options.seconds} s, median of {options.rounds} interleaved rounds\n")
    table(["proxy", "policy", "p50 ms", "p90 ms", "p99 ms", "slow backend's share", "errors"], body)


def slow_case(kind, policy, options):
    names = addresses(3)
    with Origin(names) as origin, Peer(kind, policy, [(name, 1) for name in names]) as peer:
        for name, delay in zip(names, (0.2, 0.005, 0.005)):
            origin.tell(f"delay {name} {delay}")
        results = asyncio.run(fixed_rate(peer.port, options.rate, options.seconds))
    # What the policy learns in the first second belongs to its start.
    settled = [result for result in results if result[0] >= 1]
    latencies = [1000 * latency for _, latency, _, _ in settled]
    slow_share = 100 * sum(backend == names[0] for *_, backend in settled) / len(settled)
    errors = sum(status != 200 for _, _, status, _ in results)
    return *(percentile(latencies, share) for share in (0.5, 0.9, 0.99)), slow_share, errors


def eject(options):
    """One backend of three answers 502 from second 10 to second 18, at a fixed rate: errors that clients see, and requests
    to each backend over time. It is ejected for 10 s at a time and ramped up for 10 s."""
    body = []
    cases = [("roundel", 1), ("roundel", 0), ("haproxy", 1), ("envoy", 1)]
    for kind, attempts in [case for case in cases if case[0] in options.peers]:
        names = addresses(3)
        with Origin(names) as origin, contextlib.ExitStack() as stack:
            peer = Peer(kind, "round_robin", [(name, 1) for name in names], extra="eject", attempts=attempts, check_interval="10s")
            stack.enter_context(peer)
            time.sleep(11 if kind == "haproxy" else 1)
            origin.tell("reset")
            breaks, mends = (10, lambda: origin.tell(f"status {names[0]} 502")), (18, lambda: origin.tell(f"status {names[0]} 200"))
            results = asyncio.run(fixed_rate(peer.port, options.rate, 40, [breaks, mends]))
            tenths = origin.tell("seconds")
        bad = sorted(due for due, _, status, _ in results if status != 200)
        until = f"{bad[-1] - 10:.2f} s" if bad else "–"
        body.append([kind, attempts, len(results), len(bad), until])
        plot_eject(options, kind, attempts, names, tenths)
    table(["proxy", "attempts", "requests", "errors at clients", "last error, after the first"], body)


def plot_eject(options, kind, attempts, names, tenths):
    series = {}
    for label, name in zip(("breaks", "second", "third"), names):
        seconds = collections.Counter()
        for tenth, count in tenths[name].items():
            seconds[int(tenth) // 10] += count
        series[label] = [(second + 0.5, seconds[second]) for second in range(40)]
    marks = [(10, "502 begins"), (18, "502 ends")]
    title = f"{kind}: requests per second to each of three backends"
    text = svg.lines(title, "seconds", "requests/s", series, marks)
    (options.plots / f"eject-{kind}-{attempts}.svg").write_text(text)


class Acceptor(threading.Thread):
    """Accepts on one port of all of 127/8, remembers when, and answers one request where probes send one."""

    ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

    def __init__(self, probe):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("0.0.0.0", 0), backlog=4096)
        self.port, self.moments, self.answers = self.listener.getsockname()[1], [], probe == "http"

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.moments.append(time.monotonic())
            with connection, contextlib.suppress(OSError):
                if self.answers and connection.recv(4096):
                    connection.sendall(self.ANSWER)


def probes(options):
    """BACKENDS backends probed every 10 s: how long the first round takes, what probing costs, and how evenly the
    probes are spread."""
    body, series = [], {}
    for kind in [kind for kind in options.peers if kind != "nginx"]:
        acceptor = Acceptor(options.probe)
        acceptor.start()
        number = lambda index: f"127.{1 + index // 62500}.{1 + index // 250 % 250}.{1 + index % 250}"
        backends = [(f"{number(index)}:{acceptor.port}", 1) for index in range(options.backends)]
        with Peer(kind, "round_robin", backends, check_interval="10s", probe=options.probe) as peer:
            first = wait_for_accepts(acceptor, options.backends)
            time.sleep(20)
            begin, cpu = time.monotonic(), peer.cpu_seconds()
            time.sleep(options.seconds)
            end, cpu = time.monotonic(), peer.cpu_seconds() - cpu
            memory = peer.resident_mib()
            ready = peer.ready_after
        acceptor.listener.close()
        seen = [moment - begin for moment in acceptor.moments if begin <= moment < end]
        seconds = collections.Counter(int(moment) for moment in seen)
        rates = [seconds[second] for second in range(int(end - begin))]
        first = f"{first - peer.started:.1f} s" if first else "–"
        share = f"{100 * cpu / (end - begin):.1f} %"
        even = f"{min(rates)} / {sum(rates) / len(rates):.0f} / {max(rates)}"
        # HAProxy resets a TCP check before its handshake is over: nobody accepts it.
        each = f"{1e6 * cpu / len(seen):.0f}" if seen else "–"
        body.append([kind, f"{ready:.1f} s", first, share, each, even, f"{memory:.0f} MiB"])
        series[kind] = [(second + 0.5, rate) for second, rate in enumerate(rates)]
    head = ["proxy", "listens after", "first round over after", "CPU of one core", "CPU µs per probe"]
    table([*head, "probes per second: least / mean / most", "memory"], body)
    title = f"{options.probe} probes per second, {options.backends} backends every 10 s"
    (options.plots / f"probes-{options.probe}.svg").write_text(svg.lines(title, "seconds", "probes/s", series))


def wait_for_accepts(acceptor, count):
    for _ in range(300):
        if len(acceptor.moments) >= count:
            return acceptor.moments[count - 1]
        time.sleep(0.1)
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = {"shares": shares, "slow": slow, "eject": eject, "probes": probes}
    parser.add_argument("run", choices=runs)
    parser.add_argument("--peers", default="roundel,nginx,haproxy,envoy", type=lambda text: text.split(","))
    parser.add_argument("--requests", type=int, default=20_000, help="of each cell of `shares`")
    parser.add_argument("--rate", type=int, default=300, help="requests per second of `slow` and `eject`")
    parser.add_argument("--seconds", type=int, default=20, help="of each run of `slow` and `probes`")
    parser.add_argument("--rounds", type=int, default=3, help="of `slow`")
    parser.add_argument("--backends", type=int, default=10_000, help="of `probes`")
    parser.add_argument("--probe", choices=["tcp", "http"], default="tcp", help="of `probes`")
    parser.add_argument("--plots", type=pathlib.Path, default=pathlib.Path("."), help="where plots are written")
    options = parser.parse_args()
    print("Versions: " + "; ".join(f"{kind} ({version(kind)})" for kind in options.peers) + "\n")
    runs[options.run](options)


if __name__ == "__main__":
    main()
