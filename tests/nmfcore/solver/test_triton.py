"""The fused sweep against the plain one: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nmfcore.solver.plain import sweep

triton = pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it as kernels are defined, hence a process
DEVICE = "cpu" if INTERPRETED else "cuda"
somewhere = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a CUDA GPU")

SHAPES = [  # B, K, P, inner
    (1, 1, 1, 1), (3, 1, 5, 2), (1, 3, 200, 3), (1, 16, 64, 2), (3, 17, 5, 1), (1, 32, 65, 1), (1, 33, 64, 1),
    (3, 33, 5, 2), (1, 64, 5, 4), (2, 100, 3, 2), (1, 130, 1, 2),
]


def problem(B, K, P, dead=()):
    generator = torch.Generator().manual_seed(K * P)
    F = torch.relu(torch.randn(B, K, 2 * K + 20, generator=generator))
    X = torch.rand(B, K, P, generator=generator)
    X = X * (X > 0.3)
    C = F @ torch.relu(torch.randn(B, 2 * K + 20, P, generator=generator))
    F[:, list(dead)], C[:, list(dead)] = 0, 0
    return X.to(DEVICE), (F @ F.mT).to(DEVICE), C.to(DEVICE)


def plain(X, G, C, inner):
    return sweep(X.double().cpu(), G.double().cpu(), C.double().cpu(), inner).float().to(DEVICE)


def same(ours, reference):  # the starts are far off, so that the gradient falls by orders of magnitude in a sweep
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=5e-5 * float(reference.abs().max()) + 1e-12)


@somewhere
@pytest.mark.parametrize("B, K, P, inner", SHAPES)
def test_equals_the_plainsweep(B, K, P, inner):
    from nmfcore.solver import triton as kernels

    X, G, C = problem(B, K, P)
    before = X.clone()
    same(kernels.sweep(X, G, C, inner), plain(X, G, C, inner))
    assert torch.equal(X, before)


@somewhere
@pytest.mark.parametrize("plan", [(64, 16, 1), (64, 16, 2), (64, 32, 1), (64, 32, 2)])
def test_equals_the_plain_sweep_in_every_tiling(plan, monkeypatch):
    from nmfcore.solver import triton as kernels

    monkeypatch.setattr(kernels, "plan", lambda B, K, P: plan)
    X, G, C = problem(1, 40, 35)
    same(kernels.sweep(X, G, C, 1), plain(X, G, C, 1))


@somewhere
@pytest.mark.parametrize("B, K, P, inner", [(2, 5, 40, 2), (2, 33, 17, 2)])
def test_equals_extrapolation_after_thesweep(B, K, P, inner):
    from nmfcore.solver import triton as kernels

    X, G, C = problem(B, K, P)
    last, beta = X.flip(-1), torch.linspace(0.3, 0.9, B, device=DEVICE)
    new, ahead = kernels.sweep(X, G, C, inner, last, beta)
    reference = plain(X, G, C, inner)
    same(new, reference)
    same(ahead, torch.relu(reference + beta[:, None, None] * (reference - last)))


@somewhere
@pytest.mark.parametrize("K, dead", [(1, [0]), (7, [0, 6]), (40, [15, 16, 39])])
def test_equals_the_plain_sweep_with_dead_rows_and_zeros(K, dead):
    from nmfcore.solver import triton as kernels

    X, G, C = problem(2, K, 20, dead)
    ours = kernels.sweep(X, G, C, 2)
    same(ours, plain(X, G, C, 2))
    assert torch.equal(ours[:, dead], X[:, dead])
    assert not kernels.sweep(torch.zeros_like(X), G, torch.zeros_like(C), 2).any()


@pytest.mark.skipif(INTERPRETED, reason="runs the interpreter itself")
def test_in_the_interpreter():
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "equals", __file__],
                         env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=Path(__file__).parent.parent,
                         capture_output=True, text=True)
    assert run.returncode == 0 and "skipped" not in run.stdout, run.stdout + run.stderr


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("K", [4, 64])
def test_compiles_without_a_gpu(K, capability):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from nmfcore.solver import triton as kernels

    rows, columns, warps = kernels.plan(1, K, 100)
    constants = {"ROWS": rows, "COLUMNS": columns, "WIDE": max(columns, 32 * warps), "VECTOR": 4, "PRECISION": "ieee"}
    types = {name: "constexpr" for name in constants} | {name: "i32" for name in ("K", "P", "inner", "skew")}
    kernel = kernels._kernel
    source = ASTSource(kernel, {name: types.get(name, "*fp32") for name in kernel.arg_names}, constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32),
                              options={"num_warps": warps, "num_stages": 1})
    assert compiled.asm["cubin"]
