"""A file that is no plain CSV or Parquet is read once, whole or not at all, and nothing is guessed."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import zipfile
import zlib
from contextlib import contextmanager

import polars as pl
import pytest

from project.errors import ProjectError
from project.pipeline import sources, spool
from project.pipeline.spool import _parts

spool.kinds()  # what a folder holds is imported when it is needed

TEXT = "name,price,note\nZoë,1.5,a\nÉmile,2.5,\n"


@contextmanager
def left(folder):
    """Nothing is left in a folder."""
    yield
    assert not folder.exists() or not list(folder.iterdir())


def workbook(sheets: dict[str, list[list]]) -> dict[str, str]:
    """Return the files of an .xlsx with these sheets."""
    space = "http://schemas.openxmlformats.org"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    parts = {f"xl/worksheets/sheet{place}.xml": rows for place, rows in enumerate(sheets.values(), 1)}

    def cell(value):
        if isinstance(value, bool):
            return f'<c t="b"><v>{value:d}</v></c>'
        if value is None or isinstance(value, int | float):
            return "<c/>" if value is None else f"<c><v>{value}</v></c>"
        return f'<c t="inlineStr"><is><t>{value}</t></is></c>'

    links = "".join(
        f'<Relationship Id="r{place}" Type="{space}/officeDocument/2006/relationships/worksheet" Target="/{name}"/>'
        for place, name in enumerate(parts, 1)
    )
    listed = "".join(f'<sheet name="{name}" sheetId="{at}" r:id="r{at}"/>' for at, name in enumerate(sheets, 1))
    types = "".join(f'<Override PartName="/{name}" ContentType="{kind}.worksheet+xml"/>' for name in parts)
    return {
        "[Content_Types].xml": f'<Types xmlns="{space}/package/2006/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>{types}</Types>',
        "_rels/.rels": f'<Relationships xmlns="{space}/package/2006/relationships"><Relationship Id="r" '
        f'Type="{space}/officeDocument/2006/relationships/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{space}/package/2006/relationships">{links}'
        "</Relationships>",
        "xl/workbook.xml": f'<workbook xmlns="{space}/spreadsheetml/2006/main" '
        f'xmlns:r="{space}/officeDocument/2006/relationships"><sheets>{listed}</sheets></workbook>',
        **{
            name: f'<worksheet xmlns="{space}/spreadsheetml/2006/main"><sheetData>'
            + "".join(f"<row>{''.join(map(cell, row))}</row>" for row in rows)
            + "</sheetData></worksheet>"
            for name, rows in parts.items()
        },
    }


def save(path, files: dict[str, str]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


# CSV of other kinds


def test_a_plain_csv_or_parquet_is_left_alone(settings, tmp_path):
    (tmp_path / "a.csv").write_text(TEXT)
    (tmp_path / "b.csv").write_bytes(b"\xef\xbb\xbf" + b'a,b\r\n"1;2;3",x\r\n')
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"one\n1\n2\n"))
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "d.parquet")
    assert not spool.accepts(str(tmp_path), settings)
    (tmp_path / "e.csv").write_text("a;b\n1;2\n")
    assert spool.accepts(str(tmp_path), settings)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1", "utf-16", "utf-16-le", "utf-16-be"])
def test_separator_and_encoding_are_found(fetch, tmp_path, separator, encoding):
    path = tmp_path / "a.csv"
    rows = [
        ["name", "price", "note"],
        ["Zoë", "1.5", "plain"],
        ["Émile Ångström", "2", f'"two{separator}fields\nhere"'],
    ]
    path.write_bytes("\r\n".join(separator.join(row) for row in rows).encode(encoding))
    files = fetch(path)
    if separator == "," and encoding.startswith("utf-8"):
        assert list(files) == ["a.csv"]
        return
    assert list(files) == ["a.csv.spooled.parquet"]
    table = pl.read_parquet(files["a.csv.spooled.parquet"])
    assert table.columns == ["name", "price", "note"]
    assert table.rows() == [("Zoë", "1.5", "plain"), ("Émile Ångström", "2", f"two{separator}fields\nhere")]
    assert "a.csv is read as" in fetch.said[0]


@pytest.mark.parametrize(("end", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_csv(fetch, tmp_path, end, pack):
    (tmp_path / f"a.csv.{end}").write_bytes(pack(TEXT.replace(",", ";").encode()))
    assert fetch.table(tmp_path / f"a.csv.{end}")["name"].to_list() == ["Zoë", "Émile"]


def test_csv_in_zstd(fetch, tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="needs the extra `files`")
    (tmp_path / "a.csv.zst").write_bytes(
        zstandard.compress(TEXT.encode()[:20]) + zstandard.compress(TEXT.encode()[20:])
    )
    assert fetch.table(tmp_path / "a.csv.zst")["name"].to_list() == ["Zoë", "Émile"]
    (tmp_path / "a.csv.zst").write_bytes(zstandard.compress(TEXT.encode() * 99)[:-9])
    with pytest.raises(ProjectError, match="cut off"):
        fetch(tmp_path / "a.csv.zst")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b;c,d\n1,2;3,4\n", "could be separated by comma or semicolon"),
        ("Имя;цена\nИван;1\n".encode("cp1251"), "encoding is not clear"),
        ("nazwa;cena\nŁódź;1\n".encode("cp1250"), "encoding is not clear"),
        ("nom;prix\ncafé;1\n".encode("cp850"), "encoding is not clear"),
        ("nom;prix\ncafé;1\n".encode("mac_roman"), "encoding is not clear"),
        ("名前;値段\n日本;1\n".encode("shift_jis"), "encoding is not clear"),
        ("a;b\n1;2\n".encode("utf-32"), "UTF-32"),
        (b"a;b\n\x00\x01\x02\x00\x00", "no text"),
        (b"PK\x03\x04abc", "workbook"),
        (b"PAR1abc", "Parquet"),
        (b"\x1f\x8babc", "gzip"),
        ("a;b\n1;2\n3\n", "row 2 has 1 fields where the header has 2"),
        ('a;b\n1;"2\n', "ends inside a quote"),
        ("a;a\n1;2\n", "'a' twice"),
        ("a;b\n", "no rows"),
        ("a;b\n1;2\n".encode("utf-16")[:-1], "not UTF-16 throughout"),
    ],
)
def test_what_is_not_clear_or_broken_is_refused(fetch, tmp_path, content, said):
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ProjectError, match=said) as caught, left(tmp_path / "spool-1"):
        fetch(path)
    assert "a.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_settings_say_what_is_not_clear(fetch, tmp_path):
    (tmp_path / "a.csv").write_text("a,b;c,d\n1,2;3,4\n")
    assert fetch.table(tmp_path / "a.csv", delimiter=";").columns == ["a,b", "c,d"]
    (tmp_path / "b.csv").write_bytes("nazwa;cena\nŁódź;1\n".encode("cp1250"))
    assert fetch.table(tmp_path / "b.csv", encoding="cp1250")["nazwa"].to_list() == ["Łódź"]
    with pytest.raises(ProjectError, match="unknown name 'nonsense'"):
        fetch(tmp_path / "b.csv", encoding="nonsense")


def test_a_decimal_comma_stays_as_it_is(fetch, tmp_path):
    (tmp_path / "a.csv").write_text("a;b\n1,5;x\n2,5;y\n")
    assert fetch.table(tmp_path / "a.csv")["a"].to_list() == ["1,5", "2,5"]


def test_a_line_may_name_the_separator(fetch, tmp_path):
    (tmp_path / "a.csv").write_text("sep=;\na;b\n1;2\n")
    assert fetch.table(tmp_path / "a.csv").rows() == [("1", "2")]


def test_a_late_letter_is_no_silent_mistake(fetch, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"name;n\n" + b"Anna;1\n" * 60_000 + "Zoë;2\n".encode("cp1252"))
    with pytest.raises(ProjectError, match="not UTF-8 throughout"):
        fetch(path)


@pytest.mark.parametrize("inside", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("end", ["gz", "bz2", "xz", "zst"])
def test_a_decompression_bomb_is_refused(fetch, tmp_path, monkeypatch, needs_extra, end, inside):
    monkeypatch.setattr(sources, "FREE", 1 << 16)
    packs = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    pack = packs[end] if end in packs else needs_extra("zstandard").ZstdCompressor().compress
    head, row = {"csv": (b"a;b\n", b"1;2\n"), "tsv": (b"a\tb\n", b"1\t2\n"), "jsonl": (b"", b'{"a": 1}\n')}[inside]
    path = tmp_path / f"a.{inside}.{end}"
    path.write_bytes(pack(head + row * 300_000))
    with pytest.raises(ProjectError, match=r"decompression bomb.*unpack_ratio"):
        fetch(path)
    assert not list(fetch.folder.iterdir())
    assert fetch.table(path, unpack_ratio=1e6).height == 300_000


def test_an_xz_that_would_take_gigabytes_to_unpack_is_refused(fetch, tmp_path):
    packed = bytearray(lzma.compress(TEXT.replace(",", ";").encode()))
    header = packed[12 : 12 + 4 * (packed[12] + 1)]  # https://tukaani.org/xz/xz-file-format.txt, 3.1
    assert header[2:4] == b"\x21\x01"  # LZMA2, with one byte for its dictionary
    header[4] = 39  # of 3 GiB
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    packed[12 : 12 + len(header)] = header
    path = tmp_path / "a.csv.xz"
    path.write_bytes(packed)
    with pytest.raises(ProjectError, match=r"a\.csv\.xz .*takes more than 128 MB to unpack"):
        fetch(path)
    assert not list(fetch.folder.iterdir())


@pytest.mark.parametrize(("end", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_files_put_one_behind_the_other_are_read_to_the_end(fetch, tmp_path, end, pack):
    text = TEXT.replace(",", ";").encode()
    for padding in (b"", b"\0" * 8, b"\0" * 1_600):  # as on a tape, and more than is unpacked at once
        (tmp_path / f"a.csv.{end}").write_bytes(pack(text[:20]) + pack(text[20:]) + padding)
        assert fetch.table(tmp_path / f"a.csv.{end}")["name"].to_list() == ["Zoë", "Émile"]


def test_names_stay_and_others_are_told(fetch, tmp_path):
    source = tmp_path / "in"
    (source / "x").mkdir(parents=True)
    (source / "y").mkdir()
    (source / "x" / "a.csv").write_text(TEXT)
    (source / "y" / "a.jsonl").write_text('{"name": "Zoë"}\n')
    assert list(fetch(source / "**" / "a.*")) == ["x/a.csv", "y/a.jsonl.spooled.parquet"]
    (source / "a.csv").write_text("a;b\n1;2\n")
    (source / "notes.txt").write_text("no rows")
    assert list(fetch(source)) == ["a.csv.spooled.parquet"]
    assert spool.told(fetch.folder)["ignored"] == ["notes.txt"]
    with pytest.raises(ProjectError, match=r"\.jsonl"):
        fetch(source / "*.txt")


def test_what_is_whole_is_not_read_again(settings, tmp_path):
    path, folder = tmp_path / "a.csv", tmp_path / "spool"
    path.write_text("a;b\n1;2\n")
    first = spool.fetch(str(path), folder, settings, print)
    path.write_text("a;b\n3;4\n")
    assert spool.fetch(str(path), folder, settings, print) == first
    assert pl.read_parquet(first[0]).rows() == [("1", "2")]


def test_a_file_that_changes_while_it_is_read_is_refused(fetch, tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    real = _parts.Parts.add

    def grow(self, frame):
        with path.open("a") as stream:
            stream.write('{"a": 2}\n')
        real(self, frame)

    monkeypatch.setattr(_parts.Parts, "add", grow)
    with pytest.raises(ProjectError, match="changed while it was read"):
        fetch(path)


def test_many_parts_make_one_file_that_is_always_the_same(fetch, tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("n;t\n" + "".join(f"{number};{'é' * (number % 5)}\n" for number in range(5000)))
    whole = fetch.table(path)
    monkeypatch.setattr(_parts, "ROWS", 64)
    monkeypatch.setattr(spool.csv, "BLOCK", 999)
    contents = set()
    for _ in range(3):
        files = fetch(path)
        assert pl.read_parquet(files["a.csv.spooled.parquet"]).equals(whole)
        contents.add(files["a.csv.spooled.parquet"].read_bytes())
    assert len(contents) == 1
    assert whole["n"].to_list() == [str(number) for number in range(5000)]


def test_ten_thousand_columns(fetch, tmp_path):
    names = [f"c{number}" for number in range(10_000)]
    (tmp_path / "a.csv").write_text("\n".join(";".join(row) for row in (names, *[["1"] * 10_000] * 20)))
    assert fetch.table(tmp_path / "a.csv").shape == (20, 10_000)


# JSON lines


def test_json_lines_keep_every_digit(fetch, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": 0.1000, "b": "x\\u00e9", "c": null, "d": true}\r\n\n'
        b'{"a": 12345678901234567890, "e": [1, {"f": 2}], "b": "many"}'
    )
    assert fetch.table(path).to_dicts() == [
        {"a": "0.1000", "b": "xé", "c": None, "d": "true", "e": None},
        {"a": "12345678901234567890", "b": "many", "c": None, "d": None, "e": '[1, {"f": 2}]'},
    ]
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert fetch.table(tmp_path / "b.ndjson.gz").equals(fetch.table(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[{"a": 1}]', "JSON array"),
        (b'{"a": 1}\n{"a": 2', "line 2, the last, is cut off"),
        (b'{"a": 1}\n7\n', "line 2 is no JSON object"),
        (b'{"a": NaN}\n', "line 1"),
        (b'{"a": "\xff"}\n', "a.jsonl"),
        (b'{"a": "\\ud800"}\n', "a.jsonl"),
        (b"\n\n", "no rows"),
        (b"", "no rows"),
    ],
)
def test_broken_json_lines_are_refused(fetch, tmp_path, content, said):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ProjectError, match=said) as caught:
        fetch(path)
    assert "\n" not in str(caught.value)


# workbooks


def test_a_workbook(fetch, tmp_path):
    pytest.importorskip("fastexcel", reason="needs the extra `files`")
    rows = [["name", "n", " b "], ["Zoë", 3, True], [None, None, None], ["many", 0.1, None], [5, "x", False]]
    path = save(tmp_path / "a.xlsx", workbook({"Orders": rows, "Empty": []}))
    assert fetch.table(path).rows() == [("Zoë", "3", "true"), ("many", "0.1", None), ("5", "x", "false")]
    assert fetch.table(path).columns == ["name", "n", "b"]
    path = save(tmp_path / "b.xlsx", workbook({"Orders": rows, "Notes": [["x"], ["y"]]}))
    with pytest.raises(ProjectError, match=r"several sheets.*Orders, Notes"):
        fetch(path)
    assert fetch.table(f"{path}#Notes").rows() == [("y",)]
    with pytest.raises(ProjectError, match="no sheet 'Note'"):
        fetch(f"{path}#Note")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,2\n", "no workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "password"),
        (workbook({"S": [["a", "a"], [1, 2]]}), "'a' twice"),
        (workbook({"S": [["a", None], [1, 2]]}), "column 2, which has no name"),
        (workbook({"S": [["a"]]}), "no rows"),
        (workbook({"S": []}), "no rows"),
        ({"mimetype": "x", "META-INF/manifest.xml": "<encryption-data/>"}, "password"),
        ({"xl/workbook.xml": " " * 3_000_000}, "decompression bomb"),
    ],
)
def test_bad_workbooks_are_refused(fetch, tmp_path, monkeypatch, content, said):
    pytest.importorskip("fastexcel", reason="needs the extra `files`")
    monkeypatch.setattr(spool.excel, "FREE", 1 << 20)
    path = tmp_path / "a.xlsx"
    save(path, content) if isinstance(content, dict) else path.write_bytes(content)
    with pytest.raises(ProjectError, match=said) as caught:
        fetch(path)
    assert "\n" not in str(caught.value)


def test_a_workbook_cut_off_is_refused(fetch, tmp_path):
    pytest.importorskip("fastexcel", reason="needs the extra `files`")
    path = save(tmp_path / "a.xlsx", workbook({"S": [["a"], *([number] for number in range(999))]}))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ProjectError, match="cut off"):
        fetch(path)


# the disk


@pytest.fixture
def tiny(disk):
    """A disk of two megabytes."""
    return disk("size=2m")


@pytest.mark.parametrize("rows", [60_000, 400_000])
def test_a_full_disk_is_said_and_left_empty(settings, tmp_path, tiny, rows):
    path = tmp_path / "a.csv"
    with path.open("w") as stream:
        stream.write("a;b\n")
        stream.writelines(f"{os.urandom(60).hex()};{number}\n" for number in range(rows))
    with pytest.raises(ProjectError, match="No space left") as caught:
        spool.fetch(str(path), tiny / "spool", settings, print)
    assert "\n" not in str(caught.value)
    assert not [one for one in tiny.rglob("*") if one.is_file()]


def test_spooled_files_are_read_like_any(fetch, tmp_path):
    (tmp_path / "a.csv").write_text("a;b\n1;2\n")
    paths = list(fetch(tmp_path / "a.csv").values())
    assert dict(sources.inspect(sources.identify(paths), ["a"], 200)) == {"a": pl.String(), "b": pl.String()}
    assert json.loads((fetch.folder / "whole" / "spool.json").read_bytes())["input"].endswith("a.csv")
