"""The auditor leaves out Prefect's own tracebacks, and no other."""

from __future__ import annotations

import pytest

from tests.chaos.findings import Findings

HEAD = "Traceback (most recent call last):\n"
PREFECT = '  File "/p/tasks/.venv/lib/site-packages/prefect/workers/process.py", line 165, in run\n'
OURS = '  File "/p/effnet_core/system/files.py", line 130, in write_text\n    temporary.write_text(text)\n'
STANDARD = (
    '  File "/usr/lib/python3.11/contextlib.py", line 745, in __aexit__\n    raise exc_details[1]\n'
)
FULL = "OSError: [Errno 28] No space left on device"
CHAIN = "\n\nDuring handling of the above exception, another exception occurred:\n\n"
GROUP = f"""  + Exception Group Traceback (most recent call last):
  |{PREFECT}  |     async with FlowRunExecutorContext() as ctx:
  |{STANDARD}  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Exception Group Traceback (most recent call last):
    |{PREFECT}    |     async with anyio.create_task_group() as task_group:
    | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
    +-+---------------- 1 ----------------
      | Traceback (most recent call last):
      |{PREFECT}      |     write_private_model(flow_run_path, flow_run)
      | LAST
      +------------------------------------
"""


@pytest.mark.parametrize(
    ("trace", "ours"),
    [
        (HEAD + PREFECT + FULL, False),
        (HEAD + PREFECT + f"{FULL}: '/disk/tmp/x'", False),
        (GROUP.replace("LAST", FULL), False),
        (HEAD + PREFECT + "prefect.exceptions.PrefectHTTPStatusError: 500", False),
        (HEAD + PREFECT + OURS + FULL, True),
        (HEAD + STANDARD + FULL, True),
        (HEAD + PREFECT + "OSError: [Errno 5] Input/output error", True),
        (HEAD + PREFECT + f"KeyError: 'x'{CHAIN}{HEAD}{PREFECT}{FULL}", True),
        (GROUP.replace("LAST", "KeyError: 'x'"), True),
        (HEAD + OURS + "effnet_core.errors.DataError: no", True),
    ],
)
def test_only_these_are_prefects_own(trace: str, ours: bool) -> None:
    findings = Findings()
    findings.look_at("a run", f"It failed\n{trace}\nmore words")
    assert bool(findings.seen) is ours
    assert bool(findings.of_libraries) is not ours


def test_each_traceback_of_a_text_is_looked_at() -> None:
    findings = Findings()
    chain = f"{HEAD}{PREFECT}httpx.ReadError{CHAIN}"
    text = f"{chain}{HEAD}{PREFECT}KeyError: 1\n\n12:00 | well\n\n{HEAD}{OURS}KeyError: 2\n"
    findings.look_at("the daemon", text)
    assert findings.of_libraries.total() == 1
    (details,) = findings.seen.values()
    assert [detail.count(HEAD) for detail in details] == [1] and "KeyError: 2" in details[0]


def test_folders_that_are_named_are_known() -> None:
    findings = Findings()
    findings.look_at(
        "a run", "see /disk/tmp/effnet-stage-ab_12xyz/logs/worker_0.log; its last lines: x"
    )
    assert findings.named == {"effnet-stage-ab_12xyz"}
