// Package badrecords makes the records that the README's table of bad input is about, for any test that mixes them
// among good ones. It knows nothing of Sluice.
package badrecords

import (
	"math/rand/v2"
	"strings"
)

// Kinds make the value of a record each: of those of the table that do not become an ordinary result, and of some that
// are near to it. nil is a record without a value.
var Kinds = []func(r *rand.Rand) []byte{
	func(*rand.Rand) []byte { return nil },
	func(*rand.Rand) []byte { return []byte{} },
	func(*rand.Rand) []byte { return []byte("not json") },
	func(*rand.Rand) []byte { return []byte(`{"text":"cut off`) },
	func(*rand.Rand) []byte { return []byte(`{"text":7}`) },
	func(*rand.Rand) []byte { return []byte(`{"other":"field"}`) },
	func(*rand.Rand) []byte { return []byte(`["text"]`) },
	func(*rand.Rand) []byte { return []byte(`{"text":""}`) },
	func(*rand.Rand) []byte { return []byte(`{"text":" \u00a0\t "}`) },
	func(*rand.Rand) []byte { return []byte(`{"text":"taken","inference":{}}`) },
	func(*rand.Rand) []byte { return []byte(`{"text":"lone \ud800 surrogate"}`) },
	func(*rand.Rand) []byte { return []byte("{\"text\":\"broken \xff\xfe utf-8 \xc3\"}") },
	func(*rand.Rand) []byte { return []byte(`{"text":"nul \u0000 and [SEP] </s> <|endoftext|>"}`) },
	func(*rand.Rand) []byte {
		return []byte(strings.Repeat(`{"a":`, 600) + `"x"` + strings.Repeat("}", 600))
	},
	func(r *rand.Rand) []byte {
		return []byte(`{"text":"` + strings.Repeat("long ", 100+r.IntN(3000)) + `"}`)
	},
	func(r *rand.Rand) []byte {
		return []byte(`{"text":"` + strings.Repeat("e\u0301", 1+r.IntN(2000)) + `"}`)
	},
	func(r *rand.Rand) []byte { return []byte(`{"text":"` + strings.Repeat("x", 300_000) + `"}`) },
	func(r *rand.Rand) []byte {
		b := make([]byte, r.IntN(400))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	},
}
