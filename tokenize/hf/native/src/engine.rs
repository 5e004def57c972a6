//! Engine: a tokenizer taken apart, so that a text is read once and cut per call.
//!
//! `tokenizers` ties truncation to the tokenizer, and versions 0.23.1 and 0.23.2 lose all windows but two
//! (huggingface/tokenizers#2091), because they stop reading a text once truncation is satisfied. So the tokenizer that
//! reads knows nothing of truncation, padding and special tokens; those are done here, as its `post_process` does.

use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{catch_unwind, set_hook, AssertUnwindSafe};
use std::sync::Once;

use tokenizers::{
    pad_encodings, truncate_encodings, Decoder, Encoding, PaddingParams, PostProcessor, PostProcessorWrapper,
    Tokenizer, TruncationDirection, TruncationParams,
};

use crate::shield::shield;
use crate::text::Text;

pub struct Engine {
    read: Tokenizer,
    vocab_size: usize,                    // special and other added tokens included
    truncation: Option<TruncationParams>, // of tokenizer.json; used by the calls of `daulet` only
    padding: Option<PaddingParams>,       // the same
    finish: Option<PostProcessorWrapper>, // adds the special tokens
}

/// How a text longer than `max_len` is cut.
#[derive(Clone, Copy)]
pub struct Cut {
    pub max_len: usize, // longest row, special tokens included; 0: no limit
    pub stride: usize,  // tokens that successive windows share
    pub windows: bool,  // false: the first row only
    pub left: bool,     // the end of the text is kept, and windows are counted from it
}

/// The rows of one text, without those that were cut off.
pub struct Rows {
    pub rows: Vec<Encoding>,
    pub truncated: bool,
}

impl Engine {
    pub fn new(mut read: Tokenizer) -> Result<Self, String> {
        let vocab_size = read.get_vocab_size(true);
        if read.get_encode_special_tokens() {
            shield(&mut read)?;
        }
        let truncation = read.get_truncation().cloned();
        let padding = read.get_padding().cloned();
        let finish = read.get_post_processor().cloned();
        read.with_truncation(None).map_err(|e| e.to_string())?;
        read.with_padding(None);
        read.with_post_processor(None::<PostProcessorWrapper>);
        Ok(Engine {
            read,
            vocab_size,
            truncation,
            padding,
            finish,
        })
    }

    pub fn from_json(json: &[u8], adjust: impl FnOnce(&mut Tokenizer) -> Result<(), String>) -> Result<Self, String> {
        guarded(|| {
            let mut tok = Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
            adjust(&mut tok)?;
            Engine::new(tok)
        })
    }

    /// The number of special tokens that a row of one text gets, or of a pair.
    pub fn added_tokens(&self, pair: bool) -> usize {
        self.finish.as_ref().map_or(0, |f| f.added_tokens(pair))
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn token(&self, id: u32) -> Option<String> {
        self.read.id_to_token(id)
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, String> {
        guarded(|| self.read.decode(ids, skip_special).map_err(|e| e.to_string()))
    }

    /// transformers' `convert_tokens_to_string`: the decoder of tokenizer.json, or spaces where it has none.
    pub fn join(&self, tokens: Vec<String>) -> Result<String, String> {
        guarded(|| match self.read.get_decoder() {
            Some(decoder) => decoder.decode(tokens).map_err(|e| e.to_string()),
            None => Ok(tokens.join(" ")),
        })
    }

    /// The rows of a text, with special tokens, cut as `cut` says and not as tokenizer.json says. Offsets count
    /// characters, as in Python, where a tokenizer cuts blanks off them by number: of bytes it would cut another piece.
    pub fn rows(&self, text: &Text, offsets: bool, cut: Cut) -> Result<Rows, String> {
        guarded(|| {
            let whole = if offsets && !text.str.is_ascii() {
                self.read
                    .encode_char_offsets(text.str.as_ref(), false)
                    .map_err(|e| e.to_string())?
            } else {
                self.tokens(text, offsets)?
            };
            let room = self.room(cut, false)?;
            if whole.len() <= room {
                return Ok(Rows {
                    rows: vec![self.finished(whole)?],
                    truncated: false,
                });
            }
            let len = whole.len();
            if !cut.windows {
                let kept = if cut.left { len - room..len } else { 0..room };
                return Ok(Rows {
                    rows: vec![self.finished(part(&whole, kept))?],
                    truncated: true,
                });
            }
            let step = room
                .checked_sub(cut.stride)
                .filter(|&step| step > 0)
                .ok_or("stride as long as a window")?;
            let mut windows = Vec::with_capacity(len.div_ceil(step));
            for at in (0..).step_by(step) {
                let far = len.min(at + room);
                windows.push(if cut.left { len - far..len - at } else { at..far });
                if far == len {
                    break;
                }
            }
            if cut.left {
                windows.reverse(); // rows are in the order of the text
            }
            let rows = windows
                .into_iter()
                .map(|range| self.finished(part(&whole, range)))
                .collect::<Result<_, _>>()?;
            Ok(Rows { rows, truncated: false })
        })
    }

    /// The row of a pair of texts, cut as transformers' `truncation=True` (longest first) cuts it.
    pub fn pair(&self, one: &Text, two: &Text, cut: Cut) -> Result<Rows, String> {
        guarded(|| {
            let (mut one, mut two) = (self.tokens(one, false)?, self.tokens(two, false)?);
            two.set_type_ids(vec![1; two.len()]);
            let room = self.room(cut, true)?;
            let truncated = one.len() + two.len() > room;
            if truncated {
                let params = TruncationParams {
                    direction: if cut.left {
                        TruncationDirection::Left
                    } else {
                        TruncationDirection::Right
                    },
                    max_length: room,
                    ..Default::default()
                };
                let (a, b) = truncate_encodings(one, Some(two), &params).map_err(|e| e.to_string())?;
                (one, two) = (a, b.ok_or("the second text is gone")?);
            }
            let row = match &self.finish {
                Some(finish) => finish.process(one, Some(two), true).map_err(|e| e.to_string())?,
                None => Encoding::merge([one, two], false),
            };
            Ok(Rows {
                rows: vec![row],
                truncated,
            })
        })
    }

    /// The tokens of text that a row has room for.
    fn room(&self, cut: Cut, pair: bool) -> Result<usize, String> {
        match cut.max_len {
            0 => Ok(usize::MAX),
            n => n
                .checked_sub(self.added_tokens(pair))
                .filter(|&room| room > 0)
                .ok_or_else(|| "no room for a token of the text".into()),
        }
    }

    /// One row, with truncation and padding as tokenizer.json asks for them.
    pub fn row_as_configured(&self, text: &Text, offsets: bool, special: bool) -> Result<Encoding, String> {
        guarded(|| {
            let mut row = self.tokens(text, offsets)?;
            if let Some(params) = &self.truncation {
                let added = if special { self.added_tokens(false) } else { 0 };
                let params = TruncationParams {
                    max_length: params.max_length.saturating_sub(added),
                    ..params.clone()
                };
                row = truncate_encodings(row, None, &params).map_err(|e| e.to_string())?.0;
            }
            if let Some(finish) = &self.finish {
                row = finish.process(row, None, special).map_err(|e| e.to_string())?;
            }
            let mut rows = [row];
            if let Some(params) = &self.padding {
                pad_encodings(&mut rows, params).map_err(|e| e.to_string())?;
            }
            let [row] = rows;
            Ok(row)
        })
    }

    /// The tokens of a text, special tokens not among them.
    fn tokens(&self, text: &Text, offsets: bool) -> Result<Encoding, String> {
        let encoding = if offsets {
            self.read.encode(text.str.as_ref(), false)
        } else {
            self.read.encode_fast(text.str.as_ref(), false)
        };
        encoding.map_err(|e| e.to_string())
    }

    fn finished(&self, row: Encoding) -> Result<Encoding, String> {
        match &self.finish {
            Some(finish) => finish.process(row, None, true).map_err(|e| e.to_string()),
            None => Ok(row),
        }
    }
}

fn part(e: &Encoding, range: Range<usize>) -> Encoding {
    Encoding::new(
        e.get_ids()[range.clone()].to_vec(),
        e.get_type_ids()[range.clone()].to_vec(),
        e.get_tokens()[range.clone()].to_vec(),
        e.get_word_ids()[range.clone()].to_vec(),
        e.get_offsets()[range.clone()].to_vec(),
        e.get_special_tokens_mask()[range.clone()].to_vec(),
        e.get_attention_mask()[range].to_vec(),
        Vec::new(),
        Default::default(),
    )
}

thread_local! {
    static PANIC_AT: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs `f`; a panic in it becomes an error that names the line of code. The panic's message is dropped, neither
/// printed nor returned: it may quote the text.
fn guarded<T>(f: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        set_hook(Box::new(|panic| {
            PANIC_AT.set(panic.location().map(|at| at.to_string()))
        }));
    });
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|message: Box<dyn Any + Send>| {
        drop(message);
        let at = PANIC_AT.take().unwrap_or_else(|| "an unknown line".into());
        Err(format!("the tokenizers library panicked at {at}"))
    })
}
