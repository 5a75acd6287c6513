"""The experiments of chapter 3, one module each, with the jobs they consist of.

Each module has `jobs()`, the measurements to make, in order; `train(job, folder)`, whose weights are kept in `folder`;
`measure(job, trained)`, a dict of numbers; `claims()`, the thesis's sentences as tests; `synthetic(kind)`, made-up
results on which each claim holds, fails or is undecided; and the versions `TRAINING` and `MEASUREMENT`, which rise when
a change of the code changes what a job gives.
"""
