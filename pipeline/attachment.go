package pipeline

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
)

// This file owns what stands beside a committed offset (Commit.Metadata): a JSON object with a member for each owner.
// The stage alone writes it. Its owners are the stage's own mark (quarantine.go) and attachments; members of others,
// such as of another version of this program, stay as they are. Text that is no JSON object is replaced.

// Attachment is something that moves with a partition: a small note beside the committed offset, written with every
// commit and given to whoever owns the partition next.
type Attachment interface {
	// Name is the member that holds the notes. It never changes, and is no other attachment's and not "starts", the
	// mark's.
	Name() string
	// Assigned is told every new assignment before the first record of it is delivered: what stands beside the offset
	// of each owned partition; nil: nothing does. Members that it wrote under other names in former versions it takes
	// out of the map: they go with the next commit. Otherwise the map is not to be written to.
	Assigned(map[TopicPartition]Members)
	// Note is what is to stand beside the offset of a partition now, as JSON; nil: nothing. A partition whose note has
	// changed joins the next commit also when its offset stays. Called for each owned partition and commit, with the
	// stage locked: it must be quick, and must not call the stage.
	//
	// All that stands beside an offset has 4096 bytes. What does not fit is left out, and the commit goes on; the log
	// says so once an assignment. Kept are, as far as they fit, the mark, which always does, the notes of attachments
	// in their order, and what is unknown, the smallest of it first. A note that is no JSON is left out, too.
	Note(tp TopicPartition) json.RawMessage
}

// Members are those of the JSON object beside a committed offset, by name.
type Members map[string]json.RawMessage

// largestMetadata is how many bytes brokers take beside an offset (their offset.metadata.max.bytes). One more, and the
// commit is refused.
const largestMetadata = 4096

// readMembers is nil where there is no JSON object.
func readMembers(metadata string) Members {
	var m Members
	if metadata == "" || json.Unmarshal([]byte(metadata), &m) != nil {
		return nil
	}
	return m
}

// tell tells attachments of an assignment. It returns the members of others, which are to be kept.
func tell(attachments []Attachment, committed map[TopicPartition]Committed) map[TopicPartition]Members {
	beside := make(map[TopicPartition]Members, len(committed))
	for tp, c := range committed {
		beside[tp] = readMembers(c.Metadata)
	}
	for _, a := range attachments {
		a.Assigned(beside)
	}
	for _, m := range beside {
		delete(m, markKey)
		for _, a := range attachments {
			delete(m, a.Name())
		}
	}
	return beside
}

// compose is the metadata of a partition, and the names of the members that are left out of it.
func compose(m mark, attachments []Attachment, others Members, tp TopicPartition) (metadata string, left []string) {
	if len(attachments) == 0 && len(others) == 0 {
		return m.alone(), nil
	}
	all := Members{}
	if m != (mark{}) {
		all[markKey] = jsonOf(m)
	}
	all, kept := maps.Clone(all), all
	maps.Copy(all, others)
	var names []string // of attachments, then of what is unknown: so they are kept, as far as they fit
	for _, a := range attachments {
		switch note := a.Note(tp); {
		case note == nil:
		case !json.Valid(note):
			left = append(left, a.Name())
		default:
			all[a.Name()] = note
			names = append(names, a.Name())
		}
	}
	if text := all.text(); len(text) <= largestMetadata {
		return text, left
	}
	names = append(names, slices.SortedFunc(maps.Keys(others), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(others[a]), len(others[b])), cmp.Compare(a, b))
	})...)
	for _, name := range names {
		kept[name] = all[name]
		if len(kept.text()) > largestMetadata {
			delete(kept, name)
			left = append(left, name)
		}
	}
	return kept.text(), left
}

func (m Members) text() string {
	if len(m) == 0 {
		return ""
	}
	return string(jsonOf(m))
}

// jsonOf encodes what cannot fail: numbers, and JSON that was read before.
func jsonOf(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
