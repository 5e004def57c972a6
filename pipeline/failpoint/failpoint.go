// Package failpoint names the places in a worker at which the fault tests end, freeze or break it. Without the build
// tag "failpoint" Hit is empty and the compiler leaves nothing of it.
package failpoint

// Names are the places outside the Kafka client, whose own are in kafka.Failpoints.
const (
	AfterFetch         = "after-fetch"          // records are in the ledger, nothing is done with them
	AfterTokenize      = "after-tokenize"       // texts are tokenized, no row is queued
	InInference        = "in-inference"         // a runner holds a batch, and its time limit runs
	AfterInference     = "after-inference"      // logits are there, no outcome is
	EscalateBeforeCall = "escalate-before-call" // a question is about to go out, and is charged
	EscalateAfterCall  = "escalate-after-call"  // an answer is there, its verdict is not in the ledger
	WhileDraining      = "while-draining"       // a stopping worker has begun to finish what is in flight
)

// Names lists them in the order in which a record passes.
var Names = []string{AfterFetch, AfterTokenize, InInference, AfterInference, EscalateBeforeCall, EscalateAfterCall,
	WhileDraining}

// EnvTexts is the variable that says which texts do harm: a comma-separated list of part:action. The action happens
// every time a text with that part in it is tokenized.
const EnvTexts = "FAILPOINT_TEXTS"

// EnvClock is the variable that names a file with the milliseconds by which the wall clock is ahead of the true one. It
// is read over and over, by a binary that was built with the overlay of bench/faults/clockstep too.
const EnvClock = "FAILPOINT_CLOCK"
