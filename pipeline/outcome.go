package pipeline

// This file owns what becomes of a record: the facts that were found out about it, and the messages made of them.

// Fact is one thing that was found out about a record. Its value stays a typed value until it is durable: whoever looks
// at outcomes (Tap) or keeps them elsewhere needs to read no message.
type Fact struct {
	Name        string // member of the output field
	Tag         string // which model made it: "sentiment@3f9c2a1b2c3d"
	By          By     // how it came to be
	Reason      string // of a Fallback
	Revision    int    // 1; an amendment has 2
	Amends      string // id of the result that an amendment takes the place of
	Provisional bool   // an amendment follows
	Value       any    // *model.Verdict of a text model; nil: nothing could be said (an empty text)
	Unsure      any    // what a smaller model had said that was not sure enough; nil: none was asked
}

// By says how a fact came to be.
type By string

const (
	ByModel   By = "model"    // computed for this record, or at the same time for another one with the same tokens
	ByStudent By = "student"  // the student was sure enough
	ByCache   By = "cache"    // computed before
	ByLLM     By = "llm"      // the endpoint's answer
	Fallback  By = "fallback" // the local verdict: the endpoint was not asked or not believed; a reason says why
)

// Tap looks at outcomes that have become durable.
type Tap interface {
	// Durable is called for each record once its outcome has been committed, in order within a partition, with no lock
	// of the stage held. Record and outcome are not to be kept or written to. It holds up the next commit: it must be
	// quick. A panic is logged, and ends the tap, not the stage; one that does not return ends the process
	// (StageOptions.Watchdog).
	Durable(r *Record, o *Outcome)
}

// Disposition says what became of a record; it labels metrics.
type Disposition string

// What becomes of a record, in both stages.
const (
	Scored     Disposition = "result"
	Empty      Disposition = "empty"
	Tombstone  Disposition = "tombstone"
	Skipped    Disposition = "skipped" // a rule leaves it out: nothing is published
	DeadLetter Disposition = "dead_letter"
	Deferred   Disposition = "deferred" // only an escalation request was published; the verdict comes with its answer

	// of the escalate stage
	Amended  Disposition = "amended"  // the endpoint's answer became the verdict
	FellBack Disposition = "fallback" // the local verdict became final
	Compared Disposition = "compared" // shadow: nothing was published
)

// DispositionInfo names a disposition for the metrics of a stage.
type DispositionInfo struct {
	Name Disposition
	Help string // in a few words, where the name does not say it
}

// ClassifyDispositions are those of the classify stage, in the order in which help texts name them.
var ClassifyDispositions = []DispositionInfo{{Scored, ""}, {Empty, "blank text"}, {Tombstone, "null value"},
	{Skipped, "left out by a rule of skip"}, {Deferred, "an escalation request only"}, {DeadLetter, ""}}

// EscalateDispositions are those of the escalate stage, in the order in which help texts name them.
var EscalateDispositions = []DispositionInfo{{Amended, "the endpoint's answer is the verdict"},
	{FellBack, "the local verdict is final"}, {Compared, "shadow"}, {DeadLetter, ""}}

// Outcome is everything that is to be published for one record. Pure data: making it again gives the same bytes.
type Outcome struct {
	Facts       []Fact // what was found out; for taps and stores, who need not read messages
	Messages    []Message
	Disposition Disposition
	Fault       *Fault // why, when Disposition is DeadLetter
	SkippedBy   string // name of the rule, when Disposition is Skipped
}

func (o *Outcome) size() int {
	n := 0
	for i := range o.Messages {
		n += o.Messages[i].Size()
	}
	return n
}
