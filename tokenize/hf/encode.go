package hf

/*
#include "native.h"
*/
import "C"

import (
	"fmt"
	"math"
	"slices"
	"unsafe"

	"sluice/tokenize"
)

// batchBytes bounds what one call of the library takes: its offsets have 32 bits, and its results are copied.
const batchBytes = 4 << 20

// Encode tokenizes texts, in few calls of the library and few allocations: the encodings of one call share their
// arrays, so keeping one keeps all. An error is a *tokenize.OptionsError (of every text), tokenize.ErrClosed (of every
// text) or a *tokenize.TextError.
func (t *Tokenizer) Encode(texts [][]byte, o tokenize.Options) []tokenize.Encoded {
	return t.batches(texts, 1, o)
}

// EncodePairs tokenizes pairs of texts; see Encode.
func (t *Tokenizer) EncodePairs(pairs [][2][]byte, o tokenize.Options) []tokenize.Encoded {
	texts := make([][]byte, 0, 2*len(pairs))
	for i := range pairs {
		texts = append(texts, pairs[i][0], pairs[i][1])
	}
	return t.batches(texts, 2, o)
}

// batches tokenizes texts, of which each `of` (1 or 2) make a row.
func (t *Tokenizer) batches(texts [][]byte, of int, o tokenize.Options) []tokenize.Encoded {
	out := make([]tokenize.Encoded, len(texts)/of)
	if err := t.check(of, o); err != nil {
		for i := range out {
			out[i].Err = err
		}
		return out
	}
	bytes := func(row int) (n int) {
		for _, text := range texts[of*row : of*row+of] {
			n += len(text)
		}
		return n
	}
	for start := 0; start < len(out); {
		end, size := start, 0
		for end < len(out) && (end == start || size+bytes(end) <= batchBytes) {
			size += bytes(end)
			end++
		}
		if size > math.MaxUint32 {
			out[start].Err = &tokenize.TextError{Bytes: size, Reason: "longer than 4 GiB"}
		} else {
			t.encode(texts[of*start:of*end], of, size, o, out[start:end])
		}
		start = end
	}
	return out
}

// check refuses what would be an error of every long text, so that it is found with the first short one.
func (t *Tokenizer) check(of int, o tokenize.Options) error {
	added := t.addedTokens
	if of == 2 {
		added = t.addedToPairs
	}
	room := o.MaxTokens - added
	switch {
	case of == 2 && o.Windows:
		return &tokenize.OptionsError{Options: o, Reason: "pairs of texts are not read in windows"}
	case o.MaxTokens == 0:
		return nil
	case o.MaxTokens < 0 || o.Stride < 0 || o.MaxTokens > math.MaxInt32:
		return &tokenize.OptionsError{Options: o, Reason: "neither may be negative or exceed 31 bits"}
	case room < 1:
		return &tokenize.OptionsError{Options: o, Reason: fmt.Sprintf("no room for text beside the %d special tokens",
			added)}
	case o.Windows && o.Stride >= room:
		return &tokenize.OptionsError{Options: o, Reason: fmt.Sprintf("the stride must be less than %d, the tokens "+
			"of text in a window", room)}
	}
	return nil
}

// encode makes one call of the library for texts of size bytes in all, of which each `of` make a row, and fills out.
func (t *Tokenizer) encode(texts [][]byte, of, size int, o tokenize.Options, out []tokenize.Encoded) {
	text := texts[0]
	if len(texts) > 1 {
		text = make([]byte, 0, size)
		for _, one := range texts {
			text = append(text, one...)
		}
	}
	ends, at := make([]uint32, len(texts)), 0
	for i, one := range texts {
		at += len(one)
		ends[i] = uint32(at)
	}
	options := C.struct_slz_options{
		max_len: C.uint32_t(o.MaxTokens),
		stride:  C.uint32_t(o.Stride),
		windows: C.bool(o.Windows),
		offsets: C.bool(o.Offsets),
		left:    C.bool(o.CutLeft),
		pairs:   C.bool(of == 2),
	}
	var batch C.struct_slz_batch

	t.mu.RLock()
	if t.handle == nil {
		t.mu.RUnlock()
		for i := range out {
			out[i].Err = tokenize.ErrClosed
		}
		return
	}
	C.slz_encode_batch(t.handle, (*C.uint8_t)(unsafe.SliceData(text)), (*C.uint32_t)(&ends[0]), C.uint32_t(len(ends)),
		&options, &batch)
	t.mu.RUnlock()
	defer C.slz_free_batch(&batch)
	fill(out, texts, of, o.Types, &batch)
}

// fill turns the arrays of the library into encodings, one copy for each kind of array.
func fill(out []tokenize.Encoded, texts [][]byte, of int, withTypes bool, batch *C.struct_slz_batch) {
	rows := int(batch.rows)
	rowEnd := unsafe.Slice((*uint32)(batch.row_end), rows)
	textRows := unsafe.Slice((*uint32)(batch.text_rows), len(out))
	truncated := unsafe.Slice((*uint8)(batch.text_truncated), len(out))
	textError := unsafe.Slice((*uint32)(batch.text_error), len(out))

	n := 0
	if rows > 0 {
		n = int(rowEnd[rows-1])
	}
	ids := make([]int32, n)
	copy(ids, unsafe.Slice((*int32)(batch.ids), n))
	var types []byte
	if withTypes && batch.type_ids != nil {
		types = slices.Clone(unsafe.Slice((*byte)(batch.type_ids), n))
	}
	var offsets []tokenize.Span
	var special []bool
	if batch.offsets != nil {
		offsets, special = make([]tokenize.Span, n), make([]bool, n)
		bounds := unsafe.Slice((*[2]uint32)(unsafe.Pointer(batch.offsets)), n)
		mask := unsafe.Slice((*uint8)(batch.special), n)
		for i := range n {
			offsets[i] = tokenize.Span{Start: int(bounds[i][0]), End: int(bounds[i][1])}
			special[i] = mask[i] != 0
		}
	}

	windows := make([]tokenize.Encoding, rows)
	start := 0
	for r := range windows {
		end := int(rowEnd[r])
		windows[r].IDs = ids[start:end:end]
		if types != nil {
			windows[r].TypeIDs = types[start:end:end]
		}
		if offsets != nil {
			windows[r].Offsets, windows[r].Special = offsets[start:end:end], special[start:end:end]
		}
		start = end
	}

	row, message := 0, 0
	for i := range out {
		size := 0
		for _, text := range texts[of*i : of*i+of] {
			size += len(text)
		}
		end, messageEnd := int(textRows[i]), int(textError[i])
		switch {
		case messageEnd > message:
			reason := unsafe.Slice((*uint8)(batch.errors), messageEnd)[message:]
			out[i].Err = &tokenize.TextError{Bytes: size, Reason: string(reason)}
		case len(windows[row].IDs) == 0:
			out[i].Err = &tokenize.TextError{Bytes: size, Reason: "no tokens, and this tokenizer adds no " +
				"special ones"}
		default:
			out[i].Windows = windows[row:end:end]
			out[i].Truncated = truncated[i] != 0
		}
		row, message = end, messageEnd
	}
}
