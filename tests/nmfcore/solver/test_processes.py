"""`group`: rows spread over 2 (as torchrun starts them) and 4 gloo processes give what one process gives, or all fail.

Run as a script, this file is the processes: they are forked from one that has imported everything.
"""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from nmfcore import nmf
from nmfcore.solver.processes import Rows


def random(*shape, seed=0, density=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    A = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return (A * (torch.rand(*shape, generator=generator) < density)).to(dtype)


def structured(N, M, seed=0, density=1.0, dtype=torch.float64):
    return ((random(N, 6, seed=seed) @ random(6, M, seed=seed + 1) + random(N, M, seed=seed + 2))
            * (random(N, M, seed=seed + 3) < density)).to(dtype)


blocks = torch.block_diag(torch.ones(20, 6), torch.ones(20, 6)).double() * random(40, 12)
short, long = dict(max_iter=15, tol=0), dict(tol=1e-5)

CASES = {  # name: A, rank, options, share of the rows for each process
    "dense": (structured(90, 40), 5, short, [4, 1, 2, 3]),
    "sparse": (structured(90, 40, density=0.15), 5, short, [4, 1, 2, 3]),
    "converged": (structured(90, 40, density=0.15), 5, long, [1, 1, 1, 1]),
    "single precision": (structured(90, 40, density=0.15, dtype=torch.float32), 17, short, [1, 1, 1, 1]),
    "half precision": (structured(90, 40, dtype=torch.float16), 3, short, [1, 1, 1, 1]),
    "huge entries in one process": (structured(90, 40) * torch.logspace(0, 12, 90).double()[:, None], 3, short,
                                    [1, 1, 1, 1]),
    "ranks": (structured(90, 40), (7, 2, 19), short, [3, 1, 1, 2]),
    "cold ranks": (structured(90, 40), (2, 5), short | dict(warm=False), [1, 2, 1, 2]),
    "given": (structured(60, 30), 4, short | dict(init=(random(60, 4, seed=8), random(4, 30, seed=9))), [1, 1, 1, 3]),
    "more components than rows": (structured(12, 20), 9, short, [1, 1, 1, 3]),
    "one row each": (structured(4, 20), 2, short, [1, 1, 1, 1]),
    "a sample first": (structured(9000, 12), 3, short, [4, 1, 2, 3]),
    "a sample first, few rows in a process": (structured(9000, 12), 3, short, [9000, 1, 2, 3]),
    "chunks": (structured(90, 40), 5, short | dict(chunk=16), [1, 2, 3, 4]),
    "batch": (torch.stack([structured(50, 20, seed) for seed in (1, 20)]), 3, long, [1, 2, 1, 2]),
    "an exact fit": (random(50, 2) @ random(2, 20, seed=1), 2, dict(tol=0), [1, 2, 1, 2]),
    "zero": (torch.zeros(8, 3), 2, {}, [1, 1, 1, 1]),
    "components that some processes do not use": (blocks, 3, dict(tol=1e-8), [20, 20, 1, 1]),
    "components that one process does not use": (blocks, 3, dict(tol=1e-8), [26, 14, 1, 1]),
    "dead components": (structured(60, 30), 4, dict(init=(torch.cat([random(60, 3), torch.zeros(60, 1)], 1),
                                                          torch.cat([random(3, 30, seed=1), torch.zeros(1, 30)]))),
                        [1, 2, 1, 2]),
    "multiplicative": (structured(90, 40), 5, dict(solver="mu", max_iter=30), [4, 1, 2, 3]),
}
CASES |= {f"plain: {name}": (A, rank, options | dict(backend="torch"), shares) for name in (
    "dense", "single precision", "ranks", "given", "more components than rows", "a sample first", "batch",
    "an exact fit", "components that some processes do not use", "components that one process does not use",
    "dead components") for A, rank, options, shares in [CASES[name]]}

FAILURES = {  # name: what process 1 does differently; what it says, and what the others say
    "a bad entry": (dict(A=torch.full((5, 6), float("nan"))), r"A\[0, 0\] = nan", r"process 1 .*A\[0, 0\] = nan"),
    "no rows": (dict(A=torch.ones(0, 6)), r"\(0, 6\)", r"process 1 .*\(0, 6\)"),
    "not a tensor": (dict(A=None), "NoneType", "process 1 .*NoneType"),
    "too much memory": (dict(rank=10 ** 12), "bytes", "process 1 .*bytes"),
    "another rank": (dict(rank=3), "same call", "same call"),
    "other columns": (dict(A=torch.ones(5, 7)), "same call", "same call"),
    "another type": (dict(A=torch.ones(5, 6).double()), "same call", "same call"),
    "another solver": (dict(solver="mu"), "same call", "same call"),
    "another length": (dict(max_iter=7), "same call", "same call"),
    "another tolerance": (dict(tol=0.1), "same call", "same call"),
    "another seed": (dict(seed=1), "same call", "same call"),
    "its own start": (dict(init=(torch.ones(5, 2), torch.ones(2, 6))), "same call", "same call"),
    "a bad start": (dict(init=(-torch.ones(5, 2), torch.ones(2, 6))), "init must", "process 1 .*init must"),
    "another warmth": (dict(rank=(1, 2), warm=False), "same call", "same call"),
    "another implementation": (dict(backend="torch"), "same call", "same call"),
}
TRAFFIC = [(backend, *sizes) for backend in ("auto", "torch") for sizes in [(60, 2, 40), (60, 20, 50), (600, 20, 50)]]


def edges(N, shares):
    """Where the rows of each process begin: at least one row each."""
    rest, total = N - len(shares), sum(shares)
    return [i + rest * sum(shares[:i]) // total for i in range(len(shares) + 1)]


# --- the processes ------------------------------------------------------------------------------------------


def process(rank, world, folder):
    torch.set_num_threads(1)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        rank = int(os.environ["RANK"])
        dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    else:
        store = dist.FileStore(str(folder / f"store{world}"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    results = {}

    def attempt(name, call, ranks=None):
        """Every attempt has its own group, so that one that goes wrong does not harm the next."""
        group = dist.new_group(ranks, timeout=timedelta(seconds=15))
        try:
            results[name] = call(group)
        except Exception as error:
            results[name] = f"{type(error).__name__}: {error}"

    def factorize(name, members):
        A, K, options, shares = CASES[name]
        mine, first = members.index(rank), edges(A.shape[-2], shares[:len(members)])
        rows = slice(first[mine], first[mine + 1])
        if "init" in options:
            options = options | dict(init=(options["init"][0][rows], options["init"][1]))
        return lambda group: vars_of(nmf(A[..., rows, :], K, group=group, **options))

    for name in CASES:
        attempt(name, factorize(name, list(range(world))))
    if world == 4:  # two groups at once, in which a process has another number than among all
        for members in ([0, 1], [2, 3]):
            call = factorize("dense", members) if rank in members else lambda group: None
            attempt(f"dense {members}", call, members)
    for name, (change, *_) in FAILURES.items():
        options = dict(A=torch.ones(5, 6), rank=(1, 2) if "rank" in change and "warm" in change else 2)
        if rank == 1:
            options |= change
        attempt(f"failure: {name}", lambda group, options=options: vars_of(nmf(**options, group=group)))
    for backend, N, K, M in TRAFFIC:
        attempt(f"traffic {backend, N, K, M}", lambda group, backend=backend, N=N, K=K, M=M:
                [counted(structured(N, M, dtype=torch.float32), K, iterations, backend, group)
                 for iterations in (10, 30)])
    torch.save(results, folder / f"{world}.{rank}")
    if world == 4:  # at last, a process is killed, and another one raises
        for members in ([0, 1], [2, 3]):
            attempt(f"loss {members}", lambda group, members=members: lose(rank, group) if rank in members else None,
                    members)
        torch.save(results, folder / f"{world}.{rank}")
        os._exit(0)  # without a farewell to the lost ones


def vars_of(result):
    return [vars(one) for one in result] if isinstance(result, list) else vars(result)


def counted(A, K, iterations, backend, group):
    """Bytes and calls of all_reduce."""
    calls, original = [], dist.all_reduce

    def count(tensor, *arguments, **options):
        calls.append(tensor.numel() * tensor.element_size())
        return original(tensor, *arguments, **options)
    dist.all_reduce = count
    try:
        nmf(A, K, max_iter=iterations, tol=0, backend=backend, group=group)
    finally:
        dist.all_reduce = original
    return sum(calls), len(calls)


def lose(rank, group):
    """Process 1 is killed, process 3 raises and ends, in the middle of a factorization."""
    calls, original, began = [], dist.all_reduce, time.monotonic()

    def stop(*arguments, **options):
        calls.append(1)
        if len(calls) == 12 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) == 12 and rank == 3:
            raise KeyboardInterrupt
        return original(*arguments, **options)
    dist.all_reduce = stop
    try:
        nmf(structured(50, 40), 5, tol=0, max_iter=10 ** 6, group=group)
    except Exception as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - began


def main(folder):
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):  # loads what is compiled, once for all processes
        for density in (0.1, 1):
            nmf(structured(40, 30, density=density, dtype=dtype), 2, max_iter=1)
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", start_method="fork",
                          rdzv_endpoint="localhost:0", run_id="test", max_restarts=0, monitor_interval=0.1)
    elastic_launch(config, process)(None, 2, folder)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=process, args=(rank, 4, folder)) for rank in range(4)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()


# --- what they found ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    script = [sys.executable, "-W", "ignore", __file__, str(folder)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as launched:
        try:
            output, _ = launched.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            os.killpg(launched.pid, signal.SIGKILL)
            output, _ = launched.communicate()
    files = {world: [folder / f"{world}.{rank}" for rank in range(world)] for world in (2, 4)}
    assert all(file.exists() for world in files.values() for file in world), output
    return {world: [torch.load(file, weights_only=True) for file in ranks] for world, ranks in files.items()}


worlds = pytest.mark.parametrize("world", [2, 4])


def equals_one_process(parts, name):
    A, K, options, _ = CASES[name]
    assert not any(isinstance(part, str) for part in parts), parts
    alone = nmf(A, K, **options)
    if not isinstance(alone, list):
        alone, parts = [alone], [[part] for part in parts]
    for i, one in enumerate(alone):
        digits = 1e-7 if one.U.dtype == torch.float64 else 2e-3
        for part in parts:
            for key in ("V", "error", "iterations", "status"):
                assert torch.equal(part[i][key], parts[0][i][key])  # all processes say the same, to the bit
            assert part[i]["start"] == one.start
        U, V = torch.cat([part[i]["U"] for part in parts], -2), parts[0][i]["V"]
        assert U.shape == one.U.shape and U.dtype == one.U.dtype
        torch.testing.assert_close(parts[0][i]["error"], one.error, rtol=digits, atol=digits)
        assert torch.equal(parts[0][i]["status"], one.status)
        assert torch.equal(parts[0][i]["iterations"], one.iterations)
        torch.testing.assert_close(V, one.V, rtol=0, atol=digits)
        torch.testing.assert_close(U, one.U, rtol=0, atol=digits * max(1, float(one.U.max())))


@worlds
@pytest.mark.parametrize("name", CASES)
def test_a_group_gives_what_one_process_gives(name, world, found):
    equals_one_process([results[name] for results in found[world]], name)


@pytest.mark.parametrize("members", [[0, 1], [2, 3]])
def test_a_group_of_some_of_the_processes(members, found):
    equals_one_process([found[4][rank][f"dense {members}"] for rank in members], "dense")


@worlds
@pytest.mark.parametrize("name", FAILURES)
def test_where_one_process_fails_all_do_and_say_why(name, world, found):
    _, its, others = FAILURES[name]
    for rank, results in enumerate(found[world]):
        said = results[f"failure: {name}"]
        assert isinstance(said, str), said
        kind = "ValueError" if rank == 1 or others == "same call" else "RuntimeError"
        assert re.search(f"^{kind}: .*{its if rank == 1 else others}", said), said


@worlds
@pytest.mark.parametrize("backend, N, K, M", TRAFFIC)
def test_an_iteration_sends_the_products_and_nothing_more(backend, N, K, M, world, found):
    for results in found[world]:
        (few, calls), (many, more) = results[f"traffic {backend, N, K, M}"]
        assert more - calls == 20  # one exchange per iteration
        assert K * M + K * K <= (many - few) / 4 / 20 <= K * M + K * K + 4  # float32, whatever N


@pytest.mark.parametrize("rank", [0, 2])
def test_the_loss_of_a_process_in_the_middle_is_told_by_the_others(rank, found):
    message, seconds = found[4][rank][f"loss {[rank, rank + 1]}"]
    assert "process of the group failed or left" in message
    assert seconds < 10


# --- without a group ----------------------------------------------------------------------------------------


def test_rows_without_a_group_are_all_there_are():
    rows, A = Rows(7), random(7, 3)
    sums, array = A.sum(0), A.sum(0).numpy().copy()
    rows.add(sums, array)
    assert torch.equal(sums, A.sum(0)) and (array == A.sum(0).numpy()).all()
    assert rows.gathered(A) is A and (rows.N, rows.offset, rows.total, rows.group) == (7, 0, 7, None)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
