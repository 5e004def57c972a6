package model

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// AppendJSON appends the members of the verdict's JSON object, without braces, in Hugging Face's words:
//
//	"label":"NEGATIVE","score":0.9731
//	"label":"toxic","score":0.9,"scores":[{"label":"toxic","score":0.9},{"label":"hate","score":0.1}]
//	"entities":[{"entity_group":"PER","score":0.99,"word":"Ada","start":0,"end":3}]
//	"entities":[{"entity":"B-PER","score":0.99,"index":1,"word":"Ada","start":0,"end":3}]
//
// and "truncated":true and "windows":3 where they say something. Scores have up to six significant digits. Equal
// verdicts give equal bytes.
func (v *Verdict) AppendJSON(b []byte) []byte {
	if v.Entities != nil {
		b = append(b, `"entities":[`...)
		for i := range v.Entities {
			if i > 0 {
				b = append(b, ',')
			}
			b = v.Entities[i].appendJSON(b, v.tokens)
		}
		b = append(b, ']')
	} else {
		b = appendLabelScore(b, v.Label, v.Score)
		if v.Scores != nil {
			b = append(b, `,"scores":[`...)
			for i, s := range v.Scores {
				if i > 0 {
					b = append(b, ',')
				}
				b = append(b, '{')
				b = appendLabelScore(b, s.Label, s.Score)
				b = append(b, '}')
			}
			b = append(b, ']')
		}
	}
	if v.Truncated {
		b = append(b, `,"truncated":true`...)
	}
	if v.Windows > 1 {
		b = append(b, `,"windows":`...)
		b = strconv.AppendInt(b, int64(v.Windows), 10)
	}
	return b
}

func appendLabelScore(b []byte, label string, score float64) []byte {
	b = append(b, `"label":`...)
	b = AppendString(b, label)
	b = append(b, `,"score":`...)
	return AppendScore(b, score)
}

func (e *Entity) appendJSON(b []byte, token bool) []byte {
	if token {
		b = append(b, `{"entity":`...)
	} else {
		b = append(b, `{"entity_group":`...)
	}
	b = AppendString(b, e.Group)
	b = append(b, `,"score":`...)
	b = AppendScore(b, e.Score)
	if token {
		b = append(b, `,"index":`...)
		b = strconv.AppendInt(b, int64(e.Index), 10)
	}
	b = append(b, `,"word":`...)
	b = AppendString(b, e.Word)
	b = append(b, `,"start":`...)
	b = strconv.AppendInt(b, int64(e.Start), 10)
	b = append(b, `,"end":`...)
	b = strconv.AppendInt(b, int64(e.End), 10)
	return append(b, '}')
}

// AppendScore writes six significant digits and no zeros behind them. A score that is no number, which Judge never
// makes, is null: JSON has no NaN.
func AppendScore(b []byte, x float64) []byte {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return append(b, "null"...)
	}
	if x == 0 {
		return append(b, '0') // also for -0
	}
	return strconv.AppendFloat(b, x, 'g', 6, 64)
}

// AppendString appends s as a JSON string. Escaped are only the quote, the backslash, control characters and
// U+2028/2029 (line ends in JavaScript); invalid UTF-8 becomes U+FFFD.
func AppendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\n':
				b = append(b, '\\', 'n')
			case c == '\r':
				b = append(b, '\\', 'r')
			case c == '\t':
				b = append(b, '\\', 't')
			case c < 0x20 || c == 0x7F:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			default:
				b = append(b, c)
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = utf8.AppendRune(b, utf8.RuneError)
		case r == '\u2028' || r == '\u2029':
			b = append(b, `\u202`...)
			b = append(b, hex[r&15])
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return append(b, '"')
}
