package rewrite

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func threshold9(key string) Change {
	return Change{Section: []any{"models", 1}, Key: key, After: "student", Value: "0.9"}
}

var when = Change{Section: []any{"escalation"}, Key: "when", Value: "0.7", Rule: true, Model: "sentiment"}

func TestRewriteChangesOneValueAndNothingElse(t *testing.T) {
	for name, tc := range map[string]struct {
		before, after string
		change        Change
	}{
		"plain, with a comment behind": {
			"# mine\nmodels:\n  - {name: a}\n  - name: b\n    student_threshold: 0.95   # chosen by hand\n    " +
				"student: x\n",
			"# mine\nmodels:\n  - {name: a}\n  - name: b\n    student_threshold: 0.9   # chosen by hand\n    " +
				"student: x\n", threshold9("student_threshold")},
		"in a flow mapping": {
			"models: [{name: a}, {name: b, student: x, student_threshold: 0.95}]\n",
			"models: [{name: a}, {name: b, student: x, student_threshold: 0.9}]\n", threshold9("student_threshold")},
		"missing in a flow mapping": {
			"models: [{name: a}, {name: b, student: 'it''s', field: c}] # end",
			"models: [{name: a}, {name: b, student: 'it''s', student_threshold: 0.9, field: c}] # end",
			threshold9("student_threshold")},
		"missing in a block": {
			"models:\n- name: a\n- student: \"x # \\\" y\"  # first\n  name: b\ninput: {}\n",
			"models:\n- name: a\n- student: \"x # \\\" y\"  # first\n  student_threshold: 0.9\n  name: b\ninput: {}\n",
			threshold9("student_threshold")},
		"missing at the end without a line end": {
			"models:\n- name: a\n- name: b\n  student: x", "models:\n- name: a\n- name: b\n  student: x\n  " +
				"student_threshold: 0.9", threshold9("student_threshold")},
		"line ends of another system": {
			"models:\r\n- name: a\r\n- name: b\r\n  student: x\r\n  field: c\r\n", "models:\r\n- name: a\r\n- name: " +
				"b\r\n  student: x\r\n  student_threshold: 0.9\r\n  field: c\r\n", threshold9("student_threshold")},
		"behind characters of several bytes": {
			"models: [{name: ä}, {name: \"日本\", student: x, student_threshold: 0.95}]", "models: [{name: ä}, {name: " +
				"\"日本\", student: x, student_threshold: 0.9}]", threshold9("student_threshold")},
		"a rule in single quotes": {
			"escalation:\n  when: 'sentiment.score < 0.80' # ask\n", "escalation:\n  when: 'sentiment.score < 0.7' # " +
				"ask\n", when},
		"a plain rule": {"escalation: {when: sentiment.score<0.8}",
			"escalation: {when: sentiment.score<0.7}", when},
		"a rule over two lines": {"escalation:\n  when: \"sentiment.score\n    < 0.8\"\n",
			"escalation:\n  when: \"sentiment.score\n    < 0.7\"\n", when},
		"a rule in double quotes": {"escalation:\n  when: \" sentiment.score  < 1 \"\n", "escalation:\n  when: \" " +
			"sentiment.score  < 0.7 \"\n", when},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Rewrite([]byte(tc.before), []Change{tc.change})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.after, string(got)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestRewriteMakesSeveralChanges(t *testing.T) {
	got, err := Rewrite([]byte("models: [{}, {student: x}]\nescalation: {when: sentiment.score < 0.8}\n"),
		[]Change{threshold9("student_threshold"), when})
	if want := "models: [{}, {student: x, student_threshold: 0.9}]\nescalation: {when: sentiment.score < " +
		"0.7}\n"; err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
}

func TestRewriteLeavesToAPersonWhatItCannotDo(t *testing.T) {
	for name, tc := range map[string]struct {
		file   string
		change Change
		says   string
	}{
		"a rule of another form": {"escalation: {when: 'sentiment.score < 0.8 && bytes > 5'}", when,
			"not of the form sentiment.score < X"},
		"a rule of another name": {"escalation: {when: 'topic.score < 0.8'}", when, "not of the form"},
		"no rule":                {"escalation: {topic: x}", when, "escalation.when: is missing"},
		"no section":             {"input: {}", when, "its section is not in the file"},
		"from the environment": {"models: [{}, {student: x, student_threshold: \"${T:-0.9}\"}]",
			threshold9("student_threshold"), "not a plain value (line 1)"},
		"a block": {"escalation:\n  when: >\n    sentiment.score < 0.8\n", when,
			"not a plain value (line 2)"},
		"shared by an anchor": {"a: &a {student: x, student_threshold: 0.95}\nmodels: [{}, *a]\n",
			threshold9("student_threshold"), "its section is not in the file itself"},
		"merged": {"a: &a {student: x, student_threshold: 0.95}\nmodels: [{}, {<<: *a}]\n",
			threshold9("student_threshold"), "there is no student"},
		"anchored value": {"models: [{student_threshold: &t 0.95}, {student: x, student_threshold: *t}]\n",
			threshold9("student_threshold"), "not a plain value"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Rewrite([]byte(tc.file), []Change{tc.change})
			if !errors.Is(err, ErrByHand) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s, %v, want %q", got, err, tc.says)
			}
		})
	}
	if _, err := Rewrite([]byte("a: ["), nil); err == nil || errors.Is(err, ErrByHand) {
		t.Error(err)
	}
}

func TestRuleThreshold(t *testing.T) {
	for rule, want := range map[string]float64{"sentiment.score < 0.80": 0.8, " sentiment.score<5e-1": 0.5,
		"sentiment.score <= 0.8": 0, "sentiment.margin < 0.8": 0, "other.score < 0.8": 0,
		"sentiment.score < 1.2.3": 0} {
		if got, ok := RuleThreshold(rule, "sentiment"); got != want || ok != (want > 0) {
			t.Errorf("%s: %g, %v", rule, got, ok)
		}
	}
}

func TestDiffIsUnified(t *testing.T) {
	lines := func(from, to string) string { // one a letter
		var b strings.Builder
		for c := from[0]; c <= to[0]; c++ {
			b.WriteString(string(c) + "\n")
		}
		return b.String()
	}
	before := lines("a", "z")
	after := strings.Replace(strings.Replace(before, "f\n", "F\n", 1), "t\n", "t\nT\n", 1)
	want := `--- c.yaml
+++ c.yaml
@@ -3,7 +3,7 @@
 c
 d
 e
-f
+F
 g
 h
 i
@@ -18,6 +18,7 @@
 r
 s
 t
+T
 u
 v
 w
`
	if d := cmp.Diff(want, Diff("c.yaml", []byte(before), []byte(after))); d != "" {
		t.Error(d)
	}
	near := strings.Replace(strings.Replace(before, "f\n", "F\n", 1), "k\n", "K\n", 1)
	if got := Diff("x", []byte(before), []byte(near)); strings.Count(got, "@@ -") != 1 ||
		!strings.Contains(got, "@@ -3,12 +3,12 @@") {
		t.Errorf("changes whose context meets are one hunk:\n%s", got)
	}
	if got := Diff("x", []byte("a"), []byte("a\nb")); got != "--- x\n+++ x\n@@ -1,1 +1,2 @@\n a\n+b\n" {
		t.Error(got)
	}
	if got := Diff("x", []byte("a\n"), []byte("a\n")); got != "" {
		t.Error(got)
	}
}
