package rule

import (
	"fmt"
	"slices"
	"strings"

	"github.com/expr-lang/expr/builtin"

	"sluice/model"
	"sluice/pipeline"
)

// This file owns rules over verdicts: which results are copied to another topic (routes), and which records go to the
// endpoint (escalation.when).

// Verdicts is an expression over a record and the facts about it. Safe for concurrent use.
type Verdicts struct{ compiled }

// Verdict is what a rule sees of a verdict of a text model.
type Verdict struct {
	Label      string             `expr:"label" json:"label,omitempty"`
	Score      float64            `expr:"score" json:"score"`
	Margin     float64            `expr:"margin" json:"margin"`         // between the two highest scores
	Entropy    float64            `expr:"entropy" json:"entropy"`       // of the scores, 0 (certain) to 1
	Confidence float64            `expr:"confidence" json:"confidence"` // the score; of entities: of the whole text
	Scores     map[string]float64 `expr:"scores" json:"scores,omitempty"`
	Groups     []string           `expr:"groups" json:"groups,omitempty"` // entity groups that occur
	Entities   int                `expr:"entities" json:"entities,omitempty"`
	Truncated  bool               `expr:"truncated" json:"truncated,omitempty"`
	Windows    int                `expr:"windows" json:"windows,omitempty"`
	By         string             `expr:"by" json:"by"`
	// Of the student, where one was asked and was not sure; "" and 0 otherwise.
	StudentLabel string  `expr:"student_label" json:"student_label,omitempty"`
	StudentScore float64 `expr:"student_score" json:"student_score,omitempty"`
	Disagrees    bool    `expr:"disagrees" json:"disagrees,omitempty"` // the student said another label
}

// Viewer is a fact's value that says itself what rules see of it. The type of what View returns is that which was
// declared for the fact (Declared.View).
type Viewer interface {
	View(f *pipeline.Fact) any
}

// view is a fact as rules see it.
func view(f *pipeline.Fact) any {
	if v, ok := f.Value.(Viewer); ok {
		return v.View(f)
	}
	v := Verdict{By: string(f.By)}
	d, ok := f.Value.(*model.Verdict)
	if !ok {
		return v
	}
	v.Label, v.Score, v.Margin, v.Entropy, v.Confidence = d.Label, d.Score, d.Margin, d.Entropy, d.Confidence
	v.Entities, v.Truncated, v.Windows = len(d.Entities), d.Truncated, d.Windows
	if d.Scores != nil {
		v.Scores = make(map[string]float64, len(d.Scores))
		for _, s := range d.Scores {
			v.Scores[s.Label] = s.Score
		}
	}
	for i := range d.Entities {
		_, group := model.SplitLabel(d.Entities[i].Group)
		if !slices.Contains(v.Groups, group) {
			v.Groups = append(v.Groups, group)
		}
	}
	if u, ok := f.Unsure.(*model.Verdict); ok {
		v.StudentLabel, v.StudentScore, v.Disagrees = u.Label, u.Confidence, u.Label != d.Label
	}
	return v
}

// Name is how a rule names a fact: what cannot stand in a name is an underscore.
func Name(fact string) string {
	name := strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, fact)
	if name != "" && name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	return name
}

// Declared is a fact that rules may name.
type Declared struct {
	Fact string // its name
	View any    // a value of the type that rules see of it; nil: Verdict
}

// Declare declares the verdicts of text models.
func Declare(facts ...string) []Declared {
	d := make([]Declared, len(facts))
	for i, f := range facts {
		d[i].Fact = f
	}
	return d
}

// ParseVerdicts compiles a rule over facts. The error says where in the rule the mistake is and what it may use.
func ParseVerdicts(source string, facts []Declared) (*Verdicts, error) {
	env := declared()
	var names []string
	for _, f := range facts {
		name := Name(f.Fact)
		_, builtIn := builtin.Index[name]
		switch {
		case slices.Contains(recordNames, name) || builtIn:
			return nil, fmt.Errorf("the verdict %q has a name that rules use already; give the model another field "+
				"or name",
				f.Fact)
		case slices.Contains(names, name):
			return nil, fmt.Errorf("two verdicts are called %s in rules; give one of them another field or name", name)
		}
		if env[name] = f.View; f.View == nil {
			env[name] = Verdict{}
		}
		names = append(names, name)
	}
	c, err := compile(source, env)
	if err != nil {
		return nil, ruleError(err, fmt.Sprintf("a rule may use %s, each with .label, .score, .margin, .entropy, "+
			".confidence, .scores[\"label\"], .groups, .entities, .truncated, .windows, .by, .student_label, "+
			".student_score and .disagrees; and %s", strings.Join(names, ", "), recordWords))
	}
	return &Verdicts{c}, nil
}

// NewEnv is what rules see of a record and its facts.
func NewEnv(s *Subject, facts []pipeline.Fact) Env {
	env := recordEnv(s)
	for i := range facts {
		env[Name(facts[i].Name)] = view(&facts[i])
	}
	return env
}

// Holds evaluates the rule. env may be used for several rules.
func (r *Verdicts) Holds(env Env) (bool, error) { return r.run(env) }
