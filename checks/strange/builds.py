"""The library built or run otherwise: another compiler, the oldest and the newest libraries, 64-bit BLAS integers."""

import shutil
import sys

from common import ROOT, build

from strange.tools import (
    EXACT, ending, facts_of, plain_environment, pytest, requirements, run, selftest, virtual_environment, warnings_in, zig,
)  # fmt: skip

CORE = ["test_conv", "test_implicit", "test_patches", "test_matrix", "test_patch_matrix", "test_nn_kernels", "test_plan"]


def built(report, what, name, **options):
    """A build under build/checks, or None and a failure; warnings about csrc/ are failures too."""
    try:
        path = build(name, **options)
    except RuntimeError as error:
        report.fail(f"{what}: {ending(str(error), 3000)}")
        return None
    warnings = warnings_in((path / "build.log").read_text())
    for warning in warnings:
        report.fail(f"{what}: {warning}")
    if not warnings:
        report.passed()
    return path


def other_compiler(report, path, options):
    """clang, or zig's where there is none: no warning about our files, and the tests pass on what it makes."""
    compiler = "clang" if shutil.which("clang") else None
    words = [compiler] if compiler else zig(report)
    if words is None:
        return
    what = compiler or "zig's clang"
    other = built(report, what, "clang", cc=" ".join(words))
    if other is None:
        return
    facts = facts_of(report, other, what=what)
    if facts is None:
        return
    report.check(facts["compiler"].startswith("clang "), f"{what}: info() says that {facts['compiler']} built it")
    levels, geometries = facts["cpu"]["instruction_sets"], 300
    if options.quick:
        levels, geometries = levels[-1:], 60
    for level in levels:
        environment, named = plain_environment(other, IM2COLX_ISA=level), f"{what}, {level}"
        if selftest(report, other, seed=options.seed, what=named, environment=environment, geometries=geometries):
            report.say(f"{what}, {level}: self-test equal")
    if not options.quick:
        pytest(report, other, EXACT, what=facts["compiler"])


def versions(report, path, options):
    """The lower bounds of pyproject.toml, for running and for building, and the newest of everything."""
    runs_with, built_with = requirements()
    bounds = [f"{name}=={version}.*" for name, version in runs_with.items()]
    building = [f"{name}=={version}.*" for name, version in built_with.items()]
    for what, to_run, to_build in (
        ("lower bounds", bounds, building),
        ("newest", list(runs_with), list(built_with)),
    ):
        name = what.split()[0]
        python, why = virtual_environment(f"{name}-run", [*to_run, "pytest", "hypothesis"])
        maker, why_not = virtual_environment(f"{name}-build", to_build)
        if python is None or maker is None:
            version = ".".join(map(str, sys.version_info[:2]))
            report.say(f"left out {what} on Python {version}: pip cannot install them: {why or why_not}")
            continue
        made = built(report, what, f"{name}-made", python=maker)
        facts = made and facts_of(report, made, python=[python], what=what)
        if not facts:
            continue
        named = f"NumPy {facts['numpy']} with SciPy {facts['scipy']}"
        for library, version in runs_with.items() if what == "lower bounds" else ():
            report.check(facts[library].startswith(f"{version}."), f"{what}: {library} is {facts[library]}, not {version}")
        report.say(f"{what}: {named}, BLAS {facts['blas']['running'].split(' ')[:2]}, threads controlled: "
                   f"{facts['blas']['threads_controlled']}")  # fmt: skip
        selftest(report, made, seed=options.seed, python=[python], what=named)
        pytest(report, made, CORE, python=[python], what=named)


ILP64 = "import strange.ilp64; strange.ilp64.install()"


def long_integers(report, path, options):
    """SciPy with 64-bit BLAS integers, and with 32-bit ones: both ways through _blas.pyx give the same numbers."""
    facts = facts_of(report, path, what="BLAS integers")
    if facts is None:
        return
    report.say(f"SciPy {facts['scipy']} here has BLAS integers of {facts['blas']['integer_bits']} bits")
    environment = plain_environment(path)
    environment["PYTHONPATH"] += f":{ROOT / 'checks'}"
    exit_code, text = run([sys.executable, "-c", f"{ILP64}; strange.ilp64.probe()"], env=environment, timeout=300)
    if exit_code == 3:
        report.say(f"left out the other width: {text.strip()}")
        return
    if not report.check(exit_code == 0, lambda: f"64-bit BLAS integers: {ending(text)}"):
        return
    report.say(text.strip().splitlines()[-1])
    python = [sys.executable, "-c", f"{ILP64}; strange.ilp64.be_python()"]
    geometries = 60 if options.quick else 400
    selftest(report, path, seed=options.seed, python=python, what="64-bit BLAS integers", environment=environment,
             geometries=geometries)  # fmt: skip
    if not options.quick:
        tests = ["test_conv", "test_patch_matrix", "test_matrix", "test_patches"]
        pytest(report, path, tests, python=python, what="64-bit BLAS integers", environment=environment)
