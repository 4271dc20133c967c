"""The proxies of a run, each from its template with its best settings for the case at hand, and what they tell of tries."""

import json
import os
import pathlib
import re
import socket
import sys
import tempfile
import urllib.request

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "balance_peers"))
import peers  # noqa: E402
from peers import free_port, version  # noqa: E402

__all__ = ["Peer", "free_port", "version"]


class Peer(peers.Peer):
    """A proxy at work over these backends: `with Peer("haproxy", "blackhole", ["127.0.0.1:9001"]) as peer: ... peer.port`."""

    def __init__(self, kind, case, backends, **words):
        self.kind, self.port, self.admin = kind, free_port(), free_port()
        self.directory = tempfile.mkdtemp(prefix=f"overload-{kind}-")
        name = peers.TEMPLATE[kind]
        text = (HERE / "templates" / f"{case}-{name}").read_text()
        values = {
            "PORT": str(self.port),
            "ADMIN": str(self.admin),
            "DIRECTORY": self.directory,
            "BACKENDS": "\n".join(peers.backend_line(kind, backend, 1) for backend in backends),
            **words,
        }
        for word, value in values.items():
            text = text.replace(f"@{word}@", value)
        if left := re.findall(r"@[A-Z]+@", text):
            raise SystemExit(f"{case}-{name}: nothing stands for {left}")
        self.file = pathlib.Path(self.directory) / name
        self.file.write_text(text)
        os.environ.setdefault("ROUNDEL", "target/release/roundel")

    def retries(self):
        """How often the proxy has sent or connected again, by its own count."""
        match self.kind:
            case "roundel":
                return self.metric(f"http://127.0.0.1:{self.admin}/metrics", r"roundel_retries_total\{.*\} (\d+)")
            case "envoy":
                return self.metric(f"http://127.0.0.1:{self.admin}/stats", r"cluster\.web\.upstream_rq_retry: (\d+)")
            case "haproxy":
                with socket.socket(socket.AF_UNIX) as stats:
                    stats.connect(f"{self.directory}/admin.sock")
                    stats.sendall(b"show stat\n")
                    lines = stats.makefile().read().removeprefix("# ").splitlines()
                rows = [dict(zip(lines[0].split(","), line.split(","))) for line in lines[1:]]
                return next(int(row["wretr"]) for row in rows if row.get("svname") == "BACKEND")

    def metric(self, url, pattern):
        with urllib.request.urlopen(url, timeout=5) as answer:
            return sum(int(float(value)) for value in re.findall(pattern, answer.read().decode()))

    def budget_left(self):
        """What is left of roundel's retry budget."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/api/v1/status", timeout=5) as answer:
            return json.load(answer)["upstreams"][0]["retry_budget"]["left"]
