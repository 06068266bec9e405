"""`fastgdml doctor`: what is installed, what is missing, and a self-test."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ..doctor import extras, self_test, system
from ..errors import SelfTestError
from .console import Console


def run(args: argparse.Namespace, console: Console) -> None:
    """Print what there is, test, and raise SelfTestError if the test fails."""
    about, optional = system(), extras()
    console.heading("Installation")
    console.properties([(name, str(value)) for name, value in about.items()])
    console.text()
    console.heading("Optional parts")
    for extra in optional:
        versions = ", ".join(f"{name} {version or 'missing'}" for name, version in extra.packages.items())
        console.properties([(extra.name, versions if extra.is_there else f"{versions}: {extra.install}")])
    checks = []
    if args.test:
        console.text()
        console.heading("Self-test")
        for check in self_test():
            checks.append(check)
            if check.passed:
                console.done(f"{check.name}: {check.detail}", f"took {check.seconds:.2f} s")
            else:
                console.error(f"{check.name}: {check.detail}")
    failed = [check.name for check in checks if not check.passed]
    console.result(
        {
            "system": about,
            "extras": {extra.name: extra.packages for extra in optional},
            "checks": [asdict(check) for check in checks],
            "passed": not failed,
        }
    )
    if failed:
        raise SelfTestError(
            f"{len(failed)} of {len(checks)} parts of the self-test failed: {', '.join(failed)}. Results of this "
            "installation are not to be trusted. Build it anew; please report what is printed above."
        )
