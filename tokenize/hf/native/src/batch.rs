//! Many texts in one call.

use std::ffi::c_void;
use std::{mem, ptr, slice};

use crate::engine::{Cut, Engine};
use crate::memory::start_of;
use crate::text::Text;

/// What was made of a batch of n texts. A row is what a model takes: one text, or one window of it. An array with
/// nothing in it is null.
#[repr(C)]
pub struct slz_batch {
    ids: *const i32,           // of all rows, end to end
    type_ids: *const u8,       // of all rows; none unless texts are pairs
    offsets: *const u32,       // start and end per id, bytes of its text; none unless asked for
    special: *const u8,        // per id: 1 for a token that the tokenizer added; none unless asked for
    row_end: *const u32,       // per row: end of its ids
    text_rows: *const u32,     // per text: end of its rows; a text that failed has none
    text_truncated: *const u8, // per text: 1 where tokens were cut off
    text_error: *const u32,    // per text: end of its message in errors, which is empty where nothing failed
    errors: *const u8,
    rows: u32,
    owner: *mut Owner,
}

#[derive(Default)]
pub struct Owner {
    ids: Vec<i32>,
    type_ids: Vec<u8>,
    offsets: Vec<u32>,
    special: Vec<u8>,
    row_end: Vec<u32>,
    text_rows: Vec<u32>,
    text_truncated: Vec<u8>,
    text_error: Vec<u32>,
    errors: Vec<u8>,
}

/// How texts are cut and what is returned.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct slz_options {
    max_len: u32, // longest row, special tokens included; 0: no limit
    stride: u32,  // tokens that successive windows share
    windows: bool,
    offsets: bool, // fill offsets and special; not of pairs
    left: bool,    // the end of a text is kept, not its beginning
    pairs: bool,   // texts are pairs: the first and the second, the third and the fourth; never windows
}

impl Owner {
    fn add(&mut self, engine: &Engine, raw: &[u8], second: Option<&[u8]>, o: &slz_options) {
        let text = Text::new(raw);
        let cut = Cut {
            max_len: o.max_len as usize,
            stride: o.stride as usize,
            windows: o.windows,
            left: o.left,
        };
        let made = match second {
            Some(second) => engine.pair(&text, &Text::new(second), cut),
            None => engine.rows(&text, o.offsets, cut),
        };
        let truncated = match made {
            Ok(out) => {
                let starts = if o.offsets { text.char_starts() } else { Vec::new() };
                let raw = |at: usize| text.raw_offset(starts.get(at).copied().unwrap_or(at)) as u32;
                for row in &out.rows {
                    self.ids.extend(row.get_ids().iter().map(|&id| id as i32));
                    if o.pairs {
                        self.type_ids.extend(row.get_type_ids().iter().map(|&t| t as u8));
                    } else if o.offsets {
                        let pair = |&(a, b): &(usize, usize)| [raw(a), raw(b)];
                        self.offsets.extend(row.get_offsets().iter().flat_map(pair));
                        self.special
                            .extend(row.get_special_tokens_mask().iter().map(|&m| m as u8));
                    }
                    self.row_end.push(self.ids.len() as u32);
                }
                out.truncated
            }
            Err(message) => {
                self.errors.extend_from_slice(if message.is_empty() {
                    b"unknown"
                } else {
                    message.as_bytes()
                });
                false
            }
        };
        self.text_rows.push(self.row_end.len() as u32);
        self.text_truncated.push(truncated.into());
        self.text_error.push(self.errors.len() as u32);
    }
}

/// The number of special tokens that a row gets, of one text or of a pair.
///
/// # Safety
/// `tok` is null, or live and from a `tokenizers_from_*` function.
#[no_mangle]
pub unsafe extern "C" fn slz_added_tokens(tok: *mut c_void, pair: bool) -> u32 {
    tok.cast::<Engine>()
        .as_ref()
        .map_or(0, |engine| engine.added_tokens(pair) as u32)
}

/// Tokenizes `n` texts, or n/2 pairs of them, which stand end to end in `text`. `slz_free_batch` frees the result.
///
/// # Safety
/// `tok` is live and from a `tokenizers_from_*` function; `end` has `n` ascending entries, the ends of the texts.
#[no_mangle]
pub unsafe extern "C" fn slz_encode_batch(
    tok: *mut c_void,
    text: *const u8,
    end: *const u32,
    n: u32,
    options: &slz_options,
    out: &mut slz_batch,
) {
    let engine = &*tok.cast::<Engine>();
    let mut own = Box::<Owner>::default();
    let mut start = 0;
    let texts = slice::from_raw_parts(end, n as usize).iter().map(|&stop| {
        let from = mem::replace(&mut start, stop as usize);
        if start > from {
            slice::from_raw_parts(text.add(from), start - from)
        } else {
            &[]
        }
    });
    if options.pairs {
        let texts: Vec<_> = texts.collect();
        for pair in texts.chunks_exact(2) {
            own.add(engine, pair[0], Some(pair[1]), options);
        }
    } else {
        for raw in texts {
            own.add(engine, raw, None, options);
        }
    }
    *out = slz_batch {
        ids: start_of(&own.ids),
        type_ids: start_of(&own.type_ids),
        offsets: start_of(&own.offsets),
        special: start_of(&own.special),
        row_end: start_of(&own.row_end),
        text_rows: start_of(&own.text_rows),
        text_truncated: start_of(&own.text_truncated),
        text_error: start_of(&own.text_error),
        errors: start_of(&own.errors),
        rows: own.row_end.len() as u32,
        owner: Box::into_raw(own),
    };
}

/// # Safety
/// `b` came from `slz_encode_batch`; its arrays are not used again. A second call does nothing.
#[no_mangle]
pub unsafe extern "C" fn slz_free_batch(b: &mut slz_batch) {
    let owner = mem::replace(&mut b.owner, ptr::null_mut());
    if !owner.is_null() {
        drop(Box::from_raw(owner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daulet::tests::Handle;

    struct Got {
        ids: Vec<Vec<i32>>, // per row
        type_ids: Vec<u8>,
        offsets: Vec<u32>,
        special: Vec<u8>,
        text_rows: Vec<u32>,
        truncated: Vec<u8>,
        errors: Vec<String>,
    }

    fn encode(texts: &[&[u8]], o: slz_options) -> Got {
        let tok = Handle::new(true);
        let ends: Vec<u32> = texts
            .iter()
            .scan(0, |at, t| {
                *at += t.len() as u32;
                Some(*at)
            })
            .collect();
        let joined = texts.concat();
        unsafe {
            let mut b = mem::zeroed();
            slz_encode_batch(tok.0, joined.as_ptr(), ends.as_ptr(), texts.len() as u32, &o, &mut b);
            let (own, mut at, mut error_at) = (&*b.owner, 0, 0);
            let got = Got {
                ids: own
                    .row_end
                    .iter()
                    .map(|&end| own.ids[mem::replace(&mut at, end as usize)..end as usize].to_vec())
                    .collect(),
                type_ids: own.type_ids.clone(),
                offsets: own.offsets.clone(),
                special: own.special.clone(),
                text_rows: own.text_rows.clone(),
                truncated: own.text_truncated.clone(),
                errors: own
                    .text_error
                    .iter()
                    .map(|&end| &own.errors[mem::replace(&mut error_at, end as usize)..end as usize])
                    .map(|e| String::from_utf8(e.to_vec()).unwrap())
                    .collect(),
            };
            slz_free_batch(&mut b);
            slz_free_batch(&mut b);
            got
        }
    }

    const WHOLE: slz_options = slz_options {
        max_len: 0,
        stride: 0,
        windows: false,
        offsets: false,
        left: false,
        pairs: false,
    };

    #[test]
    fn every_text_has_its_row() {
        let got = encode(&[b"ab", b"", b"c\0a\xFF b"], WHOLE);
        assert_eq!(got.ids, [vec![1, 3, 5, 2], vec![1, 2], vec![1, 0, 4, 2]]);
        assert_eq!(got.text_rows, [1, 2, 3]);
        assert_eq!(got.truncated, [0, 0, 0]);
        assert_eq!(got.errors, ["", "", ""]);
        assert!(got.offsets.is_empty() && got.special.is_empty());
    }

    #[test]
    fn truncation_keeps_the_last_special_token_and_is_flagged() {
        let got = encode(
            &[b"a b c a", b"a b"],
            slz_options {
                max_len: 4,
                offsets: true,
                ..WHOLE
            },
        );
        assert_eq!(got.ids, [[1, 3, 4, 2], [1, 3, 4, 2]]);
        assert_eq!(got.offsets, [0, 0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 1, 2, 3, 0, 0]);
        assert_eq!(got.special, [1, 0, 0, 1, 1, 0, 0, 1]);
        assert_eq!(got.truncated, [1, 0]);
    }

    #[test]
    fn windows_overlap_by_the_stride_and_end_with_the_text() {
        let got = encode(
            &[b"a b c a b", b"c"],
            slz_options {
                max_len: 5,
                stride: 1,
                windows: true,
                ..WHOLE
            },
        );
        assert_eq!(got.ids, [vec![1, 3, 4, 6, 2], vec![1, 6, 3, 4, 2], vec![1, 6, 2]]);
        assert_eq!(got.text_rows, [2, 3]);
        assert_eq!(got.truncated, [0, 0]);
    }

    #[test]
    fn the_left_side_is_cut_off_where_asked_for() {
        let left = slz_options {
            max_len: 4,
            left: true,
            ..WHOLE
        };
        assert_eq!(encode(&[b"a b c a", b"c"], left).ids, [vec![1, 6, 3, 2], vec![1, 6, 2]]);
        let windows = slz_options {
            max_len: 5,
            stride: 1,
            windows: true,
            left: true,
            ..WHOLE
        };
        let got = encode(&[b"a b c a b c"], windows);
        assert_eq!(got.ids, [vec![1, 3, 4, 2], vec![1, 4, 6, 3, 2], vec![1, 3, 4, 6, 2]]);
    }

    #[test]
    fn pairs_are_one_row() {
        let pairs = slz_options { pairs: true, ..WHOLE };
        let got = encode(&[b"a b", b"c", b"", b"ab"], pairs);
        assert_eq!(got.ids, [vec![1, 3, 4, 2, 6, 2], vec![1, 2, 3, 5, 2]]);
        assert_eq!(got.type_ids, [0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1]);
        let cut = slz_options { max_len: 6, ..pairs };
        let got = encode(&[b"a b c a", b"c", b"a", b"b"], cut);
        assert_eq!(got.ids, [[1, 3, 4, 2, 6, 2].to_vec(), [1, 3, 2, 4, 2].to_vec()]);
        assert_eq!(got.truncated, [1, 0]);
    }

    #[test]
    fn impossible_options_are_errors_of_the_long_texts() {
        let got = encode(&[b"a b", b"c"], slz_options { max_len: 2, ..WHOLE });
        assert!(
            got.ids.is_empty() && got.errors.iter().all(|e| e.contains("no room")),
            "{:?}",
            got.errors
        );
        let got = encode(
            &[b"a b", b"c"],
            slz_options {
                max_len: 3,
                stride: 1,
                windows: true,
                ..WHOLE
            },
        );
        assert_eq!(got.ids, [[1, 6, 2]]);
        assert_eq!(got.text_rows, [0, 1]);
        assert!(got.errors[0].contains("stride"));
    }
}
