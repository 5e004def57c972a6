package pipeline

import (
	"encoding/json"
	"slices"
)

// This file owns what is done about a record that kills the process: a crash in native code, memory that runs out, a
// run that never returns. It is plain state, part of the ledger.
//
// Nothing on a local disk tells of it. Beside the committed offset of a partition stands a mark (Commit.Metadata): open
// while a worker is at work there, closed by its last commit when it stops cleanly or hands the partition on. A worker
// that finds an open mark knows that the one before it died there, and counts:
//
//	1 unclean end    records run a few at a time (fewInFlight) until everything is passed that can have been in flight
//	                 then. Most deaths have nothing to do with a record: this costs little and keeps the next
//	                 suspicion narrow.
//	2 and more       records run alone: one at a time over all suspect partitions of the worker, each announced in the
//	                 mark before it runs. A mark that still says so at the next start proves which record it was.
//	2 deaths alone   the record goes to the dead letters without being run again (killed-the-worker). That is
//	                 announced as a run is, because what makes the dead letter may look into the record.
//	2 more of these  its dead letter is made without looking into it (StageOptions.Panicked).
//
// So a record that kills every process that touches it does so four times. With one death alone it would be three, and
// then of workers that are killed from outside every second or so, each sixth death would condemn a record that did
// nothing, with two one in three hundred (TestRandomDeathsCondemnFewRecords).
//
// The announcement is taken back as soon as the record has been processed, before its result is committed: a worker
// that dies of a commit, again and again, condemns no record. Partitions that nobody died on go on as ever; those under
// the milder suspicion wait while records of another run alone, so that a death has one cause.

const (
	fewInFlight  = 32 // records of a partition in flight after one unclean end
	suspectAfter = 2  // unclean ends after which records run alone
	// DeathsAlone is how many workers may end while a record runs alone until it is not run again.
	DeathsAlone = 2
)

// markKey is the member of a partition's metadata that holds the mark.
const markKey = "starts"

// mark is what a worker leaves beside a committed offset for whoever begins there next.
type mark struct {
	Open bool `json:"open,omitempty"` // a worker is at work from here on
	// workers that ended without closing their mark, and records before Until were not passed since
	Unclean int   `json:"unclean,omitempty"`
	Until   int64 `json:"until,omitempty"` // the suspicion ends here
	// deaths while the next record ran alone, or was put away without that; what is announced now included
	Alone int `json:"alone,omitempty"`
}

// readMark is the mark in a partition's metadata; the zero mark where there is none, whatever else stands there.
func readMark(metadata string) mark {
	var m struct {
		Mark mark `json:"starts"`
	}
	if json.Unmarshal([]byte(metadata), &m) != nil || m.Mark.Unclean < 0 || m.Mark.Alone < 0 {
		return mark{}
	}
	return m.Mark
}

// alone is the metadata that holds nothing but the mark.
func (m mark) alone() string {
	switch m {
	case mark{}:
		return ""
	case mark{Open: true}: // of nearly every commit
		return `{"starts":{"open":true}}`
	}
	return string(jsonOf(map[string]mark{markKey: m}))
}

// suspicion is what a lane knows of the workers before it.
type suspicion struct {
	unclean int
	until   int64
	deaths  int // of the first record of the lane, running alone or being put away
}

// suspect reads what the worker before has left at an offset.
func suspect(c Committed, inFlight int) suspicion {
	m := readMark(c.Metadata)
	s := suspicion{m.Unclean, m.Until, m.Alone}
	if c.Offset >= m.Until {
		s = suspicion{}
	}
	if m.Open {
		switch s.unclean++; s.unclean {
		case 1:
			s.until = c.Offset + 2*int64(inFlight) // a fetch may bring more than the limit
		case suspectAfter:
			s.until = c.Offset + fewInFlight
		}
	}
	return s
}

// passed forgets the suspicion as far as a commit has shown it to be wrong.
func (s *suspicion) passed(from, to int64) {
	if to > from {
		s.deaths = 0
	}
	if to >= s.until {
		*s = suspicion{}
	}
}

// trial is a record that runs alone, or is put away without that.
type trial struct {
	entry *entry
	step  trialStep
}

type trialStep int

const (
	announcing trialStep = iota // the mark that names it is not durable yet
	announced                   // it is
	running
	survived // it has its outcome; the mark that takes the announcement back is not durable yet
)

func (ln *lane) alone() bool { return ln.unclean >= suspectAfter }

// tried says whether the trial under way is of this lane.
func (l *ledger) tried(ln *lane) bool { return l.trial != nil && l.trial.entry.lane == ln }

// committable is how many finished entries of a lane a commit may take.
func (l *ledger) committable(ln *lane) int {
	if l.tried(ln) {
		return 0 // the announcement is taken back first
	}
	if ln.stuck != nil {
		return min(ln.ready, slices.Index(ln.entries, ln.stuck))
	}
	return ln.ready
}

// wanted is the mark that should stand at an offset when left entries remain behind it.
func (l *ledger) wanted(ln *lane, at int64, left int) mark {
	s := ln.suspicion
	s.passed(max(ln.committed, ln.start), at)
	m := mark{Unclean: s.unclean, Until: s.until, Alone: s.deaths, Open: !l.handover && (left > 0 || !l.stopping)}
	if m.Open && l.tried(ln) && l.trial.step < survived {
		m.Alone++
	}
	return m
}

// dirty says that a commit would change what the group has for a partition: its offset, or the mark beside it.
func (l *ledger) dirty(ln *lane) bool {
	n := l.committable(ln)
	at := ln.position(n)
	return at > ln.committed || l.guarded && ln.mark != l.wanted(ln, at, len(ln.entries)-n)
}

// begin returns the entries that are to be processed now, and those that are to be finished without that.
func (l *ledger) begin() (start, condemned []*entry) {
	if !l.guarded {
		for _, ln := range l.order {
			start = append(start, ln.entries[ln.started:]...)
			ln.started = len(ln.entries)
		}
		return start, nil
	}
	hold, company := l.trial != nil, false
	for _, ln := range l.order {
		hold = hold || ln.alone() && len(ln.entries) > 0
		company = company || ln.unclean > 0 && ln.started > ln.ready
	}
	for _, ln := range l.order {
		most := len(ln.entries)
		switch {
		case ln.committed < 0, ln.alone(): // its mark is not durable yet; see below
			continue
		case ln.unclean > 0 && hold:
			continue
		case ln.unclean > 0:
			most = min(most, fewInFlight)
		}
		if ln.started < most {
			start = append(start, ln.entries[ln.started:most]...)
			ln.started = most
		}
	}
	for _, ln := range l.order {
		// what runs already, of a lane whose records came first, must not die in its name
		if l.trial != nil || company {
			break
		}
		if !ln.alone() || ln.committed < 0 || ln.started > 0 || len(ln.entries) == 0 {
			continue
		}
		l.trial = &trial{entry: ln.entries[0]}
	}
	if t := l.trial; t != nil && t.step == announced {
		t.step, t.entry.lane.started = running, 1
		if t.entry.lane.deaths < DeathsAlone {
			start = append(start, t.entry)
		} else {
			condemned = append(condemned, t.entry)
		}
	}
	return start, condemned
}

// killer is the fault of a record that has ended the process while it was put away, too.
func killer(deaths int) *Fault {
	return Faultf(Poison, "process", "killed-the-worker",
		"%d times a worker ended without stopping while this record was in flight, the last times while nothing but "+
			"its outcome was made; it was not looked into again", deaths)
}

// judged moves the trial on after a commit of its lane.
func (l *ledger) judged(ln *lane) {
	if !l.tried(ln) {
		return
	}
	switch t := l.trial; {
	case t.step == announcing && ln.mark.Open && ln.mark.Alone > ln.deaths:
		t.step = announced
	case t.step == survived && ln.mark.Alone == 0:
		l.trial = nil
	}
}

// hurry says that a commit should not wait: records wait for it to be processed, or no mark tells of this worker.
func (l *ledger) hurry() bool {
	if !l.guarded {
		return false
	}
	if l.trial != nil && (l.trial.step == announcing || l.trial.step == survived) {
		return true
	}
	return slices.ContainsFunc(l.order, func(ln *lane) bool {
		return ln.committed >= 0 && !ln.mark.Open && l.wanted(ln, ln.committed, len(ln.entries)).Open ||
			len(ln.entries) > ln.started && (ln.committed < 0 || ln.started > 0 && ln.started == ln.ready)
	})
}

// withdraw forgets the entries that nobody has begun to process: the next owner reads them again.
func (l *ledger) withdraw() {
	if l.trial != nil && l.trial.step < running {
		l.trial = nil
	}
	for _, ln := range l.order {
		if ln.started == len(ln.entries) {
			continue
		}
		ln.next = ln.entries[ln.started].record.Offset
		for _, e := range ln.entries[ln.started:] {
			ln.usage.add(-1, -e.size, -e.tokens)
			l.usage.add(-1, -e.size, -e.tokens)
		}
		clear(ln.entries[ln.started:])
		ln.entries = ln.entries[:ln.started]
	}
}

// suspects are the lanes that other workers have died on.
func (l *ledger) suspects() (few, alone []*lane) {
	for _, ln := range l.order {
		switch {
		case ln.alone():
			alone = append(alone, ln)
		case ln.unclean > 0:
			few = append(few, ln)
		}
	}
	return few, alone
}
