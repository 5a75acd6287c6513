"""Memory: a problem takes at most three times its input, and `chunk` factorizes a file that memory would not hold."""

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch

from nmfcore import nmf
from nmfcore.solver import backends

torch.set_num_threads(1)
needs_numba = pytest.mark.skipif(backends.cpu is None, reason="needs numba")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PRELUDE = """
import json, re, resource, sys
from pathlib import Path
import torch
from nmfcore import nmf
torch.set_num_threads(1)

def memory(field):
    return 1024 * int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""

PEAKS = PRELUDE + """
N, M, K = 20_000, 512, 20
for path, backend in (("compiled", "auto"), ("plain", "torch")):
    for kind in ("sparse", "dense", "exact"):
        generator = torch.Generator().manual_seed(0)
        nmf(torch.rand(2000, 100, generator=generator), K, max_iter=2, backend=backend)
        before = memory("VmRSS")
        A = torch.rand(N, M, generator=generator)
        if kind == "sparse":
            A[A < 0.9] = 0
        if kind == "exact":  # errors come from the residual
            torch.mm(torch.rand(N, 3, generator=generator), torch.rand(3, M, generator=generator), out=A)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        result = nmf(A, K, max_iter=5, tol=0, backend=backend)
        print(json.dumps([path, kind, (memory("VmHWM") - before) / (4 * N * M), float(result.error)]))
        del A, result
"""


def run(script, *arguments):
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)], capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@cache
def peaks():
    return {(path, kind): (peak, error) for path, kind, peak, error in run(PEAKS)}


@linux
@pytest.mark.parametrize("kind", ["sparse", "dense", "exact"])
@pytest.mark.parametrize("path", [pytest.param("compiled", marks=needs_numba), "plain"])
def test_one_problem_takes_at_most_three_times_its_input(path, kind):
    peak, error = peaks()[path, kind]
    assert 0.9 < peak <= 3  # the input included
    assert error < (0.03 if kind == "exact" else 1)  # the errors come from the residual, as they are meant to


# --- chunks -------------------------------------------------------------------------------------------------


def matrix(N=150, M=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(N, 6, generator=generator) @ torch.rand(6, M, generator=generator).relu() \
        * (torch.rand(N, M, generator=generator) < 0.5)


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [1, 16, 70, 150, 10_000])
def test_chunks_make_no_difference(chunk, dtype):
    A = matrix().to(dtype)
    whole, parts = nmf(A, 5, max_iter=12, tol=0), nmf(A, 5, chunk=chunk, max_iter=12, tol=0)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    assert parts.U.dtype == whole.U.dtype
    torch.testing.assert_close(parts.V, whole.V, rtol=0, atol=tolerance)
    torch.testing.assert_close(parts.U, whole.U, rtol=0, atol=tolerance * float(whole.U.max()))
    assert float(parts.error) == pytest.approx(float(whole.error), rel=1e-5)


@needs_numba
def test_chunks_of_an_exact_fit_of_a_huge_matrix_and_of_a_sequence_of_ranks():
    generator = torch.Generator().manual_seed(0)
    A = torch.rand(50, 2, generator=generator, dtype=torch.float64) @ torch.rand(2, 12, generator=generator).double()
    assert nmf(A * 1e30, 2, chunk=16, tol=0).reason == "exact"
    for warm in (True, False):
        for parts, whole in zip(nmf(matrix(), (3, 8), chunk=32, warm=warm), nmf(matrix(), (3, 8), warm=warm),
                                strict=True):
            assert float(parts.error) == pytest.approx(float(whole.error), rel=1e-3) and parts.start == whole.start


@needs_numba
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_read_only_file_in_half_precision(tmp_path):
    A = matrix().half()
    np.save(tmp_path / "A.npy", A.numpy())
    (tmp_path / "A.bin").write_bytes(A.numpy().tobytes())
    expected = nmf(A, 5, chunk=32)
    mapped = torch.from_numpy(np.load(tmp_path / "A.npy", mmap_mode="r"))
    for file in (mapped, torch.from_file(str(tmp_path / "A.bin"), size=A.numel(), dtype=A.dtype).view(A.shape)):
        result = nmf(file, 5, chunk=32)
        assert torch.equal(result.U, expected.U) and torch.equal(result.V, expected.V)


@needs_numba
@pytest.mark.parametrize("value, name", [(-2.0, r"-2\.0"), (float("nan"), "nan"), (float("inf"), "inf")])
@pytest.mark.parametrize("row", [0, 31, 32, 149])
def test_a_bad_entry_in_a_late_chunk_is_named(row, value, name):
    A = matrix()
    A[row, 7] = value
    with pytest.raises(ValueError, match=rf"A\[{row}, 7\] = {name} "):
        nmf(A, 5, chunk=32)


@pytest.mark.parametrize("chunk", [0, -1, 2.5, True, "16"])
def test_a_bad_chunk(chunk):
    with pytest.raises(ValueError, match=f"chunk {chunk!r} must be None, or an integer ≥ 1"):
        nmf(matrix(), 2, chunk=chunk)


@pytest.mark.parametrize("options", [
    dict(A=torch.ones(2, 5, 4)), dict(solver="mu"), dict(mask=torch.ones(150, dtype=torch.bool)), dict(backend="torch"),
    pytest.param(dict(A=torch.ones(5, 4, device="meta")), id="another device")])
def test_chunks_where_they_cannot_be(options):
    options = dict(options)
    with pytest.raises(ValueError, match=r"chunk 16 must be None, or .*one matrix.* on the CPU.*numba"):
        nmf(options.pop("A", matrix()), 2, chunk=16, **options)


FILES = [(dtype, N) for dtype in ("float16", "float32") for N in (7000, 24_000)]  # 24 000: a sample of rows comes first

LIMITED = PRELUDE + """
import ctypes
torch.set_num_threads(1)
for path, dtype, N, M in json.loads(sys.argv[1]):
    file = torch.from_file(path, size=N * M, dtype=getattr(torch, dtype)).view(N, M)
    nmf(file[:100], 4, chunk=50, max_iter=3)  # compiles
    for chunk in (200, None):
        ctypes.CDLL(None).malloc_trim(0)
        limit = memory("VmData") + N * M * file.element_size() // 3  # what is written to memory; not pages of the file
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
        try:
            result = nmf(file, 4, chunk=chunk, tol=0, max_iter=4)
            print(json.dumps([dtype, N, chunk, float(result.error), result.V.tolist()]))
        except (MemoryError, RuntimeError) as error:
            print(json.dumps([dtype, N, chunk, repr(error), None]))
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY,) * 2)
"""


def content(dtype, N):
    generator = torch.Generator().manual_seed(0)
    M = (4800 if N == 7000 else 1000) // (1 if dtype == "float16" else 2)
    A = torch.rand(N, 4, generator=generator) @ torch.rand(4, M, generator=generator)
    return A.add_(torch.rand(N, M, generator=generator)).to(getattr(torch, dtype))


@pytest.fixture(scope="module")
def limited(tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("files"), []
    for dtype, N in FILES:
        A = content(dtype, N)
        A.numpy().tofile(folder / f"{dtype}-{N}")
        files.append((str(folder / f"{dtype}-{N}"), dtype, *A.shape))
    return {(dtype, N, chunk): (error, V) for dtype, N, chunk, error, V in run(LIMITED, json.dumps(files))}


@linux
@needs_numba
@pytest.mark.parametrize("dtype, N", FILES)
def test_a_file_three_times_larger_than_the_memory_it_may_take(dtype, N, limited):
    expected = nmf(content(dtype, N), 4, tol=0, max_iter=4)
    error, V = limited[dtype, N, 200]
    assert error == pytest.approx(float(expected.error), rel=1e-4)
    torch.testing.assert_close(torch.tensor(V), expected.V, rtol=0, atol=1e-3)
    if dtype == "float16":  # for comparison: all of it in float32
        error, V = limited[dtype, N, None]
        assert V is None and "memory" in error.lower()
