package escalate

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/llm"
	"sluice/pipeline/llm/standin"
	"sluice/pipeline/publish"
)

// This file owns the tests of what becomes of a request: answer, fallback, or neither.

func TestAnAnswerAmendsTheProvisionalVerdict(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.slowly(time.Second)
		b := newBroker(4)
		asks := distinct(40, 4)
		asks[5].student, asks[6].student = "NEGATIVE", "POSITIVE"
		sources := b.add(t, asks...)
		d := t.work(b, deskOptions{concurrency: 8, policy: Policy{Confident: 0.9}, limits: Limits{InputPerMillion: 1,
			OutputPerMillion: 2}})
		got := d.await(40)
		d.stop()
		if len(got) != 40 {
			t.Fatalf("%d results of 40 requests", len(got))
		}
		last, disagree := map[int32]int64{}, 0.0
		for _, p := range got {
			partition, n := p.source(t)
			if before, ok := last[partition]; ok && n <= before {
				t.Errorf("partition %d: %d after %d", partition, n, before)
			}
			last[partition] = n
			i := int(n)*4 + int(partition)
			d.intact(&p, &sources[i])
			v, id := &p.Verdict, fmt.Sprintf("reviews/%d/%d", partition, 1000+n)
			if v.By != "llm" || v.Label != oracle(asks[i].text) || v.Score == nil || *v.Score != 0.9 ||
				v.Model != "llama" || v.Prompt != t.task.Version() || v.Revision != 2 || v.Reason != "" ||
				len(v.Flags) > 0 {
				t.Errorf("verdict %+v about %q", v, asks[i].text)
			}
			if v.Amends != id+"#0" || v.Local == nil || v.Local.Label != "NEGATIVE" || v.Local.Score != 0.6 ||
				v.Local.Model != "sentiment@1" {
				t.Errorf("amends %q, local %+v", v.Amends, v.Local)
			}
			if p.header(publish.HeaderID) != id+"#2" || p.header(publish.HeaderAmends) != id+"#0" ||
				p.header(publish.HeaderRevision) != "2" || p.header(publish.HeaderModel) != "llama,ner@2" {
				t.Errorf("headers %v", p.Headers)
			}
			if v.Label != "NEGATIVE" {
				disagree++
			}
		}
		if n := t.a.Stats().Requests; n != 40 {
			t.Errorf("%d calls for 40 questions", n)
		}
		if n := t.a.Stats().MostAtOnce; n < 2 || n > 8 {
			t.Errorf("%d calls at once, up to 8 were to be", n)
		}
		d.counts(map[string]float64{
			"questions_total result=answered": 40, "questions_total result=reused": 0,
			"questions_total result=fallback": 0, "fallbacks_total": 0, "flags_total": 0,
			"agreement_total pair=endpoint-model result=disagree": disagree, "agreement_total pair=endpoint-model " +
				"result=agree": 40 - disagree,
			"agreement_total pair=student-model": 2, "agreement_total pair=endpoint-student": 2,
			"agreement_total pair=student-model result=agree": 1,
			"calls_total reason=answered":                     40, "call_duration_seconds": 40, "calls_in_flight": 0,
			"breaker_state":              0,
			"budget_left resource=calls": -1,
		})
		if disagree == 0 || disagree == 40 {
			t.Error("all answers are alike: the oracle was not heard")
		}
		prompt, completion := d.metric("tokens_total", "kind=prompt"), d.metric("tokens_total", "kind=completion")
		if prompt < 40*50 || completion < 40 || !near(d.metric("money_total"), (prompt+2*completion)/1e6) {
			t.Errorf("tokens %v and %v, money %v", prompt, completion, d.metric("money_total"))
		}
	})
}

func near(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }

func TestEqualQuestionsAreAskedOnce(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.slowly(time.Second)
		b := newBroker(2)
		var asks []ask
		for i := range 8 {
			asks = append(asks, ask{partition: int32(i % 2), text: "all the same, and good", score: 0.6})
		}
		b.add(t, append(asks, ask{text: "another, bad", score: 0.6})...)
		d := t.work(b, deskOptions{concurrency: 9, limits: Limits{CallsPerDay: 2}})
		got := d.await(9)
		if n := t.a.Stats().Requests; n != 2 {
			t.Errorf("%d calls for two questions", n)
		}
		for _, p := range got {
			if p.Verdict.By != "llm" || (p.Verdict.Label == "POSITIVE") != strings.Contains(string(p.Value),
				"good") {
				t.Errorf("verdict %+v", p.Verdict)
			}
		}
		// Without a cache, a question that was answered is asked again.
		d.counts(map[string]float64{"questions_total result=answered": 2, "questions_total result=reused": 7,
			"budget_left resource=calls": 0})
		d.stop()
	})
}

func TestAKeptAnswerNeedsNoCall(t *testing.T) {
	for _, bytes := range []int{0, 1 << 20} {
		t.Run(fmt.Sprint(bytes, " bytes"), func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				b := newBroker(1)
				d := t.work(b, deskOptions{cacheBytes: bytes})
				reused := 0.0
				for i := range 5 {
					b.add(t, ask{text: "good again", score: 0.6})
					d.await(int64(i + 1))
				}
				if bytes > 0 {
					reused = 4
				}
				if n := t.a.Stats().Requests; n != 5-int(reused) {
					t.Errorf("%d calls", n)
				}
				d.counts(map[string]float64{"questions_total result=answered": 5 - reused,
					"questions_total result=reused": reused})
				for _, p := range d.await(5) {
					if p.Verdict.By != "llm" || p.Verdict.Label != "POSITIVE" {
						t.Errorf("verdict %+v", p.Verdict)
					}
				}
				d.stop()
			})
		})
	}
}

// A question of a record that is too old is not the question of a younger record with the same text.
func TestAgeIsARecordsOwn(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(1)
		same := ask{text: "good", score: 0.6}
		old := same
		old.age = 59 * time.Second
		// A call every ten seconds: when its turn comes, the old one is too old, and the young one, which waits for its
		// answer, is not.
		d := t.work(b, deskOptions{concurrency: 3, maxAge: time.Minute, limits: Limits{CallsPerSecond: 0.1}})
		for _, a := range []ask{{text: "first", score: 0.6}, old, same} {
			b.add(t, a)
			synctest.Wait()
		}
		got := d.await(3)
		if got[1].Verdict.Reason != FallbackAge || got[2].Verdict.By != "llm" {
			t.Errorf("the old record: %+v; the young one: %+v", got[1].Verdict, got[2].Verdict)
		}
		d.stop()
	})
}

func TestARepairIsAskedOnce(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Script(standin.WrongLabel(), standin.Good(), standin.OutOfRange(), standin.MissingField(), standin.Good())
		b := newBroker(1)
		b.add(t, distinct(3, 1)...)
		d := t.work(b, deskOptions{pool: llm.Options{Structured: "json_object"}, limits: Limits{CallsPerDay: 100}})
		got := d.await(3)
		if got[0].Verdict.By != "llm" || got[1].Verdict.Reason != FallbackAnswer || got[2].Verdict.By != "llm" {
			t.Errorf("verdicts %+v, %+v, %+v; want the first repaired, the second not", got[0].Verdict, got[1].Verdict,
				got[2].Verdict)
		}
		v := got[1].Verdict
		if v.Label != "NEGATIVE" || v.Score == nil || *v.Score != 0.6 || v.By != "fallback" ||
			v.Model != "sentiment@1" || v.Revision != 2 || v.Local != nil {
			t.Errorf("a fallback keeps the local verdict, it is %+v", v)
		}
		if bodies := t.a.Bodies(); len(bodies) != 5 || !strings.Contains(string(bodies[1]), "cannot be used") ||
			strings.Contains(string(bodies[2]), "cannot be used") {
			t.Errorf("%d calls, want 5: question, repair, question, repair, question", len(bodies))
		}
		d.counts(map[string]float64{"answers_unusable_total": 3, "questions_total result=answered": 2,
			"fallbacks_total reason=answer": 1, "budget_left resource=calls": 95})
		d.stop()
	})
}

func TestNoAnswerFallsBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		bring  func(*bubble)
		reason string
	}{
		{"down", func(t *bubble) { t.net.Stop("a") }, FallbackEndpoint},
		{"hangs", func(t *bubble) { t.a.Always(standin.Hang()) }, FallbackEndpoint},
		{"fails", func(t *bubble) { t.a.Always(standin.Status(http.StatusInternalServerError, "")) }, FallbackEndpoint},
		{"wants to wait for an hour", func(t *bubble) {
			t.a.Always(standin.Status(http.StatusTooManyRequests,
				"3600"))
		}, FallbackEndpoint},
		{"redirects", func(t *bubble) { t.a.Always(standin.Redirect("http://b/v1/chat/completions")) },
			FallbackEndpoint},
		{"does not know us", func(t *bubble) { t.a.Always(standin.Status(http.StatusUnauthorized, "")) },
			FallbackRefused},
		{"has no such model", func(t *bubble) { t.a.Always(standin.Status(http.StatusNotFound, "")) }, FallbackRefused},
		{"takes no long text", func(t *bubble) {
			t.a.Always(standin.Body(400, `{"error":{"code":"context_length_exceeded"}}`))
		}, FallbackTooLong},
		{"filters texts", func(t *bubble) {
			t.a.Always(standin.Body(400, `{"error":{"code":"content_filter","message":"The response was filtered"}}`))
		}, FallbackDeclined},
		{"has no credit left", func(t *bubble) {
			t.a.Always(standin.Body(429, `{"error":{"code":"insufficient_quota"}}`))
		}, FallbackRefused},
		{"endless", func(t *bubble) { t.a.Always(standin.Endless()) }, FallbackEndpoint},
		{"garbage", func(t *bubble) { t.a.Always(standin.Garbage()) }, FallbackEndpoint},
		{"refuses", func(t *bubble) { t.a.Always(standin.Refusal()) }, FallbackDeclined},
		{"is cut off", func(t *bubble) { t.a.Always(standin.Finish("length")) }, FallbackAnswer},
		{"finds the question wrong", func(t *bubble) { t.a.Always(standin.Status(http.StatusUnprocessableEntity, "")) },
			FallbackRefused},
		{"empty", func(t *bubble) { t.a.Always(standin.Empty()) }, FallbackAnswer},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *bubble) {
				c.bring(t)
				b := newBroker(2)
				sources := b.add(t, distinct(6, 2)...)
				d := t.work(b, deskOptions{concurrency: 4, pool: llm.Options{Timeout: 5 * time.Second},
					deadline: 20 * time.Second})
				got := d.await(6)
				if f := fallbacks(got); f[c.reason] != 6 {
					t.Errorf("reasons %v, want 6 times %s\n%s", f, c.reason, d.logs)
				}
				for _, p := range got {
					partition, n := p.source(t)
					d.intact(&p, &sources[int(n)*2+int(partition)])
				}
				d.counts(map[string]float64{"questions_total result=fallback": 6, "fallbacks_total": 6,
					"fallbacks_total reason=" + c.reason: 6})
				if t.b.Stats().Requests > 0 {
					t.Error("somebody else was asked")
				}
				d.stop()
				// When the endpoint is there again, the next question is answered.
				t.net.Serve("a", t.a)
				t.a.Always(standin.Good())
				b.add(t, ask{text: "good", score: 0.6})
				d = t.work(b, deskOptions{})
				if got := d.await(7); got[6].Verdict.By != "llm" {
					t.Errorf("after the fault: %+v", got[6].Verdict)
				}
				d.stop()
			})
		})
	}
}

func TestRecordsThatAreTooOldAreNotAsked(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(1)
		b.add(t, ask{text: "a canary from last year", score: 0.6, age: time.Hour + time.Second},
			ask{text: "young, good", score: 0.6, age: time.Hour - time.Second})
		d := t.work(b, deskOptions{maxAge: time.Hour})
		got := d.await(2)
		if got[0].Verdict.Reason != FallbackAge || got[1].Verdict.By != "llm" || t.a.Stats().Requests != 1 ||
			t.a.Saw("canary") {
			t.Errorf("verdicts %+v and %+v after %d calls", got[0].Verdict, got[1].Verdict, t.a.Stats().Requests)
		}
		d.counts(map[string]float64{"fallbacks_total reason=max-age": 1, "questions_total result=answered": 1})
		d.stop()
	})
}

func TestAnAnswerMayNotLowerTheSeverity(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(1)
		b.add(t,
			ask{text: "good", label: "NEGATIVE", score: 0.75}, // would be lowered, the local model is sure enough
			ask{text: "good!", label: "NEGATIVE", score: 0.65},
			ask{text: "bad", label: "POSITIVE", score: 0.95}, // raised
			ask{text: "bad!", label: "NEGATIVE", score: 0.95})
		d := t.work(b, deskOptions{policy: Policy{Severity: []string{"POSITIVE", "NEGATIVE"}, Floor: 0.7,
			Confident: 0.9}})
		got := d.await(4)
		var say []string
		for _, p := range got {
			say = append(say, strings.Join(append([]string{p.Verdict.Label, p.Verdict.By + p.Verdict.Reason},
				p.Verdict.Flags...), " "))
		}
		want := []string{"NEGATIVE fallbackseverity-floor", "POSITIVE llm", "NEGATIVE llm disagrees-with-confident",
			"NEGATIVE llm"}
		if !slices.Equal(say, want) {
			t.Errorf("decided %q, want %q", say, want)
		}
		d.counts(map[string]float64{"fallbacks_total reason=severity-floor": 1,
			"flags_total flag=disagrees-with-confident": 1, "agreement_total result=disagree": 3})
		d.stop()
	})
}

func TestShadowPublishesNothing(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Script(standin.Good(), standin.Good(), standin.Refusal())
		b := newBroker(1)
		b.add(t, ask{text: "good", score: 0.6, mode: Shadow}, ask{text: "bad", score: 0.6,
			mode: Shadow}, ask{text: "ugly", score: 0.6, mode: Shadow})
		d := t.work(b, deskOptions{})
		if got := d.await(3); len(got) > 0 {
			t.Errorf("published %s", got[0].Value)
		}
		d.counts(map[string]float64{"questions_total result=answered": 2, "fallbacks_total reason=declined": 1,
			"agreement_total result=disagree": 1, "agreement_total result=agree": 1})
		d.stop()
	})
}

func TestADeferredRecordHasOneResult(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Script(standin.Good(), standin.Refusal())
		b := newBroker(1)
		sources := b.add(t, ask{text: "good", score: 0.6, mode: Defer}, ask{text: "bad", score: 0.6,
			mode: Defer})
		d := t.work(b, deskOptions{})
		got := d.await(2)
		if len(got) != 2 || got[0].Verdict.By != "llm" || got[1].Verdict.Reason != FallbackDeclined {
			t.Fatalf("results %+v", got)
		}
		for i, p := range got {
			d.intact(&p, &sources[i])
			if p.Verdict.Revision != 1 || p.Verdict.Amends != "" || p.header(publish.HeaderAmends) != "" ||
				p.header(publish.HeaderID) != fmt.Sprintf("reviews/0/%d#0", 1000+i) {
				t.Errorf("result %+v %v", p.Verdict, p.Headers)
			}
		}
		d.stop()
	})
}

func TestWhatIsNoRequestIsADeadLetter(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(1)
		foreign := pipeline.Record{Topic: "asks", Key: []byte("k"), Value: []byte(`{"text":"not for you"}`),
			Headers: []pipeline.Header{{Key: HeaderEscalation, Value: []byte("{}")}}}
		b.change(func() { b.log[b.owned[0]] = []pipeline.Record{foreign} })
		b.add(t, ask{value: "not JSON"}, ask{text: "good", score: 0.6})
		d := t.work(b, deskOptions{})
		got := d.await(3)
		var reasons []string
		for _, p := range got {
			reasons = append(reasons, p.Topic+" "+p.header(publish.HeaderErrorReason))
		}
		if len(got) != 3 || reasons[0] != "letters not-a-request" || !strings.HasPrefix(reasons[1], "letters ") ||
			reasons[2] != "results " || string(got[0].Value) != string(foreign.Value) || string(got[0].Key) != "k" {
			t.Errorf("became %q", reasons)
		}
		if t.a.Stats().Requests != 1 || t.a.Saw("not for you") {
			t.Errorf("%d calls", t.a.Stats().Requests)
		}
		d.stop()
	})
}

// A request that kills workers leaves its record with the local verdict, not in the dead letters: a final verdict all
// the same.
func TestAQuarantinedRequestFallsBack(t *testing.T) {
	inBubble(t, func(t *bubble) {
		b := newBroker(1)
		sources := b.add(t, ask{text: "deadly", score: 0.6}, ask{value: "not JSON"})
		d := t.work(b, deskOptions{})
		d.await(2)
		before := t.a.Stats().Requests
		tp := b.owned[0]
		p := d.read(d.processor.Quarantine(&b.log[tp][0], 2).Messages)[0]
		d.intact(&p, &sources[0])
		if v := p.Verdict; v.By != "fallback" || v.Reason != FallbackQuarantine || v.Label != "NEGATIVE" ||
			v.Revision != 2 || v.Amends != "reviews/0/1000#0" {
			t.Errorf("verdict %+v", v)
		}
		if m := d.processor.Quarantine(&b.log[tp][1], 2).Messages; len(m) != 1 || m[0].Topic != "letters" {
			t.Errorf("a request that cannot be read: %+v", m)
		}
		if t.a.Stats().Requests != before {
			t.Error("it was asked about")
		}
		d.counts(map[string]float64{"fallbacks_total reason=killed-the-worker": 1})
		d.stop()
	})
}

// An endpoint of OpenAI's newer kind takes max_completion_tokens, and no temperature: every record is answered, and the
// log says once what was found out.
func TestAnEndpointThatWantsOtherParametersIsAskedSo(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.net.Serve("a", newStub(standin.Options{Refuses: []string{"max_tokens", "temperature"}}))
		b := newBroker(2)
		b.add(t, distinct(40, 2)...)
		d := t.work(b, deskOptions{limits: Limits{CallsPerDay: 42}}) // two calls find it out
		if f := fallbacks(d.await(40)); f[""] != 40 {
			t.Errorf("fallbacks %v\n%s", f, d.logs)
		}
		if n := strings.Count(d.logs.String(), "is not supported with this model") +
			strings.Count(d.logs.String(), "Only the default (1) value"); n != 2 {
			t.Errorf("said %d times\n%s", n, d.logs)
		}
		d.counts(map[string]float64{"calls_total reason=answered": 40, "calls_total reason=request-refused": 2,
			"questions_total result=answered": 40})
	})
}

// Where nothing helps, it is told once, counted by its own reason, and the endpoint is left alone.
func TestAnEndpointThatRefusesEverythingIsLeftAlone(t *testing.T) {
	inBubble(t, func(t *bubble) {
		t.a.Always(standin.Body(400, `{"error":{"message":"This tenant is not enrolled.","code":"no"}}`))
		b := newBroker(2)
		b.add(t, distinct(40, 2)...)
		d := t.work(b, deskOptions{pool: llm.Options{BreakerFailures: 10, BreakerPause: time.Hour}})
		if f := fallbacks(d.await(40)); f[FallbackRefused] != 40 {
			t.Errorf("fallbacks %v\n%s", f, d.logs)
		}
		if n := t.a.Stats().Requests; n > 12 {
			t.Errorf("%d calls for 40 records", n)
		}
		if n := strings.Count(d.logs.String(), "level=WARN"); n != 2 ||
			strings.Count(d.logs.String(), "This tenant is not enrolled.") != 1 {
			t.Errorf("%d warnings, not one with the sentence and one that it is left alone\n%s", n, d.logs)
		}
	})
}
