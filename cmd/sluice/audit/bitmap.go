package audit

import "math/bits"

// page is how many offsets one page of a bitmap covers.
const page = 1 << 16

// bitmap is a set of offsets. Pages without a member take no memory, so gaps in a log cost nothing.
type bitmap map[int64]*[page / 64]uint64

// add puts n into the set and says whether it is new there.
func (b bitmap) add(n int64) bool {
	p := b[n/page]
	if p == nil {
		p = new([page / 64]uint64)
		b[n/page] = p
	}
	at, bit := n%page/64, uint64(1)<<(n%64)
	if p[at]&bit != 0 {
		return false
	}
	p[at] |= bit
	return true
}

func (b bitmap) has(n int64) bool {
	p := b[n/page]
	return p != nil && p[n%page/64]&(1<<(n%64)) != 0
}

func (b bitmap) count() int64 {
	n := 0
	for _, p := range b {
		for _, w := range p {
			n += bits.OnesCount64(w)
		}
	}
	return int64(n)
}
