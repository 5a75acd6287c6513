"""How large a support can be solved exactly within a minute: nmfcore.rank beside enumeration.

    python benchmarks/rank.py --seconds 5        a minute or two
    python benchmarks/rank.py --record           about ten minutes; keeps data/records/rank_benchmark.json

Supports are n × n, of three families:

planted  the Boolean product of two random 0/1 factors, eight rectangles, each line in each with probability 0.3
growing  the same with n / 2 rectangles, each line in three of them on average
random   every entry is one with probability ½

Methods, one after the other in this process:

enumeration           the columns that each of the 2ⁿ sets of rows has in common, then a least set cover (scipy's milp)
reduced enumeration   the same, after the rows and columns that are copies or unions of others are gone, repeatedly;
                      left out for random supports, where there are none
interval              `nmfcore.rank.interval`, which must return equal bounds

n grows until a method does not prove the rectangle cover number of each of a few supports in the given time. Where two
methods both solve a support, their answers are compared; the witnesses of `interval` are verified, untimed. Nothing is
asserted.
"""

import argparse
import os
import time

import numpy as np
import scipy.sparse as sp
import torch
from scipy.optimize import LinearConstraint, milp
from threadpoolctl import threadpool_limits

from nmfbook import records
from nmfcore import rank, rectangles

SIZES = (6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 32, 36, 40, 48, 56, 64, 80, 96, 128, 192, 256, 384, 512, 768,
         1024)
FAMILIES = "planted", "growing", "random"
RECTANGLES, DENSITY = 8, 0.3
CHUNK = 22  # rows whose subsets are held in memory at a time


# Supports


def support(family, n, seed):
    generator = np.random.default_rng([seed, n])
    if family == "random":
        return generator.random((n, n)) < 0.5
    r, density = (RECTANGLES, DENSITY) if family == "planted" else (n // 2, min(1, 3 / (n // 2)))
    U, V = (generator.random((n, r)) < density for _ in range(2))
    return U.astype(int) @ V.T.astype(int) > 0


# Methods: the rectangle cover number of S, or None where it was not proved in time


def enumeration(S, end):
    if S.shape[0] > S.shape[1]:
        S = S.T
    if not S.any():
        return 0
    if len(S) > 48 or S.shape[1] > 64:
        return None  # even one operation a set would take days
    columns = maximal(S, end)
    if columns is None:
        return None
    C = (columns[:, None] >> np.arange(S.shape[1], dtype=np.uint64) & 1).astype(bool)
    R = C.astype(np.float32) @ (~S).T.astype(np.float32) == 0
    cells = np.argwhere(S)
    inside = R[:, cells[:, 0]] & C[:, cells[:, 1]]
    left = end - time.monotonic()
    if left <= 0:
        return None
    found = milp(np.ones(len(C)), integrality=1, bounds=(0, 1), options={"time_limit": left},
                 constraints=LinearConstraint(sp.csr_matrix(inside.T, dtype=float), 1, np.inf))
    return round(found.fun) if found.status == 0 else None


def maximal(S, end):
    """The sets of columns that some set of rows has in common, one bit a column, or None where time ran out."""
    bits = (S.astype(np.uint64) << np.arange(S.shape[1], dtype=np.uint64)).sum(1, dtype=np.uint64)
    inner, found = subsets(bits[:CHUNK]), np.zeros(0, np.uint64)
    for number, outer in enumerate(subsets(bits[CHUNK:])):
        if time.monotonic() > end:
            return None
        both = inner[number == 0:] & outer  # without the empty set of rows
        found = np.unique(np.concatenate([found, np.unique(both[both > 0])]))
    return found


def subsets(bits):
    """The columns that each set of rows has in common, all of them for the empty set, which comes first."""
    found = np.array([(1 << 64) - 1], np.uint64)
    for row in bits:
        found = np.concatenate([found, found & row])
    return found


def reduced_enumeration(S, end):
    rows, columns = rectangles.reduced(S)
    return enumeration(S[np.ix_(rows, columns)], end)


def interval(S, end, keep):
    found = rank.interval(torch.from_numpy(S), time_limit=max(end - time.monotonic(), 0.1))
    keep.append(found)
    lower, upper = found.rectangle_cover
    return lower if lower == upper else None


METHODS = {"enumeration": enumeration, "reduced enumeration": reduced_enumeration, "interval": interval}


# The race


def race(family, options):
    """Method -> the points of its curve, and the largest n at which all supports were solved."""
    solved, curves = {}, {}
    for name, method in METHODS.items():
        if (family, name) == ("random", "reduced enumeration"):
            continue  # there is nothing to reduce
        points, largest = [], 0
        for n in SIZES:
            seconds, answers, verified = [], [], []
            for seed in range(options.supports):
                S, results = support(family, n, seed), []
                begin = time.monotonic()
                answer = method(S, begin + options.seconds, *([results] if name == "interval" else []))
                seconds.append(time.monotonic() - begin)
                answers.append(answer if seconds[-1] <= options.seconds else None)
                if answers[-1] is None:
                    break
                if solved.setdefault((n, seed), answer) != answer:
                    print(f"  {name} disagrees at n = {n}, support {seed}: {answer}, before {solved[n, seed]}")
                verified += [value for one in results for value in one.verify(time_limit=options.seconds).values()]
            points.append({"n": n, "seconds": [float(f"{value:.3g}") for value in seconds], "rc": answers,
                           "false": verified.count(False), "unchecked": verified.count(None)})
            print(f"  {name:20} n = {n:4}: rc {answers}, {max(seconds):6.2f} s"
                  + (f", {len(verified)} witnesses: {verified.count(False)} wrong, {verified.count(None)} unchecked"
                     if verified else ""), flush=True)
            if None in answers:
                break
            largest = n
        curves[name] = {"points": points, "largest": largest, "entries": largest ** 2}
    base = curves["enumeration"]["entries"]
    for name in list(curves)[1:]:
        print(f"  {name}: {curves[name]['entries'] / base:.1f}× the entries of enumeration" if base else "")
    return curves


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="time for one support; default: 60")
    add("--supports", type=int, default=2, help="of each size, seeds 0, 1, …; default: 2")
    add("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    add("--record", action="store_true", help="keep what is measured in data/records/rank_benchmark.json")
    options = parser.parse_args()
    origin = records.provenance("cpu") | {"threads": 1, "load": [round(value, 1) for value in os.getloadavg()]}
    old = records.load("rank_benchmark")
    values = {"seconds": options.seconds, "supports": options.supports, "rectangles": RECTANGLES, "density": DENSITY}
    if old and all(old.values.get(key) == value for key, value in values.items()):
        values = dict(old.values)  # one family can be run alone
    print(f"1 thread of {origin['cores']}, {origin['processor']}, load {origin['load']}; {options.seconds:g} s each")
    with threadpool_limits(1):
        torch.set_num_threads(1)
        for family in options.families:
            print(family)
            values[family] = race(family, options)
            if options.record:
                parameters, used = {"profile": "paper", "seed": 0, "device": "cpu"}, {"supports": "random, made here"}
                records.save(records.Record("rank_benchmark", parameters, values, used, origin))


if __name__ == "__main__":
    main()
