"""Text files that people give, as UTF-8: encodings and compression are known by the first bytes, never by names.

The worker's model/textfile reads the same; model/textfile/testdata has files for both.
"""
import gzip
import io
import re
import zlib
from pathlib import Path

try:
    from compression import zstd            # Python 3.14
except ImportError:
    from backports import zstd

from .errors import ExportError

LARGEST_WINDOW = 27         # bits of a Zstandard window: the bound of the zstd command, 128 MiB
ASCII, FIRST = rb"[\t\n\r -~]", rb"[\t\r -~]"
PANDAS = "write its rows as JSON lines: pandas.%s(FILE).to_json(OUT, orient=\"records\", lines=True)"
ARCHIVE = "a zip archive, as .xlsx, .docx and .npz are too", "unpack it, or save the sheet as CSV"
# what a file begins with -> what it is, and what to do
BINARIES = [(re.compile(magic, re.S), is_, do) for magic, is_, do in (
    (rb"BZh[1-9]1AY&SY", "compressed with bzip2", "decompress it: bunzip2 -k FILE"),
    (rb"BZh[1-9]\x17rE8P\x90", "compressed with bzip2", "decompress it: bunzip2 -k FILE"),
    (rb"\xfd7zXZ\x00", "compressed with xz", "decompress it: unxz -k FILE"),
    (rb"\x04\x22\x4d\x18", "compressed with lz4", "decompress it: lz4 -d FILE"),
    (rb"LZIP\x01", "compressed with lzip", "decompress it: lzip -dk FILE"),
    (rb"\x1f\x9d", "compressed with compress", "decompress it: gunzip FILE"),
    (rb"\xff\x06\x00\x00sNaPpY", "compressed with snappy", "decompress it"),
    (rb"PK\x03\x04", *ARCHIVE),
    (rb"PK\x05\x06", *ARCHIVE),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (rb"Rar!\x1a\x07", "a rar archive", "unpack it"),
    (rb"PAR1\x15", "a Parquet file", PANDAS % "read_parquet"),
    (rb"ARROW1\x00\x00", "an Arrow file", PANDAS % "read_feather"),
    (rb"\xff\xff\xff\xff", "an Arrow stream, as Hugging Face's datasets keep in their cache",
     "write its rows as JSON lines with the datasets library: dataset.to_json(OUT)"),
    (rb"Obj\x01", "an Avro file", "write its records as JSON lines"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", PANDAS % "read_hdf"),
    (rb"SQLite format 3\x00", "an SQLite database", "write its rows as CSV or JSON lines"),
    (rb"\x93NUMPY", "a NumPy array", "write its texts as JSON lines"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an old Excel or Word", "save it as CSV or as text"),
    (rb"%PDF-", "a PDF", "take its text out first"),
    (rb"\x80[\x02-\x05]", "a Python pickle", PANDAS % "read_pickle"),
    (rb"(\xff\xfe\x00\x00|\x00\x00\xfe\xff)", "UTF-32", "convert it: iconv -f UTF-32 -t UTF-8"),
)]


def lines(path):
    """The lines of a file, without their ends and without byte order marks before them.

    A line ends with LF or CR LF, or, where the first one ends with a CR alone, with that.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise ExportError(f"{path} is missing; give an existing file") from None
    except OSError as e:
        raise ExportError(f"{path} cannot be read: {e.strerror}") from None
    data = _utf8(path, data)
    end = re.search(rb"\r\n|\r|\n", data)
    data = data.replace(b"\r\n", b"\n")
    if end and end.group() == b"\r":
        data = data.replace(b"\r", b"\n")
    parts = data.split(b"\n")
    if parts[-1].endswith(b"\r"):
        parts[-1] = parts[-1][:-1]
    elif not parts[-1]:
        parts.pop()
    out = []
    for n, part in enumerate(parts, 1):
        if b"\0" in part:
            raise ExportError(f"{path}:{n}: holds a NUL byte, which no text has; if the file is UTF-16 without a byte "
                              f"order mark, convert it: iconv -f UTF-16LE -t UTF-8")
        try:
            out.append(part.removeprefix(b"\xef\xbb\xbf").decode())
        except UnicodeDecodeError:
            raise ExportError(f"{path}:{n}: is not UTF-8; convert the file, for example: iconv -f WINDOWS-1252 -t "
                              f"UTF-8") from None
    return out


def _utf8(path, data, inner=False):
    """What a file holds, as bytes of UTF-8 or of what is no UTF-8 for its line to tell."""
    for magic, is_, do in BINARIES:
        if magic.match(data):
            raise ExportError(f"{path} is {is_}; {do}")
    packed = None
    if data.startswith(b"\x1f\x8b"):
        packed = "gzip", _gunzip
    elif data.startswith(b"\x28\xb5\x2f\xfd") or re.match(rb"[\x50-\x5f]\x2a\x4d\x18", data):
        packed = "Zstandard", _unzstd
    if packed and inner:
        raise ExportError(f"{path} is compressed twice; decompress it once")
    if packed:
        name, unpack = packed
        try:
            return _utf8(path, unpack(data), inner=True)
        except (EOFError, IndexError):
            raise ExportError(f"{path} is compressed ({name}) and ends too early; it is cut off, copy it "
                              f"again") from None
        except (OSError, zlib.error, zstd.ZstdError) as e:
            if "memory" in str(e):
                raise ExportError(f"{path} is compressed ({name}) with a window of more than "
                                  f"{2 ** (LARGEST_WINDOW - 20)} MiB; compress it without --long or --ultra") from None
            raise ExportError(f"{path} is compressed ({name}) and damaged; copy it again") from None
    if inner and data[257:262] == b"ustar":
        raise ExportError(f"{path} is a tar archive; unpack it")
    for mark, order in ((b"\xff\xfe", "le"), (b"\xfe\xff", "be")):
        if data.startswith(mark):
            return _utf16(path, data[2:], order)
    if re.match(FIRST + rb"\0(" + ASCII + rb"\0|\Z)", data):
        return _utf16(path, data, "le")
    if re.match(rb"\0" + ASCII + rb"(\0" + ASCII + rb"|\Z)", data):
        return _utf16(path, data, "be")
    return data.removeprefix(b"\xef\xbb\xbf")


def _utf16(path, data, order):
    if len(data) % 2:
        raise ExportError(f"{path} is UTF-16 and ends in the middle of a character; it is cut off, copy it again")
    return data.decode("utf-16-" + order, errors="replace").encode()


def _gunzip(data):
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as f:
        return f.read()


def _unzstd(data):
    options = {zstd.DecompressionParameter.window_log_max: LARGEST_WINDOW}
    with zstd.ZstdFile(io.BytesIO(data), options=options) as f:
        return f.read()
