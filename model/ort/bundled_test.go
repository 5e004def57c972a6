package ort

// The whole way from a text to its verdict, with the real tokenizer and the models that the repository ships, against
// transformers' pipelines (../testdata, made by scripts/make_model_goldens.py).

import (
	"compress/gzip"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sluice/model"
	"sluice/pipeline/engine"
	"sluice/tokenize"
	"sluice/tokenize/hf"
)

const bundledDir = "../../models"

// served is a model with all that a worker gives it.
type served struct {
	*model.Model
	tok     *hf.Tokenizer
	session *Session
	runner  engine.Runner
}

func serve(t *testing.T, dir string) served {
	t.Helper()
	needLibrary(t)
	m, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.Manifest != nil {
		m.Manifest.Calibration = nil // what transformers says, the goldens' scores, is not calibrated
	}
	tok, err := hf.Of(m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tok.Close(); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(m, engine.RuntimeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return served{m, tok, s, newRunner(t, s, -1)}
}

func (s served) encode(text string) tokenize.Encoded {
	return s.tok.Encode([][]byte{[]byte(text)}, tokenize.Options{MaxTokens: s.MaxTokens, Offsets: true})[0]
}

// logits of every window.
func (s served) logits(t *testing.T, enc tokenize.Encoded) [][]float32 {
	t.Helper()
	if enc.Err != nil {
		t.Fatal(enc.Err)
	}
	var rows []engine.Tokens
	for _, w := range enc.Windows {
		rows = append(rows, w.IDs)
	}
	return run(t, s.runner, rows...)
}

func TestBundledModelsPassTheirSelfTest(t *testing.T) {
	for _, name := range []string{"sentiment", "ner", "toxicity", "sentiment-tiny"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, filepath.Join(bundledDir, name))
			if err := s.Verify(); err != nil {
				t.Fatal(err)
			}
			if note, err := s.session.SelfTest(t.Context(), s.tok); err != nil || note != "" {
				t.Errorf("note %q, error %v", note, err)
			}
			if err := s.session.Warmup(t.Context(), s.runner); err != nil {
				t.Error(err)
			}
		})
	}
}

// Promise P5 for the models that ship, up to their longest rows: int8 logits of a text are the same bits alone and in
// any batch. A model of another width is tested as well where SLUICE_TEST_MODEL names its directory.
func TestBundledTextsDoNotDependOnTheirNeighbours(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short")
	}
	dirs := []string{}
	for _, name := range []string{"sentiment", "ner", "toxicity", "sentiment-tiny"} {
		dirs = append(dirs, filepath.Join(bundledDir, name))
	}
	if more := os.Getenv("SLUICE_TEST_MODEL"); more != "" {
		dirs = append(dirs, more)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			s := serve(t, dir)
			neighbours(t, s.session, int32(s.Config.VocabSize), s.MaxTokens, 34)
		})
	}
}

func readGolden(t *testing.T, name string, into any) {
	t.Helper()
	f, err := os.Open(filepath.Join("../testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(into); err != nil {
		t.Fatal(err)
	}
}

type goldenEntities struct {
	Texts []struct {
		Text     string
		InputIDs []int32 `json:"input_ids"`
		Logits   [][]float32
		Pipeline map[model.Aggregation][]struct {
			Entity      string
			EntityGroup string `json:"entity_group"`
			Score       float64
			Word        string
			Start, End  int
			Index       int
		}
	}
}

// Entities of an fp32 model equal transformers' to 1e-4: tokens, logits, words, spans and scores. The bundled ner is
// int8, so its tokenizer and judge are given the golden logits, and the whole way is gone with the random byte-level
// model.
func TestEntitiesFromTextToVerdict(t *testing.T) {
	for _, c := range []struct {
		golden, dir string
		computes    bool
	}{{"ner_golden.json.gz", filepath.Join(bundledDir, "ner"), false}, {"roberta_ner_golden.json.gz",
		"../testdata/roberta-tiny", true}} {
		t.Run(c.golden, func(t *testing.T) {
			s := serve(t, c.dir)
			var golden goldenEntities
			readGolden(t, c.golden, &golden)
			judges := map[model.Aggregation]*model.Judge{}
			for _, strategy := range []model.Aggregation{model.AggregationNone, model.AggregationSimple,
				model.AggregationFirst, model.AggregationAverage, model.AggregationMax} {
				j, err := model.NewJudge(s.Model, s.tok, model.JudgeOptions{Aggregation: strategy})
				if err != nil {
					t.Fatal(err)
				}
				judges[strategy] = j
			}
			compared := 0
			for _, g := range golden.Texts {
				enc := s.encode(g.Text)
				if enc.Err != nil || len(enc.Windows) != 1 || !slices.Equal(enc.Windows[0].IDs, g.InputIDs) {
					t.Errorf("%q: other ids than transformers', error %v", g.Text, enc.Err)
					continue
				}
				logits := [][]float32{slices.Concat(g.Logits...)}
				if c.computes {
					computed := s.logits(t, enc)
					if d := distance(computed[0], logits[0]); !(d <= 1e-4) {
						t.Errorf("%q: logits differ from transformers' by %v", g.Text, d)
					}
					logits = computed
				}
				for strategy, want := range g.Pipeline {
					v, err := judges[strategy].Verdict([]byte(g.Text), enc, logits)
					if err != nil {
						t.Fatal(err)
					}
					if len(v.Entities) != len(want) {
						t.Errorf("%s, %q: %d entities, transformers has %d", strategy, g.Text, len(v.Entities),
							len(want))
						continue
					}
					for i, w := range want {
						e := v.Entities[i]
						if e.Group != w.Entity+w.EntityGroup || e.Word != w.Word || e.Start != w.Start ||
							e.End != w.End || e.Index != w.Index || math.Abs(e.Score-w.Score) > 1e-4 {
							t.Errorf("%s, %q, entity %d:\n got %+v\nwant %+v", strategy, g.Text, i, e, w)
						}
						compared++
					}
				}
			}
			if compared < 1000 {
				t.Errorf("only %d entities compared", compared)
			}
		})
	}
}

// The int8 models decide as the fp32 models in transformers do, but for texts of which fp32 itself is unsure. These
// texts are bank customers' questions and oddities, so many have no sentiment; agreement on texts that have one is the
// exporter's measure (98.5 %, evaluation in the manifest).
func TestLabelsFromTextToVerdict(t *testing.T) {
	var golden struct {
		Texts []struct {
			Text     string
			InputIDs []int32 `json:"input_ids"`
			Models   map[string]struct {
				All []model.LabelScore
			}
		}
	}
	readGolden(t, "cls_golden.json.gz", &golden)
	for _, name := range []string{"sentiment", "toxicity"} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, filepath.Join(bundledDir, name))
			j, err := model.NewJudge(s.Model, s.tok, model.JudgeOptions{AllScores: true})
			if err != nil {
				t.Fatal(err)
			}
			decisions, equal := 0, 0
			furthest := 0.0
			for _, g := range golden.Texts {
				enc := s.encode(g.Text)
				if enc.Err != nil || !slices.Equal(enc.Windows[0].IDs, g.InputIDs) {
					t.Errorf("%q: other ids than transformers', error %v", g.Text, enc.Err)
					continue
				}
				v, err := j.Verdict([]byte(g.Text), enc, s.logits(t, enc))
				if err != nil {
					t.Fatal(err)
				}
				for _, want := range g.Models[name].All {
					i := slices.IndexFunc(v.Scores, func(l model.LabelScore) bool { return l.Label == want.Label })
					decisions++
					if v.Scores[i].Score > 0.5 == (want.Score > 0.5) {
						equal++
					} else if math.Abs(want.Score-0.5) > 0.15 {
						t.Errorf("%q: %s has score %.3f, in transformers %.3f", g.Text, want.Label, v.Scores[i].Score,
							want.Score)
					}
					furthest = max(furthest, math.Abs(v.Scores[i].Score-want.Score))
				}
			}
			t.Logf("%d of %d decisions equal, scores differ by at most %.3f", equal, decisions, furthest)
			if float64(equal) < 0.975*float64(decisions) {
				t.Errorf("%d of %d decisions equal transformers', less than 97.5 %%", equal, decisions)
			}
		})
	}
}
