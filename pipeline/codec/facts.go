package codec

import (
	"strconv"

	"sluice/model"
	"sluice/pipeline"
)

// This file owns how verdicts are written as JSON: in results, and in the header of an escalation request.

// Appender is a fact's value that writes itself as members of a JSON object, without braces. Equal values give equal
// bytes.
type Appender interface{ AppendJSON(b []byte) []byte }

// MoreAppender is a fact's value with members that stand behind the fact's tag, each with a comma before it.
type MoreAppender interface{ AppendMore(b []byte) []byte }

// AppendVerdicts appends the members of the output field, without braces:
//
//	"sentiment":{"label":"NEGATIVE","score":0.9731,"by":"model","model":"sentiment@3f9c…","revision":1},"flags":["text-cut"]
//	"sentiment":null,"reason":"empty"
func AppendVerdicts(b []byte, v *Verdicts) []byte {
	for i := range v.Facts {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendFact(b, &v.Facts[i])
	}
	if v.Reason != "" {
		b = append(b, `,"reason":`...)
		b = model.AppendString(b, v.Reason)
	}
	if v.Flags != (Flags{}) {
		b = append(b, `,"flags":[`...)
		for i, name := range v.Flags.Names() {
			if i > 0 {
				b = append(b, ',')
			}
			b = model.AppendString(b, name)
		}
		b = append(b, ']')
	}
	return b
}

func appendFact(b []byte, f *pipeline.Fact) []byte {
	b = append(model.AppendString(b, f.Name), ':')
	if f.Value == nil {
		return append(b, "null"...)
	}
	b = append(b, '{')
	if a, ok := f.Value.(Appender); ok {
		n := len(b)
		if b = a.AppendJSON(b); len(b) > n {
			b = append(b, ',')
		}
	}
	b = append(b, `"by":"`...)
	b = append(b, f.By...)
	b = append(b, '"')
	if f.Reason != "" {
		b = append(b, `,"reason":`...)
		b = model.AppendString(b, f.Reason)
	}
	b = append(b, `,"model":`...)
	b = model.AppendString(b, f.Tag)
	if a, ok := f.Value.(MoreAppender); ok {
		b = a.AppendMore(b)
	}
	b = append(b, `,"revision":`...)
	b = strconv.AppendInt(b, int64(f.Revision), 10)
	if f.Amends != "" {
		b = append(b, `,"amends":`...)
		b = model.AppendString(b, f.Amends)
	}
	if f.Provisional {
		b = append(b, `,"provisional":true`...)
	}
	return append(b, '}')
}
