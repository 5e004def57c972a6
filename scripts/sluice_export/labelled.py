"""Rows of files with texts and what is right about them: JSON lines, TSV, CSV and IOB2, as docs/files.md has them.

The worker's model/labelled reads the same; model/labelled/testdata has files for both.
"""
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from . import textfile
from .config import shown
from .errors import ExportError

FORMATS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".tsv": "tsv", ".csv": "csv", ".iob2": "iob2",
           ".iob": "iob2", ".conll": "iob2", ".txt": "txt"}
SEPARATED = {"tsv": "tabs", "csv": "commas"}
TEXT_NAMES = ("text", "sentence", "content")
LABEL, LABELS, ENTITIES, VALUES = "label", "labels", "entities", "values"     # what a row has beside its text
EXAMPLES = {LABEL: '{"text": "…", "label": "…"}', LABELS: '{"text": "…", "labels": ["…"]}',
            VALUES: '{"text": "…", "label": 0.5}',
            ENTITIES: '{"text": "…", "entities": [{"entity_group": "PER", "start": 0, "end": 3}]}'}


@dataclass
class Row:
    """One text. truth: a label's name or number; a list of them; numbers; (group, start, end) in characters."""
    line: int
    text: str
    truth: object = None
    words: list = None      # IOB2: (word, tag) of each


def texts(path):
    """Texts of a file, whatever else it has: a line each in .txt; the text of every row in the others."""
    path, lines = Path(path), textfile.lines(path)
    kind = _format(path, lines, "txt")
    if kind == "txt":
        found = lines
    elif kind == "iob2":
        found = [" ".join(w for w, _ in words) for _, words in _sentences(path, lines)]
    else:
        found = [row.text for row in _rows(path, lines, kind, None)]
    found = [t.strip() for t in found if t.strip()]
    if not found:
        raise ExportError(f"{path} holds no texts; give a text a line, or a .tsv, .csv or .jsonl with a column "
                          f"\"text\"")
    return found


def read(path, form):
    """Rows of a file, each with what the form says."""
    path, lines = Path(path), textfile.lines(path)
    kind = _format(path, lines, "json")
    if kind == "txt":
        kind = "json"
    if kind == "iob2":
        if form != ENTITIES:
            raise ExportError(f"{path}: IOB2 has a tag for every word, and the model gives labels of whole texts; "
                              f"write lines like {EXAMPLES[form]}")
        rows = [Row(n, " ".join(w for w, _ in words), _spans(words), words) for n, words in _sentences(path, lines)]
    else:
        if form == ENTITIES and kind != "json":
            raise ExportError(f"{path}: a table has one label a text, and the model finds entities; write lines like "
                              f"{EXAMPLES[form]}, or IOB2 in a file whose name ends in .iob2")
        rows = list(_rows(path, lines, kind, form))
    for row in rows:
        if not row.text.strip():
            raise ExportError(f"{path}:{row.line}: its text is empty; remove the line: a worker asks no model about "
                              f"such a record")
    if not rows:
        raise ExportError(f"{path} holds no labelled texts; write lines like {EXAMPLES[form]}")
    return rows


def name_of(name, known):
    """The place of a name among the known ones, as it is written or in another case of ASCII; or None."""
    if name in known:
        return known.index(name)
    found = [i for i, k in enumerate(known) if _lower(k) == _lower(name)]
    return found[0] if len(found) == 1 else None


def id_of(label, known):
    """The place of a label that is written as its name or as its number (1, "1", 1.0), or None. A name counts first."""
    at = name_of(label, known)
    m = re.fullmatch(r"\s*([+-]?[0-9]{1,18})(\.0*)?\s*", label)
    if at is not None or not m:
        return at
    n = int(m[1])
    at = name_of(str(n), known)
    return at if at is not None else n if 0 <= n < len(known) else None


def resolve(path, row, known):
    """The places of a row's label, or labels, among the known ones."""
    found = []
    for label in row.truth if isinstance(row.truth, list) else [row.truth]:
        at = id_of(label, known)
        if at is None and label == "":
            raise ExportError(f"{path}:{row.line}: has no label; write one of the model's ({', '.join(known)}), or "
                              f"remove the line")
        if at is None and _number_name(label.strip()) == "-1":
            raise ExportError(f"{path}:{row.line}: has the label -1, as datasets mark a text that has none; remove the "
                              f"line")
        if at is None:
            raise ExportError(f"{path}:{row.line}: {json.dumps(label, ensure_ascii=False)} is none of the model's "
                              f"labels ({', '.join(known)}); correct it, or name another model")
        if at in found:
            raise ExportError(f"{path}:{row.line}: has the label {known[at]} twice; name each label that is right once "
                              f"(a list of zeros and ones, a number for each label, is not read)")
        found.append(at)
    return found


def _lower(s):
    return s.translate({i: i + 32 for i in range(ord("A"), ord("Z") + 1)})


def _format(path, lines, other):
    """The format of a file by its name, or else by its first line that is not empty."""
    endings = [s.lower() for s in path.suffixes]
    while endings and endings[-1] in (".gz", ".zst"):
        endings.pop()
    if endings and endings[-1] in FORMATS:
        return FORMATS[endings[-1]]
    head = next((line.strip() for line in lines if line.strip()), "")
    for kind, separator in (("tsv", "\t"), ("csv", ",")):
        names = _names(head.split(separator))
        if len(names) > 1 and set(names) & set(TEXT_NAMES) and {"label", "labels"} & set(names):
            return kind
    return "json" if head.startswith(("{", "[")) else other


def _names(cells):
    return [c.strip().strip('"').lower() for c in cells]


def _rows(path, lines, kind, form):
    """Rows of JSON lines or of a table. form None: their texts only."""
    if kind == "json":
        for n, line in enumerate(lines, 1):
            if line.strip():
                yield _object(path, n, line, form)
        return
    header = None
    for n, cells in _cells(path, lines, kind):
        if header is None:
            header = _names(cells)
            text = _column(path, n, header, TEXT_NAMES, kind)
            label = _column(path, n, header, ("labels", "label") if form == LABELS else ("label", "labels"), kind) \
                if form else None
            continue
        if len(cells) != len(header):
            raise ExportError(f"{path}:{n}: has {len(cells)} columns where the header has {len(header)}; they are "
                              f"separated by {SEPARATED[kind]}")
        yield Row(n, cells[text], _cell(path, n, cells[label], form) if form else None)
    if header is None:
        raise ExportError(f"{path} holds no texts; the first line must be a header with text and label, separated by "
                          f"{SEPARATED[kind]}")


def _column(path, n, header, names, kind):
    for name in names:
        if name in header:
            return header.index(name)
    raise ExportError(f"{path}:{n}: no column {names[0]}; the first line must be a header with text and label, "
                      f"separated by {SEPARATED[kind]} (it has: {_listed(header)})")


def _cell(path, n, cell, form):
    cell = cell.strip()
    if form == LABEL:
        return cell
    parts = [p.strip() for p in cell.split(",") if p.strip()]
    if form == LABELS:
        return Cell(cell, parts)
    try:
        values = [float(p) for p in parts]
    except ValueError:
        values = []
    return _finite(path, n, values, json.dumps(cell, ensure_ascii=False))


class Cell(list):
    """Labels of a cell, with the cell as it is written: one label may have commas in its name."""

    def __init__(self, whole, parts):
        super().__init__(parts)
        self.whole = whole

    def of(self, known):
        """The labels, among the known ones."""
        return [self.whole] if name_of(self.whole, known) is not None else list(self)


def _finite(path, n, values, written):
    if not values or not all(map(math.isfinite, values)):
        raise ExportError(f"{path}:{n}: the label is {written}; write a number, or several with commas where the model "
                          f"has several outputs")
    return values


def _cells(path, lines, kind):
    if kind == "tsv":
        for n, line in enumerate(lines, 1):
            if line.strip():
                yield n, line.split("\t")
        return
    whole, at, n = "\n".join(line.removesuffix("\r") for line in lines), 0, 1     # as encoding/csv does
    field = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\n|\Z)')
    while at < len(whole):
        if whole[at] == "\n":                   # an empty line
            at, n = at + 1, n + 1
            continue
        begun, cells, end = n, [], ","
        while end == ",":
            m = field.match(whole, at)
            if not m and whole.startswith('"', at):
                raise ExportError(f"{path}:{begun}: a quoted field does not end where a comma or the line's end "
                                  f"follows; write quotes within a field twice, and close it with one")
            if not m:
                raise ExportError(f"{path}:{begun}: a field that does not begin with a quote has one in it; put the "
                                  f"whole field in quotes, and write those within it twice")
            quoted, plain, end = m.groups()
            cells.append(plain if quoted is None else quoted.replace('""', '"'))
            n += m.group().count("\n")
            at = m.end()
        yield begun, cells


def _object(path, n, line, form):
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        why = "nested too deeply" if isinstance(e, RecursionError) else str(e)
        raise ExportError(f"{path}:{n}: is not a JSON object ({why}); write {EXAMPLES[form or LABEL]}") from None
    if isinstance(row, list):
        raise ExportError(f"{path}:{n}: is a list; write each object on a line of its own, as jq -c '.[]' FILE does, "
                          f"such as {EXAMPLES[form or LABEL]}")
    if not isinstance(row, dict):
        raise ExportError(f"{path}:{n}: is not a JSON object; write {EXAMPLES[form or LABEL]}")
    name, text = _member(path, n, row, TEXT_NAMES, form)
    if not isinstance(text, str):
        raise ExportError(f"{path}:{n}: {json.dumps(name)} is {shown(text)}, not a string; write it in quotes")
    text = _whole(text)
    if form is None:
        return Row(n, text)
    if form == ENTITIES:
        return Row(n, text, _entities(path, n, text, _member(path, n, row, ("entities",), form)[1]))
    name, value = _member(path, n, row, ("labels", "label") if form == LABELS else ("label", "labels"), form)
    if form == LABEL:
        return Row(n, text, _label(path, n, name, value))
    if form == VALUES:
        values = value if isinstance(value, list) else [value]
        good = all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e300 for v in values)
        return Row(n, text, _finite(path, n, [float(v) for v in values] if good else [], shown(value)))
    if not isinstance(value, list):
        raise ExportError(f"{path}:{n}: {json.dumps(name)} is {shown(value)}; write {EXAMPLES[form]}, or [] where "
                          f"there are none")
    return Row(n, text, [_label(path, n, f"{name}[{i}]", v) for i, v in enumerate(value)])


def _member(path, n, row, names, form):
    for name in names:
        if name in row:
            return name, row[name]
    raise ExportError(f"{path}:{n}: has no {json.dumps(names[0])} (it has: {_listed(sorted(row))}); write "
                      f"{EXAMPLES[form or LABEL]}")


def _listed(names):
    text = ", ".join(names[:8] + (["…"] if len(names) > 8 else []))
    return text if len(text) <= 200 else text[:200] + "…"


def _whole(text):
    """A text without unpaired halves of UTF-16, which JSON can escape: each is U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _label(path, n, name, value):
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, (bool, int)):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return _number_name(str(value))
    raise ExportError(f"{path}:{n}: {json.dumps(name)} is {shown(value)}; write a label's name, or its number")


def _number_name(number):
    m = re.fullmatch(r"([+-]?[0-9]+)\.?0*", number)
    return str(int(m[1])) if m else number


def _entities(path, n, text, value):
    def wrong(what):
        raise ExportError(f"{path}:{n}: {what}")

    if not isinstance(value, list) or not all(isinstance(e, dict) for e in value):
        wrong(f"\"entities\" is {shown(value)}; write [{{\"entity_group\": \"PER\", \"start\": 0, \"end\": 3}}], or [] "
              f"where there are none")
    out = []
    for i, e in enumerate(value):
        group, start, end = (e.get(k) for k in ("entity_group", "start", "end"))
        if not isinstance(group, str) or not group:
            wrong(f"entities[{i}] has no \"entity_group\"; write for example \"PER\"")
        if not all(isinstance(x, int) and not isinstance(x, bool) for x in (start, end)):
            wrong(f"entities[{i}] has no \"start\" or no \"end\"; write both, in characters of the text")
        if not 0 <= start < end <= len(text):
            wrong(f"entities[{i}] is from {start} to {end} of a text of {len(text)} characters; count characters, not "
                  f"bytes, from 0, the end being the first one behind")
        out.append((group, start, end))
    out.sort(key=lambda e: e[1:])
    return out


def _sentences(path, lines):
    """(line, [(word, tag), ...]) of each sentence of IOB2. Where there are tabs, they separate; else blanks do."""
    sentence = []
    for n, line in enumerate(lines + [""], 1):
        if line.strip():
            cells = line.split("\t")
            if len(cells) < 2:
                cells = line.split()
                if len(cells) > 1 and not re.fullmatch(r"O|[BI]-.+", cells[-1]):
                    cells = []
            if len(cells) < 2:
                raise ExportError(f"{path}:{n}: expected word<TAB>tag (IOB2), an empty line between sentences")
            sentence.append((cells[0], cells[-1].strip()))
        elif sentence:
            if sentence[0][0] != "-DOCSTART-" or len(sentence) > 1:
                yield n - len(sentence), sentence
            sentence = []


def _spans(words):
    """(group, start, end) of the entities of a sentence. I- after another group, or after O, begins one."""
    out, at, open_ = [], 0, False
    for word, tag in words:
        end, begins, group = at + len(word), tag.startswith("B-"), tag[2:] if tag[:2] in ("B-", "I-") else tag
        if tag == "O":
            open_ = False
        elif open_ and not begins and out[-1][0] == group:
            out[-1] = (group, out[-1][1], end)
        else:
            out.append((group, at, end))
            open_ = True
        at = end + 1
    return out
