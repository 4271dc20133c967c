#!/usr/bin/env python3
"""Builds roundel with profile-guided optimisation: instrumented, trained with the work it is made for, built again by what was
seen; then shows that the profile was really applied.

    python3 benches/pgo/build.py [--seconds 3] [--plain target/release/roundel]

The binary is left in target/pgo/roundel. Training is benches/versus without peers: every workload, on both roads, plain and over TLS. Needed
besides what that needs: an llvm-profdata that reads the compiler's profiles (rustup's `llvm-tools`, or one from Debian, which is installed).
Three builds of everything, and training: about a quarter of an hour on two cores.

The profile counts for code that is generated as it was in training: both builds have the same link-time optimisation and
codegen units. It is thin here, because with `lto = "fat"` the linker refuses the profiles' summaries of several crates.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "target/pgo"
TRAINING = ["small", "post", "100k", "new", "rate", "h2c", "handshake", "tls", "tls-100k", "tls-h2"]
# The newest format first: a tool reads profiles of its own version of LLVM and of older ones.
PACKAGES = ["llvm-22", "llvm-21", "llvm-20", "llvm-19"]
# What a profile that was applied saves at least of a small request's instructions.
SAVES = 0.05


def said(*command, **more):
    return subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout


def host():
    return next(line.split()[1] for line in said("rustc", "-vV").splitlines() if line.startswith("host:"))


def profdata_tools():
    """Tools that may read the profiles: the one that is named, rustup's, those on the path, one from Debian."""
    if named := os.environ.get("LLVM_PROFDATA"):
        yield named
    yield from (str(tool) for tool in pathlib.Path(said("rustc", "--print", "sysroot").strip()).glob("lib/rustlib/*/bin/llvm-profdata"))
    names = [package.replace("llvm", "llvm-profdata") for package in PACKAGES]
    yield from filter(None, map(shutil.which, names))
    for package, name in zip(PACKAGES, names):
        done = subprocess.run([str(ROOT / ".ci/install.sh"), package], capture_output=True)
        if done.returncode == 0 and (tool := shutil.which(name)):
            yield tool


def merge(profiles, merged):
    """Merges what the instrumented processes have left."""
    tried = []
    for tool in profdata_tools():
        done = subprocess.run([tool, "merge", "-o", str(merged), str(profiles)], capture_output=True, text=True)
        if done.returncode == 0 and "warning" not in done.stderr:
            return
        tried.append(f"{tool}: {done.stderr.strip()[-200:]}")
    sys.exit("no llvm-profdata reads the profiles (rustup component add llvm-tools, or LLVM_PROFDATA=PATH):\n" + "\n".join(tried))


def build(name, flag):
    """Builds into a directory of its own, so that nothing of another build is taken for this one."""
    target = host()
    # For the target alone: build scripts and macros are not what is trained.
    environment = {**os.environ, "RUSTFLAGS": flag, "CARGO_PROFILE_RELEASE_LTO": "thin"}
    command = ["cargo", "build", "--locked", "--release", "--bin", "roundel", "--target", target, "--target-dir", str(WORK / name)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return WORK / name / target / "release/roundel"


def train(binary, seconds):
    command = [sys.executable, str(ROOT / "benches/versus/run.py"), "--roundel", str(binary), "--peers", "", "--rounds", "1"]
    command += ["--seconds", str(seconds), "--minutes", "10", "--json", str(WORK / "training.json"), "--only", *TRAINING]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        sys.exit("training failed")


def instructions(binary):
    """User instructions for a small request on the lane."""
    sys.path.insert(0, str(ROOT / "benches/budget"))
    import count

    return count.profile(str(binary), lane="auto")["instructions"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=3, help="of training for each workload on each road")
    arguments.add_argument("--plain", type=pathlib.Path, default=ROOT / "target/release/roundel", help="a release build to compare with")
    given = arguments.parse_args()
    profiles, merged = WORK / "profiles", WORK / "roundel.profdata"
    shutil.rmtree(profiles, ignore_errors=True)
    train(build("train", f"-Cprofile-generate={profiles}"), given.seconds)
    merge(profiles, merged)
    trained = shutil.copy(build("use", f"-Cprofile-use={merged}"), WORK / "roundel")
    plain = given.plain if given.plain.exists() else build("plain", "")
    before, after = instructions(plain), instructions(trained)
    print(f"a small request: {before:.0f} instructions without a profile, {after:.0f} with it: {after / before:.2f}")
    if after > before * (1 - SAVES):
        sys.exit("the profile was not applied")
    print(trained)


if __name__ == "__main__":
    main()
