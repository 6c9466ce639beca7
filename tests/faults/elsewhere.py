"""Rows of the fault matrix that need no whole service: tests of the rooms, which run here as rows and count as such."""

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from tests.compose import ROOT

ELSEWHERE: dict[str, tuple[str, ...]] = {
    "child_misbehaves": ("tests/worker/test_attempt.py", "tests/engine/process"),
    "commit_cut_off_and_crashed_database": ("tests/core/database/test_errors.py",),
    "an_error_at_every_edge": ("tests/core/test_failpoints.py",),
    "damaged_or_full_blob_stores": ("tests/core/blobs/test_blobs.py", "tests/core/blobs/test_blob_races.py"),
    "downloads_cut_off": ("tests/modelpress/test_client_transfers.py",),
    "migration_interrupted": ("tests/core/database/test_migrations.py",),
    "old_worker_new_api": (
        "tests/core/jobs/test_jobs.py::test_a_job_of_a_newer_spec_is_left_to_newer_workers",
        "tests/cli/test_main.py::test_a_worker_does_not_start_on_a_database_of_another_version",
    ),
    "clock_of_a_host_is_wrong": (
        "tests/core/jobs/test_claims.py::test_the_lease_is_measured_by_the_databases_clock",
        "tests/core/operations/test_reconciler.py::test_a_jump_of_the_databases_clock_expires_no_lease",
    ),
    "cancel_and_finish_at_once": ("tests/core/jobs/test_claims.py::test_cancel_racing_with_finish_leaves_one_end",),
    "abandoned_uploads": (
        "tests/core/library/test_uploads.py::test_dropped_and_expired_uploads_leave_nothing",
        "tests/core/library/test_uploads.py::test_parts_of_requests_that_died_are_removed",
    ),
    "a_long_queue_of_three_projects": (
        "tests/core/jobs/test_claim_plan.py",
        "tests/core/jobs/test_claims.py::test_projects_share_workers_however_many_jobs_they_queue",
    ),
    "one_of_several_processes_dies": ("tests/worker/test_several_processes.py",),
}
"""Row, and the tests that it stands for: out of memory, crash, hang, fork bomb and endless log are those of `child_misbehaves`; how long a
claim takes from ten thousand jobs is measured by `benchmarks/claims_queue.py`, what it reads is counted here."""


def run_tests(nodes: tuple[str, ...]) -> tuple[int, list[str], None]:
    """Run tests in a process of their own; returns how many ran and which failed. One that was skipped is no proof and counts as failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", f"--junitxml={report}", *nodes]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():
            return 0, [done.stdout + done.stderr], None
        cases = list(ElementTree.parse(report).iter("testcase"))
    found = []
    for case in cases:
        for word in ("failure", "error", "skipped"):
            if (ending := case.find(word)) is not None:
                found.append(f"{case.get('classname')}::{case.get('name')}: {(ending.get('message') or word)[:500]}")
    if done.returncode and not found:
        found.append(done.stdout[-2000:])
    return len(cases), found, None
