"""An index of image descriptors: built, saved, searched exactly or by faiss."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import normalize

from ._files import replacing
from ._inputs import isolated
from ._optional import needed_by
from .gate import check_counts, described, ids, is_dense

VERSION = 1  # of the files of an index
_PER_CELL = 40  # descriptors that k-means sees for each cell; faiss asks for 39 at least


@dataclass
class Index:
    """Descriptors of named images, searched exactly or, where they are many, by faiss.

    Example:
        >>> index = Index(torch.eye(3), ["cat", "dog", "bus"])
        >>> scores, places = index.search(torch.tensor([[0.6, 0.8, 0.0]]), top=2)
        >>> [index.names[i] for i in places[0]], scores
        (['dog', 'cat'], tensor([[0.8000, 0.6000]]))
    """

    descriptors: Tensor  #: (n, d), rows of length 1
    names: list[str]  #: n
    #: what they were made with (network, layer, method and so on), as JSON knows it. An index is only good for queries
    #: that were made alike, which `check` compares.
    about: dict = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  #: images that could not be read
    #: n, what tells each image from an edited one of the same name, such as `photographs.stamp` of its file, "" for an
    #: image without; `unchanged` compares
    stamps: list[str] = field(default_factory=list)

    def __post_init__(self):
        self._check(self.descriptors, self.names)
        self.stamps = self._stamps(self.stamps, self.names)

    @staticmethod
    def _stamps(stamps, names):
        if stamps and len(stamps) != len(names):
            raise ValueError(f"{len(stamps)} stamps for {len(names)} names; pass one for each, or none")
        return list(stamps) or [""] * len(names)

    @staticmethod
    def _check(descriptors, names):
        known = ids(names, "names")
        if not is_dense(descriptors) or descriptors.dim() != 2 or not descriptors.is_floating_point() \
                or len(descriptors) != len(known):
            raise ValueError(f"{len(known)} names for descriptors {described(descriptors)}; expected (n, d)")
        wrong = (~torch.isfinite(descriptors).all(1)).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(f"the descriptor of {names[wrong[0]]!r} is not finite")

    def check(self, about: Mapping) -> None:
        """Refuse queries that were made otherwise than the index.

        Args:
            about: what they were made with.

        Raises:
            ValueError: naming the first difference.
        """
        for key in sorted({*self.about, *about}):
            if self.about.get(key) != about.get(key):
                raise ValueError(f"the index was made with {key} {self.about.get(key)!r}, not {about.get(key)!r}; "
                                 f"build it again, or describe the query alike")

    def unchanged(self, stamps: Mapping[str, str]) -> "Index":
        """An index of those images that still have the stamp they had.

        What is gone, edited, or has no stamp is not in it, and is to be added again if it is there.

        Args:
            stamps: {name: stamp} of what is there now.
        """
        kept = [i for i, (name, stamp) in enumerate(zip(self.names, self.stamps, strict=True))
                if stamp and stamps.get(name) == stamp]
        return Index(self.descriptors[kept], [self.names[i] for i in kept], self.about,
                     stamps=[self.stamps[i] for i in kept])

    def add(self, descriptors: Tensor, names: Sequence[str], *, stamps: Sequence[str] = ()) -> None:
        """Append images.

        Args:
            descriptors: (m, d), rows of length 1.
            names: m, none of them in the index.
            stamps: m, or none.

        Raises:
            ValueError: a name that is there already, and descriptors of another width.
        """
        self._check(descriptors, names)
        stamps = self._stamps(stamps, names)
        if len({*self.names, *names}) < len(self.names) + len(names):
            raise ValueError(f"{sorted({*names} & {*self.names})[:3] or list(names)[:3]}: names must be new and unlike")
        if descriptors.shape[1] != self.descriptors.shape[1]:
            raise ValueError(f"descriptors of width {descriptors.shape[1]} do not fit an index of width "
                             f"{self.descriptors.shape[1]}")
        self.descriptors = torch.cat([self.descriptors, descriptors])
        self.names, self.stamps = [*self.names, *names], [*self.stamps, *stamps]

    @isolated()
    def search(self, queries: Tensor, *, top: int | None = None, expand: int = 0,
               by: Any = None) -> tuple[Tensor, Tensor]:
        """Scores and places, (q, top), of the images most like each query, best first.

        Args:
            queries: (q, d).
            top: how many; all by default.
            expand: add the descriptors of so many best matches to the query, and search again (section 5.3.1).
            by: what `faiss` returned, to search by it; a query for which it finds fewer than `top` is searched
                exactly.

        Raises:
            ValueError: queries of another width or not finite, and a faiss index of another size.
        """
        width = self.descriptors.shape[1]
        if not is_dense(queries) or queries.shape[1:] != (width,) or not queries.is_floating_point() \
                or not bool(torch.isfinite(queries).all()):
            shape = tuple(queries.shape) if isinstance(queries, Tensor) else type(queries).__name__
            raise ValueError(f"queries of shape {shape} do not fit descriptors of width {width}; expected finite "
                             f"numbers (q, {width})")
        check_counts(0, expand=expand)
        if top is not None:
            check_counts(top=top)
        queries = queries.to(self.descriptors)
        top = len(self.names) if top is None else min(top, len(self.names))
        if expand:
            _, first = self.search(queries, top=expand, by=by)
            queries = normalize(queries + self.descriptors[first].sum(1), dim=1)
        if by is not None:
            if by.ntotal != len(self.names):
                raise ValueError(f"the faiss index holds {by.ntotal} descriptors of {len(self.names)}; make it anew")
            best, places = (torch.from_numpy(found).to(queries.device) for found in
                            by.search(queries.detach().cpu().contiguous().numpy(), top))
            short = (places < 0).any(1)
            if bool(short.any()):
                best[short], places[short] = self.search(queries[short], top=top)
            return best, places
        scores = queries @ self.descriptors.mT
        if top < len(self.names):
            best, places = scores.topk(top, dim=1)
        else:
            best, places = scores.sort(dim=1, descending=True, stable=True)
        return best, places

    def faiss(self, *, probes: int = 16) -> Any:
        """An inverted file of the descriptors, for `search`: an approximate search among many of them.

        Descriptors are put into about 4 √n cells around spherical k-means; a query is compared with those in the
        `probes` nearest cells. More probes find more and take longer (`nprobe` of what is returned may be changed).
        It takes as much memory as the descriptors once more, and for a million of them some minutes.

        Raises:
            ModuleNotFoundError: the package faiss, of the extra "faiss", is not installed.
        """
        with needed_by("Index.faiss", "faiss"):
            import faiss
        n, d = self.descriptors.shape
        cells = max(1, min(round(4 * n ** 0.5), n // _PER_CELL))
        made: Any = faiss.index_factory(d, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        made.cp.min_points_per_centroid, made.cp.max_points_per_centroid = 1, _PER_CELL
        made.nprobe = probes
        vectors = self.descriptors.detach().cpu().float().contiguous().numpy()
        made.train(vectors)
        made.add(vectors)
        return made

    def save(self, folder: str | Path) -> None:
        """Write `descriptors-<hash>.safetensors` and `index.json`, which is replaced last.

        An interrupted call leaves the index that was there.

        Args:
            folder: made where it is missing.
        """
        folder, content = Path(folder), save({"descriptors": self.descriptors.contiguous()})
        digest = hashlib.sha256(content).hexdigest()
        file = folder / f"descriptors-{digest[:16]}.safetensors"
        with replacing(file) as partial:
            partial.write_bytes(content)
        text = json.dumps({"version": VERSION, "sha256": digest, "about": self.about, "names": self.names,
                           "left_out": self.left_out, "stamps": self.stamps}, indent=1, ensure_ascii=False)
        with replacing(folder / "index.json") as partial:
            partial.write_text(text, encoding="utf-8", errors="surrogateescape")  # names of files need not be UTF-8
        for old in folder.glob("descriptors-*.safetensors"):
            if old != file:
                old.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: str | Path) -> "Index":
        """The index that was saved in a folder.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: it is of another version or damaged.
        """
        folder = Path(folder)
        try:
            found = json.loads((folder / "index.json").read_text(encoding="utf-8", errors="surrogateescape"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{folder / 'index.json'} is damaged ({error}); build the index again") from error
        if found.get("version") != VERSION:
            raise ValueError(f"{folder} holds an index of version {found.get('version')!r}, not {VERSION}; build it "
                             f"again")
        file = folder / f"descriptors-{found['sha256'][:16]}.safetensors"
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != found["sha256"]:
            raise ValueError(f"{file} is missing or damaged; build the index again")
        return cls(load_file(file)["descriptors"], found["names"], found["about"], found["left_out"],
                   found.get("stamps", []))
