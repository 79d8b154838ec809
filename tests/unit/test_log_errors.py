"""The errors that FLARE's processes log, without those that follow from an abort of the job."""

import time

import pytest

from flargo.log_errors import find_errors

CONTEXT = "[identity=fed, run=11111111, wf=controller, peer=site-1, peer_rc=TASK_ABORTED]"
RAISED = f"""\
2026-11-30 02:04:22,513 - ClientRunner - INFO - {CONTEXT} - invoking task executor ClientAPIExecutor
2026-11-30 02:04:22,840 - TaskScriptRunner - ERROR - Traceback (most recent call last):
  File "task_script_runner.py", line 95, in run
    runpy.run_path(self.script_full_path, run_name="__main__")
  File "train.py", line 4, in <module>
    raise ValueError('no patients here')
ValueError: no patients here

2026-11-30 02:04:22,841 - TaskScriptRunner - ERROR - fire abort event
2026-11-30 02:04:22,842 - InProcessClientAPI - ERROR - ask to abort job: reason: 'train.py' is aborted, Traceback (mos
2026-11-30 02:04:22,888 - InProcessClientAPI - ERROR - ask to abort job: reason: 'train' is aborted, abort_signal_trig
2026-11-30 02:04:24,917 - InProcessClientAPI - WARNING - ask to stop job: reason: END_RUN received
"""
ABORTED = """\
2026-11-30 02:04:30,100 - InProcessClientAPI - ERROR - ask to abort job: reason: 'train' is aborted, abort_signal_trig
2026-11-30 02:04:31,200 - TaskScriptRunner - ERROR - Traceback (most recent call last):
  File "train.py", line 9, in <module>
    flare.send(model)
RuntimeError: request to abort the job for reason 'train' is aborted, abort_signal_triggered

2026-11-30 02:04:31,201 - TaskScriptRunner - ERROR - fire abort event
"""
SERVER = f"""\
2026-11-30 02:04:20,512 - NPModelPersistor - INFO - {CONTEXT} - Unable to load model: FileNotFoundError: [Errno 2] No
2026-11-30 02:04:20,513 - NPModelPersistor - WARNING - {CONTEXT} - RuntimeError: all is well
2026-11-30 02:04:22,908 - ServerRunner - ERROR - {CONTEXT} - Aborting current RUN due to FATAL_SYSTEM_ERROR received: \
Result from site-1 is bad, error code: TASK_ABORTED.
"""


def test_raised_script_is_found_once_as_exception() -> None:
    (error,) = find_errors(RAISED)
    assert (error.time, error.message, error.is_exception) == (
        "2026-11-30 02:04:22,840",
        "ValueError: no patients here",
        True,
    )
    assert error.lines[0] == "Traceback (most recent call last):"
    assert error.lines[-2:] == ("    raise ValueError('no patients here')", "ValueError: no patients here")


def test_excerpt_has_the_end_with_short_paths() -> None:
    log = """\
Traceback (most recent call last):
  File "/usr/lib/python3.11/site-packages/nvflare/runner.py", line 1, in run
    raise e
  File "<frozen runpy>", line 88, in _run_code
  File "/var/tmp/job/custom/train.py", line 4, in <module>
    open("/data/File")
  File "/train.py", line 5
  File "train.py", line 6
FileNotFoundError: File "/data/a/b"
"""
    (error,) = find_errors(log)
    assert error.excerpt(6) == (
        '  File "<frozen runpy>", line 88, in _run_code',
        '  File "…/custom/train.py", line 4, in <module>',
        '    open("/data/File")',
        '  File "/train.py", line 5',
        '  File "train.py", line 6',
        'FileNotFoundError: File "/data/a/b"',
    )


def test_consequences_of_an_abort_are_left_out() -> None:
    assert find_errors(ABORTED) == []


def test_info_and_warnings_are_no_errors() -> None:
    (error,) = find_errors(SERVER)
    assert error.message == "Result from site-1 is bad, error code: TASK_ABORTED."
    assert not error.is_exception


def test_traceback_without_record_has_the_time_before_it() -> None:
    log = "2026-11-30 02:04:22,840 - x - INFO - y\nTraceback (most recent call last):\n  File x\nKeyError: 'a'\n"
    (error,) = find_errors(log)
    assert (error.time, error.message, error.is_exception) == ("2026-11-30 02:04:22,840", "KeyError: 'a'", True)
    assert find_errors(log.partition("\n")[2])[0].time == ""


def test_a_record_ends_a_traceback_that_was_cut() -> None:
    log = "Traceback (most recent call last):\n  File x\n2026-11-30 02:04:22,840 - x - INFO - y\nKeyError: 'a'\n"
    assert find_errors(log) == []


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-30 02:04:22,840 - x - ERROR - " + "[identity=" * 200_000,
        "Traceback (most recent call last):\n" * 60_000,
        "Traceback (most recent call last):\n" + " \n" * 500_000,
        "x" * 2_000_000,
        'Traceback (most recent call last):\n  File "/' + "a/" * 500_000 + "\nE",
        " - " * 500_000,
    ],
    ids=["context", "tracebacks", "frames", "line", "path", "separators"],
)
def test_time_is_linear(text: str) -> None:
    begin = time.thread_time()
    for error in find_errors(text):
        error.excerpt(10)
    assert time.thread_time() - begin < 5
