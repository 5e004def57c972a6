package plan_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sluice/pipeline"
	"sluice/pipeline/codec"
	"sluice/pipeline/pipelinetest/words"
	"sluice/pipeline/plan"
	"sluice/pipeline/publish"
)

// lookup is a step that asks a store of features, which answers as the test says.
type lookup struct {
	plan.Place
	info   plan.Info
	answer func(ctx context.Context, it *plan.Item, end plan.End)
}

// Describe implements plan.Step.
func (l *lookup) Describe() plan.Info { return l.info }

// Start implements plan.Waiting.
func (l *lookup) Start(ctx context.Context, it *plan.Item, end plan.End) { l.answer(ctx, it, end) }

// tier is the fact of these tests.
type tier string

// AppendJSON implements codec.Appender.
func (t tier) AppendJSON(b []byte) []byte { return fmt.Appendf(b, `"tier":%q`, string(t)) }

func withLookup(info plan.Info, answer func(context.Context, *plan.Item, plan.End)) words.Options {
	info.Name, info.Stage, info.Fact, info.Goal, info.Tag = "lookup", "enrich", "customer", true, "features@1"
	return words.Options{Steps: func(*words.Bench) []plan.Step {
		return []plan.Step{&lookup{info: info, answer: answer}}
	}}
}

const review = `{"text":"sixsix"}`

// become takes one record through a plan and says what became of it, in virtual time; nil: nothing did within an hour.
func become(t *testing.T, b *words.Bench) *pipeline.Outcome {
	t.Helper()
	var got *pipeline.Outcome
	b.Plan().Submit(&words.Records(review)[0], func(_ *plan.Item, o pipeline.Outcome) { got = &o })
	time.Sleep(time.Hour)
	synctest.Wait()
	return got
}

func TestAStepsFactStandsBesideTheVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := become(t, words.New(t, withLookup(plan.Info{}, func(_ context.Context, _ *plan.Item, end plan.End) {
			go func() {
				time.Sleep(time.Second)
				end.Fact(pipeline.Fact{Tag: "features@1", By: pipeline.ByModel, Value: tier("gold")})
			}()
		})))
		const want = `"customer":{"tier":"gold","by":"model","model":"features@1","revision":1}}}`
		if o == nil || o.Disposition != pipeline.Scored || !strings.HasSuffix(string(o.Messages[0].Value), want) {
			t.Fatalf("outcome %+v", o)
		}
		if len(o.Facts) != 2 || o.Facts[1].Value != tier("gold") || o.Facts[1].Name != "customer" {
			t.Errorf("facts %+v", o.Facts)
		}
	})
}

// What a step asks may be away: the record waits for it, and is no dead letter.
func TestATransientFaultIsTriedAgainUntilItIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		o := become(t, words.New(t, withLookup(plan.Info{}, func(_ context.Context, _ *plan.Item, end plan.End) {
			if tries++; tries < 20 {
				end.Fail(pipeline.Faultf(pipeline.Transient, "enrich", "away", "the store is away"))
				return
			}
			end.Fact(pipeline.Fact{Tag: "features@1", By: pipeline.ByModel, Value: tier("gold")})
		})))
		if o == nil || o.Disposition != pipeline.Scored || tries != 20 {
			t.Errorf("after %d tries: %+v", tries, o)
		}
	})
}

func TestAStepThatIsLateHasItsFallbackOrIsADeadLetter(t *testing.T) {
	away := func(_ context.Context, _ *plan.Item, end plan.End) {
		end.Fail(pipeline.Faultf(pipeline.Transient, "enrich", "away", "the store is away"))
	}
	silent := func(ctx context.Context, _ *plan.Item, end plan.End) {
		go func() {
			<-ctx.Done()
			time.Sleep(time.Minute) // and too late then
			end.Fact(pipeline.Fact{Tag: "late", By: pipeline.ByModel, Value: tier("late")})
		}()
	}
	for name, answer := range map[string]func(context.Context, *plan.Item, plan.End){"away": away, "silent": silent} {
		for _, declared := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, fallback %v", name, declared), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					info := plan.Info{Deadline: 2 * time.Second}
					if declared {
						info.Fallback = func(_ *plan.Item, cause error) pipeline.Fact {
							if (name == "away") != strings.Contains(cause.Error(), "away") {
								t.Errorf("the cause is %v", cause)
							}
							return pipeline.Fact{Tag: "default", Reason: "store-away", Value: tier("none")}
						}
					}
					o := become(t, words.New(t, withLookup(info, answer)))
					switch {
					case o == nil:
						t.Fatal("nothing became of it")
					case declared && (o.Disposition != pipeline.Scored || !strings.Contains(string(o.Messages[0].Value),
						`"customer":{"tier":"none","by":"fallback","reason":"store-away","model":"default","revision":1}`)):
						t.Errorf("with a fallback: %s", o.Messages[0].Value)
					case !declared && (o.Disposition != pipeline.DeadLetter || o.Fault.Reason != "deadline" ||
						o.Fault.Stage != "enrich"):
						t.Errorf("without one: %+v", o)
					}
				})
			})
		}
	}
}

func TestWhatAPersonMustMendStopsTheWorkerAndLeavesTheRecord(t *testing.T) {
	for _, kind := range []pipeline.Kind{pipeline.Config, pipeline.Fenced, pipeline.Internal} {
		synctest.Test(t, func(t *testing.T) {
			b := words.New(t, withLookup(plan.Info{}, func(_ context.Context, _ *plan.Item, end plan.End) {
				end.Fail(pipeline.Faultf(kind, "enrich", "no-access", "the store refuses us"))
			}))
			if o := become(t, b); o != nil || len(b.Failure) != 1 || pipeline.KindOf(<-b.Failure) != kind {
				t.Errorf("%s: outcome %+v", kind, o)
			}
		})
	}
}

func TestAPanicInAWaitingStepIsThatRecordsFate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := become(t, words.New(t, withLookup(plan.Info{}, func(context.Context, *plan.Item, plan.End) {
			panic("no map")
		})))
		if o == nil || o.Disposition != pipeline.DeadLetter || o.Fault.Reason != "panic" || o.Fault.Stage != "enrich" {
			t.Errorf("outcome %+v", o)
		}
	})
}

// registry is a codec whose schemas are fetched from elsewhere.
type registry struct {
	codec.Codec
	there atomic.Bool
}

// Open implements codec.Codec.
func (r *registry) Open(ctx context.Context, value []byte) (codec.Value, error) {
	if !r.there.Load() {
		return nil, pipeline.Faultf(pipeline.Transient, "decode", "registry-away", "the registry is away")
	}
	return r.Codec.Open(ctx, value)
}

func TestARecordThatCannotBeReadYetWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{}
		b := words.New(t, words.Options{Change: func(b *words.Bench) {
			r.Codec, b.Publisher.Codec = b.Publisher.Codec, r
		}})
		if o := become(t, b); o != nil {
			t.Fatalf("while the registry is away the record became %+v", o)
		}
		var got *pipeline.Outcome
		b.Plan().Submit(&words.Records(review)[0], func(_ *plan.Item, o pipeline.Outcome) { got = &o })
		time.Sleep(time.Minute)
		r.there.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got == nil || got.Disposition != pipeline.Scored {
			t.Errorf("once it is back: %+v", got)
		}
	})
}

func TestStepsThatDoNotFitTogetherAreRefused(t *testing.T) {
	step := func(info plan.Info) plan.Step { return &lookup{info: info} }
	for want, steps := range map[string][]plan.Step{
		`step a needs "b", which is not in the plan`: {step(plan.Info{Name: "a", Needs: []string{"b"}})},
		"step a needs itself, through others": {step(plan.Info{Name: "a", After: []string{"b"}}),
			step(plan.Info{Name: "b", Needs: []string{"a"}})},
		`the name "a" is empty or taken`:     {step(plan.Info{Name: "a"}), step(plan.Info{Name: "a"})},
		`the name "" is empty or taken`:      {step(plan.Info{})},
		"it must be either Local or Waiting": {&neither{}},
	} {
		if p, err := plan.New(steps, plan.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
			if err == nil {
				p.Close()
			}
		}
	}
}

// neither is a step that can do nothing.
type neither struct{ plan.Place }

// Describe implements plan.Step.
func (*neither) Describe() plan.Info { return plan.Info{Name: "a"} }

func TestSealingThatFailsIsADeadLetter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := words.New(t, words.Options{Change: func(b *words.Bench) {
			b.Publisher = &publish.Publisher{Codec: &unsealable{b.Publisher.Codec}, Output: "out", DeadLetters: "dlq"}
		}})
		if o := become(t, b); o == nil || o.Disposition != pipeline.DeadLetter || o.Fault.Reason != "no-such-field" {
			t.Errorf("outcome %+v", o)
		}
	})
}

// unsealable has a schema that has no room for verdicts.
type unsealable struct{ codec.Codec }

// Seal implements codec.Codec.
func (u *unsealable) Seal(codec.Value, *codec.Verdicts) ([]byte, error) {
	return nil, pipeline.Faultf(pipeline.Poison, "encode", "no-such-field", "%w",
		errors.New("the schema has no field inference"))
}
