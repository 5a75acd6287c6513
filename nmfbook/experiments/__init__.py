"""What chapters measure, one module for each experiment.

Those listed in `ledger.EXPERIMENTS` consist of jobs. Each has `jobs()`, the measurements to
make, in order; `train(job, folder)`, whose weights are kept in `folder`; `measure(job, trained)`, a dict of numbers;
`claims()`, the thesis's sentences as tests; `synthetic(kind)`, made-up results on which each claim holds, fails or is
undecided; and the versions `TRAINING` and `MEASUREMENT`, which rise when a change of the code changes what a job gives.

The others have no jobs: their functions, most of them `measure_…`, are called by the chapters of the same names, on
every build or for a record. `data` is what networks are trained on, `polygons` what two chapters share.
"""
