// Package textfile reads text files that people give: whatever they are encoded in or compressed with comes out as
// UTF-8 without a byte order mark, or as an error that names what the file is and what to do. It knows files by their
// first bytes, never by their names, and waits for no more of a stream than it needs to tell.
//
//	UTF-8, with or without byte order mark      as it is; bytes that are no UTF-8 stay as they are
//	UTF-16 with byte order mark                 converted; a surrogate without its other half is U+FFFD
//	UTF-16 without, beginning in ASCII          converted (RFC 4627, section 3)
//	gzip, Zstandard                             decompressed, however many members or frames
//	anything else in binaries                   an Error
//
// The exporter's scripts/sluice_export/textfile.py reads the same; testdata has files for both.
package textfile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/transform"
)

// Error says of a file that it is no text, or is damaged, and what to do. It lacks the file's name: it goes on as in
// "FILE is a Parquet file; ...".
type Error struct{ text string }

// Error implements error.
func (e *Error) Error() string { return e.text }

func errorf(format string, args ...any) *Error { return &Error{fmt.Sprintf(format, args...)} }

// form is how a file begins that is not plain UTF-8.
type form struct {
	magic      []int16 // bytes; ascii stands for any of ASCII that a text has, digit for 1 to 9
	skip       int     // bytes that are no text: a byte order mark
	compressed bool    // what comes out may again be anything
	open       func(r *bufio.Reader) (io.Reader, error)
	is, do     string // where nothing opens it: what it is, and what to do
}

const (
	ascii = -1 - iota
	digit
)

func bytesOf(s string) []int16 {
	magic := make([]int16, len(s))
	for i := range len(s) {
		magic[i] = int16(s[i])
	}
	return magic
}

// forms are tried in order: of two that match, the first counts.
var forms = append([]form{
	{magic: bytesOf("\xef\xbb\xbf"), skip: 3, open: plain},
	{magic: bytesOf("\xff\xfe\x00\x00"), is: "UTF-32", do: "convert it: iconv -f UTF-32 -t UTF-8"},
	{magic: bytesOf("\x00\x00\xfe\xff"), is: "UTF-32", do: "convert it: iconv -f UTF-32 -t UTF-8"},
	{magic: bytesOf("\xff\xfe"), skip: 2, open: utf16(unicode.LittleEndian)},
	{magic: bytesOf("\xfe\xff"), skip: 2, open: utf16(unicode.BigEndian)},
	{magic: []int16{ascii, 0, ascii, 0}, open: utf16(unicode.LittleEndian)},
	{magic: []int16{0, ascii, 0, ascii}, open: utf16(unicode.BigEndian)},
	{magic: bytesOf("\x1f\x8b"), compressed: true, open: openGzip},
	{magic: bytesOf("\x28\xb5\x2f\xfd"), compressed: true, open: openZstd},
}, binaries()...)

// binaries are forms that are named, and not read.
func binaries() []form {
	var all []form
	for _, b := range []struct{ is, do, magic string }{
		{"compressed with bzip2", "decompress it: bunzip2 -k FILE", "BZh\x001AY&SY"},
		{"compressed with bzip2", "decompress it: bunzip2 -k FILE", "BZh\x00\x17rE8P\x90"},
		{"compressed with xz", "decompress it: unxz -k FILE", "\xfd7zXZ\x00"},
		{"compressed with lz4", "decompress it: lz4 -d FILE", "\x04\x22\x4d\x18"},
		{"compressed with lzip", "decompress it: lzip -dk FILE", "LZIP\x01"},
		{"compressed with compress", "decompress it: gunzip FILE", "\x1f\x9d"},
		{"compressed with snappy", "decompress it", "\xff\x06\x00\x00sNaPpY"},
		{"a zip archive, as .xlsx, .docx and .npz are too", "unpack it, or save the sheet as CSV", "PK\x03\x04"},
		{"a zip archive, as .xlsx, .docx and .npz are too", "unpack it, or save the sheet as CSV", "PK\x05\x06"},
		{"a 7z archive", "unpack it", "7z\xbc\xaf\x27\x1c"},
		{"a rar archive", "unpack it", "Rar!\x1a\x07"},
		{"a Parquet file", asLines("read_parquet(FILE)"), "PAR1\x15"},
		{"an Arrow file", asLines("read_feather(FILE)"), "ARROW1\x00\x00"},
		{"an Arrow stream, as Hugging Face's datasets keep in their cache",
			"write its rows as JSON lines with the datasets library: dataset.to_json(OUT)", "\xff\xff\xff\xff"},
		{"an Avro file", "write its records as JSON lines", "Obj\x01"},
		{"an HDF5 file", asLines("read_hdf(FILE)"), "\x89HDF\r\n\x1a\n"},
		{"an SQLite database", "write its rows as CSV or JSON lines", "SQLite format 3\x00"},
		{"a NumPy array", "write its texts as JSON lines", "\x93NUMPY"},
		{"a document of an old Excel or Word", "save it as CSV or as text", "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"},
		{"a PDF", "take its text out first", "%PDF-"},
		{"a Python pickle", asLines("read_pickle(FILE)"), "\x80\x02"},
		{"a Python pickle", asLines("read_pickle(FILE)"), "\x80\x03"},
		{"a Python pickle", asLines("read_pickle(FILE)"), "\x80\x04"},
		{"a Python pickle", asLines("read_pickle(FILE)"), "\x80\x05"},
	} {
		magic := bytesOf(b.magic)
		if b.magic[:2] == "BZ" {
			magic[3] = digit // the block size
		}
		all = append(all, form{magic: magic, is: b.is, do: b.do})
	}
	for first := int16(0x50); first < 0x60; first++ { // parallel compressors begin with a frame to be skipped
		all = append(all, form{magic: append([]int16{first}, bytesOf("\x2a\x4d\x18")...), compressed: true,
			open: openZstd})
	}
	return all
}

func asLines(call string) string {
	return "write its rows as JSON lines: pandas." + call + ".to_json(OUT, orient=\"records\", lines=True)"
}

// match says whether head begins a form, and whether more bytes could make it one.
func (f *form) match(head []byte) (is, may bool) {
	for i, want := range f.magic {
		if i == len(head) {
			return false, true
		}
		have := head[i]
		switch {
		case want == ascii && inText(have) && (i > 0 || have != '\n'): // an empty first line has no second byte yet
		case want == digit && have >= '1' && have <= '9':
		case want == int16(have):
		default:
			return false, false
		}
	}
	return true, true
}

func inText(b byte) bool { return b >= ' ' && b <= '~' || b == '\t' || b == '\n' || b == '\r' }

// Reader is the text of a file as UTF-8. Its errors are Errors where the file is the reason.
type Reader struct {
	in   *bufio.Reader
	out  io.Reader // nil until the form is known
	err  error
	deep bool // the content of a compressed file
}

// NewReader reads nothing yet. A Reader of a Reader is that itself.
func NewReader(r io.Reader) *Reader {
	if same, ok := r.(*Reader); ok {
		return same
	}
	return &Reader{in: bufio.NewReaderSize(r, 1<<16)}
}

// Check reads as many bytes as it takes to tell what the file is, and says where that is nothing that can be read.
func (r *Reader) Check() error {
	if r.out == nil && r.err == nil {
		r.out, r.err = r.open()
	}
	return r.err
}

// Read implements io.Reader.
func (r *Reader) Read(b []byte) (int, error) {
	if err := r.Check(); err != nil {
		return 0, err
	}
	return r.out.Read(b)
}

func (r *Reader) open() (io.Reader, error) {
	for n := 1; ; n++ {
		head, err := r.in.Peek(n)
		if err != nil && err != io.EOF {
			return nil, err
		}
		ended := len(head) < n
		undecided := false
		for i := range forms {
			f := &forms[i]
			is, may := f.match(head)
			// a file of one character is too short for four bytes of UTF-16
			if ended && len(head) == 2 && len(f.magic) == 4 && (f.magic[0] == ascii || f.magic[1] == ascii) {
				is = may
			}
			if is && !undecided {
				return r.through(f)
			}
			undecided = undecided || may && !ended
		}
		if !undecided {
			return r.plainOrTar()
		}
	}
}

// through opens a file of a form that is known.
func (r *Reader) through(f *form) (io.Reader, error) {
	if f.open == nil {
		return nil, errorf("is %s; %s", f.is, f.do)
	}
	if _, err := r.in.Discard(f.skip); err != nil {
		return nil, err
	}
	out, err := f.open(r.in)
	if err != nil || !f.compressed {
		return out, err
	}
	if r.deep {
		return nil, errorf("is compressed twice; decompress it once")
	}
	inner := &Reader{in: bufio.NewReaderSize(out, 1<<16), deep: true}
	return inner, inner.Check()
}

// plainOrTar is UTF-8 as it is. What comes out of a compressed file may be an archive, and need not be waited for.
func (r *Reader) plainOrTar() (io.Reader, error) {
	if r.deep {
		if head, _ := r.in.Peek(262); len(head) == 262 && string(head[257:]) == "ustar" {
			return nil, errorf("is a tar archive; unpack it")
		}
	}
	return r.in, nil
}

func plain(r *bufio.Reader) (io.Reader, error) { return r, nil }

func utf16(order unicode.Endianness) func(*bufio.Reader) (io.Reader, error) {
	return func(r *bufio.Reader) (io.Reader, error) {
		return transform.NewReader(&pairs{in: r}, unicode.UTF16(order, unicode.IgnoreBOM).NewDecoder()), nil
	}
}

// pairs refuses an odd number of bytes.
type pairs struct {
	in io.Reader
	n  int
}

func (p *pairs) Read(b []byte) (int, error) {
	n, err := p.in.Read(b)
	p.n += n
	if err == io.EOF && p.n%2 == 1 {
		err = errorf("is UTF-16 and ends in the middle of a character; it is cut off, copy it again")
	}
	return n, err
}

func openGzip(r *bufio.Reader) (io.Reader, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, damaged("gzip", err)
	}
	return &decompressed{z, "gzip"}, nil
}

// largestWindow bounds the memory of a Zstandard file, in bytes: the bound of the zstd command.
const largestWindow = 128 << 20

func openZstd(r *bufio.Reader) (io.Reader, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(largestWindow))
	if err != nil {
		return nil, damaged("Zstandard", err)
	}
	return &decompressed{z, "Zstandard"}, nil
}

// decompressed says in our words what is wrong with compressed data.
type decompressed struct {
	in   io.Reader
	name string
}

func (d *decompressed) Read(b []byte) (int, error) {
	n, err := d.in.Read(b)
	if err != nil && err != io.EOF {
		err = damaged(d.name, err)
	}
	return n, err
}

func damaged(name string, err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return errorf("is compressed (%s) and ends too early; it is cut off, copy it again", name)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return errorf("is compressed (%s) with a window of more than %d MiB; compress it without --long or --ultra",
			name, largestWindow>>20)
	default:
		return errorf("is compressed (%s) and damaged; copy it again", name)
	}
}

// Lines are the lines of a text. A line ends with LF or CR LF, or, where the first one ends with a CR alone, with that.
type Lines struct {
	in      *bufio.Reader
	longest int // bytes
	ends    ends
	line    []byte
	mark    []byte
}

type ends int

const (
	endsUnknown ends = iota
	endsLF           // or CR LF
	endsCR           // or any other
)

// NewLines takes the text that a Reader gives. longest is in bytes.
func NewLines(r io.Reader, longest int) *Lines {
	return &Lines{in: bufio.NewReaderSize(r, 1<<16), longest: longest, mark: []byte("\ufeff")}
}

// Next is the next line without its end and without a byte order mark before it, which files that were put together
// have in their middle. It is valid until the next call. One that is longer than the longest is cut off somewhere
// behind that. The error is io.EOF behind the last line; an empty piece behind the last line end is none.
func (l *Lines) Next() ([]byte, error) {
	l.line = l.line[:0]
	for begun := false; ; begun = true {
		head, err := l.in.Peek(max(1, l.in.Buffered()))
		if len(head) == 0 {
			if err == io.EOF && begun {
				return l.done(bytes.TrimSuffix(l.line, []byte("\r"))), nil
			}
			return nil, err
		}
		at := bytes.IndexByte(head, '\n')
		if l.ends != endsLF {
			if cr := bytes.IndexByte(head, '\r'); cr >= 0 && (at < 0 || cr < at) {
				l.take(head[:cr])
				l.in.Discard(cr)
				pair, err := l.in.Peek(2)
				if err != nil && err != io.EOF {
					return nil, err
				}
				if len(pair) == 2 && pair[1] == '\n' {
					l.in.Discard(2)
					l.decide(endsLF)
				} else {
					l.in.Discard(1)
					l.decide(endsCR)
				}
				return l.done(l.line), nil
			}
		}
		if at < 0 {
			l.take(head)
			l.in.Discard(len(head))
			continue
		}
		l.take(head[:at])
		l.in.Discard(at + 1)
		l.decide(endsLF)
		return l.done(bytes.TrimSuffix(l.line, []byte("\r"))), nil
	}
}

func (l *Lines) take(b []byte) {
	if len(l.line) <= l.longest {
		l.line = append(l.line, b...)
	}
}

func (l *Lines) decide(e ends) {
	if l.ends == endsUnknown {
		l.ends = e
	}
}

func (l *Lines) done(line []byte) []byte { return bytes.TrimPrefix(line, l.mark) }

// Problem says why a line is no text, or "". The words go on as in "line 7 ...".
func Problem(line []byte) string {
	if bytes.IndexByte(line, 0) >= 0 {
		return "holds a NUL byte, which no text has; if the file is UTF-16 without a byte order mark, convert it: " +
			"iconv -f UTF-16LE -t UTF-8"
	}
	return ""
}

// NotUTF8 is what errors say of a line that is not UTF-8.
const NotUTF8 = "is not UTF-8; convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8"

// ReadLines reads all lines of a file that must be text from its first line to its last. longest is in bytes. The error
// names the line, where it is not about the file as a whole.
func ReadLines(r io.Reader, longest int) ([]string, error) {
	in := NewLines(NewReader(r), longest)
	var lines []string
	for {
		line, err := in.Next()
		var what string
		var file *Error
		switch {
		case err == io.EOF:
			return lines, nil
		case errors.As(err, &file):
			return nil, err
		case err != nil:
			return nil, fmt.Errorf("line %d: %w", len(lines)+1, err)
		case len(line) > longest:
			what = fmt.Sprintf("is longer than %d MiB; write one text a line", longest>>20)
		case Problem(line) != "":
			what = Problem(line)
		case !utf8.Valid(line):
			what = NotUTF8
		}
		if what != "" {
			if _, err := io.Copy(io.Discard, in.in); errors.As(err, &file) {
				return nil, err // the reason for what this line looks like
			}
			return nil, fmt.Errorf("line %d: %s", len(lines)+1, what)
		}
		lines = append(lines, string(line))
	}
}
