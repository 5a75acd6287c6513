"""The first call on a machine compiles: it says so once, and gives what later calls give."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

cpu = pytest.importorskip("nmfcore.solver.cpu", exc_type=ImportError)
import numba  # noqa: E402
from numba.core.event import Event, EventStatus  # noqa: E402

LINE = "nmfcore: compiling for float32 on this processor, once (some seconds)"
CALL = """
import sys, torch
from nmfcore import nmf
torch.set_num_threads(2)
A = torch.rand(4, 200, 40, generator=torch.Generator().manual_seed(0))
A[:2] *= A[:2] > 0.8  # two matrices sparse, two dense, in two threads
result = nmf(A, (3, 20), max_iter=20)
torch.save([X for one in result for X in (one.U, one.V, one.error)], sys.argv[1])
"""


def call(folder, name):
    """What the call writes to stderr, and what it gives, with compiled code in the folder alone."""
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", CALL, str(folder / name)], capture_output=True,
                             text=True, env=os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache")})
    assert process.returncode == 0, process.stderr
    return process.stderr.splitlines(), torch.load(folder / name, weights_only=True)


def test_the_first_call_says_that_it_compiles_and_gives_what_the_second_one_gives(tmp_path):
    said, cold = call(tmp_path, "cold")
    assert said == [LINE]
    said, warm = call(tmp_path, "warm")
    assert said == []
    assert all(map(torch.equal, cold, warm))


def notice(dispatcher):
    """What numba tells when it begins to compile."""
    data = {"dispatcher": dispatcher, "args": [numba.typeof(np.ones((1, 16), np.float32))]}
    cpu._Notice().on_start(Event("numba:compile", EventStatus.START, data))


def test_a_stream_that_is_closed_or_missing_does_no_harm(monkeypatch, capsys):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    notice(cpu.couple)
    assert stream.getvalue() == ""
    notice(cpu.update)
    assert stream.getvalue() == LINE + "\n"
    stream.close()
    for broken in (stream, None):
        monkeypatch.setattr(sys, "stderr", broken)
        notice(cpu.update)
    assert capsys.readouterr().out == ""
