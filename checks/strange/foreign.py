"""Other machines: other processors under an emulator, other C libraries; and Python itself on 64-bit ARM."""

import os
import platform
import shutil
import sys
from pathlib import Path

from common import BUILDS

from strange.tools import PORTABLE, core_calls, ending, facts_of, pytest, run, selftest, zig

# zig's name of the target, the emulator's name, and what is unusual there.
TARGETS = [
    ("x86_64-linux-musl", "x86_64", "musl"),
    ("x86_64-linux-gnu.2.17", "x86_64", "glibc 2.17"),
    ("aarch64-linux-musl", "aarch64", "NEON by clang, musl"),
    ("riscv64-linux-musl", "riscv64", "neither x86 nor ARM"),
    ("powerpc64le-linux-musl", "ppc64le", "neither x86 nor ARM"),
    ("s390x-linux-musl", "s390x", "big-endian"),
]


def emulator(machine):
    """The words before a program of that machine: none if it is this one; None if there is no emulator."""
    if platform.machine() == machine:
        return []
    for name in (f"qemu-{machine}-static", f"qemu-{machine}"):
        if shutil.which(name):
            return [name]
    return None


def core_here(report, path, options):
    """checks/c/calls.c with the compilers of this machine."""
    for compiler in ("gcc", "clang"):
        if shutil.which(compiler):
            core_calls(report, options.seed, f"core by {compiler}", [compiler], calls=1000 if options.quick else 20_000)
        else:
            report.say(f"left out the core by {compiler}: there is none")


def core_aarch64(report, path, options):
    """checks/c/calls.c on 64-bit ARM, by Debian's cross compiler where it is there."""
    words, compiler = emulator("aarch64"), shutil.which("aarch64-linux-gnu-gcc")
    if words is None or not compiler:
        report.say("left out the core on aarch64: it takes qemu-aarch64-static (Debian: qemu-user-static) and "
                   "aarch64-linux-gnu-gcc (gcc-aarch64-linux-gnu)")  # fmt: skip
        return
    calls = 1000 if options.quick else 10_000
    core_calls(report, options.seed, "core on aarch64 by gcc", [compiler], words, calls, link=["-static"])


def core_elsewhere(report, path, options):
    """checks/c/calls.c wherever zig can compile for and an emulator can run."""
    compiler = zig(report)
    for target, machine, why in TARGETS if compiler else ():
        words = emulator(machine)
        if words is None:
            report.say(f"left out {target}: no qemu-{machine}-static (Debian: qemu-user-static)")
            continue
        # Every compiler may leave a loop rolled that it was asked to unroll; on machines that we do not tune for, it does.
        flags = ["-Wno-pass-failed"] if machine not in ("x86_64", "aarch64") else []
        core_calls(report, options.seed, f"{target}, {why}", [*compiler, "-target", target], words, 3000, flags)


# ---- Python on aarch64 ----------------------------------------------------------------------------------------------------

FOREIGN = BUILDS / "arm64"
PACKAGES = ["python3.11", "libpython3.11-dev", "libstdc++6", "libgcc-s1"]
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT = """
Dir::State "{apt}/state"; Dir::State::status "{apt}/status"; Dir::Cache "{apt}/cache";
Dir::Etc::main "{apt}/none"; Dir::Etc::parts "{apt}/none.d"; Dir::Etc::sourcelist "{apt}/sources.list";
Dir::Etc::sourceparts "{apt}/none.d"; Dir::Etc::preferences "{apt}/none"; Dir::Etc::preferencesparts "{apt}/none.d";
APT::Architecture "arm64"; APT::Architectures {{"arm64";}}; APT::Install-Recommends "false"; APT::Sandbox::User "";
"""


def _debian(report):
    """Debian's Python for arm64, unpacked into a folder; apt has a state of its own there, and the system stays as it is."""
    root, stamp = FOREIGN / "root", FOREIGN / "stamp"
    if stamp.is_file() and stamp.read_text() == repr(PACKAGES):
        return root
    if not shutil.which("apt-get") or not KEYRING.is_file():
        report.say("left out Python on aarch64: it takes Debian's apt-get and its keyring")
        return None
    # Where this machine has its own packages from.
    listing = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    sources = sorted(set(run(listing)[1].splitlines()))
    shutil.rmtree(FOREIGN, ignore_errors=True)
    apt = FOREIGN / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial", "none.d"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "none").touch()
    (apt / "sources.list").write_text("".join(f"deb [arch=arm64 signed-by={KEYRING}] {source}\n" for source in sources))
    (apt / "apt.conf").write_text(APT.format(apt=apt))
    environment = dict(os.environ, APT_CONFIG=str(apt / "apt.conf"))
    for command in (["update"], ["install", "-y", "--download-only", *PACKAGES]):
        exit_code, text = run(["apt-get", "-q", *command], env=environment)
        if exit_code:
            report.say(f"left out Python on aarch64: apt-get {command[0]} failed: {ending(text, 300)}")
            return None
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        exit_code, text = run(["dpkg", "-x", package, root])
        if exit_code:
            report.say(f"left out Python on aarch64: dpkg -x {package.name}: {ending(text, 300)}")
            return None
    stamp.write_text(repr(PACKAGES))
    return root


def _wheels(report):
    """NumPy, SciPy and pytest for that Python."""
    site, stamp = FOREIGN / "site", FOREIGN / "site-stamp"
    if stamp.is_file():
        return site
    shutil.rmtree(site, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (17, 26, 27, 28, 31, 34)]
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", site, "--only-binary=:all:", "--python-version=3.11",
               "--implementation=cp", "--platform=manylinux2014_aarch64", *platforms, "numpy", "scipy", "pytest",
               "hypothesis"]  # fmt: skip
    exit_code, text = run(command)
    if exit_code:
        report.say(f"left out Python on aarch64: pip has no wheels: {ending(text, 300)}")
        return None
    # A process that a test starts must be emulated too, so Python is to be called by way of the script.
    lines = "import os, sys", "", "sys.executable = os.environ.get('FOREIGN_PYTHON', sys.executable)", ""
    (site / "sitecustomize.py").write_text("\n".join(lines))
    stamp.touch()
    return site


def python_aarch64(report, path, options):
    """The library cross-compiled, and its self-test and exactness tests on Python for 64-bit ARM."""
    from strange.builds import built

    words, compiler = emulator("aarch64"), shutil.which("aarch64-linux-gnu-gcc")
    if not words or not compiler:
        report.say("left out Python on aarch64: it takes qemu-aarch64-static and aarch64-linux-gnu-gcc, on another machine")
        return
    root = _debian(report)
    site = root and _wheels(report)
    if not site:
        return
    # The headers of that Python, and of Debian's its own configuration only: the compiler has a C library of its own.
    include = FOREIGN / "include"
    include.mkdir(exist_ok=True)
    if not (include / "aarch64-linux-gnu").exists():
        (include / "aarch64-linux-gnu").symlink_to(root / "usr" / "include" / "aarch64-linux-gnu")
    headers = [root / "usr" / "include" / "python3.11", include, site / "numpy" / "_core" / "include"]
    flags = " ".join(f"-I{folder}" for folder in headers)
    other = built(report, "aarch64", "aarch64", cc=compiler, cflags=flags)
    if other is None:
        return
    for module in (other / "im2colx").glob("*.cpython-*.so"):  # named after this machine by setuptools
        shutil.copy2(module, module.with_name(module.name.split(".")[0] + ".so"))
    script = FOREIGN / "python"
    script.write_text(f'#!/bin/sh\nexec {words[0]} -L {root} {root}/usr/bin/python3.11 "$@"\n')
    script.chmod(0o755)
    for level in ("neon", "scalar"):
        environment = dict(os.environ, PYTHONPATH=f"{other}:{site}", PYTHONSAFEPATH="1", FOREIGN_PYTHON=str(script),
                           IM2COLX_ISA=level)  # fmt: skip
        what = f"Python on aarch64, {level}"
        facts = facts_of(report, other, python=[script], what=what, environment=environment)
        if facts is None:
            return
        report.check("aarch64" in facts["platform"] and facts["cpu"]["used"] == level, f"{what}: info() says {facts}")
        if selftest(report, other, seed=options.seed, python=[script], what=what, environment=environment):
            report.say(f"{what}: NumPy {facts['numpy']}, SciPy {facts['scipy']}, self-test equal")
        for test in PORTABLE if level == "neon" else ():
            pytest(report, other, [test], python=[script], what=f"{what}, {test}", environment=environment, timeout=5400)
