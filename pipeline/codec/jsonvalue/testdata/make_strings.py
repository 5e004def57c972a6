"""Makes strings.json: what Python reads in JSON strings with escapes, halves of surrogate pairs among them.

    python3 pipeline/codec/jsonvalue/testdata/make_strings.py > pipeline/codec/jsonvalue/testdata/strings.json

A case is [JSON, text, half]: a JSON string; its text, with U+FFFD for each unpaired half; and the offset in UTF-8 bytes
of the first of them, or -1.
"""

import itertools
import json

PARTS = [r"\ud83d", r"\ude00", r"\uDBFF", r"\udc00", r"\u0041", r"\\", r"\n", "A", "\u00e9", "\U0001f600", r"\u0000"]


def case(parts):
    source = '"' + "".join(parts) + '"'
    read = json.loads(source)
    text = read.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    halves = [i for i, c in enumerate(read) if 0xD800 <= ord(c) < 0xE000]
    half = len(read[: halves[0]].encode()) if halves else -1
    return [source, text, half]


cases = [case(p) for n in range(4) for p in itertools.product(PARTS, repeat=n)]
# JSONTestSuite's i_string_*: what the RFC leaves to each reader
for source in [r"\uDADA", r"\uD888\u1234", r"\uD800\n", r"\uDd1ea", r"\uD800\uD800\n", r"\ud800", r"\ud800abc",
               r"\uDd1e\uD834", r"\uDFAA", r"\uD834\uDd1e", r"\ud83d\\ude00", r"\ud83d\\\ude00", r"\\\ud83d\ude00",
               r"\ud83d\ud83d\ude00\ude00", r"\udbff\udfff", r"\ud800\udc00", r"\ud7ff\ue000", r"\ud83d\"\ude00"]:
    cases.append(case([source]))
print("[")
print(",\n".join(json.dumps(c) for c in cases))
print("]")
