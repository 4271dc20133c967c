"""The clients: load.c, built here, and h2load for HTTP/2. Pinned to their own cores."""

import contextlib
import json
import re
import subprocess

from peers import HERE, Missing, program, run


class Clients:
    def __init__(self, cache):
        self.h2load, self.taskset = program("h2load", cache), program("taskset", cache)
        self.load = cache / "load"
        source = HERE / "load.c"
        if not self.load.exists() or self.load.stat().st_mtime < source.stat().st_mtime:
            build = [program("cc", cache), "-O2", "-o", str(self.load), str(source), "-lssl", "-lcrypto"]
            done = run(build)
            if done.returncode and "openssl" in done.stderr:
                run([str(HERE.parent.parent / ".ci/install.sh"), "libssl-dev"], timeout=300)
                done = run(build)
            if done.returncode:
                raise Missing(f"load.c cannot be built (package libssl-dev): {done.stderr.strip()[-400:]}")

    def command(self, program, flags, cpus):
        return [self.taskset, "-c", ",".join(map(str, cpus)), str(program), *map(str, flags)]

    def drive(self, workload, port, seconds, cpus):
        """Sends a workload to a port for some seconds; what the client saw."""
        if workload.client == "load":
            flags = ["--port", port, "--connections", workload.connections, "--seconds", f"{seconds:.3f}", *workload.flags]
            return json.loads(self.call(self.load, flags, seconds, cpus))
        scheme = "https" if workload.listener == "tls" else "http"
        flags = ["-D", f"{int(1000 * seconds)}ms", "-c", workload.connections, *workload.flags]
        return read_h2load(self.call(self.h2load, [*flags, f"{scheme}://127.0.0.1:{port}/"], seconds, cpus), seconds)

    def call(self, program, flags, seconds, cpus):
        done = run(self.command(program, flags, cpus), timeout=seconds + 20)
        if done.returncode:
            raise Missing(f"{program} failed: {done.stderr.strip()[-300:]}")
        return done.stdout

    def begin(self, flags, cpus):
        """Starts load.c beside what happens meanwhile."""
        return subprocess.Popen(self.command(self.load, flags, cpus), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    @contextlib.contextmanager
    def hold(self, port, connections, cpus, flags=()):
        """Opens connections, sends one request on each and keeps them open; yields what the client saw."""
        flags = ["--hold", "--port", port, "--connections", connections, "--seconds", 60, *flags]
        pipe = subprocess.PIPE
        process = subprocess.Popen(self.command(self.load, flags, cpus), stdin=pipe, stdout=pipe, text=True)
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(10)
            process.stdout.close()


def read_h2load(text, seconds):
    """What h2load tells, in the words of load.c. It has no percentiles."""
    counts = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", text)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    if not counts or not statuses:
        raise ValueError(f"h2load says what is not understood: {text[-300:]}")
    done, succeeded, failed = map(int, counts.groups())
    bad = sum(map(int, statuses.groups()[1:]))
    errors = {"status": bad, "cut": max(0, failed - bad), "missing": 0 if succeeded else 1}
    return {"requests": done, "seconds": seconds, "errors": errors, "latency_us": {}}
