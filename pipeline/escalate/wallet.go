package escalate

import (
	"encoding/json"
	"math"
	"time"

	"sluice/pipeline"
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

// walletMember is the member beside a committed offset that holds the partition's wallet.
const walletMember = "budget"

// walletJSON is a wallet as it is written. Version 1: the date, and what was spent on it. Later versions may add
// fields; they may not change these.
type walletJSON struct {
	Version int    `json:"version"`
	Day     string `json:"day"`
	Calls   int64  `json:"calls"`
	Tokens  int64  `json:"tokens"`
	Money   int64  `json:"money"` // in 1e-9
}

// formerMembers held a wallet before it had a member of its own: the version, then walletJSON's others, beside each
// other. They are read still, and taken out, so that a worker that is updated forgets nothing. An older one that takes
// a partition over knows nothing of walletMember, and drops it: it takes the wallet for one of which nothing is spent
// today.
var formerMembers = [...]string{"sluice_budget", "day", "calls", "tokens", "money"}

// readWallet is the wallet beside an offset, or an empty one. It takes the former members out.
func readWallet(beside pipeline.Members) wallet {
	var j walletJSON
	w := wallet{}
	if json.Unmarshal(beside[walletMember], &j) == nil {
		w = j.wallet()
	}
	if beside[formerMembers[0]] == nil {
		return w
	}
	var former walletJSON
	read := true
	for i, field := range []any{&former.Version, &former.Day, &former.Calls, &former.Tokens, &former.Money} {
		raw := beside[formerMembers[i]]
		read = read && (raw == nil || json.Unmarshal(raw, field) == nil)
		delete(beside, formerMembers[i])
	}
	if read {
		w.join(former.wallet())
	}
	return w
}

// wallet is what was spent, as far as that makes sense; else nothing.
func (j *walletJSON) wallet() wallet {
	if j.Version < 1 || j.Calls < 0 || j.Tokens < 0 || j.Money < 0 {
		return wallet{}
	}
	t, err := time.Parse(time.DateOnly, j.Day)
	if err != nil {
		return wallet{}
	}
	const most = math.MaxInt64 / 4 // so that nothing overflows
	return wallet{dayOf(t), amounts{min(j.Calls, most), min(j.Tokens, most), min(j.Money, most)}}
}

// join makes w what both know to be spent: the later day, or of one day the most.
func (w *wallet) join(other wallet) {
	switch {
	case other.day > w.day:
		*w = other
	case other.day == w.day:
		for i := range w.spent {
			w.spent[i] = max(w.spent[i], other.spent[i])
		}
	}
}

// encode is what readWallet reads.
func (w *wallet) encode() json.RawMessage {
	// plain fields: cannot fail
	s, _ := json.Marshal(walletJSON{1, w.day.String(), w.spent[calls], w.spent[tokens], w.spent[money]})
	return s
}
