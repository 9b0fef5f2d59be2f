"""What a source holds: tables, URL lists, folders, tars; listed in an order that never changes."""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as pads
import pyarrow.fs as pafs

from infra.configuration import digest
from infra.errors import MissingSourceColumn, UnreadableSource
from infra.storage import Folder, open_folder
from pipelines.recipes import Source

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv",
          ".ogv", ".3gp")  # fmt: skip
TABLES: dict[str, Literal["parquet", "csv", "tsv", "json"]] = {
    ".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "json", ".ndjson": "json",
}  # fmt: skip
KNOWN_COLUMNS: dict[str, tuple[str, ...]] = {
    "url": ("url", "URL", "image_url", "uri"),
    "caption": ("caption", "TEXT", "text", "alt"),
    "license": ("license", "LICENSE", "licence"),
    "label": ("label", "identity", "person"),
    "width": ("width", "WIDTH", "original_width"),
    "height": ("height", "HEIGHT", "original_height"),
}
"""Column names that are understood without being told, LAION's among them."""
TEXT_BYTES = 65_536
"""The most that is read of a caption or .json beside a picture."""

Kind = Literal["table", "urls", "folder", "tar"]


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a source, and what they are."""

    kind: Kind
    root: Folder
    """The folder itself, or the one that the file is in."""
    files: tuple[str, ...]
    digest: str
    """Changes when a file is added, removed, resized or touched."""
    endings: tuple[str, ...] = PICTURES
    """Of the files in folders and tars that are wanted."""


def list_source(source: Source, endings: tuple[str, ...] = PICTURES) -> Listing:
    """Find the files of a source.

    Args:
        source: Where they are.
        endings: Of the files in folders and tars that are wanted.

    Raises:
        UnreadableSource: There is nothing at the path, or nothing that can be understood.
    """
    if not source.path:
        raise UnreadableSource("", "no path is given", "Name one with --source.path.")
    where = open_folder(source.path)
    try:
        info = where.fs.get_file_info(where.path)
        infos = [info]
        if info.type == pafs.FileType.Directory:
            infos = where.fs.get_file_info(pafs.FileSelector(where.path, recursive=True))
    except OSError as error:  # no permission, or an object store that does not answer
        cure = "Check --source.path; for s3:// also AWS_ENDPOINT_URL and the keys."
        raise UnreadableSource(str(where), str(error), cure) from None
    if info.type == pafs.FileType.NotFound:
        raise UnreadableSource(str(where), "it does not exist", "Check --source.path.")
    infos = sorted((i for i in infos if i.is_file), key=lambda i: i.path)
    kind = source.kind if source.kind != "auto" else _guess(where, infos, endings)
    wanted = {"folder": endings, "table": tuple(TABLES), "urls": (".txt",), "tar": (".tar",)}[kind]
    chosen = [i for i in infos if i.path.lower().endswith(wanted) or len(infos) == 1]
    if not chosen:
        raise UnreadableSource(
            str(where), f"it holds no file that ends in {', '.join(wanted)}", "See --source.kind."
        )
    root = where if info.type == pafs.FileType.Directory else Folder(where.fs, _parent(where.path))
    # Captions beside pictures decide rows too.
    marked = [i for i in infos if kind != "folder" or i.path.endswith((*endings, ".txt"))]
    seen = [[i.path.removeprefix(root.path), i.size, i.mtime_ns] for i in marked]
    return Listing(kind, root, tuple(i.path for i in chosen), digest(kind, seen), endings)


def _guess(where: Folder, infos: list[pafs.FileInfo], wanted: tuple[str, ...]) -> Kind:
    """Tell the kind of source from the endings of its files."""
    endings = {PurePosixPath(i.path).suffix.lower() for i in infos}
    if len(infos) == 1 and endings & {".txt"}:
        return "urls"
    if endings & set(TABLES):
        return "table"
    if endings & {".tar"}:
        return "tar"
    if endings & set(wanted):
        return "folder"
    what = "pictures" if wanted == PICTURES else "videos"
    cure = f"Give a URL table, a .txt of URLs, a folder of {what} or a .tar."
    if endings & {".gz", ".tgz", ".zip", ".xz", ".zst"}:
        cure = "Unpack it first: files are read from their place inside a plain .tar."
    raise UnreadableSource(str(where), f"nothing in it is understood ({sorted(endings)})", cure)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def table_rows(listing: Listing, source: Source) -> Iterator[dict[str, list[Any]]]:
    """Yield the rows of all tables in batches: url, caption, license, label, width, height.

    Raises:
        MissingSourceColumn: A table has no column of URLs, or not the one that the recipe names.
        UnreadableSource: A file is no table.
    """
    for path in listing.files:
        try:
            rows = _dataset(listing.root.fs, path)
            chosen = {
                role: _choose(rows.schema.names, role, path, source) for role in KNOWN_COLUMNS
            }
            named = {role: name for role, name in chosen.items() if name}
            for batch in rows.to_batches(columns=list(named.values()), batch_size=8192):
                yield {
                    role: batch[named[role]].to_pylist() if role in named else [None] * len(batch)
                    for role in KNOWN_COLUMNS
                }
        except (pa.ArrowException, OSError) as error:
            words = str(error).splitlines()[0]
            raise UnreadableSource(path, words, "Is it complete, and what it is called?") from None


def _dataset(fs: pafs.FileSystem, path: str) -> pads.Dataset:
    """Open one table by its ending."""
    ending = TABLES.get(PurePosixPath(path).suffix.lower(), "parquet")
    form: Any = ending
    if ending in ("csv", "tsv"):
        form = pads.CsvFileFormat(
            parse_options=pyarrow.csv.ParseOptions(
                delimiter="\t" if ending == "tsv" else ",", newlines_in_values=True
            )
        )
    return pads.dataset(path, filesystem=fs, format=form)


def _choose(present: list[str], role: str, path: str, source: Source) -> str:
    """Name the column that plays ``role``; "" where an optional one is absent."""
    told: str = getattr(source, f"{role}_column")
    wanted = (told,) if told else KNOWN_COLUMNS[role]
    for name in wanted:
        if name in present:
            return name
    if told or role == "url":
        raise MissingSourceColumn(path, wanted, present, f"source.{role}-column")
    return ""


def url_rows(listing: Listing) -> Iterator[dict[str, list[Any]]]:
    """Yield the lines of text files as URLs; empty lines and # comments are passed over."""
    for path in listing.files:
        with listing.root.fs.open_input_stream(path) as stream:
            lines = io.TextIOWrapper(stream, encoding="utf-8", errors="replace")
            urls = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        for start in range(0, len(urls), 8192):
            part = urls[start : start + 8192]
            empty: Mapping[str, list[Any]] = {role: [None] * len(part) for role in KNOWN_COLUMNS}
            yield {**empty, "url": part}


@dataclass(frozen=True, slots=True)
class Member:
    """One wanted file of a folder or tar."""

    source: str
    """The folder or tar, as a path or URI that a worker can open."""
    member: str
    offset: int
    length: int
    caption: str
    label: str = ""
    license: str = ""


def members(listing: Listing) -> Iterator[Member]:
    """Yield the wanted files of folders and tars, with the caption of a .txt of the same name.

    Raises:
        UnreadableSource: A tar is damaged or compressed.
    """
    if listing.kind == "folder":
        yield from _folder_members(listing)
        return
    for path in listing.files:
        try:
            yield from _tar_members(listing.root.fs, path, listing.endings)
        except tarfile.TarError as error:
            raise UnreadableSource(path, str(error), "It must be a plain, complete .tar.") from None


def _folder_members(listing: Listing) -> Iterator[Member]:
    root = listing.root
    infos = root.fs.get_file_info(list(listing.files))
    texts = set(root.files(".txt"))
    for info in infos:
        beside = f"{info.path.rpartition('.')[0]}.txt"
        caption = root.read(beside.removeprefix(f"{root.path}/")) if beside in texts else b""
        member = info.path.removeprefix(f"{root.path}/")
        yield Member(str(root), member, 0, info.size, caption.decode("utf-8", "replace").strip())


def _tar_members(fs: pafs.FileSystem, path: str, endings: tuple[str, ...]) -> Iterator[Member]:
    where = str(Folder(fs, path))
    with fs.open_input_file(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        wanted: list[tarfile.TarInfo] = []
        texts: dict[str, str] = {}
        for info in tar:
            if info.isfile() and info.name.lower().endswith(endings):
                wanted.append(info)
            elif info.isfile() and info.name.endswith((".txt", ".json")):
                text = tar.extractfile(info)
                assert text is not None
                texts[info.name] = text.read(TEXT_BYTES).decode("utf-8", "replace").strip()
    for info in wanted:
        key = info.name.rpartition(".")[0]
        about = _about(texts.get(f"{key}.json", ""))
        caption = texts.get(f"{key}.txt") or about.get("caption", "")
        yield Member(where, info.name, info.offset_data, info.size, caption,
                     about.get("label", ""), about.get("license", ""))  # fmt: skip


def _about(text: str) -> dict[str, str]:
    """Read the words of a WebDataset sample's .json; what is none says nothing."""
    try:
        held = json.loads(text) if text else {}
    except ValueError:
        return {}
    words = held.items() if isinstance(held, dict) else ()
    return {role: str(value) for role, value in words if isinstance(value, str)}
