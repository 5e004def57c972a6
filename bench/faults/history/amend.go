package history

// This file owns what belongs to a result beside the result itself: routed copies (alerts), and the final verdicts of
// results that were published as provisional.

// CheckAlerts checks P3 alone: whatever is visible, each result for which a route's rule holds is there together with
// exactly one alert, and there is no other alert. It may be asked at any moment at which no transaction is open,
// whether or not all records are processed.
func CheckAlerts(outputs, alerts []Output) *Report {
	r := &Report{}
	r.alerts(outputs, alerts)
	return r
}

func (r *Report) alerts(outputs, alerts []Output) {
	r.Alerts += len(alerts)
	type id struct {
		source   string
		revision int
	}
	of := make(map[id][]*Output, len(alerts))
	for i := range alerts {
		k := id{alerts[i].Source, alerts[i].Revision}
		of[k] = append(of[k], &alerts[i])
	}
	for i := range outputs {
		o := &outputs[i]
		k := id{o.Source, o.Revision}
		if o.Dead || !o.Due {
			continue // an alert that is there all the same is left over below
		}
		all := of[k]
		if len(all) == 0 {
			r.Silent++
			r.example(r.Silent, "silent: the result of %s, revision %d, at %s@%d has no alert", o.Source, o.Revision,
				o.Partition, o.Offset)
			continue
		}
		// The first one is taken: a doubled result finds none for its second copy, and says so.
		of[k] = nil
		if len(all) > 1 {
			r.Repeated++
			r.example(r.Repeated, "repeated: the result of %s, revision %d, has %d alerts, the second one at %s@%d",
				o.Source, o.Revision, len(all), all[1].Partition, all[1].Offset)
		}
		if a := all[0]; a.Key != o.Key || string(a.Value) != string(o.Value) {
			r.Changed++
			r.example(r.Changed, "changed: the alert at %s@%d is no copy of the result of %s", a.Partition, a.Offset,
				o.Source)
		}
	}
	for i := range alerts { // in the order in which they were read
		k := id{alerts[i].Source, alerts[i].Revision}
		if len(of[k]) == 0 {
			continue
		}
		of[k] = nil
		r.Alone++
		r.example(r.Alone, "alone: the alert at %s@%d, of %s, revision %d, has no result for which its rule holds",
			alerts[i].Partition, alerts[i].Offset, alerts[i].Source, alerts[i].Revision)
	}
}

// amendments checks that each provisional result has exactly one final verdict, behind it in the same partition, and
// that no other result has one. first are the results of revision 1 by their source; all are sorted by partition and
// offset.
func (r *Report) amendments(first map[string]*Output, amendments []*Output) {
	seen := map[string]int{}
	for _, a := range amendments {
		r.Finals++
		if a.Fallback && a.Reason == "" {
			r.Unreasoned++
			r.example(r.Unreasoned, "no reason: %s@%d, final verdict of %s, fell back and does not say why",
				a.Partition, a.Offset, a.Source)
		}
		if seen[a.Source]++; seen[a.Source] == 2 {
			r.Doubled++
			r.example(r.Doubled, "doubled: a second final verdict of %s at %s@%d", a.Source, a.Partition, a.Offset)
		}
		o := first[a.Source]
		if o == nil || !o.Provisional || a.Amends != o.ID || a.ID == o.ID || a.Partition != o.Partition ||
			a.Offset <= o.Offset || a.Provisional {
			r.Misplaced++
			r.example(r.Misplaced, "misplaced: %s@%d is a final verdict of %s and says that it amends %q; there is "+
				"no such provisional result before it", a.Partition, a.Offset, a.Source, a.Amends)
		}
	}
	for source, o := range first {
		if o.Provisional && seen[source] == 0 {
			r.Unsettled++
			r.example(r.Unsettled, "unsettled: %s@%d is the provisional result of %s, and there is no final one",
				o.Partition, o.Offset, source)
		}
		if o.Provisional != o.Asked {
			r.Misplaced++
			r.example(r.Misplaced, "misplaced: %s@%d is provisional: %v; the rule of the escalation holds for it: %v",
				o.Partition, o.Offset, o.Provisional, o.Asked)
		}
	}
}
