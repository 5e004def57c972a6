package textfile

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A file that Python's codecs and compressors have written (scripts/make_file_cases.py), which the exporter's tests
// read too.
type fileCase struct {
	Name    string
	Bytes   []byte
	Packed  bool // Bytes are compressed once more, for this repository
	Lines   []string
	Many    int    // lines of a pattern
	Refused string // words of the error
}

func cases(t *testing.T) []fileCase {
	raw, err := os.ReadFile("testdata/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []fileCase
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		c := &all[i]
		if c.Packed {
			z, err := gzip.NewReader(bytes.NewReader(c.Bytes))
			if err != nil {
				t.Fatal(err)
			}
			if c.Bytes, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		for n := range c.Many {
			c.Lines = append(c.Lines, fmt.Sprintf("line %d äöü", n))
		}
	}
	return all
}

func TestFilesOfPeople(t *testing.T) {
	readers := map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "by bytes": iotest.OneByteReader,
		"with its end": iotest.DataErrReader,
	}
	for _, c := range cases(t) {
		for how, reader := range readers {
			t.Run(c.Name+", "+how, func(t *testing.T) {
				got, err := ReadLines(reader(bytes.NewReader(c.Bytes)), 1<<20)
				if c.Refused != "" {
					place, words, inLine := strings.Cut(c.Refused, ": ")
					if !inLine {
						place, words = "", c.Refused
					}
					var file *Error
					if err == nil || !strings.Contains(err.Error(), words) ||
						inLine != strings.HasPrefix(err.Error(), "line "+place+": ") || errors.As(err,
						&file) == inLine {
						t.Errorf("%q, %v; want %q", got, err, c.Refused)
					}
					return
				}
				if d := cmp.Diff(c.Lines, append([]string{}, got...)); err != nil || d != "" {
					t.Errorf("%v\n%s", err, d)
				}
			})
		}
	}
}

// stream gives what it has and then waits, as a pipe that is still written to.
func stream(t *testing.T, parts ...string) io.Reader {
	in, out := io.Pipe()
	t.Cleanup(func() { out.Close() })
	go func() {
		for _, p := range parts {
			if _, err := io.WriteString(out, p); err != nil {
				return
			}
		}
	}()
	return in
}

func TestALineOfAStreamIsThereAtOnce(t *testing.T) {
	utf16 := "\xff\xfea\x00\n\x00b\x00"
	for first, want := range map[string]string{"a\n": "a", "(\n": "(", "P\n": "P", "\n": "", "BZh\n": "BZh",
		"PAR1\n":          "PAR1",
		"\xef\xbb\xbfa\n": "a", "a\r\n": "a", "1\n": "1", utf16: "a"} {
		done := make(chan string, 1)
		go func() {
			line, err := NewLines(NewReader(stream(t, first)), 100).Next()
			done <- fmt.Sprint(string(line), err)
		}()
		select {
		case got := <-done:
			if got != want+"<nil>" {
				t.Errorf("%q: %q", first, got)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("%q: waits for more", first)
		}
	}
}

func TestALongLineIsCutAndTheNextIsWhole(t *testing.T) {
	in := NewLines(strings.NewReader(strings.Repeat("x", 1<<20)+"\nshort\r\n"), 1000)
	long, err := in.Next()
	if err != nil || len(long) <= 1000 || len(long) > 1000+1<<17 {
		t.Errorf("%d bytes, %v", len(long), err)
	}
	if next, err := in.Next(); err != nil || string(next) != "short" {
		t.Errorf("%q, %v", next, err)
	}
	_, err = ReadLines(strings.NewReader("a\n"+strings.Repeat("y", 2<<20)), 1<<20)
	if err == nil || err.Error() != "line 2: is longer than 1 MiB; write one text a line" {
		t.Error(err)
	}
}

func TestAReaderThatFailsSaysInWhichLine(t *testing.T) {
	_, err := ReadLines(io.MultiReader(strings.NewReader("a\nb\nc"), iotest.ErrReader(errors.New("the disk is gone"))),
		100)
	if err == nil || err.Error() != "line 3: the disk is gone" {
		t.Error(err)
	}
}

func TestAWindowLargerThanTheBoundIsRefused(t *testing.T) {
	// a frame whose header asks for a window of 2 GiB: magic, descriptor, window descriptor
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0, 0}
	_, err := ReadLines(bytes.NewReader(frame), 100)
	if err == nil || !strings.Contains(err.Error(), "a window of more than 128 MiB") {
		t.Error(err)
	}
}

func FuzzReadLines(f *testing.F) {
	f.Add([]byte("\xff\xfea\x00\r\x00"))
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Add([]byte("a\r\n\xef\xbb\xbfb\rc"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		lines, err := ReadLines(bytes.NewReader(raw), 1<<16)
		again, errAgain := ReadLines(iotest.OneByteReader(bytes.NewReader(raw)), 1<<16)
		if fmt.Sprint(err) != fmt.Sprint(errAgain) || err == nil && !cmp.Equal(lines, again) {
			t.Errorf("%s: whole %q %v, by bytes %q %v", base64.StdEncoding.EncodeToString(raw), lines, err, again,
				errAgain)
		}
	})
}
