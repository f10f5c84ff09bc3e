"""What the tests of faults share: the rate the product sustains, and the table at their end."""

from pathlib import Path

import pytest

from tests.faults.ledger import Ledger, Pictures, labelled_pictures
from tests.stack import Stack, times


@pytest.fixture(scope="module")
def pictures(checkpoint: Path) -> Pictures:
    return labelled_pictures(checkpoint)


@pytest.fixture(scope="module")
def capacity(stack: Stack, pictures: Pictures) -> float:
    """The rate that the product and this client sustain together on this machine, in answers a second."""
    Ledger(stack.url, pictures).closed_loop(times(1, 2))
    return Ledger(stack.url, pictures).closed_loop(times(2, 10))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    measured = [(report, *each) for report in reports for each in report.user_properties if report.when == "call"]
    if measured:
        terminalreporter.section("promises")
    for report, promise, figure in measured:
        test = report.nodeid.rpartition("::")[2]
        terminalreporter.line(f"{'kept  ' if report.passed else 'BROKEN'} | {test} | {promise} | {figure}")
