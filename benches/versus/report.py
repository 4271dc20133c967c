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

from peers import HERE, TITLE, fill
from workloads import BY_NAME, IDLE_TITLE, WORKLOADS

sys.path.append(str(HERE.parent))
import svg  # noqa: E402


def spread(values, digits):
    """Median, lowest and highest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})" if len(values) > 1 else f"{middle:.{digits}f}"


def together(results, *later):
    """A run, with what later runs have measured again in the place of what it has of the same workloads in the same settings."""
    for more in later:
        again = {(cell["setting"], cell["workload"]) for cell in more["cells"]}
        results["cells"] = [c for c in results["cells"] if (c["setting"], c["workload"]) not in again] + more["cells"]
        results["versions"] = {**results["versions"], **more["versions"]}
        results["configuration"] = {**more["configuration"], **results["configuration"]}
        titles = dict.fromkeys(BY_NAME[workload].title for _, workload in sorted(again))
        results["also"] = results.get("also", "") + "; {} in a run of {rounds} rounds, {seconds:g} s each".format(
            ", ".join(titles), **more["options"]
        )
    return results


class Cells:
    """The measurements of a run, by setting, workload and peer."""

    def __init__(self, results):
        self.results = results
        self.peers = [kind for kind in TITLE if kind in results["versions"]]
        self.settings = list(dict.fromkeys(cell["setting"] for cell in results["cells"]))

    def workloads(self, setting):
        done = {cell["workload"] for cell in self.results["cells"] if cell["setting"] == setting}
        return [workload.name for workload in WORKLOADS if workload.name in done]

    def peers_of(self, setting):
        """Those that were measured in a setting."""
        return [peer for peer in self.peers if any((cell["setting"], cell["peer"]) == (setting, peer) for cell in self.results["cells"])]

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

    peers = cells.peers_of(setting)
    head = ["", *(TITLE[peer] for peer in peers)]
    return table(head, [[BY_NAME[name].title, *(shown(name, peer) for peer in peers)] for name in cells.workloads(setting)])


def ratio_table(cells, setting, peer):
    others = [other for other in cells.peers_of(setting) if not other.startswith("roundel")]

    def shown(name, other):
        ratios = cells.ratios(setting, name, peer, other)
        return spread(ratios, 2) if ratios else "–"

    head = [f"{TITLE[peer]} beside", *(TITLE[other] for other in others)]
    return table(head, [[BY_NAME[name].title, *(shown(name, other) for other in others)] for name in cells.workloads(setting)])


def latency_table(cells, setting):
    """At a fixed rate: in microseconds, from when a request was due."""
    rows = []
    for peer in cells.peers_of(setting):
        if cells.void(setting, "rate", peer):
            rows.append([TITLE[peer], cells.void(setting, "rate", peer), "", "", ""])
            continue
        seen = [cell["latency_us"] for cell in cells.of(setting, "rate", peer)]
        rows.append([TITLE[peer], *(spread([latency[share] for latency in seen], 0) for share in ("p50", "p90", "p99", "p99.9"))])
    return table(["fixed 6,000/s, µs", "p50", "p90", "p99", "p99.9"], rows)


def handshake_table(cells, setting):
    rows = []
    for peer in cells.peers_of(setting):
        values = cells.values(setting, "handshake", peer, "cpu_us")
        shown = spread([1e6 / value for value in values], 0) if values else cells.void(setting, "handshake", peer)
        rows.append([TITLE[peer], shown])
    return table(["", "full handshakes per CPU second"], rows)


def idle_table(results, peers):
    names = [name for name in IDLE_TITLE if any(row["workload"] == name for row in results["idle"])]
    rows = []
    for peer in peers:
        found = {row["workload"]: row for row in results["idle"] if row["peer"] == peer}
        start = [row["start_bytes"] / 2**20 for row in found.values() if not row["errors"]]
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
        parts += [ratio_table(cells, setting, peer) for peer in cells.peers_of(setting) if peer.startswith("roundel")]
        parts.append("Requests per second.\n")
        parts.append(value_table(cells, setting, "rate", 0))
        if "rate" in cells.workloads(setting):
            parts.append(latency_table(cells, setting))
        if "handshake" in cells.workloads(setting):
            parts.append(handshake_table(cells, setting))
    if results["idle"]:
        parts += ["## Idle connections and memory\n", idle_table(results, [peer for peer in cells.peers if any(row["peer"] == peer for row in results["idle"])])]
    return "\n".join(parts)


# What Roundel is held to: processor time beside a peer at most this, on one core with a JSON access log.
AIMS = [
    *((name, "nginx", 1.0) for name in ("small", "post", "rate", "tls", "tls-100k")),
    *((name, "nginx", 1.15) for name in ("new", "100k")),
    ("handshake", "nginx", 0.7),
    *((name, "haproxy", 0.8) for name in ("small", "post", "rate")),
    *((name, "haproxy", 1.0) for name in ("new", "100k")),
    *((name, "envoy", 0.35) for name in ("small", "post", "rate", "new", "100k")),
    *((name, "caddy", 0.25) for name in ("small", "post", "rate", "new", "100k")),
]
AIMED = "one core, JSON access log"
IDLE_AIM = 5_000


def met(holds):
    return "yes" if holds else "**no**"


def aims(cells):
    """Each aim beside what was measured, met or not."""
    rows = []
    for name, other, most in AIMS:
        if ratios := cells.ratios(AIMED, name, "roundel", other):
            what = f"{BY_NAME[name].title}: CPU time beside {TITLE[other]}"
            rows.append([what, f"at most {most:.2f}", spread(ratios, 2), met(statistics.median(ratios) <= most)])
    rates = [None if cells.void(AIMED, "rate", peer) else cells.of(AIMED, "rate", peer) for peer in ("roundel", "haproxy")]
    for share in ("p99", "p99.9") if all(rates) else ():
        ours, theirs = (statistics.median(cell["latency_us"][share] for cell in seen) for seen in rates)
        rows.append([f"{share} at 6,000/s", f"HAProxy's, {theirs:.0f} µs", f"{ours:.0f} µs", met(ours <= theirs)])
    return rows + memory_aims(cells.results["idle"])


def memory_aims(idle):
    ours = [row for row in idle if row["peer"] == "roundel" and not row["errors"]]
    rows = []
    for row in ours:
        if "tls" not in row["workload"]:
            what = f"{IDLE_TITLE[row['workload']]} connections, bytes each"
            rows.append([what, f"at most {IDLE_AIM:,}", f"{row['bytes_each']:,.0f}", met(row["bytes_each"] <= IDLE_AIM)])
    theirs = [row["start_bytes"] for row in idle if not row["peer"].startswith("roundel") and not row["errors"]]
    if ours and theirs:
        start, least = (value / 2**20 for value in (ours[0]["start_bytes"], min(theirs)))
        rows.append(["memory at start", f"below every peer's, {least:.1f} MiB", f"{start:.1f} MiB", met(start < least)])
    return rows


def plot(cells, setting):
    """The processor time of every workload, a panel each."""
    groups = {}
    for name in cells.workloads(setting):
        bars = {TITLE[peer]: cells.values(setting, name, peer, "cpu_us") for peer in cells.peers}
        bars = {peer: (min(values), statistics.median(values), max(values)) for peer, values in bars.items() if values}
        if bars:
            groups[BY_NAME[name].title] = bars
    return svg.panels(f"CPU time for one request in µs, {setting}: less is better", groups) if groups else None


# What scale.py measures: a title, what it is about, and the columns: key, title, digits.
SCALE = {
    "backends": (
        "Backends",
        "In turn, all kept connected; probed every 10 s by TCP, and not probed.",
        [("probed_us", "µs for a request, probed", 1), ("unprobed_us", "not probed", 1), ("probed_ready_s", "ready after, s", 2), ("probed_mib", "memory, MiB", 0)],
    ),
    "routes": (
        "Routes",
        "Prefixes of one host, each request for another of them.",
        [("us", "µs for a request", 1), ("ready_s", "ready after, s", 2), ("mib", "memory, MiB", 0)],
    ),
    "connections": (
        "Open connections",
        "Idle, each after one request, while 32 others are busy.",
        [("us", "µs for a request", 1), ("mib", "memory, MiB", 0)],
    ),
    "threads": (
        "Threads",
        "On as many cores; on a machine with two cores the second one is shared with clients and backends.",
        [("us", "µs for a request", 1), ("mib", "memory, MiB", 0)],
    ),
    "certificates": (
        "Certificates",
        "Chosen by SNI, for each handshake another of them; idle is what looking at their files each second takes of a core.",
        [("us", "µs for a handshake and its request", 0), ("ready_s", "ready after, s", 2), ("mib", "memory, MiB", 0), ("idle_cpu_percent", "idle, % of a core", 1)],
    ),
    "reload": (
        "The size of a reload",
        "As many routes and as many backends; one of each changes, under 1,000 requests a second through the same core.",
        [("reload_ms", "answered after, ms", 0), ("reload_cpu_ms", "CPU, ms", 0), ("slowest_ms", "slowest request meanwhile, ms", 1)],
    ),
    "telling": (
        "Telling what happens",
        "A JSON log, 1 % of requests traced and metrics scraped every second, beside none of it: two processes in turn, seven times; the median "
        "of the ratios.",
        [("one_us", "µs for a request, on", 1), ("other_us", "off", 1), ("ratio", "ratio", 2)],
    ),
    "general": (
        "The general road beside bare Pingora",
        "With everything that is on by default, a JSON log included, beside the least load balancer that Pingora allows "
        "([examples/bare.rs](../examples/bare.rs)), of one build and with one allocator: in turn, seven times; the median of the ratios.",
        [("one_us", "µs for a request, general road", 1), ("other_us", "bare Pingora", 1), ("ratio", "ratio", 2)],
    ),
}


def scale_text(results, plots):
    """A table and a plot for each experiment of scale.py."""
    parts = []
    for name, (title, about, columns) in SCALE.items():
        rows = results.get(name, [])
        if not rows:
            continue
        counted = [("count", title.lower(), 0)] if "count" in rows[0] else []
        head = [column for _, column, _ in counted + columns]
        body = [[f"{row[key]:,.{digits}f}" for key, _, digits in counted + columns] for row in rows]
        parts.append(f"### {title}\n\n{about}\n\n{table(head, body)}")
        if counted and len(rows) > 2:
            unit = "ms" if name == "reload" else "µs for a request"
            drawn = {label: key for key, label, _ in columns if key.endswith("us") or key in ("reload_ms", "reload_cpu_ms")}
            series = {label: [(row["count"], row[key]) for row in rows] for label, key in drawn.items()}
            (plots / f"scale-{name}.svg").write_text(svg.lines(title, title.lower(), unit, series, x_scale="log"))
            parts.append(f"![{title}: {unit}](plots/scale-{name}.svg)\n")
    if not parts:
        return ""
    about = "How the cost of Roundel alone grows, on one core: `python3 benches/versus/scale.py`. Medians of three."
    return "\n".join(["## Scale\n", about + "\n", *parts])


def write(results, page, scale=None):
    """The page, and its plots beside it; with what scale.py has measured, if it is given."""
    cells = Cells(results)
    plots = page.parent / "plots"
    plots.mkdir(exist_ok=True)
    pictures = []
    for setting in cells.settings:
        if drawn := plot(cells, setting):
            file = "versus-" + setting.replace(",", "").replace(" ", "-").lower() + ".svg"
            (plots / file).write_text(drawn)
            pictures.append(f"![CPU time for one request, {setting}](plots/{file})\n")
    machine, options = results["machine"], results["options"]
    rows = aims(cells)
    words = {
        "MODE": f"--{options['mode']}",
        "MACHINE": "{processor}, {cores} cores, {memory_gib:g} GiB, {system}, Linux {kernel}".format(**machine),
        "VERSIONS": ", ".join(f"{TITLE[kind]} {number}" for kind, number in results["versions"].items() if not kind.startswith("roundel-")),
        "BACKENDS": f"{results['backends']}; a small answer costs them {results['backend_us']:.1f} µs",
        "DATE": results["date"],
        "LOAD": f"{machine['load']:.2f}",
        "ROUNDS": str(options["rounds"]),
        "SECONDS": f"{options['seconds']:g}",
        "ALSO": results.get("also", ""),
        "PLOT": "\n".join(pictures),
        "TARGETS": "## Aims\n\n" + table(["aim", "wanted", "measured", "met"], rows) if rows else "",
        "TABLES": text(results),
        "SCALE": scale_text(scale or {}, plots),
        "CONFIGURATIONS": "\n".join(configuration(kind, content) for kind, content in results["configuration"].items()),
    }
    page.write_text(fill("performance.md", words))


def configuration(kind, content):
    title = TITLE.get(kind, "the backends")
    return f"<details><summary>{title}</summary>\n\n```\n{content.strip()}\n```\n\n</details>\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=pathlib.Path, nargs="+", help="one run, or one and later runs of some workloads, which take their place")
    parser.add_argument("--doc", type=pathlib.Path, help="writes this page, and its plots to plots/ beside it")
    parser.add_argument("--scale", type=pathlib.Path, help="what scale.py has written, for the page")
    options = parser.parse_args()
    read = together(*(json.loads(file.read_text()) for file in options.json))
    print(text(read))
    if options.doc:
        write(read, options.doc, json.loads(options.scale.read_text()) if options.scale else None)
