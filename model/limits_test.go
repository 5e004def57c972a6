package model

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/tokenize/pretrained"
)

// allocated is how many bytes do allocated.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// resize makes a file of a model size bytes long; what is new has no blocks on the disk.
func resize(t *testing.T, dir, name string, size int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// At its limit a file is read (and is nonsense here), one byte above it is refused before anything is read.
func TestEveryFileHasASizeLimit(t *testing.T) {
	for _, name := range []string{ConfigFile, ManifestFile, TokenizerFile, pretrained.ConfigFile} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{ManifestFile: sentimentMan}
			if name == pretrained.ConfigFile { // which is read where there is no manifest
				files = map[string]string{pretrained.ConfigFile: "{}"}
			}
			dir := writeModel(t, files, unchanged)
			most := sizeLimits[name]
			resize(t, dir, name, most)
			if _, err := Open(dir); err == nil || strings.Contains(err.Error(), "more than any such file") ||
				!strings.Contains(err.Error(), name) {
				t.Errorf("at the limit: %v", err)
			}
			for _, size := range []int64{most + 1, 1 << 40} {
				resize(t, dir, name, size)
				var err error
				if n := allocated(func() { _, err = Open(dir) }); n > 1<<20 {
					t.Errorf("%d bytes were allocated for a file that is refused", n)
				}
				if says := fmt.Sprintf("%s has %d bytes, more than any such file has (%d)", name, size,
					most); err == nil || !strings.Contains(err.Error(), says) {
					t.Errorf("%d bytes: %v does not say %q", size, err, says)
				}
			}
		})
	}
}

// The ONNX file is hashed in pieces, and one that has more bytes than the manifest says is not hashed at all.
func TestTheONNXFileHasASizeLimit(t *testing.T) {
	dir := writeModel(t, nil, nil)
	m := mustOpen(t, dir)
	most := sizeLimits[OnnxFile]
	resize(t, dir, OnnxFile, most)
	if _, err := Open(dir); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	resize(t, dir, OnnxFile, 64<<20) // to hash two gigabytes takes half a minute on some machines
	if n := allocated(func() {
		if err := m.Verify(); err != nil {
			t.Error(err)
		}
	}); n > 1<<20 {
		t.Errorf("%d bytes were allocated to hash 64 MiB", n)
	}
	resize(t, dir, OnnxFile, most+1)
	says := fmt.Sprintf("%s has %d bytes, more than any such file has (%d)", OnnxFile, most+1, most)
	for name, do := range map[string]func() error{
		"Open":   func() error { _, err := Open(dir); return err },
		"Verify": m.Verify,
		"Load":   func() error { _, err := m.Load(OnnxFile); return err },
	} {
		var err error
		if n := allocated(func() { err = do() }); n > 1<<20 {
			t.Errorf("%s: %d bytes were allocated for a file that is refused", name, n)
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v does not say %q", name, err, says)
		}
	}

	m = mustOpen(t, writeModel(t, map[string]string{ManifestFile: sentimentMan}, unchanged))
	resize(t, m.Dir, OnnxFile, most)
	start := time.Now()
	if err := m.Verify(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("model.onnx has %d bytes, the "+
		"manifest says 4", most)) {
		t.Error(err)
	}
	if took := time.Since(start); took > time.Second/2 { // to hash it takes longer by far
		t.Errorf("it took %v to see that the size is another", took)
	}
}

func TestWeightsBesideTheModelHaveASizeLimit(t *testing.T) {
	m := mustOpen(t, writeModel(t, map[string]string{ManifestFile: sentimentMan}, func(man map[string]any) {
		man["files"].(map[string]any)["weights.bin"] = map[string]any{"sha256": hexSum(""), "bytes": MaxBytes + 1}
	}))
	resize(t, m.Dir, "weights.bin", MaxBytes+1)
	says := fmt.Sprintf("weights.bin has %d bytes, more than any such file has (%d)", MaxBytes+1, MaxBytes)
	if err := m.Verify(); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("%v does not say %q", err, says)
	}
}

func TestNestingIsBounded(t *testing.T) {
	for name, text := range map[string]string{
		ConfigFile:            `{"id2label": {"0": ` + strings.Repeat(`[`, 1_000_000),
		ManifestFile:          `{"format_version": 1, "source": ` + strings.Repeat(`{"a":`, 1_000_000),
		TokenizerFile:         `{"model": {"vocab": ` + strings.Repeat(`[`, 1_000_000),
		pretrained.ConfigFile: `{"unk_token": ` + strings.Repeat(`{"content":`, 1_000_000),
	} {
		files := map[string]string{ManifestFile: sentimentMan, name: text}
		if name == pretrained.ConfigFile {
			delete(files, ManifestFile)
		}
		_, err := Open(writeModel(t, files, nil))
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "exceeded max depth") {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}

// A pipe in place of a file would never end to be opened, and a directory never to be read.
func TestWhatIsNoFileIsRefused(t *testing.T) {
	for _, name := range []string{ConfigFile, ManifestFile, TokenizerFile, pretrained.ConfigFile, OnnxFile} {
		for kind, put := range map[string]func(path string) error{
			"a pipe":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
			"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
			"a device":    func(path string) error { return os.Symlink("/dev/zero", path) },
		} {
			files := map[string]string{ManifestFile: sentimentMan}
			if name == pretrained.ConfigFile {
				files = nil // with a manifest nobody reads it
			}
			dir := writeModel(t, files, unchanged)
			path := filepath.Join(dir, name)
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := put(path); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), path+" is not a file") {
				t.Errorf("%s as %s: %v", name, kind, err)
			}
		}
	}
}

// Nothing here unpacks archives: the path of one gets an error, and the folder it is in stays as it is.
func TestAnArchiveIsNoModel(t *testing.T) {
	var bomb bytes.Buffer
	w := zip.NewWriter(&bomb)
	f, err := w.Create(ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 100 { // 100 MB in 100 kB
		f.Write(zeros)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{
		"model.zip": "is an archive", "model.tar.gz": "is an archive", "model.TGZ": "is an archive",
		"model.tar": "is an archive", "model.tar.zst": "is an archive", "model.npz": "is an archive",
		"model.onnx": "is a file", "model.safetensors": "is a file", "pytorch_model.bin": "is a file",
		"model.h5": "is a file",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bomb.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if n := allocated(func() { _, err = Open(path) }); n > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", name, n)
		}
		if err == nil || !strings.Contains(err.Error(), "model "+path+": "+says) || !strings.Contains(err.Error(),
			"give the directory that holds model.onnx, tokenizer.json and config.json") {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s: %v is in its folder, %v", name, left, err)
		}
	}
}
