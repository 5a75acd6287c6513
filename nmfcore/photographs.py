"""Photographs as they come: of any size, rotated, grey, damaged, oddly named; read one at a time, so that a folder need
not fit in memory.

Which files of a folder are photographs (`listed`), how a file becomes pixels (`decoded`, `upright`) and how its name is
printed (`readable`) is decided here, for everything that reads images from disk.
"""

import io
import math
import os
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, JpegImagePlugin, UnidentifiedImageError
from torch import Tensor

SUFFIXES = {".avif", ".bmp", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".png", ".ppm",
            ".tif", ".tiff", ".webp"}
_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}  # EXIF orientation -> what undoes it
_NAMED = 20  # files in one warning


class Photographs(Sequence[Tensor]):
    """An image set whose images are read from disk when they are asked for: `photographs[i]` is (3, h, w).

    EXIF rotation is applied; grey, palette, alpha and CMYK become RGB; of an animation the first picture is taken. HEIC
    and AVIF are read where the installed Pillow (with pillow-heif) reads them. A JPEG file is decoded at the smallest
    scale that suffices, so that large photographs take little memory. Every file is decoded once at the beginning. One
    that is damaged, has more than 8 bits per channel where Pillow keeps them, or is a narrow strip, which would be
    enormous once its shorter side is `side`, is named in a UserWarning and left out. Another one counts and names what
    the folder holds besides: files of other kinds and sub-folders.

    Args:
        paths: files in the order wanted, or one folder, whose images are taken in name order.
        side: length in pixels of each image's shorter side; the other one keeps the proportions.
        preprocess: turns (3, h, w) RGB in [0, 1] into what a network expects, as `networks.pretrained` returns it;
            without it, images are RGB in [0, 1].
        recursive: take the images of the folder's sub-folders as well, but of none that is hidden or a link.

    Raises:
        FileNotFoundError: a folder or file that is not there.
        ValueError: no image is left.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (640, 480)).save(Path(folder, "a.jpg"))
        ...     photographs = Photographs(folder, side=96)
        ...     print(photographs.names, photographs.sizes, photographs[0].shape)
        ('a.jpg',) ((96, 128),) torch.Size([3, 96, 128])
    """

    paths: tuple[Path, ...]  #: n, of the images that could be read
    names: tuple[str, ...]  #: n, of the files, in a folder as seen from it, such as "a.jpg" or "below/b.jpg"
    sizes: tuple[tuple[int, int], ...]  #: n, (h, w) of each image as it is returned
    left_out: tuple[Path, ...]  #: files that could not be read
    passed_over: tuple[Path, ...]  #: all else in the folder, files that are no images by their suffix, sub-folders

    def __init__(self, paths: str | Path | Iterable[str | Path], *, side: int,
                 preprocess: Callable[[Tensor], Tensor] | None = None, recursive: bool = False):
        if side < 1:
            raise ValueError(f"side={side} is the shorter side of an image in pixels; take at least 1")
        self.side, self.preprocess = side, preprocess
        folder = Path(paths) if isinstance(paths, str | Path) else None
        if folder is not None:
            where, (files, others) = f"the folder {readable(folder)}", listed(folder, recursive=recursive)
        else:
            where, files, others = "the list of files", [Path(file) for file in paths], []  # type: ignore[union-attr]
        found, left_out, unknown = [], [], []
        for file in files:
            try:
                found.append((file, _read(file, side).size[::-1]))
            except FileNotFoundError:
                if folder is None and not os.path.lexists(file):
                    raise
                left_out.append(file)
                warnings.warn(f"left out: {readable(file)} is a link to a file that is not there, or was removed just "
                              "now", stacklevel=2)
            except _NoDecoder:
                left_out.append(file)
                unknown.append(file)
            except ValueError as error:
                left_out.append(file)
                warnings.warn(f"left out: {error}", stacklevel=2)
        if unknown:
            warnings.warn(f"left out: {_counted(unknown, folder, 'file')} of kinds that the installed Pillow does not "
                          "read; install pillow-heif for HEIC, a newer Pillow for AVIF, or save them as JPEG",
                          stacklevel=2)
        rest = describe_passed_over(others, folder)
        if not found:
            raise ValueError(f"{where} holds no image that can be read ({', '.join(sorted(SUFFIXES))}): "
                             f"{len(files)} tried{rest and f'; {rest}'}")
        if rest:
            warnings.warn(rest, stacklevel=2)
        self.paths, self.sizes = zip(*found, strict=True)
        self.names = tuple(_name(path, folder) for path in self.paths)
        self.left_out, self.passed_over = tuple(left_out), tuple(others)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i):
        """(3, h, w) float32, preprocessed.

        Raises:
            ValueError: the file has become unreadable since.
        """
        image = self.rgb(i)
        return image if self.preprocess is None else self.preprocess(image)

    def rgb(self, i: int) -> Tensor:
        """(3, h, w) float32, RGB in [0, 1], to be looked at.

        Raises:
            ValueError: the file has become unreadable since.
        """
        return torch.from_numpy(np.array(_read(self.paths[i], self.side))).permute(2, 0, 1).float() / 255


# --- files of a folder --------------------------------------------------------------------------------------


def listed(folder: str | Path, *, recursive: bool = False) -> tuple[list[Path], list[Path]]:
    """The files of a folder that are images by their suffix, in name order, and all else that is in it.

    Args:
        folder: where to look.
        recursive: descend into sub-folders, but not into those that are hidden, links or closed to us; they are among
            the rest.

    Raises:
        FileNotFoundError: there is no such folder.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.JPG", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     images, others = listed(folder)
        >>> [file.name for file in images], [file.name for file in others]
        (['a.JPG', 'b.png'], ['notes.txt'])
    """
    images: list[Path] = []
    others: list[Path] = []

    def visit(place):
        for path in sorted(place.iterdir()):
            if recursive and os.path.isdir(path) and not path.is_symlink() and not path.name.startswith("."):
                try:
                    visit(path)
                except PermissionError:
                    others.append(path)
            else:
                (images if path.suffix.lower() in SUFFIXES else others).append(path)

    visit(Path(folder))
    return images, others


def describe_passed_over(others: Sequence[Path], folder: str | Path | None = None, *, most: int = _NAMED) -> str:
    """What `listed` found besides images, in words; "" where that is nothing.

    Args:
        others: files and folders.
        folder: names are given as seen from it.
        most: how many of a kind to name; the rest is counted.

    Example:
        >>> from pathlib import Path
        >>> describe_passed_over([Path("notes.txt"), Path("cover.psd")], most=1)
        'passed over: 2 files (notes.txt, and 1 more) of other kinds'
    """
    folders = [path for path in others if os.path.isdir(path)]
    files = [path for path in others if not os.path.isdir(path)]
    parts = [f"{_counted(files, folder, 'file', most)} of other kinds"] if files else []
    if folders:
        parts.append(f"{_counted(folders, folder, 'folder', most)}, which recursive=True (nmfcore --recursive, make "
                     f"RECURSIVE=1) reads unless hidden, a link or closed")
    return f"passed over: {' and '.join(parts)}" if parts else ""


def readable(name: str | Path | Any) -> str:
    r"""A name as it can be printed: line breaks, control characters and bytes that are not UTF-8 become escapes.

    Example:
        >>> print(readable("two" + chr(10) + "lines.jpg"))
        two\nlines.jpg
    """
    text = os.fsencode(str(name)).decode("utf-8", "backslashreplace")
    return "".join(character.encode("unicode_escape").decode()
                   if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") else character for character in text)


def stamp(file: str | Path) -> str:
    """Size and times of a file, by which an edited one, or another in its place, is told from what it was.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     before = stamp(file.name)
        ...     file.write(b"edited")
        ...     file.flush()
        ...     stamp(file.name) == before
        6
        False
    """
    status = os.stat(file)
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def changed_at(file: str | Path) -> int:
    """When a file was last written, renamed or put in its place, in nanoseconds.

    Example:
        >>> import os
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     changed_at(file.name) >= os.stat(file.name).st_mtime_ns
        True
    """
    status = os.stat(file)
    return max(status.st_mtime_ns, status.st_ctime_ns)


def _counted(paths, folder, noun, most=_NAMED):
    """'3 files (a, b, c)'."""
    names = ", ".join(readable(_name(path, folder)) for path in paths[:most])
    more = f", and {len(paths) - most:,} more" if len(paths) > most else ""
    return f"{len(paths):,} {noun}{'s' * (len(paths) != 1)} ({names}{more})"


def _name(path, folder):
    return path.name if folder is None else path.relative_to(folder).as_posix()


# --- from a file to pixels ----------------------------------------------------------------------------------


class _NoDecoder(ValueError):
    """An image of a kind that Pillow knows in other installations."""


@contextmanager
def decoded(file: str | Path | BinaryIO, enough: tuple[int, int] | None = None, *,
            whole: bool = False) -> Iterator[Image.Image]:
    """Within the block, an image whose pixels have been read, not yet `upright`, from a path or a binary file.

    One that has more pixels than Pillow decodes at once is reduced until it does not, unless `whole`. Damaged metadata
    (EXIF, colour profile, comments) do not cost the pixels.

    Args:
        file: a path, or a file open in binary mode.
        enough: (width, height) that suffice; a JPEG is then decoded at 1/2, 1/4 or 1/8 of its size where that leaves as
            much.
        whole: never reduce.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file, for all else that goes wrong, in the block too.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (640, 480)).save(file, "jpeg")
        >>> with decoded(file, (100, 100)) as image:
        ...     image.size
        (160, 120)
    """
    try:
        if isinstance(file, str | Path) and os.path.exists(file) and not os.path.isfile(file):
            raise OSError("it is a folder" if os.path.isdir(file) else "it is not a regular file")
        source = file if isinstance(file, str | Path) or file.seekable() else io.BytesIO(file.read())
        with _loaded(source, enough, whole) as image:
            yield image
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        suffix = Path(file).suffix.lower() if isinstance(file, str | Path) else ""
        if suffix in SUFFIXES and suffix not in Image.registered_extensions():
            raise _NoDecoder(_refusal(file, f"the installed Pillow does not read {suffix}")) from error
        raise ValueError(_refusal(file, "it is damaged or no image")) from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(_refusal(file, f"it has more pixels than Pillow decodes at once, {limit:,}; save it smaller")
                         ) from error
    except Exception as error:  # damaged files make Pillow raise errors of many kinds
        raise ValueError(_refusal(file, getattr(error, "strerror", None) or error)) from error


def _refusal(file, why):
    return f"{readable(file)} cannot be read as an image ({why}); replace the file or remove it"


def upright(image: Image.Image) -> Image.Image:
    """The image as a viewer shows it that obeys its EXIF orientation; as it lies where its metadata are damaged.

    Example:
        >>> from PIL import Image
        >>> image = Image.new("RGB", (640, 480))
        >>> image.getexif()[0x0112] = 6  # the camera was held on its side
        >>> upright(image).size
        (480, 640)
    """
    try:
        turned = _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # of many kinds, as for damaged files; the pixels are sound
        turned = None
    return image if turned is None else image.transpose(turned)


def _loaded(file, enough, whole):
    """An image whose pixels have been read; if need be, on a second try, without the metadata of the file."""
    def load(source):
        image = _header(source)
        try:
            size = _within_limit(image, enough, whole)
            if size is not None:
                image.draft(None, size)
            image.load()
        except BaseException:
            image.close()
            raise
        return image

    try:
        return load(file)
    except (FileNotFoundError, PermissionError, Image.DecompressionBombError):
        raise
    except Exception as error:
        bare = _without_metadata(file)
        if bare is None:
            raise
        try:
            return load(bare)
        except Exception:  # it is not the metadata then
            raise error from None


def _without_metadata(file):
    """A JPEG, PNG or AVIF file without what its pixels do not need, in memory; None for one of another kind."""
    if isinstance(file, str | Path):
        data = Path(file).read_bytes()
    else:
        file.seek(0)
        data = file.read()
    kept, at = [], 0
    if data.startswith(b"\xff\xd8\xff"):
        at = 2
        while data[at:at + 1] == b"\xff" and data[at + 1:at + 2] != b"\xda":  # segments up to the first scan
            marker, length = data[at + 1], int.from_bytes(data[at + 2:at + 4], "big")
            if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or (marker == 0xEE and length >= 14):  # Adobe's: colours
                kept.append(data[at:at + 2 + length])
            at += 2 + length
        return io.BytesIO(b"".join([data[:2], *kept, data[at:]]))
    if data.startswith(b"\x89PNG"):
        at = 8
        while at < len(data):
            length = 12 + int.from_bytes(data[at:at + 4], "big")
            if data[at + 4:at + 5].isupper() or data[at + 4:at + 8] == b"tRNS":  # critical, by the case of its name
                kept.append(data[at:at + length])
            at += length
        return io.BytesIO(b"".join([data[:8], *kept]))
    if data[4:12] == b"ftypavif":
        return io.BytesIO(data[:2 ** 16].replace(b"Exif", b"skip") + data[2 ** 16:])  # an item of unknown type
    return None


def _header(file):
    """The image of a file, before its pixels are read. A JPEG may be larger than Pillow opens: see `_check_pixels`."""
    path = isinstance(file, str | Path)
    if path and Path(file).suffix.lower() in (".heic", ".heif"):
        _register_heif()
    stream = open(file, "rb") if path else file
    try:
        stream.seek(0)
        start = stream.read(3)
        stream.seek(0)
        if start != b"\xff\xd8\xff":
            return Image.open(file if path else stream)
        image = JpegImagePlugin.jpeg_factory(stream, os.fspath(file) if path else "")
        image._exclusive_fp = path  # closed with the image
        stream = None
        return image
    finally:
        if path and stream is not None:
            stream.close()


def _register_heif():
    """HEIC is read by a package of its own, which adds itself to Pillow when asked."""
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _within_limit(image, enough, whole):
    """The size to ask a decoder for: `enough`, or less where a JPEG has more pixels than Pillow decodes at once.

    Decoding at a reduced size takes memory for that size alone, unless the file comes in several scans, which are all
    kept: then it is refused, as other formats were when they were opened.
    """
    limit, pixels = 2 * (Image.MAX_IMAGE_PIXELS or math.inf), math.prod(image.size)
    if pixels <= limit or not isinstance(image, JpegImagePlugin.JpegImageFile):
        return enough
    least = min(length // wanted for length, wanted in zip(image.size, enough or image.size, strict=True))
    scale = next((scale for scale in (1, 2, 4, 8) if 2 * scale > min(least, 8) and pixels <= limit * scale ** 2), None)
    if scale is None or whole or image.info.get("progressive") or _in_scans(image):
        raise Image.DecompressionBombError
    return tuple(length // scale for length in image.size)


def _in_scans(image):
    """Whether the first scan of a JPEG, whose header has just been read, holds only some of its components."""
    end, found = image.fp.tell(), False
    for components in range(1, image.layers):
        length = 6 + 2 * components
        image.fp.seek(end - length - 2)
        found = found or image.fp.read(4) == b"\xff\xda" + length.to_bytes(2, "big")
    image.fp.seek(end)
    return found


def _read(file, side):
    """An RGB image whose shorter side is `side`."""
    with decoded(file, (2 * side, 2 * side)) as image:  # twice the side, so that scaling it down still averages
        if max(image.size) > 25 * min(image.size):
            raise ValueError(f"a side of {image.width} × {image.height} is over 25 times the other; crop it")
        if image.mode[0] in "IF":
            raise ValueError(f"it has more than 8 bits per channel, mode {image.mode}; save it with 8")
        return upright(_scaled(image, side))


def _scaled(image, side):
    """RGB, scaled. Only palettes are converted before: of a large picture, a second copy is worth avoiding."""
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    scale = side / min(image.size)
    size = tuple(max(side, round(scale * length)) for length in image.size)
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0).convert("RGB")


def opened(file, whole=False):
    """The image of a file, read and `upright`.

    Args:
        file: as for `decoded`.
        whole: never reduce one that has more pixels than Pillow decodes at once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or has more than 8 bits per channel.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("L", (64, 48)).save(file, "png")
        >>> opened(file).size
        (64, 48)
    """
    with decoded(file, whole=whole) as image:
        found = upright(image.copy())
    if found.mode[0] in "IF":
        raise ValueError(f"{readable(file)} has more than 8 bits per channel (mode {found.mode}); save it with 8")
    return found
