package plan

import (
	"context"
	"time"

	"sluice/pipeline"
)

// This file owns what a step is.

// Step is one piece of a record's way. It is Local or Waiting, embeds a Place, and belongs to one plan.
type Step interface {
	Describe() Info
	placed
}

// placed is whoever embeds a Place.
type placed interface{ place() *Place }

// Local is a step that is done at once: work of the processor's, or a lookup in memory.
type Local interface {
	Step
	// Do works on records that have reached the step at the same time, at most AtOnce of them. What goes wrong with one
	// of them is said by Item.Fail; the others go on. When Do panics it is called again with every item alone, and it
	// is the fate of those over which it panics again.
	Do(items []*Item)
}

// Waiting is a step whose answer comes later: from a model, a service, a cache.
type Waiting interface {
	Step
	// Start begins to work on a record and returns without waiting. end is told what came of it, once, on any
	// goroutine, which may be this one. ctx ends with the step's deadline; a step that has none may keep it.
	Start(ctx context.Context, it *Item, end End)
}

// Conditional is a step that not every record needs.
type Conditional interface {
	Step
	// Wanted is asked once, when all of Info.After have ended. It looks at Facts and at what was kept, and does not
	// wait.
	Wanted(it *Item) bool
}

// Info says what a step is to its plan.
type Info struct {
	Name  string // unique in the plan; stands in metrics and errors
	Stage string // where a fault of it arises (Fault.Stage): "tokenize", "judge"
	// After are the steps that must have ended before it is known whether this one is wanted; Needs those whose work it
	// uses: they run for a record when this step is wanted for it.
	After, Needs []string
	// Goal: every record that the step is wanted for is to have it. Others run only where a goal needs them.
	Goal bool
	Fact string // name of the fact that it makes; "": none. Several steps may make the same fact: one of them does
	Tag  string // of the fact where nothing could be said: an empty text never gets to a step, and its facts are null
	// Doing says what a local step does to a record, for the watchdog's sentence "the text of ... has been DOING".
	Doing string
	// Deadline is how long the step may take, repeats included; 0: as long as it likes. Then Fallback makes the fact in
	// its place; nil: the record is a dead letter (reason "deadline").
	Deadline time.Duration
	Fallback func(it *Item, cause error) pipeline.Fact
}

// Place is where a step stands in its plan. Every step embeds one.
type Place struct {
	index int
	slot  int // of its fact in Item.Facts; -1: none
}

func (p *Place) place() *Place { return p }

// End is how a waiting step ends: one of its methods is called, once.
type End struct {
	p    *Plan
	it   *Item
	step *stepState
}

// Fact ends the step with what was found out. Its name is filled in, and its revision, which is 1. Tag says who found
// it out, By how: ByModel also where that is no model but a table or a service.
func (e End) Fact(f pipeline.Fact) { e.p.ended(e, result{fact: f, made: true}) }

// Keep ends the step without a fact; v is kept for the steps behind it (Item.Kept).
func (e End) Keep(v any) { e.p.ended(e, result{kept: v}) }

// Fail ends the step without an answer. The kind of a *pipeline.Fault decides what becomes of the record: Poison is a
// dead letter; Transient is tried again, with a back-off, until the step's deadline; Config, Fenced and Internal stop
// the worker. Any other error is Poison.
func (e End) Fail(err error) { e.p.ended(e, result{err: err}) }

type result struct {
	fact pipeline.Fact
	made bool
	kept any
	err  error
}
