"""The frame of the repository: the lock fits the declared dependencies, and no file says what it must not."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nmfbook.build import GENERATED

if sys.version_info < (3, 11):
    import tomli as tomllib
else:
    import tomllib

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
GROUPS = [PROJECT["dependencies"], EXTRAS["book"], EXTRAS["test"]]  # what `make` installs
DECLARED = [Requirement(text) for group in GROUPS for text in group]


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY,
                            capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [REPOSITORY / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def texts():
    for path in tracked():
        try:
            yield path.relative_to(REPOSITORY).as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def locked():
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    return {canonicalize_name(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", lines)}


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_lock_satisfies_what_is_declared(requirement):
    assert requirement.specifier.contains(locked()[canonicalize_name(requirement.name)])


def test_every_locked_package_has_a_hash():
    entries = re.split(r"(?m)^(?=[\w.-]+==)", (REPOSITORY / "requirements.txt").read_text(encoding="utf-8"))
    assert all("--hash=sha256:" in entry for entry in entries if "==" in entry)


def test_binder_environment_agrees():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"] and "python=3.11" in environment["dependencies"]
    [by_pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert by_pip[-1] == "-e ."
    by_conda = [entry for entry in environment["dependencies"] if isinstance(entry, str) and ">=" in entry]
    renamed = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}
    declared = {requirement.name: requirement.specifier for requirement in DECLARED}
    given = {}
    for requirement in map(Requirement, [*by_conda, *by_pip[:-1]]):
        given[renamed.get(requirement.name, requirement.name)] = requirement.specifier
    assert {name: spec for name, spec in given.items() if declared.get(name, spec) != spec} == {}
    assert {Requirement(text).name for text in PROJECT["dependencies"]} <= set(given)
    assert not (REPOSITORY / "binder").exists() and not (REPOSITORY / ".binder").exists()


def test_binder_opens_every_page():
    """JupyterLab opens pages as notebooks there. One without a header but with `:::` counts as Pandoc's."""
    texts_of = {page.name: page.read_text(encoding="utf-8") for page in (REPOSITORY / "book").glob("*.md")}
    assert [name for name, text in texts_of.items()
            if not text.startswith("---\njupytext:") and re.search("(?m)^:::", text)] == []


def test_no_package_index_address():
    hosts = [r"pypi\.(org|python)", r"files\.pythonhosted", r"anaconda\.(org|com)", r"registry\.npmjs", r"unpkg\.com",
             r"jsdelivr", r"--(extra-)?index-url\s+\S", r"--find-links\s+\S"]
    found = [(name, hit[0]) for name, text in texts() for host in hosts for hit in re.finditer(host, text)]
    assert [entry for entry in found if entry[0] != "tests/test_repository.py"] == []


def test_no_path_outside_the_repository():
    outside = r"(?<![\w.])/(root|home|work|tmp|Users)/\w|\.\./shared"
    found = {name for name, text in texts() if re.search(outside, text)}
    assert found <= {".ci/run", "tests/test_repository.py"}


def test_files_are_loaded_without_pickle():
    for name, text in texts():
        if re.match(r"(nmfcore|nmfbook|book|data|benchmarks)/.*\.(py|md)$", name):
            assert not re.search(r"^\s*(import pickle|from pickle)|allow_pickle=True|joblib\.load\(", text, re.M), name
            for call in re.findall(r"torch\.load\(.*?\)", text, re.S):
                assert "weights_only=True" in call, f"{name}: {call}"


def test_no_file_is_large_and_the_models_fit():
    sizes = {path.relative_to(REPOSITORY).as_posix(): path.stat().st_size for path in tracked()}
    assert [name for name, size in sizes.items() if size > 10 * 2**20] == []
    models = [size for name, size in sizes.items() if name.startswith(("data/models/", "nmfcore/models/"))]
    assert sum(models) < 30 * 2**20
    assert [name for name in sizes if name.endswith((".pkl", ".pt", ".pth"))] == []
    scripts = [name for name in sizes if name.endswith(".js")]  # ours; those of others are fetched at build time
    assert all(name.startswith("nmfbook/widgets/") for name in scripts), scripts


def test_every_page_is_in_the_table_of_contents():
    listed = set(re.findall(r"book/(\w+)", (REPOSITORY / "_toc.yml").read_text(encoding="utf-8")))
    written = {path.stem for path in (REPOSITORY / "book").glob("*.md")}
    assert written | {Path(page).stem for page in GENERATED} == listed


def test_make_help_lists_every_target():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    shown = subprocess.run(["make", "help"], cwd=REPOSITORY, capture_output=True, text=True).stdout
    targets = re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split()
    assert [target for target in targets if f"make {target} " not in shown] == []


def imports_of(path):
    """Modules of the repository that a file imports when it is itself imported: absolute names."""
    package = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts[:-1])
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for part in ast.walk(node) if isinstance(node, (ast.Try, ast.With, ast.If)) else [node]:
            if isinstance(part, ast.If) and "TYPE_CHECKING" in ast.dump(part.test):
                break
            if isinstance(part, ast.Import):
                found |= {alias.name for alias in part.names}
            elif isinstance(part, ast.ImportFrom):
                parents = package.split(".")
                base = ".".join(parents[:len(parents) - part.level + 1]) if part.level else ""
                module = ".".join(filter(None, [base, part.module]))
                found |= {module, *(f"{module}.{alias.name}" for alias in part.names)}
    return found


@pytest.fixture(scope="module")
def library():
    """Module -> those that it imports, as far as they are the repository's."""
    files = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path
             for path in sorted((REPOSITORY / "nmfcore").rglob("*.py"))}
    return {name.removesuffix(".__init__"): imports_of(path) for name, path in files.items()}


def test_the_library_knows_nothing_of_the_book(library):
    for name, imported in library.items():
        assert not any(other.split(".")[0] in ("nmfbook", "book", "tests") for other in imported), name
    for path in (REPOSITORY / "nmfcore").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) nmfbook", path.read_text(encoding="utf-8"), re.M), path
    quiet = "import sys, {names}; print(*({{'matplotlib', 'IPython', 'myst_nb'}} & {{*sys.modules}}))"
    names = ", ".join(name for name in library if not name.endswith(("triton", "__main__")))
    assert subprocess.run([sys.executable, "-c", quiet.format(names=names)], capture_output=True, text=True,
                          check=True).stdout.split() == []


def test_its_modules_import_only_from_floors_below(library):
    floors: dict[str, int] = {}

    def floor(name, above=()):
        assert name not in above, f"a circle: {' → '.join([*above, name])}"
        if name not in floors:
            inner = [other for other in library[name] if other in library and other != name
                     and not name.startswith(f"{other}.")]  # a package is complete after its modules
            floors[name] = 1 + max((floor(other, (*above, name)) for other in inner), default=0)
        return floors[name]
    assert max(map(floor, library)) < 20
