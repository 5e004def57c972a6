package pipelinetest

import (
	"fmt"
	"sort"
)

// History is what an independent reader saw of an output topic: for every message the number of the input record that
// it was made from. It checks promises P1 and P2: each record once, and in order within its partition.
type History struct {
	seen     map[int][]place
	last     map[int32]int
	disorder []string
	foreign  int
}

type place struct {
	partition int32
	offset    int64
}

// Add notes one message, in the order of its partition. id is negative for a message that nobody sent.
func (h *History) Add(partition int32, offset int64, id int) {
	if h.seen == nil {
		h.seen, h.last = map[int][]place{}, map[int32]int{}
	}
	if id < 0 {
		h.foreign++
		return
	}
	if last, ok := h.last[partition]; ok && id <= last && len(h.disorder) < 20 {
		h.disorder = append(h.disorder, fmt.Sprintf("record %d after %d at %d@%d", id, last, partition, offset))
	}
	h.last[partition] = id
	h.seen[id] = append(h.seen[id], place{partition, offset})
}

// Distinct is how many different records were seen.
func (h *History) Distinct() int { return len(h.seen) }

// Report is the verdict over a history.
type Report struct {
	Sent, Lost, Doubled, Disorder, Foreign int
	Examples                               []string
}

// Clean says that every record was seen exactly once and in order.
func (r Report) Clean() bool {
	return r.Lost == 0 && r.Doubled == 0 && r.Disorder == 0 && r.Foreign == 0
}

func (r Report) String() string {
	return fmt.Sprintf("sent=%d lost=%d doubled=%d disorder=%d foreign=%d %v", r.Sent, r.Lost, r.Doubled, r.Disorder,
		r.Foreign, r.Examples)
}

// Check compares with the records 0..sent-1.
func (h *History) Check(sent int) Report {
	r := Report{Sent: sent, Disorder: len(h.disorder), Foreign: h.foreign}
	for id := range sent {
		switch places := h.seen[id]; {
		case len(places) == 0:
			r.Lost++
			if r.Lost <= 5 {
				r.Examples = append(r.Examples, fmt.Sprintf("lost %d", id))
			}
		case len(places) > 1:
			r.Doubled++
			if r.Doubled <= 5 {
				r.Examples = append(r.Examples, fmt.Sprintf("doubled %d %v", id, places))
			}
		}
	}
	for id := range h.seen {
		if id >= sent {
			r.Foreign++
		}
	}
	r.Examples = append(r.Examples, h.disorder[:min(5, len(h.disorder))]...)
	sort.Strings(r.Examples)
	return r
}
