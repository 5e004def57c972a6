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
    Tokenizer, TruncationParams,
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

    /// The number of special tokens that a row gets.
    pub fn added_tokens(&self) -> usize {
        self.finish.as_ref().map_or(0, |f| f.added_tokens(false))
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

    /// The rows of a text, with special tokens, cut as `cut` says and not as tokenizer.json says.
    pub fn rows(&self, text: &Text, offsets: bool, cut: Cut) -> Result<Rows, String> {
        guarded(|| {
            let whole = self.tokens(text, offsets)?;
            let room = match cut.max_len {
                0 => usize::MAX,
                n => n
                    .checked_sub(self.added_tokens())
                    .filter(|&room| room > 0)
                    .ok_or("no room for a token of the text")?,
            };
            if whole.len() <= room {
                return Ok(Rows {
                    rows: vec![self.finished(whole)?],
                    truncated: false,
                });
            }
            if !cut.windows {
                return Ok(Rows {
                    rows: vec![self.finished(part(&whole, 0..room))?],
                    truncated: true,
                });
            }
            let step = room
                .checked_sub(cut.stride)
                .filter(|&step| step > 0)
                .ok_or("stride as long as a window")?;
            let mut rows = Vec::with_capacity(whole.len().div_ceil(step));
            for start in (0..).step_by(step) {
                let end = whole.len().min(start + room);
                rows.push(self.finished(part(&whole, start..end))?);
                if end == whole.len() {
                    break;
                }
            }
            Ok(Rows { rows, truncated: false })
        })
    }

    /// One row, with truncation and padding as tokenizer.json asks for them.
    pub fn row_as_configured(&self, text: &Text, offsets: bool, special: bool) -> Result<Encoding, String> {
        guarded(|| {
            let mut row = self.tokens(text, offsets)?;
            if let Some(params) = &self.truncation {
                let added = if special { self.added_tokens() } else { 0 };
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
