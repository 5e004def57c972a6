package escalate

import (
	"encoding/json"
	"math"
	"time"
)

// This file owns one partition's wallet: days, amounts, and how it is written beside a committed offset.

// nano is the number of units in which money is counted, in one of the currency's.
const nano = 1e9

// The three things that run out.
const (
	calls = iota
	tokens
	money // in 1e-9 of the currency
	resources
)

type amounts [resources]int64

func (a *amounts) add(b amounts) {
	for i := range a {
		a[i] += b[i]
	}
}

// day is a date in UTC, in days since 1970-01-01.
type day int64

func dayOf(t time.Time) day {
	return day(math.Floor(float64(t.Unix()) / (24 * 60 * 60)))
}

func (d day) String() string { return time.Unix(int64(d)*24*60*60, 0).UTC().Format(time.DateOnly) }

// wallet is what has been spent of one partition's part on one day.
type wallet struct {
	day   day
	spent amounts
}

// turn begins a new day. A day in the future (another worker's clock runs ahead) is kept, with what was spent on it;
// one that is further away than clocks differ is taken for today.
func (w *wallet) turn(today day) {
	switch {
	case w.day < today:
		*w = wallet{day: today}
	case w.day > today+1:
		w.day = today
	}
}

// walletJSON is a wallet beside a committed offset. Version 1: the date, and what was spent on it. Later versions may
// add fields; they may not change these.
type walletJSON struct {
	Version int    `json:"sluice_budget"`
	Day     string `json:"day"`
	Calls   int64  `json:"calls"`
	Tokens  int64  `json:"tokens"`
	Money   int64  `json:"money"` // in 1e-9
}

// decodeWallet is the wallet that s holds, or an empty one.
func decodeWallet(s string) wallet {
	var j walletJSON
	if json.Unmarshal([]byte(s), &j) != nil || j.Version < 1 || j.Calls < 0 || j.Tokens < 0 || j.Money < 0 {
		return wallet{}
	}
	t, err := time.Parse(time.DateOnly, j.Day)
	if err != nil {
		return wallet{}
	}
	const most = math.MaxInt64 / 4 // so that nothing overflows
	return wallet{dayOf(t), amounts{min(j.Calls, most), min(j.Tokens, most), min(j.Money, most)}}
}

// encode is what decodeWallet reads.
func (w *wallet) encode() string {
	// plain fields: cannot fail
	s, _ := json.Marshal(walletJSON{1, w.day.String(), w.spent[calls], w.spent[tokens], w.spent[money]})
	return string(s)
}
