"""From the chapters in `book/` to executed notebooks, records and the site: what `make` calls.

    execute   run the chapters of `_toc.yml` with papermill into `_build/<profile>/book/`, several at a time
    book      execute, then build the site into `_build/html`
    test      execute, build, then run every test, the executed notebooks once more among them
    record    execute one chapter and keep what it measured in `data/records/`

A chapter is run again only if something it can depend on has changed: `fingerprints` lists those things.
"""

import argparse
import ast
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import distributions
from itertools import pairwise
from pathlib import Path

import jupytext
import nbformat
import psutil
import yaml

from . import interrupts

PARAMETERS = {"profile", "seed", "device"}
CELL_SECONDS = {"quick": 1800, "desk": 24 * 3600, "paper": 24 * 3600}  # profile -> longest time one cell may take
CHAPTER_BYTES = 3 * 2**30  # memory to set aside for one running chapter
GENERATED = ("book/reproduction", "book/ledger", "book/build_log")  # the pages that are written here
FRONT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={page}.html">
<link rel="icon" href="_static/favicon.svg">
<title>{title}</title>
<a href="{page}.html">{title}</a>
</html>
"""  # Jupyter Book's own names no icon, and the browser then asks in vain for one


class Trouble(Exception):
    """A message for the reader, to be shown without a traceback."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


# Chapters


def chapters(root):
    """The notebooks of the table of contents, in order: name -> source text. Pages without a kernel are left out."""
    found = {}
    for document in documents(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))):
        if document in GENERATED:
            continue
        path = root / f"{document}.md"
        if not path.exists():
            raise Trouble(f"_toc.yml lists {document}, but there is no {path.relative_to(root)}")
        source = path.read_text(encoding="utf-8")
        if "kernelspec" in notebook_of(source).metadata:
            found[path.stem] = source
    return found


def documents(toc):
    """All document names in a table of contents, in reading order."""
    if isinstance(toc, dict):
        own = [toc[key] for key in ("root", "file") if key in toc]
        return own + [name for value in toc.values() if isinstance(value, list) for name in documents(value)]
    return [name for entry in toc for name in documents(entry)]


def notebook_of(source):
    return jupytext.reads(source, fmt="md:myst")


def check_parameters(name, source):
    """A chapter has one cell tagged `parameters`, which defines profile, seed and device: papermill only warns."""
    cells = [cell for cell in notebook_of(source).cells if "parameters" in cell.metadata.get("tags", ())]
    cure = f"it needs one such cell, which defines {', '.join(sorted(PARAMETERS))} and nothing else"
    if len(cells) != 1:
        raise Trouble(f"book/{name}.md has {len(cells)} cells tagged `parameters`; {cure}", 2)
    try:
        body = ast.parse(cells[0].source).body
    except SyntaxError as error:
        raise Trouble(f"book/{name}.md: the `parameters` cell is not Python ({error}); {cure}", 2) from error
    targets = [target for node in body for target in getattr(node, "targets", [getattr(node, "target", None)])]
    defined = {target.id for target in targets if isinstance(target, ast.Name)}
    if defined != PARAMETERS:
        given = ", ".join(sorted(defined)) or "nothing"
        raise Trouble(f"book/{name}.md: the `parameters` cell defines {given}; {cure}", 2)


# What a result depends on


def fingerprints(root, threads):
    """Name -> hash of each thing, besides its source and parameters, that can change what a chapter computes."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    weights = Path(os.environ.get("TORCH_HOME") or Path(caches) / "torch") / "hub" / "checkpoints"
    outside = [os.environ.get("NMFCORE_DATA", ""), weights]
    installed = sorted(f"{package.metadata['Name']} {package.version}" for package in distributions())
    return {
        "nmfcore": contents(root, "nmfcore/**/*"),
        "requirements.txt": contents(root, "requirements.txt"),
        "data/": contents(root, "data/**/*", but=("data/ledger", "data/records")),
        "outside data": digest([[str(folder), listing(folder)] for folder in outside]),
        "environment": digest([platform.python_version(), platform.machine(), installed, threads]),
    }


def digest(thing):
    return hashlib.sha256(json.dumps(thing).encode()).hexdigest()[:16]


def own(root, source):
    """Name -> hash of what one chapter depends on besides: its text, the modules of nmfbook that it imports, by itself
    or through one of them, and the experiments' jobs and the recorded runs that its code names."""
    code = "\n".join(cell.source for cell in notebook_of(source).cells if cell.cell_type == "code")
    draws = re.search(r"\bnmfbook\b.*\b(ledger|experiments)\b", code)
    named = {name for _, name in re.findall(r"""(["'])(\w+)\1""", code)}
    experiments = [path for path in root.glob("nmfbook/experiments/*.py") if draws and path.stem in named]
    return {
        "chapter": digest(source),
        "nmfbook": hashed(root, imported(root, code, experiments)),
        "ledger": digest([contents(root, f"data/ledger/{folder.name}/*") for folder in sorted(
            (root / "data/ledger").glob("*/")) if draws and folder.name in named]),
        "records": hashed(root, [path for path in root.glob("data/records/*.json") if path.stem in named]),
    }


def imported(root, code, more=()):
    """Files of nmfbook that code loads: modules, also through one another, the packages around them, scripts beside.

    more: modules that it loads by name. Code that is not Python alone may load anything.
    """
    found = set(more)
    waiting = [(code, ""), *((path.read_text(encoding="utf-8"), package(root, path)) for path in more)]
    while waiting:
        text, inside = waiting.pop()
        try:
            nodes = list(ast.walk(ast.parse(text)))
        except SyntaxError:
            return set(root.glob("nmfbook/**/*"))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                above = inside.split(".")[:len(inside.split(".")) + 1 - node.level] if node.level else []
                module = ".".join([*above, *([node.module] if node.module else [])])
                names += [module, *(f"{module}.{alias.name}" for alias in node.names)]
        for name in names:
            steps = name.split(".")
            files = [root.joinpath(*steps[:end]) / "__init__.py" for end in range(1, len(steps) + 1)]
            files += [root.joinpath(*steps[:-1]) / f"{steps[-1]}.py"]
            for path in files if steps[0] == "nmfbook" else ():
                if path.is_file() and path not in found:
                    found |= {path, *(other for other in path.parent.glob("*") if other.suffix in (".js", ".css"))}
                    waiting.append((path.read_text(encoding="utf-8"), package(root, path)))
    return found


def package(root, path):
    """The package that a module is in, from which its relative imports start."""
    return ".".join(path.relative_to(root).parent.parts)


def contents(root, pattern, but=()):
    """Hash of the names and bytes of all files that match; the files `but`, and those in folders `but`, left out."""
    return hashed(root, (path for path in root.glob(pattern)
                         if not any(path.is_relative_to(root / name) for name in but)))


def hashed(root, paths):
    """Hash of the names and bytes of files."""
    files = sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)
    return digest([[str(path.relative_to(root)), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files])


def listing(folder):
    """Path, size and time of every file below a folder that is too large to read."""
    found = []
    for directory, _, names in os.walk(folder or os.devnull):
        for name in names:
            path = os.path.join(directory, name)
            status = os.stat(path) if os.path.exists(path) else os.lstat(path)
            found.append([os.path.relpath(path, folder), status.st_size, status.st_mtime_ns])
    return sorted(found)


# Execution


def machine(count):
    """(workers, threads): how many of `count` chapters to run at a time, and the threads each gets.

    The threads depend on the machine and the book alone, since results may depend on them in the last digit.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    usual = max(1, min(cores, count, memory.total // CHAPTER_BYTES))
    return max(1, min(usual, memory.available // CHAPTER_BYTES)), max(1, cores // usual)


def environment(threads):
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**os.environ, **limits, "PYTHONHASHSEED": "0", "JUPYTER_PREFER_ENV_PATH": "1"}


def execute(root, parameters, only=()):
    """Bring the executed notebooks up to date; returns name -> path. Stops at the first chapter that fails."""
    book = chapters(root)
    unknown = [name for name in only if name not in book]
    if unknown:
        raise Trouble(f"no chapter {', '.join(unknown)} in _toc.yml; there are: {', '.join(book)}", 2)
    selected = {name: source for name, source in book.items() if name in only or not only}
    for name, source in selected.items():
        check_parameters(name, source)

    workers, threads = machine(len(book))
    folder = root / "_build" / parameters["profile"]
    (folder / "book").mkdir(parents=True, exist_ok=True)
    (folder / "partial").mkdir(exist_ok=True)
    common = fingerprints(root, threads) | {"parameters": digest(parameters)}

    waiting = []
    for name, source in selected.items():
        inputs = common | own(root, source)
        reason = stale(folder / "book" / f"{name}.ipynb", inputs)
        if reason:
            waiting.append((name, source, inputs))
        say(f"  {name}: {reason or 'unchanged'}")
    if waiting:
        say(f"Running {len(waiting)} chapters, {min(workers, len(waiting))} at a time, {threads} threads each")

    running = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                name, source, inputs = waiting.pop(0)
                try:
                    process = start(folder, name, source, parameters, threads)
                except OSError:
                    discard(folder, name)
                    raise
                running[process.pid] = name, inputs, process, time.monotonic()
            pid, status, usage = os.wait4(-1, 0)
            if pid not in running:
                continue
            name, inputs, process, begin = running[pid]
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                log = (folder / "partial" / f"{name}.log").read_text(encoding="utf-8")
                if f"[Errno {errno.ENOSPC}]" in log or shutil.disk_usage(folder).free < 2**20:
                    discard(folder, name)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
                raise Trouble(failure(root, folder, name, process.returncode))
            del running[pid]
            peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
            seconds = time.monotonic() - begin
            finish(folder, name, inputs, {"seconds": round(seconds), "gigabytes": round(peak, 1)})
            say(f"  {name}: {seconds:.0f} s, {peak:.1f} GB")
    finally:
        for name, _, process, _ in running.values():
            if process.returncode is None:
                stop(process)
                discard(folder, name)
    return {name: folder / "book" / f"{name}.ipynb" for name in selected}


def stale(path, inputs):
    """Why a chapter must run again, or None."""
    if not path.exists():
        return "not yet run"
    try:
        before = nbformat.read(path, as_version=4).metadata["nmfcore"]["inputs"]
    except Exception:  # whatever is wrong with the file, running the chapter again mends it
        return "damaged result"
    changed = [name for name in inputs if before.get(name) != inputs[name]]
    return f"{', '.join(changed)} changed" if changed else None


def start(folder, name, source, parameters, threads):
    nbformat.write(notebook_of(source), folder / "partial" / f"{name}.source.ipynb")
    given = [word for key, value in parameters.items() for word in ("-p", key, str(value))]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--cwd", folder / "book",
               "--execution-timeout", str(CELL_SECONDS[parameters["profile"]]), *given,
               folder / "partial" / f"{name}.source.ipynb", folder / "partial" / f"{name}.ipynb"]
    with open(folder / "partial" / f"{name}.log", "w", encoding="utf-8") as log:
        # Its own session: Ctrl-C reaches this process alone, which then ends the chapters in order.
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment(threads), start_new_session=True)


def stop(process):
    """End papermill and its kernel, which lives in a session of its own."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(family, timeout=10)


def discard(folder, name):
    for suffix in ("source.ipynb", "ipynb", "log"):
        (folder / "partial" / f"{name}.{suffix}").unlink(missing_ok=True)


def finish(folder, name, inputs, cost):
    """Keep a complete notebook with what it depended on, in one step."""
    notebook = nbformat.read(folder / "partial" / f"{name}.ipynb", as_version=4)
    for cell, following in pairwise(notebook.cells):
        if "parameters" in cell.metadata.get("tags", ()):  # the given values follow, shown or hidden like the defaults
            following.metadata.tags += [tag for tag in cell.metadata.tags if tag != "parameters"]
    for cell in notebook.cells:
        if cell.cell_type == "code":  # the progress of a download belongs on no page
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for local in ("input_path", "output_path"):
        notebook.metadata.papermill.pop(local, None)
    notebook.metadata["nmfcore"] = {"inputs": inputs, "cost": cost}
    nbformat.write(notebook, folder / "partial" / f"{name}.ipynb")
    os.replace(folder / "partial" / f"{name}.ipynb", folder / "book" / f"{name}.ipynb")
    discard(folder, name)


def failure(root, folder, name, status):
    """What to tell about a chapter that failed: the cell, its traceback, where to look."""
    partial, log = folder / "partial" / f"{name}.ipynb", folder / "partial" / f"{name}.log"
    lines = [f"chapter {name} failed (exit status {status})"]
    try:
        cells = nbformat.read(partial, as_version=4).cells
    except Exception:
        cells = []
    states = {"failed", "running"}
    broken = [cell for cell in cells if cell.metadata.get("papermill", {}).get("status") in states]
    for cell in broken[:1]:
        lines += ["", "The cell:", indented(cell.source)]
        for output in cell.outputs:
            if output.output_type == "error":
                lines += ["", indented("\n".join(output.traceback))]
    if not any(output.output_type == "error" for cell in broken[:1] for output in cell.outputs):
        lines += ["", f"The end of {log.relative_to(root)}:", indented(log.read_text(encoding="utf-8")[-2000:])]
    return "\n".join([*lines, "", f"Partial notebook: {partial.relative_to(root)}"])


def indented(text):
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return "\n".join(f"    {line}" for line in plain.splitlines())


# Site


def site(root, notebooks):
    """Build `_build/html` from the executed notebooks; the old site stays until the new one is complete."""
    from . import ledger_page, reproduction, widgets  # with them comes torch

    stage, output = root / "_build" / "site", root / "_build" / "site-output"
    for folder in (stage, output):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "book", stage / "book", ignore=shutil.ignore_patterns("*.md"))
    for name in ("_toc.yml", "CHANGELOG.md"):
        shutil.copy(root / name, stage)
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    repository = os.environ.get("GITHUB_REPOSITORY")
    if repository:
        address = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{repository}"
        config["repository"] = {"url": address, "branch": "main", "path_to_book": ""}
        config["launch_buttons"] = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}
        config["html"]["use_repository_button"] = True
    (stage / "_config.yml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    (stage / "book" / "_assets" / widgets.WEIGHTS).write_text(widgets.student_weights(), encoding="utf-8")
    try:
        for name, page in reproduction.pages(root, notebooks).items():
            if isinstance(page, str):
                (stage / "book" / (name if "." in name else f"{name}.md")).write_text(page, encoding="utf-8")
            else:
                nbformat.write(page, stage / "book" / f"{name}.ipynb")
        (stage / "book" / "ledger").mkdir()
        for name, text in ledger_page.tables(root / "data" / "ledger").items():
            (stage / "book" / "ledger" / f"{name}.csv").write_text(text, encoding="utf-8")
        (stage / "book" / "records").mkdir()
        for path in (root / "data" / "records").glob("*.json"):
            shutil.copy(path, stage / "book" / "records")
    except ValueError as error:
        raise Trouble(str(error)) from error

    say("Building the site")
    begin = time.monotonic()
    built = subprocess.run([Path(sys.executable).with_name("jupyter-book"), "build", "-W", "-n", "--keep-going",
                            "--path-output", output, stage], text=True, env=os.environ | {"NO_COLOR": "1"},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if built.returncode:
        complaints = [line for line in built.stdout.splitlines() if re.search("WARNING|ERROR|CRITICAL", line)]
        said = "\n".join(complaints) or built.stdout[-3000:]
        raise Trouble(f"the site has warnings, which count as errors:\n{indented(said).replace(str(stage), '.')}")

    pages = output / "_build" / "html"
    if repository:  # a launch button opens the committed text notebook
        for page in pages.glob("book/*.html"):
            text = page.read_text(encoding="utf-8")
            page.write_text(re.sub(r"(urlpath=lab/tree/[\w/]+)\.ipynb", r"\1.md", text), encoding="utf-8")
    (pages / "index.html").write_text(FRONT.format(**config, page=documents(toc)[0]), encoding="utf-8")
    lighten(pages)
    shutil.rmtree(root / "_build" / "html", ignore_errors=True)
    os.replace(pages, root / "_build" / "html")
    shutil.rmtree(output)
    say(f"  {time.monotonic() - begin:.0f} s: _build/html/index.html")


def lighten(pages):
    """Take away what no page loads: the forms of MathJax that are not used, the outputs of notebooks to download."""
    mathjax = pages / "_static" / "mathjax"
    used = [mathjax / "tex-chtml.js", mathjax / "output/chtml/fonts", mathjax / "input/tex/extensions"]
    for path in sorted(mathjax.rglob("*")):
        if path.is_file() and not any(path.is_relative_to(kept) for kept in used):
            path.unlink()
    for path in (pages / "_sources").rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)


# Command line


def test(root, notebooks):
    """Everything pytest finds, and each executed notebook once more: its outputs must agree."""
    workers, threads = machine(len(chapters(root)))
    command = [sys.executable, "-m", "pytest", "-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder",
               "--nbval", "--nbval-current-env", "--nbval-cell-timeout", str(CELL_SECONDS["quick"]),
               *notebooks.values(), "tests"]
    return subprocess.run(command, cwd=root, env=environment(threads)).returncode


def record(root, name, notebook):
    from . import records

    path = records.save(records.collect(nbformat.read(notebook, as_version=4), name), root / "data" / "records")
    say(f"  recorded in {path.relative_to(root)}")


def say(text):
    print(text, flush=True)


def device(text):
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"unknown device {text!r}: one of cpu, mps, cuda, cuda:<number>")
    return text


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Trouble(message, 2)


def parse(arguments):
    parser = Parser(prog="python -m nmfbook.build", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("execute", "book", "test", "record"))
    parser.add_argument("chapters", nargs="*", help="only these (execute and record)")
    parser.add_argument("--profile", choices=tuple(CELL_SECONDS), default="quick")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=device, default="cpu")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="of the repository")
    options = parser.parse_intermixed_args(arguments)
    if options.chapters and options.command in ("book", "test"):
        raise Trouble(f"{options.command} takes the whole book, not {' '.join(options.chapters)}", 2)
    if options.command == "record" and len(options.chapters) != 1:
        raise Trouble("record takes one chapter: make record CHAPTER=<name> PROFILE=paper", 2)
    return options


def main(arguments=None):
    try:
        options = parse(arguments)
        root = options.root.resolve()
        parameters = {"profile": options.profile, "seed": options.seed, "device": options.device}
        notebooks = execute(root, parameters, options.chapters)
        if options.command in ("book", "test"):
            site(root, notebooks)
        if options.command == "record":
            record(root, options.chapters[0], notebooks[options.chapters[0]])
        return test(root, notebooks) if options.command == "test" else 0
    except Trouble as trouble:
        print(f"error: {trouble}", file=sys.stderr)
        return trouble.status
    except KeyboardInterrupt:
        print("interrupted; finished chapters are kept, the same command goes on from there", file=sys.stderr)
        return 130
    except OSError as error:
        cures = {errno.ENOSPC: "free some space", errno.EROFS: "make it writable or work in a copy",
                 errno.EACCES: "make it writable or work in a copy", errno.EPERM: "make it writable or work in a copy"}
        if error.errno not in cures:
            raise
        print(f"error: cannot write {error.filename or 'a file'}: {error.strerror}; {cures[error.errno]}, "
              "then run the same command again", file=sys.stderr)
        return 1


if __name__ == "__main__":
    interrupts.once()
    sys.exit(main())
