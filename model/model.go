// Package model says what a model is and what its numbers mean: the model directory (config.json, manifest.json,
// digest) and the step from logits to a verdict, equal to the pipelines of Hugging Face transformers 5.23.
//
// It is pure Go and computes no logits itself: model/ort does.
package model

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sluice/tokenize"
	"sluice/tokenize/pretrained"
)

// Names of the files of a model directory.
const (
	OnnxFile      = "model.onnx"
	TokenizerFile = "tokenizer.json"
	ConfigFile    = "config.json"
	ManifestFile  = "manifest.json"
)

// digestFiles are the files that make a model what it is, in the order in which Digest names them.
var digestFiles = []string{ConfigFile, OnnxFile, TokenizerFile}

// besideFiles are those that make its tokenizer what it is where there is no manifest, as Hugging Face's folders have
// them: a manifest's tokenizer.json is whole by itself.
var besideFiles = slices.DeleteFunc(slices.Clone(pretrained.Files), func(name string) bool {
	return name == TokenizerFile
})

// Task says what a model's logits are about.
type Task string

const (
	TextClassification  Task = "text-classification"  // one row of logits a text
	TokenClassification Task = "token-classification" // one row of logits a token
)

// Layout says how texts become the tensors of the ONNX graph.
type Layout string

const (
	Padded Layout = "padded" // [texts, longest text], short texts filled up with padding tokens and masked
	Packed Layout = "packed" // [all tokens], the rows of all texts end to end, padded for attention only
)

// Model is an opened model directory. It is read-only after Open and Verify, and then safe for concurrent use.
type Model struct {
	Dir       string
	Name      string    // of the manifest, else the directory's
	Manifest  *Manifest // nil for an export of another tool
	Config    Config
	Task      Task
	Labels    []string // by index of the logit
	MaxTokens int      // longest row the model takes, special tokens included
	PairTypes bool     // rows of pairs have token types
	CutLeft   bool     // of a longer text its end is read, not its beginning
	Layout    Layout
	// special tokens that were added for it ([E1]), so that texts may hold them; see pretrained.Tokenizer
	OwnSpecial []string
	// SHA-256 (hex) over config, ONNX, tokenizer and calibration; as the manifest has it until Verify; "" if unknown
	Digest   string
	Warnings []string // what works, but should be put right; one sentence each

	parsed map[string]string // SHA-256 of what Open read of each file
	sums   map[string]string // SHA-256 of each file, since Verify

	unknown string // the tokenizer's token for what is not in its vocabulary ("[UNK]"); "" if it has none
}

// Open reads config.json and manifest.json of a model directory and checks that they agree with one another; every
// mistake is in the error, with file, field and what to do. It neither reads nor hashes the ONNX: see Verify.
//
// A directory without a manifest, as optimum exports it, is taken as padded, with the task of config.json's
// architectures.
func Open(dir string) (*Model, error) {
	if err := checkFiles(dir); err != nil {
		return nil, fmt.Errorf("model %s: %w", dir, err)
	}
	var errs []error
	parsed := map[string]string{}
	read := func(name string) ([]byte, error) {
		raw, err := readFile(filepath.Join(dir, name), sizeLimit(name))
		if err == nil {
			sum := sha256.Sum256(raw)
			parsed[name] = hex.EncodeToString(sum[:])
		}
		return raw, err
	}
	config, err := readConfig(read)
	if err != nil {
		errs = append(errs, err)
	}
	manifest, err := readManifest(filepath.Join(dir, ManifestFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	m := &Model{Dir: dir, Name: baseName(dir), Manifest: manifest, Config: config, Layout: Padded,
		Labels: config.Labels, parsed: parsed}
	tok, err := m.tokenizer(read)
	if err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("model %s: %w", dir, errors.Join(errs...))
	}

	m.CutLeft, m.unknown, m.OwnSpecial = tok.CutLeft, tok.Unknown, tok.Special
	m.PairTypes = tok.Types && config.TokenTypes > 1
	m.Warnings = append(m.Warnings, config.warnings...)
	m.Warnings = append(m.Warnings, tok.Warnings...)
	if manifest == nil {
		err = m.describeByConfig(tok.MaxTokens)
	} else {
		err = m.describeByManifest()
	}
	if err != nil {
		return nil, fmt.Errorf("model %s: %w", dir, err)
	}
	return m, nil
}

// describeByConfig fills in a model that has no manifest.
func (m *Model) describeByConfig(maxTokens int) error {
	m.warn("%s is missing (an export of another tool?): the layout is taken as padded and nothing can be verified; "+
		"scripts/export_model.py makes a directory with a manifest", ManifestFile)
	task, err := m.Config.task()
	if err != nil {
		return err
	}
	m.Task = task
	m.MaxTokens = m.Config.MaxPositions
	if m.MaxTokens == 0 {
		m.MaxTokens = 512
		m.warn("%s: max_position_embeddings is missing: 512 tokens assumed, as BERT has", ConfigFile)
	}
	// transformers truncates at the tokenizer's model_max_length, which may be below what the position table allows.
	if maxTokens > 0 {
		m.MaxTokens = min(m.MaxTokens, maxTokens)
	}
	return nil
}

// describeByManifest fills in a model by its manifest and says where config.json contradicts it.
func (m *Model) describeByManifest() error {
	man, cfg := m.Manifest, &m.Config
	if man.Name != "" {
		m.Name = man.Name
	}
	m.Task, m.Layout, m.MaxTokens = man.Task, man.Layout, man.MaxTokens
	m.Digest = m.digest(func(name string) string { return man.Files[name].SHA256 })

	var errs []error
	conflict := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s: %s: export the model again", ManifestFile, field, fmt.Sprintf(format,
			args...)))
	}
	if task, err := cfg.task(); err == nil && task != man.Task {
		conflict("task", "is %q, but %s is of architecture %s, which is for %q", man.Task, ConfigFile,
			cfg.Architectures[0], task)
	}
	if man.Architecture != "" && len(cfg.Architectures) > 0 && !slices.Contains(cfg.Architectures, man.Architecture) {
		conflict("architecture", "is %q, but %s has %q", man.Architecture, ConfigFile, cfg.Architectures)
	}
	if cfg.positionsKnown && man.MaxTokens > cfg.MaxPositions {
		conflict("max_tokens", "is %d, but %s has positions for %d tokens only", man.MaxTokens, ConfigFile,
			cfg.MaxPositions)
	}
	if man.PadTokenID != nil {
		if cfg.padKnown && *man.PadTokenID != cfg.PadTokenID {
			conflict("pad_token_id", "is %d, but %s has %d", *man.PadTokenID, ConfigFile, cfg.PadTokenID)
		}
		cfg.PadTokenID = *man.PadTokenID
	}
	if man.Calibration != nil && cfg.ProblemType == Regression {
		errs = append(errs, fmt.Errorf("%s: calibration: the values of a regression are no probabilities: take it out",
			ManifestFile))
	}
	for i, g := range man.goldenTexts() {
		rows := 1
		if man.Task == TokenClassification {
			rows = len(g.InputIDs)
		}
		wrong := len(g.Logits) != rows || slices.ContainsFunc(g.Logits,
			func(row []float32) bool { return len(row) != len(m.Labels) })
		if wrong {
			conflict(fmt.Sprintf("golden.texts[%d].logits", i), "are not %d rows of %d logits, one a label of %s", rows,
				len(m.Labels), ConfigFile)
		}
	}
	return errors.Join(errs...)
}

func (m *Model) warn(format string, args ...any) {
	m.Warnings = append(m.Warnings, fmt.Sprintf(format, args...))
}

// Path is the path of one of the directory's files.
func (m *Model) Path(name string) string { return filepath.Join(m.Dir, name) }

// Verify hashes every file that the manifest lists and joins all mismatches into one error; a file that Open read must
// be what it was then. Without a manifest there is nothing else to compare with, but Digest is known afterwards. Reads
// the whole ONNX: seconds for a large model.
func (m *Model) Verify() error {
	names := slices.DeleteFunc(slices.Concat(digestFiles, besideFiles), func(name string) bool {
		return m.parsed[name] == "" && name != OnnxFile // it has no such file
	})
	if m.Manifest != nil {
		names = m.Manifest.fileNames()
	}
	sums := make(map[string]string, len(names))
	var errs []error
	for _, name := range names {
		var want File
		if m.Manifest != nil {
			want = m.Manifest.Files[name]
		}
		sum, err := hashFile(m.Path(name), sizeLimit(name), want.Bytes)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %w", name, err))
			continue
		}
		sums[name] = sum
		switch was := m.parsed[name]; {
		case want.SHA256 != "" && sum != want.SHA256:
			errs = append(errs, fmt.Errorf("%s has SHA-256 %s, the manifest says %s: the file was changed; copy or "+
				"export it again", name, sum, want.SHA256))
		case was != "" && was != sum:
			errs = append(errs, fmt.Errorf("%s had SHA-256 %s when it was read, and has %s now: the file was changed "+
				"in between; start again", name, was, sum))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("model %s failed verification: %w", m.Dir, errors.Join(errs...))
	}
	m.Digest = m.digest(func(name string) string { return sums[name] })
	m.sums = sums
	return nil
}

// Tokenizer is the definition of the model's tokenizer, as transformers builds it of the directory's files. Their bytes
// are verified like those of Load.
func (m *Model) Tokenizer() (*pretrained.Tokenizer, error) {
	return m.tokenizer(func(name string) ([]byte, error) {
		b, err := m.Load(name)
		if missing := errors.Is(err, fs.ErrNotExist); missing != (m.parsed[name] == "") {
			return nil, fmt.Errorf("%s is there, or is missing, other than when the model was opened: the directory "+
				"was changed in between; start again", name)
		}
		return b, err
	})
}

func (m *Model) tokenizer(read pretrained.Reader) (*pretrained.Tokenizer, error) {
	if m.Manifest == nil {
		return pretrained.Read(read, m.Config.givenType, m.Config.TokenizerClass)
	}
	definition, err := read(TokenizerFile)
	if err != nil {
		return nil, err
	}
	tok, err := pretrained.Whole(definition)
	if err != nil {
		return nil, err
	}
	tok.CutLeft = m.Manifest.TruncationSide == SideLeft
	// Exported for pairs, its golden rows tell. Else it ought to have them, and has no input for them (model/ort).
	tok.Types = !m.Manifest.Pairs() || m.Manifest.pairTypes()
	tok.Special = m.Manifest.OwnSpecialTokens
	tok.Find = m.Manifest.SpecialTokens == SpecialModel
	if u := m.Manifest.UnknownToken; u != nil {
		tok.Unknown = *u
	}
	return tok, nil
}

// TokenizeOptions are how a text becomes the model's row, where nothing else is asked for: cut to its longest row.
func (m *Model) TokenizeOptions() tokenize.Options {
	return tokenize.Options{MaxTokens: m.MaxTokens, CutLeft: m.CutLeft, Types: m.PairTypes}
}

// Load reads one of the files that every model has. Where a manifest, or Verify, has told its hash, the bytes
// that are returned have been compared with it: nobody can change the file in between.
func (m *Model) Load(name string) ([]byte, error) {
	b, err := readFile(m.Path(name), sizeLimit(name))
	if err != nil {
		return nil, err
	}
	want := m.sums[name]
	if m.Manifest != nil {
		want = m.Manifest.Files[name].SHA256
	}
	if sum := sha256.Sum256(b); want != "" && hex.EncodeToString(sum[:]) != want {
		return nil, fmt.Errorf("%s has SHA-256 %x where %s was verified: the file was changed; copy or export it again",
			name, sum, want)
	}
	return b, nil
}

// sizeLimits bound what is read into memory, in bytes. The largest tokenizers have 35 MB, the largest ONNX file 2 GiB.
var sizeLimits = map[string]int64{ConfigFile: 4 << 20, ManifestFile: 64 << 20, TokenizerFile: 256 << 20,
	pretrained.ConfigFile: 16 << 20, pretrained.SpecialMapFile: 16 << 20, pretrained.AddedTokensFile: 64 << 20,
	pretrained.WordPieceFile: 64 << 20, pretrained.BPEVocabFile: 64 << 20, pretrained.BPEMergesFile: 64 << 20,
	OnnxFile: 2 << 30}

// MaxBytes bounds every other file of a model: weights beside the ONNX file.
const MaxBytes int64 = 64 << 30

func sizeLimit(name string) int64 {
	if most, ok := sizeLimits[name]; ok {
		return most
	}
	return MaxBytes
}

// openFile opens a file, but no pipe or device, that has at most most bytes, and tells its size.
func openFile(path string, most int64) (*os.File, int64, error) {
	if st, err := os.Stat(path); err != nil { // before it is opened: that of a pipe could block for ever
		return nil, 0, err
	} else if !st.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a file: copy or export the model again", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && st.Size() > most {
		err = fmt.Errorf("%s has %d bytes, more than any such file has (%d): is it the right one?", path, st.Size(),
			most)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// readFile reads a whole file that has at most most bytes.
func readFile(path string, most int64) ([]byte, error) {
	f, size, err := openFile(path, most)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, size, size+1) // one allocation, even for a gigabyte
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if n, err := f.Read(b[len(b):cap(b)]); n > 0 || err != io.EOF {
		return nil, fmt.Errorf("%s is being written: try again", path)
	}
	return b, nil
}

// Tag names the model in a verdict: "sentiment@3f9c2a1b2c3d", the given name and the first 12 digits of Digest. A model
// without a manifest must have been verified before, else it reads "sentiment@unverified".
func (m *Model) Tag(name string) string {
	if m.Digest == "" {
		return name + "@unverified"
	}
	return name + "@" + m.Digest[:12]
}

// calibration is nil where the model has none.
func (m *Model) calibration() *Calibration {
	if m.Manifest == nil {
		return nil
	}
	return m.Manifest.Calibration
}

// digest is the SHA-256 over one line a file, as sha256sum would print them, and one for whatever else the manifest
// says about verdicts: the same digest means the same verdicts.
func (m *Model) digest(sum func(name string) string) string {
	h := sha256.New()
	for _, name := range digestFiles {
		fmt.Fprintf(h, "%s  %s\n", sum(name), name)
	}
	if m.Manifest == nil {
		for _, name := range besideFiles {
			if s := sum(name); s != "" {
				fmt.Fprintf(h, "%s  %s\n", s, name)
			}
		}
		return hex.EncodeToString(h.Sum(nil))
	}
	if c := m.calibration(); c != nil {
		io.WriteString(h, c.digestLine())
	}
	io.WriteString(h, m.Manifest.digestLines())
	return hex.EncodeToString(h.Sum(nil))
}

// hashFile is the SHA-256 (hex) of a file of at most most bytes. Where its size is known to be want (0: it is not),
// another one is told without reading it.
func hashFile(path string, most, want int64) (string, error) {
	f, size, err := openFile(path, most)
	if err != nil {
		return "", fmt.Errorf("cannot be verified: %w", err)
	}
	defer f.Close()
	if want != 0 && size != want {
		return "", fmt.Errorf("has %d bytes, the manifest says %d: the file is incomplete or was replaced; copy or "+
			"export it again", size, want)
	}
	h := sha256.New()
	if n, err := io.Copy(h, io.LimitReader(f, size+1)); err != nil {
		return "", fmt.Errorf("cannot be verified: %w", err)
	} else if n != size {
		return "", errors.New("is being written: try again")
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

var archive = regexp.MustCompile(`(?i)\.(zip|tar|tgz|gz|bz2|xz|zst|7z|rar|npz)$`)

var uriScheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]+:`)

// Scheme is what stands before the colon of a URI, such as mlflow:NAME@ALIAS; "" for a path. It has two letters at
// least, because one is a drive.
func Scheme(ref string) string { return strings.TrimSuffix(uriScheme.FindString(ref), ":") }

// checkFiles says which of the three files that every model needs are not there, and where they may be.
func checkFiles(dir string) error {
	if st, err := os.Stat(dir); err != nil {
		if scheme := Scheme(dir); scheme != "" {
			return fmt.Errorf("models are read from directories only, not from %s URIs: fetch the model, and give the "+
				"path of its directory", scheme)
		}
		return fmt.Errorf("%w: give the path of a model directory", err)
	} else if !st.IsDir() && archive.MatchString(dir) {
		return fmt.Errorf("is an archive, and none is ever unpacked here: unpack it yourself and give the directory "+
			"that holds %s, %s and %s", OnnxFile, TokenizerFile, ConfigFile)
	} else if !st.IsDir() {
		return fmt.Errorf("is a file: give the directory that holds %s, %s and %s", OnnxFile, TokenizerFile, ConfigFile)
	}
	advice := map[string]string{
		OnnxFile:   "make it with scripts/export_model.py",
		ConfigFile: "copy it from the Hugging Face model",
	}
	for _, name := range pretrained.Files {
		advice[name] = "a fast Hugging Face tokenizer is needed; " +
			"AutoTokenizer.from_pretrained(...).save_pretrained(...) writes one"
	}
	var errs []error
	for _, name := range slices.Concat([]string{OnnxFile, ConfigFile}, tokenizerFiles(dir)) {
		f, _, err := openFile(filepath.Join(dir, name), sizeLimit(name))
		if errors.Is(err, fs.ErrNotExist) && slices.Contains(pretrained.Files, name) && (name != TokenizerFile ||
			hasVocabulary(dir)) {
			continue // which of them it needs, package pretrained says
		}
		var path *fs.PathError
		if err != nil && !errors.As(err, &path) {
			errs = append(errs, err)
			continue
		}
		if err != nil {
			hint := advice[name]
			if _, e := os.Stat(filepath.Join(dir, "onnx", name)); e == nil {
				hint = "there is one in onnx/: put all files into one directory"
			}
			errs = append(errs, fmt.Errorf("%s cannot be opened: %w: %s", name, err, hint))
			continue
		}
		head := make([]byte, 64)
		n, err := io.ReadFull(f, head)
		f.Close()
		switch {
		case n == 0:
			errs = append(errs, fmt.Errorf("%s is empty or not a file (%w): %s", name, err, advice[name]))
		case bytes.HasPrefix(head[:n], []byte("version https://git-lfs")):
			errs = append(errs, fmt.Errorf("%s is a Git LFS pointer, not the file itself: run git lfs pull", name))
		}
	}
	return errors.Join(errs...)
}

// tokenizerFiles are those that a directory's tokenizer may be made of.
func tokenizerFiles(dir string) []string {
	_, manifest := os.Stat(filepath.Join(dir, ManifestFile))
	_, whole := os.Stat(filepath.Join(dir, TokenizerFile))
	switch {
	case manifest == nil:
		return []string{TokenizerFile}
	case whole == nil:
		return []string{TokenizerFile, pretrained.ConfigFile, pretrained.SpecialMapFile, pretrained.AddedTokensFile}
	}
	return pretrained.Files
}

// hasVocabulary says whether a directory has a vocabulary in place of a tokenizer.json.
func hasVocabulary(dir string) bool {
	for _, name := range slices.Concat([]string{pretrained.WordPieceFile, pretrained.BPEVocabFile},
		pretrained.SentencePieceFiles) {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

func baseName(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	return filepath.Base(dir)
}

func quoted[T ~string](words ...T) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = fmt.Sprintf("%q", string(w))
	}
	return strings.Join(q, ", ")
}
