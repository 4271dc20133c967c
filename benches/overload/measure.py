#!/usr/bin/env python3
"""What roundel does when backends fail or have too much to do, beside HAProxy and Envoy.

    ROUNDEL=target/release/roundel benches/overload/measure.py blackhole|limits|outage [--peers roundel,haproxy]

Prints tables in Markdown and writes plots to --plots. All traffic is on loopback, and each run ends by itself. See README.md for
what is to be installed, docs/resilience.md for results.
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time

from proxies import HERE, Peer, free_port, version
from steady import fixed_rate, percentile

sys.path.append(str(HERE.parent))
import svg  # noqa: E402


class Backend:
    """One backend of a run, in a process of its own."""

    def __init__(self, *options):
        self.name = f"127.0.0.1:{free_port()}"
        command = [sys.executable, str(HERE / "origin.py"), self.name, *map(str, options)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.process.stdout.readline()

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def hang(self):
        """From now on the machine is silent: nothing is read, nothing answered, and soon nothing accepted."""
        self.process.send_signal(signal.SIGSTOP)

    def wake(self):
        self.process.send_signal(signal.SIGCONT)

    def seconds(self, begin, end):
        """Requests and connections accepted from second `begin` to `end`."""
        tenths = self.tell("tenths")
        return [sum(n for at, n in counts.items() if begin * 10 <= int(at) < end * 10) for counts in tenths]

    def per_second(self, which, seconds):
        tenths = self.tell("tenths")[which]
        return [sum(tenths.get(str(10 * second + tenth), 0) for tenth in range(10)) for second in range(seconds)]

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.wake()
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def backends(stack, count, *options):
    return [stack.enter_context(Backend(*options)) for _ in range(count)]


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join("---" for _ in head) + " |")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def millis(results, *shares):
    took = [1000 * result.took for result in results] or [float("nan")]
    return [f"{percentile(took, share):.1f}" for share in shares]


def cases(options):
    """Each proxy of a run; roundel once for each road."""
    for kind in options.peers:
        roads = options.lanes if kind == "roundel" else [None]
        for road in roads:
            words = {"LANE": road if road == "auto" else f'"{road}"'} if road else {}
            yield kind, kind if road in (None, "off") else f"{kind}, lane", words


def blackhole(options):
    """One backend of three falls silent at second 5, with its connections, and wakes at second 15."""
    body, seconds = [], 22
    for kind, name, words in cases(options):
        with contextlib.ExitStack() as stack:
            all_three = backends(stack, 3, 0, 0, 8)
            hole = all_three[0]
            peer = stack.enter_context(Peer(kind, "blackhole", [one.name for one in all_three], **words))
            time.sleep(3)
            for one in all_three:
                one.tell("start")
            before = peer.retries()
            results = asyncio.run(fixed_rate(peer.port, options.rate, seconds, [(5, hole.hang), (15, hole.wake)]))
            retries = peer.retries() - before
            # What was sent to it while it was silent is counted when it wakes.
            reached = [sum(one.tell("tenths")[0].values()) for one in all_three]
        errors = sum(result.status != 200 for result in results)
        silent = [result for result in results if 5 <= result.due < 15]
        slow = sum(result.took > 0.1 for result in silent)
        body.append([name, len(results), errors, *millis(results, 0.5, 0.99, 0.999, 1), *millis(silent, 0.99), slow, " / ".join(map(str, reached)), retries])
    print(f"{options.rate} GET/s for {seconds} s; the first of three backends is silent from second 5 to 15.\n")
    head = ["proxy", "requests", "errors at clients", "p50 ms", "p99", "p99.9", "longest", "p99 of the 10 s"]
    table([*head, "over 100 ms in them", "requests at each backend (probes included)", "retries"], body)


def limits(options):
    """A backend of 2 workers x 10 ms gets what it can do, and then twice that, without limits and with them."""
    capacity, seconds = 200, 12
    loads = [
        ("unloaded", capacity * 0.4, "{}"),
        ("twice its capacity, no limits", capacity * 2, "{}"),
        ("twice, `requests: 2, pending: 20`", capacity * 2, "{ requests: 2, pending: 20 }"),
        ("twice, `requests: 2, pending: 2`", capacity * 2, "{ requests: 2, pending: 2 }"),
    ]
    for kind, name, words in [case for case in cases(options) if case[0] == "roundel"]:
        body, series = [], {}
        for case, rate, bound in loads:
            with contextlib.ExitStack() as stack:
                (backend,) = backends(stack, 1, 2, 10)
                peer = stack.enter_context(Peer(kind, "limits", [backend.name], LIMITS=bound, **words))
                results = asyncio.run(fixed_rate(peer.port, rate, seconds))
            served = [result for result in results if result.status == 200]
            refused = [result for result in results if result.status == 503]
            lost = len(results) - len(served) - len(refused)
            in_time = sum(result.due + result.took < seconds for result in served)
            body.append([case, f"{rate:.0f}/s", f"{in_time / seconds:.0f}/s", *millis(served, 0.5, 0.99), f"{len(refused) / seconds:.0f}/s", *millis(refused, 0.5, 0.99), lost])
            if rate > capacity:
                series[case.removeprefix("twice, ").strip("`")] = over_time(served, seconds)
        print(f"{name}: one backend of 2 workers x 10 ms, which is 200 requests a second, for {seconds} s.\n")
        head = ["case", "asked", "served in the time", "p50 ms", "p99 ms", "refused", "p50 ms of it", "p99 ms of it", "no answer"]
        table(head, body)
        if words["LANE"] == "auto":
            title = "Median latency of served requests at twice the capacity"
            (options.plots / "limits-auto.svg").write_text(svg.lines(title, "seconds", "milliseconds", series))


def over_time(results, seconds):
    """The median latency of each half second."""
    points = []
    for half in range(2 * seconds):
        took = [1000 * one.took for one in results if half <= 2 * one.due < half + 1]
        if took:
            points.append((half / 2 + 0.25, percentile(took, 0.5)))
    return points


def outage(options):
    """All three backends reset every request from second 5 to second 15 (or refuse connections), at a high rate."""
    rate, seconds, body = options.outage_rate, 25, []
    for kind, name, words in cases(options):
        manners = ["reset", "refuse"] if words.get("LANE") == "auto" else ["reset"]
        for manner in manners:
            row = outage_row(kind, words, manner, rate, seconds, options)
            body.append([name, manner, *row])
    print(f"{rate} GET/s for {seconds} s; all backends fail from second 5 to 15.\n")
    print("Roundel's budget allows 1.2 tries for each request, 3 more a second, and once 30.\n")
    head = ["proxy", "backends", "asked in the outage", "reached a backend", "tries per request", "p99 ms before"]
    table([*head, "last error after its end", "p99 ms in seconds 1 to 5 after it", "most new connections in a second: before / in / after"], body)


def outage_row(kind, words, manner, rate, seconds, options):
    with contextlib.ExitStack() as stack:
        all_three = backends(stack, 3)
        peer = stack.enter_context(Peer(kind, "outage", [one.name for one in all_three], **words))
        time.sleep(3)
        tell = lambda word: [one.tell(word) for one in all_three]
        actions = [(0, lambda: tell("start")), (5, lambda: tell(manner)), (15, lambda: tell("answer"))]
        results = asyncio.run(fixed_rate(peer.port, rate, seconds, actions))
        reached = sum(one.seconds(5, 15)[0] for one in all_three)
        accepted = [sum(column) for column in zip(*(one.per_second(1, seconds) for one in all_three))]
    during = [result for result in results if 5 <= result.due < 15]
    failed = [result for result in results if result.status != 200]
    last = max((result.due for result in failed), default=15)
    before = [result for result in results if 1 <= result.due < 5]
    after = [[result for result in results if 15 + n <= result.due < 16 + n and result.status == 200] for n in range(5)]
    settled = " / ".join(millis(second, 0.99)[0] for second in after)
    # A tcp probe is a connection too: 3 a second.
    herd = f"{max(accepted[1:5])} / {max(accepted[5:15])} / {max(accepted[15:])}"
    return [len(during), reached, f"{reached / len(during):.3f}", *millis(before, 0.99), f"{max(0, last - 15):.2f} s", settled, herd]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = {"blackhole": blackhole, "limits": limits, "outage": outage}
    parser.add_argument("run", choices=runs)
    parser.add_argument("--peers", default="roundel,haproxy,envoy", type=lambda text: text.split(","))
    parser.add_argument("--lanes", default="auto,off", type=lambda text: text.split(","), help="roundel's roads")
    parser.add_argument("--rate", type=int, default=400, help="requests per second of `blackhole`")
    parser.add_argument("--outage-rate", type=int, default=2_000, help="requests per second of `outage`")
    parser.add_argument("--plots", type=pathlib.Path, default=pathlib.Path("."), help="where plots are written")
    options = parser.parse_args()
    print("Versions: " + "; ".join(f"{kind} ({version(kind)})" for kind in options.peers) + "\n")
    runs[options.run](options)


if __name__ == "__main__":
    main()
