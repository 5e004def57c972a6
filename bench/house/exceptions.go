package house

import "strings"

// An Exception is a place that breaks a rule for now.
type Exception struct {
	Rule string
	Path string // what paths of findings begin with
	What string // what the finding says, or a part of it; empty: whatever it says
}

// Exceptions is empty but while a change of many parts is under way, and each says what ends it. One that excuses
// nothing any more is a finding itself.
var Exceptions []Exception

// Excused takes the findings that an exception excuses away, and adds the exceptions that excused none.
func Excused(found []Finding, exceptions []Exception) (left []Finding) {
	used := make([]bool, len(exceptions))
	for _, f := range found {
		excused := false
		for i, e := range exceptions {
			if f.Rule == e.Rule && strings.HasPrefix(f.Path, e.Path) && strings.Contains(f.What, e.What) {
				used[i], excused = true, true
			}
		}
		if !excused {
			left = append(left, f)
		}
	}
	for i, e := range exceptions {
		if !used[i] {
			left = append(left, Finding{e.Rule, "bench/house/exceptions.go", 0, "the exception for " + e.Path + " " +
				e.What +
				" excuses nothing any more; remove it"})
		}
	}
	return left
}
