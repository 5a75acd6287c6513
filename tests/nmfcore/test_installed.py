"""The package by itself: in a wheel, without the repository and without what is not among its dependencies."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ABSENT = ("IPython", "clarabel", "faiss", "jupyter", "librosa", "matplotlib", "myst_nb", "nmfbook", "ortools", "pooch",
          "skimage")  # on the machine of a reader who asked for no extra
PROGRAM = """
import importlib, json, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import nmfcore
found = {{"file": nmfcore.__file__, "refused": {{}}}}
for module in pkgutil.walk_packages(nmfcore.__path__, "nmfcore."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        found["refused"][module.name.partition(".")[2]] = str(error)
{body}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs a program in a process that sees the installed wheel and not the repository."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("nmfcore", "nmfbook", "data"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    quiet = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    for arguments in (["wheel", "--no-build-isolation", "-w", str(source / "wheel"), str(source)],
                      ["install", "--target", str(target), "--find-links", str(source / "wheel"), "nmfcore"]):
        done = subprocess.run([sys.executable, "-m", "pip", arguments[0], *quiet, *arguments[1:]], capture_output=True,
                              text=True, cwd=source)
        assert done.returncode == 0, done.stderr

    def run(body=""):
        environment = {name: value for name, value in os.environ.items() if name not in ("NMFCORE_DATA", "PYTHONPATH")}
        done = subprocess.run([sys.executable, "-c", PROGRAM.format(absent=ABSENT, body=body)], cwd=target, text=True,
                              capture_output=True, env=environment | {"PYTHONPATH": str(target)})
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert Path(found["file"]).is_relative_to(target)
        return found
    return run


def test_the_wheel_holds_the_student_and_the_book_stays_out(installed):
    found = installed("""
import torch
from pathlib import Path
from nmfcore.networks import pretrained
model, preprocess = pretrained("student")
found["maps"] = list(model(preprocess(torch.rand(1, 3, 64, 64))).shape)
found["folders"] = sorted(path.name for path in Path(nmfcore.__file__).parent.parent.iterdir())
""")
    assert found["maps"] == [1, 512, 4, 4]
    assert [name for name in found["folders"] if not name.endswith(".dist-info")] == ["nmfcore"]


def test_modules_that_need_more_packages_say_so_in_one_sentence(installed):
    refused = installed()["refused"]
    refused.pop("solver.triton", None)  # comes with PyTorch for GPUs
    assert set(refused) == {"rank", "rectangles"}
    for text in refused.values():
        assert text == ("nmfcore.rectangles needs the package ortools, which is not installed: "
                        "pip install 'nmfcore[rank]'")


def test_so_do_functions(installed):
    found = installed("""
import torch
from torch import nn
from nmfcore.index import Index
from nmfcore.report import memorization_report
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
report = memorization_report(model, [(torch.rand(40, 4), torch.arange(40) % 2)], classes=2, samples=20)
found["said"] = []
for function in (report.plot, Index(torch.eye(2), ["a", "b"]).faiss):
    try:
        function()
    except ImportError as error:
        found["said"].append(str(error))
""")
    plot, faiss = found["said"]
    assert plot == "Report.plot needs the package matplotlib, which is not installed: pip install 'nmfcore[plot]'"
    assert faiss == "Index.faiss needs the package faiss, which is not installed: pip install 'nmfcore[faiss]'"


def test_the_example_of_the_readme_runs_as_it_stands(capsys):
    [block] = re.findall(r"(?s)```python\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
    names: dict = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["factors"].U.shape == (1000, 20) and len(names["sweep"]) == 9
    maps = names["found"].maps
    assert maps.shape[:2] == (2, 4) and maps.min() >= 0 and maps.max() == 1
    assert "AuC" in capsys.readouterr().out
