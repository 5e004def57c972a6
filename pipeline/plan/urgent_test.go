package plan

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/codec/jsonvalue"
	"sluice/pipeline/publish"
	"sluice/pipeline/rule"
)

func TestWhichRecordsAreUrgent(t *testing.T) {
	when, err := rule.Parse(`number("priority") > 7 || field("user.tier") == "gold" || text contains "outage"`)
	if err != nil {
		t.Fatal(err)
	}
	u := &Urgent{Topics: []string{"alerts"}, HeaderName: "priority", HeaderValue: "high", When: when}
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg, pipeline.NewStageMetrics(reg, pipeline.StageMetricsOptions{}))
	failed := 0
	fail := func(string) { failed++ }
	form := jsonvalue.New(jsonvalue.Options{Text: codec.Path{"text"}, Field: "inference", MaxDepth: 9})
	for name, c := range map[string]struct {
		r    pipeline.Record
		want bool
	}{
		"by topic": {pipeline.Record{Topic: "alerts", Value: []byte(`{}`)}, true},
		"by header": {pipeline.Record{Headers: []pipeline.Header{{Key: "priority", Value: []byte("high")}},
			Value: []byte(`{}`)}, true},
		"another header value": {pipeline.Record{Headers: []pipeline.Header{{Key: "priority", Value: []byte("low")}},
			Value: []byte(`{}`)}, false},
		"by a number":       {pipeline.Record{Value: []byte(`{"priority": 9, "text": ""}`)}, true},
		"by a nested field": {pipeline.Record{Value: []byte(`{"user": {"tier": "gold"}, "text": ""}`)}, true},
		"by the text":       {pipeline.Record{Value: []byte(`{"text": "an outage!"}`)}, true},
		"no JSON at all":    {pipeline.Record{Value: []byte(`plain`)}, false},
		"none of it": {pipeline.Record{Topic: "reviews", Key: []byte("k"),
			Value: []byte(`{"priority": 1, "text": "fine"}`)}, false},
	} {
		j := &publish.Judged{Record: &c.r}
		if v, err := form.Open(context.Background(), c.r.Value); err == nil {
			j.Value, j.Text = v, v.Text()
		}
		if got := u.is(j, m, fail); got != c.want {
			t.Errorf("%s: urgent %v, want %v", name, got, c.want)
		}
	}
	if n := testutil.ToFloat64(m.urgent); n != 5 {
		t.Errorf("%v urgent records counted, want 5", n)
	}
	if (*Urgent)(nil).is(&publish.Judged{Record: &pipeline.Record{Topic: "alerts"}}, m, fail) {
		t.Error("a record is urgent without any rule")
	}
	loose, err := rule.Parse(`field("priority") > 3`)
	if err != nil {
		t.Fatal(err)
	}
	r := pipeline.Record{Value: []byte(`{"priority": "high", "text": "a"}`)}
	v, err := form.Open(context.Background(), r.Value)
	if err != nil {
		t.Fatal(err)
	}
	if (&Urgent{When: loose}).is(&publish.Judged{Record: &r, Value: v}, m, fail) || failed != 1 {
		t.Error("a rule that cannot be evaluated holds, or is not counted")
	}
}
