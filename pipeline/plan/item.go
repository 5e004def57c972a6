package plan

import (
	"sync"

	"sluice/pipeline"
	"sluice/pipeline/publish"
)

// Item is one record on its way. Steps read it, and write to it only by the calls that are there for it; the exceptions
// are a Local step's own, which nothing runs beside: Requests, Deferred, and Facts that are there already.
type Item struct {
	publish.Judged      // Text is not empty, and valid as far as Flags say
	Urgent         bool // goes before others

	opens  int           // how often it could not be opened yet
	job    *pipeline.Job // nil: nobody's (Plan.Submit)
	finish func(*Item, pipeline.Outcome)

	mu      sync.Mutex
	wanted  uint64 // steps that are to run, or have run, for this record
	settled uint64 // steps of which it is known whether they are wanted
	started uint64
	ended   uint64 // steps that have ended, or are not wanted
	running int
	over    bool // its outcome is being made
	fault   *pipeline.Fault
	kept    []any // of every step
	tries   []try // of waiting steps; nil: none has a deadline or was repeated

	fact1 [1]pipeline.Fact // room for the usual number
	kept1 [4]any
}

// Fail says that the record cannot go on. For Local.Do; the first fault counts.
func (it *Item) Fail(f *pipeline.Fault) {
	it.mu.Lock()
	if it.fault == nil {
		it.fault = f
	}
	it.mu.Unlock()
}

// Keep keeps something for the steps behind a local one.
func (it *Item) Keep(p *Place, v any) { it.kept[p.index] = v }

// Kept is what a step has kept for those behind it; nil: nothing, or it did not run.
func (it *Item) Kept(p *Place) any { return it.kept[p.index] }

// FactOf is the fact that a step makes: made where By is set.
func (it *Item) FactOf(p *Place) *pipeline.Fact { return &it.Facts[p.slot] }

// Weigh tells the stage how many tokens the record turned out to have.
func (it *Item) Weigh(tokens int) {
	if it.job != nil {
		it.job.Weigh(tokens)
	}
}

// dropped says that nobody wants the record's outcome any more.
func (it *Item) dropped() bool { return it.job != nil && it.job.Dropped() }
