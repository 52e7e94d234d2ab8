"""A plugin of pytest's, in a machine: one line of JSON for each test, on the second serial port.

Only here, because a terminal's report is for people, and the host wants each test's outcome at once: of a machine
that stops half way, the first half counts.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

PORT = "/dev/ttyS1"

NEVER_RAN = "never ran"
"""The outcome of a test that is still to come; the host keeps the last that it hears."""

_failures: dict[str, pytest.TestReport] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.passed:
        _failures.setdefault(report.nodeid, report)
    if report.when == "teardown":
        worst = _failures.pop(report.nodeid, report)
        _say(report.nodeid, worst.outcome, _reason(worst))


def pytest_collection_finish(session: pytest.Session) -> None:
    for item in session.items:
        _say(item.nodeid, NEVER_RAN, "")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that can't be imported has no tests that could say so."""
    if report.failed:
        _say(report.nodeid, report.outcome, report.longreprtext)


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):  # of a skip
        return report.longrepr[2].removeprefix("Skipped: ")
    return "\n".join([report.longreprtext, *[f"--- {title}\n{text}" for title, text in report.sections]])


def _say(test: str, outcome: str, text: str) -> None:
    line = json.dumps({"test": test, "outcome": outcome, "text": text})
    # Opened for each line: what is buffered when the machine stops is lost.
    with open(PORT, "wb", buffering=0, opener=lambda path, flags: os.open(path, flags | os.O_NOCTTY)) as port:
        port.write(line.encode() + b"\n")
