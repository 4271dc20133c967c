#!/usr/bin/env python3
"""Tables, plots and the page docs/performance.md, from results.json alone: report.py results.json [--doc PAGE].

Medians over the rounds, with the lowest and the highest. A row in which any answer failed is void. Ratios are taken round
by round, pair by pair, so that what the machine did in a round falls on both.
"""

import argparse
import json
import pathlib
import statistics
import sys

from peers import HERE, TITLE
from workloads import BY_NAME, IDLE_TITLE, WORKLOADS

sys.path.append(str(HERE.parent))
import svg  # noqa: E402


def spread(values, digits):
    """Median, lowest and highest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


class Cells:
    """The measurements of a run, by setting, workload and peer."""

    def __init__(self, results):
        self.results = results
        self.peers = [kind for kind in TITLE if kind in results["versions"]]
        self.settings = list(dict.fromkeys(cell["setting"] for cell in results["cells"]))

    def workloads(self, setting):
        done = {cell["workload"] for cell in self.results["cells"] if cell["setting"] == setting}
        return [workload.name for workload in WORKLOADS if workload.name in done]

    def of(self, setting, workload, peer):
        return [c for c in self.results["cells"] if (c["setting"], c["workload"], c["peer"]) == (setting, workload, peer)]

    def void(self, setting, workload, peer):
        """Why a row does not count, or nothing."""
        cells = self.of(setting, workload, peer)
        errors = {}
        for cell in cells:
            for kind, count in cell["errors"].items():
                errors[kind] = errors.get(kind, 0) + count
        return "void: " + ", ".join(f"{count} {kind}" for kind, count in errors.items()) if errors else None if cells else "–"

    def values(self, setting, workload, peer, key):
        """One value a round; none where the row is void."""
        if self.void(setting, workload, peer):
            return []
        return [cell[key] for cell in self.of(setting, workload, peer)]

    def ratios(self, setting, workload, peer, other):
        """Processor time beside another's, round by round."""
        if self.void(setting, workload, peer) or self.void(setting, workload, other):
            return []
        ours = {cell["round"]: cell["cpu_us"] for cell in self.of(setting, workload, peer)}
        theirs = {cell["round"]: cell["cpu_us"] for cell in self.of(setting, workload, other)}
        return [ours[number] / theirs[number] for number in ours if theirs.get(number)]


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def value_table(cells, setting, key, digits):
    def shown(name, peer):
        values = cells.values(setting, name, peer, key)
        return spread(values, digits) if values else cells.void(setting, name, peer)

    head = ["", *(TITLE[peer] for peer in cells.peers)]
    return table(head, [[BY_NAME[name].title, *(shown(name, peer) for peer in cells.peers)] for name in cells.workloads(setting)])


def ratio_table(cells, setting, peer):
    others = [other for other in cells.peers if not other.startswith("roundel")]

    def shown(name, other):
        ratios = cells.ratios(setting, name, peer, other)
        return spread(ratios, 2) if ratios else "–"

    head = [f"{TITLE[peer]} beside", *(TITLE[other] for other in others)]
    return table(head, [[BY_NAME[name].title, *(shown(name, other) for other in others)] for name in cells.workloads(setting)])


def latency_table(cells, setting):
    """At a fixed rate: in microseconds, from when a request was due."""
    rows = []
    for peer in cells.peers:
        if cells.void(setting, "rate", peer):
            rows.append([TITLE[peer], cells.void(setting, "rate", peer), "", "", ""])
            continue
        seen = [cell["latency_us"] for cell in cells.of(setting, "rate", peer)]
        rows.append([TITLE[peer], *(spread([latency[share] for latency in seen], 0) for share in ("p50", "p90", "p99", "p99.9"))])
    return table(["fixed 6,000/s, µs", "p50", "p90", "p99", "p99.9"], rows)


def handshake_table(cells, setting):
    rows = []
    for peer in cells.peers:
        values = cells.values(setting, "handshake", peer, "cpu_us")
        shown = spread([1e6 / value for value in values], 0) if values else cells.void(setting, "handshake", peer)
        rows.append([TITLE[peer], shown])
    return table(["", "full handshakes per CPU second"], rows)


def idle_table(results, peers):
    names = [name for name in IDLE_TITLE if any(row["workload"] == name for row in results["idle"])]
    rows = []
    for peer in peers:
        found = {row["workload"]: row for row in results["idle"] if row["peer"] == peer}
        start = [row["start_bytes"] / 2**20 for row in found.values()]
        row = [TITLE[peer], f"{statistics.median(start):.1f} MiB" if start else "–"]
        for name in names:
            errors = found[name]["errors"] if name in found else {}
            void = "void: " + ", ".join(f"{count} {kind}" for kind, count in errors.items())
            row += [void, ""] if errors else [f"{found[name]['bytes_each']:,.0f}", f"{found[name]['bytes_each_after']:,.0f}"] if name in found else ["–", "–"]
        rows.append(row)
    head = ["bytes for each connection", "at start, whole"]
    for name in names:
        head += [IDLE_TITLE[name], "after they closed"]
    return table(head, rows)


def text(results):
    """All tables, each under a heading."""
    cells = Cells(results)
    parts = []
    for setting in cells.settings:
        parts.append(f"## {setting[0].upper()}{setting[1:]}\n")
        parts.append("CPU time of the proxy for one request, in µs: median (lowest–highest).\n")
        parts.append(value_table(cells, setting, "cpu_us", 1))
        parts.append("CPU time beside each peer, round by round; below 1 is less than the peer's.\n")
        parts += [ratio_table(cells, setting, peer) for peer in cells.peers if peer.startswith("roundel")]
        parts.append("Requests per second.\n")
        parts.append(value_table(cells, setting, "rate", 0))
        if "rate" in cells.workloads(setting):
            parts.append(latency_table(cells, setting))
        if "handshake" in cells.workloads(setting):
            parts.append(handshake_table(cells, setting))
    if results["idle"]:
        parts += ["## Idle connections and memory\n", idle_table(results, cells.peers)]
    return "\n".join(parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=pathlib.Path)
    parser.add_argument("--doc", type=pathlib.Path)
    options = parser.parse_args()
    read = json.loads(options.json.read_text())
    print(text(read))
