import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import MissingSourceColumn, UnreadableSource
from pipelines.recipes import Source
from pipelines.sources import list_source, members, table_rows, url_rows

CSV = 'URL,TEXT,WIDTH\nhttp://a/1.jpg,"a man, smiling",600\nhttp://a/2.jpg,,\n'


def rows(path, **settings):
    source = Source(path=str(path), **settings)
    listing = list_source(source)
    batches = url_rows(listing) if listing.kind == "urls" else table_rows(listing, source)
    return [
        dict(zip(b, values, strict=True))
        for b in batches
        for values in zip(*b.values(), strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", CSV),
        ("t.tsv", "URL\tTEXT\tWIDTH\nhttp://a/1.jpg\ta man, smiling\t600\nhttp://a/2.jpg\t\t\n"),
        ("t.jsonl", '{"URL": "http://a/1.jpg", "TEXT": "a man, smiling", "WIDTH": 600}\n'
                    '{"URL": "http://a/2.jpg", "TEXT": "", "WIDTH": null}\n'),
    ],
)  # fmt: skip
def test_tables_of_every_kind_give_the_same_rows(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    first, second = rows(tmp_path / name)
    assert (first["url"], first["caption"], first["width"]) == (
        "http://a/1.jpg",
        "a man, smiling",
        600,
    )
    assert (second["url"], second["caption"] or "", second["width"]) == ("http://a/2.jpg", "", None)


def test_a_folder_of_parquet_is_read_in_the_order_of_its_names(tmp_path):
    for name in ("b", "a"):
        pq.write_table(pa.table({"url": [f"http://h/{name}"]}), tmp_path / f"{name}.parquet")
    assert [row["url"] for row in rows(tmp_path)] == ["http://h/a", "http://h/b"]


def test_lines_of_a_text_file_are_urls(tmp_path):
    (tmp_path / "u.txt").write_text("# mine\nhttp://a/1\n\n http://a/2 \n")
    assert [row["url"] for row in rows(tmp_path / "u.txt")] == ["http://a/1", "http://a/2"]


def test_a_column_can_be_named(tmp_path):
    (tmp_path / "t.csv").write_text("link,who\nhttp://a/1,ann\n")
    found = rows(tmp_path / "t.csv", url_column="link", label_column="who")
    assert (found[0]["url"], found[0]["label"]) == ("http://a/1", "ann")


def test_a_missing_column_is_named_with_the_flag_that_helps(tmp_path):
    (tmp_path / "t.csv").write_text("link\nhttp://a/1\n")
    with pytest.raises(MissingSourceColumn, match=r"it has \['link'\].*--source.url-column"):
        rows(tmp_path / "t.csv")
    with pytest.raises(MissingSourceColumn, match="no column 'alt'"):
        rows(tmp_path / "t.csv", url_column="link", caption_column="alt")


def read(source):
    listing = list_source(source)
    return list(members(listing) if listing.kind == "tar" else table_rows(listing, source))


def picture_folder(tmp_path):
    (tmp_path / "Ann").mkdir()
    (tmp_path / "Ann/1.jpg").write_bytes(b"one")
    (tmp_path / "Ann/1.txt").write_text("Ann laughs\n")
    (tmp_path / "b.PNG").write_bytes(b"two!")
    (tmp_path / "notes.pdf").write_bytes(b"no picture")
    return tmp_path


def test_a_folder_gives_its_pictures_with_the_captions_beside_them(tmp_path):
    found = list(members(list_source(Source(path=str(picture_folder(tmp_path)), kind="folder"))))
    assert [(m.member, m.length, m.caption) for m in found] == [
        ("Ann/1.jpg", 3, "Ann laughs"),
        ("b.PNG", 4, ""),
    ]


def test_a_tar_gives_the_place_of_every_picture(tmp_path):
    path = tmp_path / "p.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("x/1.jpg", b"one"), ("x/1.txt", b"a man"), ("x/2.jpg", b"second")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found = list(members(list_source(Source(path=str(path)))))
    data = path.read_bytes()
    assert [data[m.offset : m.offset + m.length] for m in found] == [b"one", b"second"]
    assert [m.caption for m in found] == ["a man", ""]


def test_a_webdataset_tells_caption_label_and_licence_in_its_json(tmp_path):
    path, about = (
        tmp_path / "w.tar",
        b'{"caption": "a man", "license": "CC0", "label": "bob", "n": 1}',
    )
    with tarfile.open(path, "w") as tar:
        for name, data in (("1.jpg", b"x"), ("1.json", about), ("2.jpg", b"y"), ("2.json", b"{")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    first, second = members(list_source(Source(path=str(path))))
    assert (first.caption, first.license, first.label) == ("a man", "CC0", "bob")
    assert (second.caption, second.license, second.label) == ("", "", "")


def test_the_digest_follows_the_files(tmp_path):
    folder = picture_folder(tmp_path)
    source = Source(path=str(folder), kind="folder")
    before = list_source(source).digest
    assert list_source(source).digest == before
    (folder / "notes.pdf").write_bytes(b"another size")
    assert list_source(source).digest == before
    (folder / "c.jpg").write_bytes(b"three")
    assert list_source(source).digest != before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "no path is given"),
        ("none.csv", "does not exist"),
        ("a.tar.gz", "Unpack it first"),
        ("a.docx", "nothing in it is understood"),
        ("broken.parquet", "cannot be read"),
        ("broken.tar", "plain, complete .tar"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_with_the_cure(tmp_path, name, words):
    for made in ("a.tar.gz", "a.docx", "broken.parquet", "broken.tar"):
        (tmp_path / made).write_bytes(b"not what the name says" * 100)
    source = Source(path=str(tmp_path / name) if name else "")
    with pytest.raises(UnreadableSource, match=words):
        read(source)
