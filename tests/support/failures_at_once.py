"""Plugin of pytest that prints a failure when it happens, not at the end: -p support.failures_at_once.

For runs that may be cut off.
"""

import sys


def pytest_runtest_logreport(report):
    if report.failed:
        print(f"\n{report.nodeid} ({report.when}):\n{report.longreprtext}", file=sys.stderr, flush=True)
