"""How good a ranking is: average precision, and the queries of the benchmarks it is measured on."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .gate import check_counts, ids


def average_precision(ranking: Iterable, positives: Iterable, junk: Iterable = ()) -> float:
    """The area under precision against recall, by trapezoids as the program of Oxford Buildings computes it.

    Args:
        ranking: images, best first. They are names or numbers, which compare by value, and stand once in each of the
            three.
        positives: those to be found. Ones that the ranking does not list count as never found.
        junk: neither right nor wrong; they are taken out of the ranking.

    Raises:
        ValueError: no positives, and an image that stands twice.

    Example:
        >>> average_precision(["a", "b", "c", "d"], positives=["a", "c"], junk=["b"])
        1.0
        >>> average_precision(["d", "a"], positives=["a"])
        0.25
    """
    listed, wanted, ignored = _judged(ranking, positives, junk)
    hits = [image in wanted for image in listed if image not in ignored]
    total, found = 0.0, 0
    for r, hit in enumerate(hits):
        if hit:
            total += ((found / r if r else 1) + (found + 1) / (r + 1)) / 2
            found += 1
    return total / len(wanted)


def average_precision_at(ranking: Iterable, positives: Iterable, n: int = 30) -> float:
    """The sum of the precisions at the hits among the first n, over n (eq. 5.8): 1 if all n are positives.

    Args:
        ranking, positives: as for `average_precision`.
        n: how many of the ranking count.

    Raises:
        ValueError: as `average_precision`, and n below 1.

    Example:
        >>> average_precision_at(["a", "b", "c"], positives=["a", "b"], n=2)
        1.0
    """
    check_counts(n=n)
    listed, wanted, _ = _judged(ranking, positives)
    hits = [image in wanted for image in listed[:n]]
    return sum(sum(hits[:i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit) / n


def _judged(ranking, positives, junk=()):
    """A ranking, and sets of its positives and its junk."""
    wanted = set(ids(positives, "positives"))
    if not wanted:
        raise ValueError("a query without positives has no average precision; leave it out")
    return ids(ranking, "the ranking"), wanted, set(ids(junk, "junk"))


@dataclass(frozen=True)
class Query:
    """One query of a benchmark.

    Example:
        >>> positives, junk = frozenset({"photo 2"}), frozenset()
        >>> query = Query("church", "photo 1", (136, 34, 648, 955), positives, junk)
        >>> average_precision(["photo 3", "photo 2"], query.positives, query.junk)
        0.25
    """

    name: str  #: of the query
    image: str  #: in which it is marked
    box: tuple[float, float, float, float]  #: x_min, y_min, x_max, y_max in pixels
    positives: frozenset[str]  #: images to be found
    junk: frozenset[str]  #: images that are neither right nor wrong


def oxford_queries(folder: str | Path) -> list[Query]:
    """The queries of Oxford5k or Paris6k, from a folder with their files `<name>_{query,good,ok,junk}.txt`.

    Positives are good and ok. The prefix `oxc1_` of Oxford's query files is taken off, so that names are
    those of the images.

    Raises:
        FileNotFoundError: there is no query, or one of its lists is missing.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> texts = {"query": "oxc1_church_000013 136 34 648 955",
        ...          "good": "church_000026", "ok": "", "junk": ""}
        >>> with TemporaryDirectory() as folder:
        ...     for kind, text in texts.items():
        ...         _ = Path(folder, f"church_1_{kind}.txt").write_text(text)
        ...     query, = oxford_queries(folder)
        >>> query.image, query.box, set(query.positives)
        ('church_000013', (136.0, 34.0, 648.0, 955.0), {'church_000026'})
    """
    folder = Path(folder)

    def listed(name):
        return frozenset((folder / name).read_text(encoding="utf-8").split())

    found = []
    for file in sorted(folder.glob("*_query.txt")):
        image, x0, y0, x1, y1 = file.read_text(encoding="utf-8").split()
        name = file.name.removesuffix("_query.txt")
        found.append(Query(name, image.removeprefix("oxc1_"), (float(x0), float(y0), float(x1), float(y1)),
                           listed(f"{name}_good.txt") | listed(f"{name}_ok.txt"), listed(f"{name}_junk.txt")))
    if not found:
        raise FileNotFoundError(f"{folder} holds no file *_query.txt; point to the ground truth of Oxford5k or Paris6k")
    return found
