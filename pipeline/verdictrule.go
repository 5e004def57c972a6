package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/vm"

	"sluice/model"
)

// This file owns rules over verdicts: which records are copied to another topic (routes), and which go to the endpoint
// (escalation.when). The language and the names of the record are those of rule.go.

// VerdictRule is a yes-or-no expression over a record and the verdicts about it. Safe for concurrent use.
type VerdictRule struct {
	program *vm.Program
}

// RuleVerdict is what a rule sees of one verdict.
type RuleVerdict struct {
	Label   string  `expr:"label" json:"label,omitempty"`
	Score   float64 `expr:"score" json:"score"`
	Margin  float64 `expr:"margin" json:"margin"`   // between the two highest scores
	Entropy float64 `expr:"entropy" json:"entropy"` // of the scores, 0 (certain) to 1
	// the score; of entities: how sure the model is of the whole text
	Confidence float64            `expr:"confidence" json:"confidence"`
	Scores     map[string]float64 `expr:"scores" json:"scores,omitempty"`
	Groups     []string           `expr:"groups" json:"groups,omitempty"` // entity groups that occur
	Entities   int                `expr:"entities" json:"entities,omitempty"`
	Truncated  bool               `expr:"truncated" json:"truncated,omitempty"`
	Windows    int                `expr:"windows" json:"windows,omitempty"`
	Route      string             `expr:"route" json:"route"`
	// Of the student, where one was asked and was not sure; "" and 0 otherwise.
	StudentLabel string  `expr:"student_label" json:"student_label,omitempty"`
	StudentScore float64 `expr:"student_score" json:"student_score,omitempty"`
	Disagrees    bool    `expr:"disagrees" json:"disagrees,omitempty"` // the student said another label
}

// ruleVerdict is a decision as rules see it.
func ruleVerdict(d *Decision) RuleVerdict {
	v := RuleVerdict{Label: d.Label, Score: d.Score, Margin: d.Margin, Entropy: d.Entropy, Confidence: d.Confidence,
		Entities: len(d.Entities), Truncated: d.Truncated, Windows: d.Windows, Route: string(d.Route)}
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
	if d.Unsure != nil {
		v.StudentLabel, v.StudentScore, v.Disagrees = d.Unsure.Label, d.Unsure.Confidence, d.Unsure.Label != d.Label
	}
	return v
}

// RuleName is how a rule names the verdict of an output field's member: what cannot stand in a name is an underscore.
func RuleName(verdict string) string {
	name := strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, verdict)
	if name != "" && name[0] >= '0' && name[0] <= '9' {
		name = "_" + name
	}
	return name
}

// recordNames are the names of the record in a rule.
var recordNames = []string{"topic", "partition", "key", "headers", "text", "bytes", "field", "number"}

// ParseVerdictRule compiles a rule over the verdicts of these names (members of the output field). The error says where
// in the rule the mistake is and what it may use.
func ParseVerdictRule(source string, verdicts []string) (*VerdictRule, error) {
	env := recordEnv(&Record{}, nil)
	var names []string
	for _, v := range verdicts {
		name := RuleName(v)
		_, builtIn := builtin.Index[name]
		switch {
		case slices.Contains(recordNames, name) || builtIn:
			return nil, fmt.Errorf("the verdict %q has a name that rules use already; give the model another field "+
				"or name", v)
		case slices.Contains(names, name):
			return nil, fmt.Errorf("two verdicts are called %s in rules; give one of them another field or name", name)
		}
		env[name] = RuleVerdict{}
		names = append(names, name)
	}
	p, err := expr.Compile(source, expr.Env(env), expr.AsBool())
	if err != nil {
		return nil, ruleError(err, fmt.Sprintf("a rule may use %s, each with .label, .score, .margin, .entropy, "+
			".confidence, .scores[\"label\"], .groups, .entities, .truncated, .windows, .route, .student_label, "+
			".student_score and .disagrees; and %s",
			strings.Join(names, ", "), recordWords))
	}
	return &VerdictRule{p}, nil
}

// ruleEnv is everything that rules see of a record and its verdicts.
type ruleEnv map[string]any

func newRuleEnv(r *Record, text []byte, models []ClassifierModel, made []Decision) ruleEnv {
	env := recordEnv(r, text)
	for i := range models {
		env[models[i].rule] = ruleVerdict(&made[i])
	}
	return env
}

func (r *VerdictRule) holds(env ruleEnv) (bool, error) {
	v, err := expr.Run(r.program, map[string]any(env))
	if err != nil {
		return false, err
	}
	return v.(bool), nil // AsBool
}
