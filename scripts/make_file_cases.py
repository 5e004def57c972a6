#!/usr/bin/env python3
"""Writes the files that the Go readers of model/textfile and model/labelled and those of sluice_export must read alike.

What is right comes from Python's own codecs, gzip, json and csv: a case is written by them from the rows that it holds,
so that neither reader is its own witness. Needs backports.zstd (or Python 3.14); nothing of sluice_export.
"""
import base64
import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path

try:
    from compression import zstd
except ImportError:
    from backports import zstd

ROOT = Path(__file__).resolve().parent.parent / "model"
LINES = ["Ada Lovelace loved it", "çédille, 東京 and 😀", "", "the end"]
LARGE = [f"line {i} äöü" for i in range(4_000)]        # more than readers have at once
JSON = ['{"text": "größer", "label": "a"}', '{"text": "kleiner", "label": "b"}']


def text(lines=LINES, end="\n", last=True):
    return end.join(lines) + (end if last else "")


def zstandard(data):
    """data as the zstd command compresses it: with a checksum."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


def packed(kind, data):
    """data in an archive or a file of another sort."""
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as z:
            z.writestr(zipfile.ZipInfo("texts.txt"), data)
    elif kind == "tar":
        with tarfile.open(fileobj=out, mode="w") as t:
            info = tarfile.TarInfo("texts.txt")
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def database():
    d = sqlite3.connect(":memory:")
    d.execute("create table texts (t text)")
    return d.serialize()


def text_cases():
    """name -> (bytes, lines or the words of a refusal)."""
    plain = text().encode()
    large = LARGE
    yield "plain", plain, LINES
    yield "empty", b"", []
    yield "one line end", b"\n", [""]
    yield "no line end at the end", text(last=False).encode(), LINES
    yield "one character", b"a", ["a"]
    yield "two characters", b"ab", ["ab"]
    yield "UTF-8 with a byte order mark", text().encode("utf-8-sig"), LINES
    yield "a byte order mark alone", "".encode("utf-8-sig"), []
    yield "two files with byte order marks, put together", text().encode("utf-8-sig") * 2, LINES * 2
    yield "part of a byte order mark", b"\xef\xbb", "1: is not UTF-8"
    for order in ("le", "be"):
        mark = "\ufeff".encode("utf-16-" + order)
        yield f"UTF-16 {order} with a byte order mark", mark + text().encode("utf-16-" + order), LINES
        yield f"UTF-16 {order} without one", text().encode("utf-16-" + order), LINES
        yield f"UTF-16 {order} with CR LF", mark + text(end="\r\n").encode("utf-16-" + order), LINES
        yield f"UTF-16 {order} of JSON lines", text(JSON).encode("utf-16-" + order), JSON
        yield f"UTF-16 {order} of one character", "a".encode("utf-16-" + order), ["a"]
        yield f"UTF-16 {order}, a byte order mark alone", mark, []
        half = "a\ud83db\n".encode("utf-16-" + order, "surrogatepass")
        yield f"UTF-16 {order} without a pair's other half", mark + half, ["a\ufffdb"]
        yield f"UTF-16 {order}, cut off", mark + text().encode("utf-16-" + order)[:-1], "middle of a character"
        yield f"UTF-16 {order}, large", mark + text(large).encode("utf-16-" + order), large
    yield "UTF-16 without a byte order mark, of no ASCII", "Привет, мир\n".encode("utf-16-le"), "1: holds a NUL byte"
    yield "UTF-32", text().encode("utf-32"), "UTF-32"
    yield "UTF-32 be", b"\0\0\xfe\xff" + text().encode("utf-32-be"), "UTF-32"
    yield "Latin-1", "größer\n".encode("latin-1"), "1: is not UTF-8"
    yield "Windows-1252 in the second line", "so\n“quoted”\n".encode("cp1252"), "2: is not UTF-8"
    yield "Shift JIS", "日本語\n".encode("shift-jis"), "1: is not UTF-8"
    yield "overlong", b"a\n\xc0\xaf\n", "2: is not UTF-8"
    yield "a surrogate in UTF-8", b"\xed\xa0\xbd\n", "1: is not UTF-8"
    yield "CR LF", text(end="\r\n").encode(), LINES
    yield "CR LF, none at the end", text(end="\r\n", last=False).encode(), LINES
    yield "CR LF, cut off between the two", text(end="\r\n").encode()[:-1], LINES
    yield "CR alone", text(end="\r").encode(), LINES
    yield "CR alone, none at the end", text(end="\r", last=False).encode(), LINES
    yield "CR alone, then CR LF and LF", b"a\rb\r\nc\nd\r\re", ["a", "b", "c", "d", "", "e"]
    yield "LF with a CR within a line", b"a\nb\rc\r\nd\r\r\ne", ["a", "b\rc", "d\r", "e"]
    yield "other ends of Unicode are none", "a\x0bb\x0cc\x1cd\x85e\u2028f\n".encode(), ["a\x0bb\x0cc\x1cd\x85e\u2028f"]
    yield "a NUL byte", b"a\nb\0c\n", "2: holds a NUL byte"
    yield "NUL bytes only", bytes(100), "1: holds a NUL byte"
    yield "begins like zip", b"PK is not a zip\n", ["PK is not a zip"]
    yield "begins like bzip2", b"BZh9 no\n", ["BZh9 no"]
    yield "begins like Parquet", b"PAR1 no\n", ["PAR1 no"]
    yield "begins like Zstandard's frames", b"P*M no\n", ["P*M no"]
    yield "begins with a parenthesis", b"(", ["("]
    for name, pack in (("gzip", lambda d: gzip.compress(d, mtime=0)), ("Zstandard", zstandard)):
        yield name, pack(plain), LINES
        yield name + ", UTF-16 in it", pack(text().encode("utf-16")), LINES
        yield name + ", a byte order mark in it", pack(text().encode("utf-8-sig")), LINES
        yield name + ", two of them", pack(b"a\nb") + pack(b"c\nd\n"), ["a", "bc", "d"]
        yield name + ", empty", pack(b""), []
        yield name + ", large", pack(text(large).encode()), large
        yield name + ", cut off", pack(text(large).encode())[:-300], "cut off"
        yield name + ", twice", pack(pack(plain)), "compressed twice"
        yield name + ", tar in it", pack(packed("tar", plain)), "a tar archive"
        damaged = bytearray(pack(text(large).encode()))
        damaged[len(damaged) // 2] ^= 0xff
        yield name + ", damaged", bytes(damaged), "damaged"
    yield "gzip, its header only", b"\x1f\x8b\x08", "cut off"
    yield "Zstandard behind a frame to be skipped", b"\x5a\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(plain), LINES
    yield "bzip2", bz2.compress(plain), "bzip2"
    yield "bzip2 of nothing", bz2.compress(b""), "bzip2"
    yield "xz", lzma.compress(plain), "xz"
    yield "lzip", b"LZIP\x01\x0c" + bytes(30), "lzip"
    yield "lz4", b"\x04\x22\x4d\x18\x64\x40\xa7", "lz4"
    yield "zip", packed("zip", plain), "zip"
    yield "an empty zip", packed("zip", b"")[-22:], "zip"
    yield "7z", b"7z\xbc\xaf\x27\x1c\x00\x04", "7z"
    yield "rar", b"Rar!\x1a\x07\x01\x00", "rar"
    yield "Parquet", b"PAR1\x15\x04\x15\x20\x15\x24\x4c" + bytes(40) + b"PAR1", "Parquet"
    yield "Arrow", b"ARROW1\0\0\xff\xff\xff\xff" + bytes(20), "Arrow"
    yield "an Arrow stream", b"\xff\xff\xff\xff\x80\x01\0\0" + bytes(20), "Arrow stream"
    yield "Avro", b"Obj\x01\x04\x14avro.codec", "Avro"
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(8), "HDF5"
    yield "SQLite", database(), "SQLite"
    yield "NumPy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}\n", "NumPy"
    yield "old Excel", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16), "old Excel"
    yield "PDF", b"%PDF-1.7\n", "PDF"
    for protocol in (2, 3, 4, 5):
        yield f"pickle {protocol}", pickle.dumps(["a"], protocol), "pickle"


NAMES = ["NEGATIVE", "POSITIVE", "2"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def table(rows, **dialect):
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", **dialect).writerows(rows)
    return out.getvalue()


def objects(rows):
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def labelled_cases():
    """(name, file, content, form, labels of the model, rows or the words of a refusal); a row: [line, text, what]."""
    one, many, spans = "label", "labels", "entities"
    good = [("fine", "POSITIVE"), ("bad", "NEGATIVE")]
    read = [[2, "fine", "POSITIVE"], [3, "bad", "NEGATIVE"]]
    lines = objects({"text": t, "label": l} for t, l in good)
    yield "JSON lines", "a.jsonl", lines, one, NAMES, [[1, *good[0]], [2, *good[1]]]
    yield "JSON lines of another name", "a.json.gz", lines, one, NAMES, [[1, *good[0]], [2, *good[1]]]
    yield "JSON lines without a name that tells", "labelled", lines, one, NAMES, [[1, *good[0]], [2, *good[1]]]
    for name, separator in (("tsv", "\t"), ("csv", ",")):
        rows = [["label", "text"]] + [[l, t] for t, l in good]
        yield name, "a." + name, table(rows, delimiter=separator), one, NAMES, read
        yield name + " in capitals", "A." + name.upper(), table(rows, delimiter=separator), one, NAMES, read
        yield name + " by its content", "labelled.dat", table(rows, delimiter=separator), one, NAMES, read
        yield name + " with columns in another order", "a." + name, table([["id", "Text ", "LABEL"]] + [
            [i, t, l] for i, (t, l) in enumerate(good)], delimiter=separator), one, NAMES, read
        yield name + ", names of GLUE", "a." + name, table([["sentence", "labels"]] + [
            [t, l] for t, l in good], delimiter=separator), one, NAMES, read
        yield name + ", other names", "a." + name, table([["body", "stars"], ["fine", 5]], delimiter=separator), \
            one, NAMES, "1: no column text"
        yield name + ", no label", "a." + name, table([["text", "stars"], ["fine", 5]], delimiter=separator), \
            one, NAMES, "1: no column label"
        yield name + ", a column too few", "a." + name, f"label{separator}text\nPOSITIVE\n", \
            one, NAMES, "2: has 1 columns"
        yield name + ", a column too many", "a." + name, \
            f"label{separator}text\nPOSITIVE{separator}so{separator}good\n", one, NAMES, "2: has 3 columns"
        yield name + ", an empty label", "a." + name, f"text{separator}label\nfine{separator}\n", one, NAMES, \
            "2: has no label"
        yield name + ", an empty text", "a." + name, f"label{separator}text\nPOSITIVE{separator}\n", one, NAMES, \
            "2: its text is empty"
        yield name + ", empty lines", "a." + name, f"label{separator}text\n\nPOSITIVE{separator}fine\n\n", one, NAMES, \
            [[3, "fine", "POSITIVE"]]
        yield name + ", numbers", "a." + name, table([["label", "text"], [0, "a"], [1, "b"], ["1.0", "c"],
            [" 1 ", "d"]], delimiter=separator), one, NAMES, [[2, "a", "NEGATIVE"], [3, "b", "POSITIVE"],
                                                              [4, "c", "POSITIVE"],
                                              [5, "d", "POSITIVE"]]
        yield name + ", an answer of the endpoint", "a." + name, table([["label", "text", "llm"], [0, "a", 1],
            [1, "b", ""]], delimiter=separator), one, NAMES, [[2, "a", "NEGATIVE"], [3, "b", "POSITIVE"]]
        yield name + ", several labels", "a." + name, table([["labels", "text"], ["toxic,Insult", "a"], ["", "b"],
            ["1", "c"], [" threat , 0 ", "d"]], delimiter=separator), many, ["toxic", "insult", "threat"], \
            [[2, "a", ["toxic", "insult"]], [3, "b", []], [4, "c", ["insult"]], [5, "d", ["threat", "toxic"]]]
        yield name + ", a label with a comma", "a." + name, table([["labels", "text"], ["toxic, very", "a"]],
            delimiter=separator), many, ["toxic, very", "no"], [[2, "a", ["toxic, very"]]]
        yield name + " for entities", "a." + name, table(rows, delimiter=separator), spans, TAGS, \
            "a table has one label"
    hard = ['He said "hi"', "a, b", "two\nlines", "", "\"", "tab\there", "'", "näh, \"so\"\nund so", " blanks "]
    rows, line, want = [["text", "label"]], 2, []
    for t in hard:
        if t.strip():
            rows.append([t, "POSITIVE"])
            want.append([line, t, "POSITIVE"])
            line += 1 + t.count("\n")
    yield "csv, what needs quotes", "a.csv", table(rows), one, NAMES, want
    yield "csv, all in quotes", "a.csv", table(rows, quoting=csv.QUOTE_ALL), one, NAMES, want
    yield "csv, CR LF", "a.csv", table(rows).replace("\n", "\r\n"), one, NAMES, want
    doubled = "label,text\r\nPOSITIVE,fine\r\r\nNEGATIVE,bad\r\r\n"
    yield "csv, CR CR LF of a program that converts ends twice", "a.csv", doubled, one, NAMES, read
    yield "csv, CR CR LF from the header on", "a.csv", doubled.replace("text\r", "text\r\r"), one, NAMES, \
        [[3, "fine", "POSITIVE"], [5, "bad", "NEGATIVE"]]
    yield "csv, no line end at the end", "a.csv", table(rows)[:-1], one, NAMES, want
    yield "csv, a bare quote", "a.csv", "label,text\nPOSITIVE,so \"good\"\n", one, NAMES, \
        "2: a field that does not begin"
    yield "csv, a quote behind a quote", "a.csv", "label,text\nPOSITIVE,\"so\" good\n", one, NAMES, "2: a quoted field"
    yield "csv, an open quote", "a.csv", "label,text\nPOSITIVE,fine\nPOSITIVE,\"so\ngood\n", one, NAMES, \
        "3: a quoted field"
    yield "csv of semicolons", "a.csv", "label;text\nPOSITIVE;fine\n", one, NAMES, "1: no column text"
    yield "tsv, quotes are letters", "a.tsv", "label\ttext\nPOSITIVE\t\"so\" good\n", one, NAMES, \
        [[2, "\"so\" good", "POSITIVE"]]

    def json_label(value, names=NAMES, form=one):
        return "a.jsonl", objects([{"text": "t", "labels" if form == many else "label": value}]), form, names

    for value, right in ((0, "NEGATIVE"), (1, "POSITIVE"), (1.0, "POSITIVE"), ("1", "POSITIVE"), ("1.0", "POSITIVE"),
                         ("positive", "POSITIVE"), ("2", "2"), (2, "2"), (2.0, "2")):
        yield f"a label written {value!r}", *json_label(value), [[1, "t", right]]
    for value, right in ((1, "1"), ("1", "1"), (1.0, "1"), (0, "one"), (3, "3"), (2, "1.0")):
        yield f"{value!r} where names are numbers", *json_label(value, ["one", "1", "1.0", "3", "no"]), \
            [[1, "t", right]]
    yield "true where names are truth values", *json_label(True, ["False", "True"]), [[1, "t", "True"]]
    yield "a name in two cases", *json_label("Good", ["good", "GOOD"]), "1: \"Good\" is none of the model's labels"
    for value, why in ((3, "1: \"3\" is none"), (-1, "1: has the label -1"), (-1.0, "1: has the label -1"),
                       (0.5, "1: \"0.5\" is none"), ("", "1: has no label"), (None, "\"label\" is null"),
                       ([1], "\"label\" is [1]"), ({"a": 1}, "\"label\" is {"), ("GOOD", "1: \"GOOD\" is none"),
                       (True, "1: \"True\" is none"), (10 ** 30, "is none")):
        yield f"a label written {value!r}", *json_label(value), why
    toxic = ["toxic", "insult", "threat"]
    for value, right in (([], []), (["toxic"], ["toxic"]), ([2, 0], ["threat", "toxic"]),
                         (["1", 2.0], ["insult", "threat"])):
        yield f"labels written {value!r}", *json_label(value, toxic, many), [[1, "t", right]]
    for value, why in (([0, 0, 1], "the label toxic twice"), ([0.0, 1.0, 1.0], "the label insult twice"),
                       ([7], "\"7\" is none"), ("toxic", "\"labels\" is \"toxic\""), (None, "\"labels\" is null"),
                       ([None], "labels[0]"),
                       ([["toxic"]], "labels[0]")):
        yield f"labels written {value!r}", *json_label(value, toxic, many), why
    yield "half a pair", "a.jsonl", '{"text": "a\\ud83d", "label": 0}\n', one, NAMES, [[1, "a\ufffd", "NEGATIVE"]]
    yield "halves the wrong way round", "a.jsonl", '{"text": "\\udca9\\ud83dx", "label": 0}\n', one, NAMES, \
        [[1, "\ufffd\ufffdx", "NEGATIVE"]]
    yield "repeated names", "a.jsonl", '{"text": "a", "text": "b", "label": 0, "label": 1}\n', one, NAMES, \
        [[1, "b", "POSITIVE"]]
    yield "a list of objects", "a.json", json.dumps([{"text": "a", "label": 0}]), one, NAMES, "1: is a list"
    yield "no object", "a.jsonl", '"text"\n', one, NAMES, "1: is not a JSON object"
    yield "cut off", "a.jsonl", lines[:-5], one, NAMES, "2: is not a JSON object"
    yield "nested deeply", "a.jsonl", '{"text": ' + "[" * 20_000, one, NAMES, "1: is not a JSON object"
    yield "a text that is none", "a.jsonl", '{"text": 5, "label": 0}\n', one, NAMES, "1: \"text\" is 5"
    yield "an empty text", "a.jsonl", '{"text": " \\t", "label": 0}\n', one, NAMES, "1: its text is empty"
    yield "other members", "a.jsonl", '{"review": "a", "stars": 0}\n', one, NAMES, "(it has: review, stars)"
    yield "nothing", "a.jsonl", "\n\n", one, NAMES, "no"

    found = [{"entity_group": "LOC", "start": 11, "end": 17}, {"entity_group": "per", "start": 0, "end": 3}]
    yield "entities", "a.jsonl", objects([{"text": "Ada met in London", "entities": found},
        {"text": "no", "entities": []}]), spans, TAGS, \
        [[1, "Ada met in London", [["PER", 0, 3], ["LOC", 11, 17]]], [2, "no", []]]
    yield "entities beyond the text", "a.jsonl", objects([{"text": "Zoë", "entities": [
        {"entity_group": "PER", "start": 0, "end": 4}]}]), spans, TAGS, "1: entities[0] is from 0 to 4"
    yield "entities without a group", "a.jsonl", objects([{"text": "Zoë", "entities": [{"start": 0, "end": 3}]}]), \
        spans, TAGS, "entities[0] has no \"entity_group\""
    yield "no entities", "a.jsonl", lines, spans, TAGS, "1: has no \"entities\" (it has: label, text)"
    conll = ("Zoë\tB-PER\nKowalska\tI-PER\nsaw\tO\nNew\tB-LOC\nYork\tI-LOC\nRome\tB-LOC\n\n\nno\tO\n\nin\tI-PER\n"
             "Rome\tI-LOC\n")
    want = [[1, "Zoë Kowalska saw New York Rome", [["PER", 0, 12], ["LOC", 17, 25], ["LOC", 26, 30]]], [9, "no", []],
            [11, "in Rome", [["PER", 0, 2], ["LOC", 3, 7]]]]
    yield "IOB2", "a.iob2", conll, spans, TAGS, want
    yield "IOB2, called conll", "a.conll", conll, spans, TAGS, want
    yield "IOB2 of four columns and blanks", "a.conll", \
        "-DOCSTART- -X- -X- O\n\nAda NNP B-NP B-PER\nmet VBD B-VP O\n", spans, TAGS, [[3, "Ada met", [["PER", 0, 3]]]]
    yield "IOB2 without tags", "a.iob2", "Ada\tB-PER\nword without tag\n", spans, TAGS, "2"
    yield "IOB2 for labels", "a.iob2", conll, one, NAMES, "IOB2 has a tag for every word"


def main():
    cases = []
    for name, data, want in text_cases():
        case = {"name": name, "bytes": base64.b64encode(data).decode()}
        if len(data) > 10_000:
            case |= {"bytes": base64.b64encode(gzip.compress(data, mtime=0)).decode(), "packed": True}
        case |= ({"refused": want} if isinstance(want, str) else {"many": len(LARGE)} if want is LARGE else
                 {"lines": want})
        cases.append(case)
    write("textfile", cases)
    write("labelled", [{"name": n, "file": f, "content": c, "form": form, "known": known} | (
        {"refused": want} if isinstance(want, str) else {"rows": want})
        for n, f, c, form, known, want in labelled_cases()])


def write(room, cases):
    folder = ROOT / room / "testdata"
    folder.mkdir(exist_ok=True)
    rows = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    (folder / "cases.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    print(f"{folder / 'cases.json'}: {len(cases)} cases")


if __name__ == "__main__":
    main()
