//! The C functions that github.com/daulet/tokenizers declares in its tokenizers.h.

use std::ffi::{c_char, c_void, CStr, CString};
use std::{ptr, slice};

use tokenizers::{TruncationDirection, TruncationParams};

use crate::engine::Engine;
use crate::memory::{c_string, leak, unleak};
use crate::text::Text;

/// The Go package refers to this name, so that an archive of another version fails to link.
#[no_mangle]
pub extern "C" fn tokenizers_version_1_23_0() {}

/// The version of Hugging Face's crate, as pinned in Cargo.toml; a static string.
#[no_mangle]
pub extern "C" fn tokenizers_version() -> *const c_char {
    c"0.23.2".as_ptr()
}

#[repr(C)]
pub struct tokenizers_options {
    encode_special_tokens: bool,
}

unsafe fn give(engine: Result<Engine, String>, error: *mut *mut c_char) -> *mut c_void {
    match engine {
        Ok(engine) => Box::into_raw(Box::new(engine)).cast(),
        Err(message) => {
            if !error.is_null() {
                *error = c_string(message);
            }
            ptr::null_mut()
        }
    }
}

unsafe fn bytes<'a>(start: *const u8, len: u32) -> &'a [u8] {
    if start.is_null() {
        return &[];
    }
    slice::from_raw_parts(start, len as usize)
}

/// # Safety
/// `json` has `len` bytes, `error` is null or writable.
#[no_mangle]
pub unsafe extern "C" fn tokenizers_from_bytes(
    json: *const u8,
    len: u32,
    options: &tokenizers_options,
    error: *mut *mut c_char,
) -> *mut c_void {
    let engine = Engine::from_json(bytes(json, len), |tok| {
        tok.set_encode_special_tokens(options.encode_special_tokens);
        Ok(())
    });
    give(engine, error)
}

/// # Safety
/// `json` has `len` bytes, `error` is null or writable.
#[no_mangle]
pub unsafe extern "C" fn tokenizers_from_bytes_with_truncation(
    json: *const u8,
    len: u32,
    max_len: u32,
    direction: u8,
    error: *mut *mut c_char,
) -> *mut c_void {
    let direction = match direction {
        0 => TruncationDirection::Left,
        1 => TruncationDirection::Right,
        d => return give(Err(format!("unknown truncation direction {d}")), error),
    };
    let params = TruncationParams {
        max_length: max_len as usize,
        direction,
        ..Default::default()
    };
    let engine = Engine::from_json(bytes(json, len), |tok| {
        tok.with_truncation(Some(params)).map_err(|e| e.to_string())?;
        Ok(())
    });
    give(engine, error)
}

/// # Safety
/// `path` is a C string, `error` is null or writable.
#[no_mangle]
pub unsafe extern "C" fn tokenizers_from_file(path: *const c_char, error: *mut *mut c_char) -> *mut c_void {
    let path = CStr::from_ptr(path).to_string_lossy();
    let engine = std::fs::read(path.as_ref())
        .map_err(|e| format!("{path}: {e}"))
        .and_then(|json| Engine::from_json(&json, |_| Ok(())).map_err(|e| format!("{path}: {e}")));
    give(engine, error)
}

/// # Safety
/// `error` is null or writable.
#[no_mangle]
pub unsafe extern "C" fn tokenizers_from_tiktoken(
    _model: *const c_char,
    _config: *const c_char,
    _pattern: *const c_char,
    error: *mut *mut c_char,
) -> *mut c_void {
    give(Err("this build has no tiktoken; use a tokenizer.json".into()), error)
}

/// # Safety
/// `tok` is null, or came from a `tokenizers_from_*` function and is not used again.
#[no_mangle]
pub unsafe extern "C" fn tokenizers_free_tokenizer(tok: *mut c_void) {
    if !tok.is_null() {
        drop(Box::from_raw(tok.cast::<Engine>()));
    }
}

/// # Safety
/// `tok` is null or live.
#[no_mangle]
pub unsafe extern "C" fn tokenizers_vocab_size(tok: *mut c_void) -> u32 {
    tok.cast::<Engine>()
        .as_ref()
        .map_or(0, |engine| engine.vocab_size() as u32)
}

/// # Safety
/// `tok` is null or live, `ids` has `len` entries.
#[no_mangle]
pub unsafe extern "C" fn tokenizers_decode(
    tok: *mut c_void,
    ids: *const u32,
    len: u32,
    skip_special: bool,
) -> *mut c_char {
    let Some(engine) = tok.cast::<Engine>().as_ref() else {
        return ptr::null_mut();
    };
    match engine.decode(slice::from_raw_parts(ids, len as usize), skip_special) {
        Ok(text) => c_string(text),
        Err(_) => ptr::null_mut(), // the Go side reads null as ""
    }
}

/// # Safety
/// `s` is null, or came from this library and is not used again.
#[no_mangle]
pub unsafe extern "C" fn tokenizers_free_string(s: *mut c_char) {
    if !s.is_null() {
        drop(CString::from_raw(s));
    }
}

#[repr(C)]
pub struct tokenizers_encode_options {
    add_special_tokens: bool,
    return_type_ids: bool,
    return_tokens: bool,
    return_special_tokens_mask: bool,
    return_attention_mask: bool,
    return_offsets: bool,
}

/// `len` entries in each array that was asked for, twice as many in `offsets`; null for the others.
#[repr(C)]
pub struct tokenizers_buffer {
    ids: *mut u32,
    type_ids: *mut u32,
    special_tokens_mask: *mut u32,
    attention_mask: *mut u32,
    tokens: *mut *mut c_char,
    offsets: *mut usize,
    len: u32,
}

const EMPTY: tokenizers_buffer = tokenizers_buffer {
    ids: ptr::null_mut(),
    type_ids: ptr::null_mut(),
    special_tokens_mask: ptr::null_mut(),
    attention_mask: ptr::null_mut(),
    tokens: ptr::null_mut(),
    offsets: ptr::null_mut(),
    len: 0,
};

fn leak_if<T>(wanted: bool, values: impl FnOnce() -> Vec<T>) -> *mut T {
    if wanted {
        leak(values())
    } else {
        ptr::null_mut()
    }
}

/// One text. An error and an empty result are the same to the Go side: length 0, nothing to free.
///
/// # Safety
/// `tok` is null or live, `message` is null or a C string.
#[no_mangle]
pub unsafe extern "C" fn tokenizers_encode(
    tok: *mut c_void,
    message: *const c_char,
    o: &tokenizers_encode_options,
) -> tokenizers_buffer {
    let Some(engine) = tok.cast::<Engine>().as_ref() else {
        return EMPTY;
    };
    if message.is_null() {
        return EMPTY;
    }
    let text = Text::with_c0_80_as_nul(CStr::from_ptr(message).to_bytes());
    let row = match engine.row_as_configured(&text, o.return_offsets, o.add_special_tokens) {
        Ok(row) if !row.is_empty() => row,
        _ => return EMPTY,
    };
    tokenizers_buffer {
        ids: leak(row.get_ids().to_vec()),
        type_ids: leak_if(o.return_type_ids, || row.get_type_ids().to_vec()),
        special_tokens_mask: leak_if(o.return_special_tokens_mask, || row.get_special_tokens_mask().to_vec()),
        attention_mask: leak_if(o.return_attention_mask, || row.get_attention_mask().to_vec()),
        tokens: leak_if(o.return_tokens, || {
            row.get_tokens().iter().map(|t| c_string(t.as_str())).collect()
        }),
        offsets: leak_if(o.return_offsets, || {
            row.get_offsets()
                .iter()
                .flat_map(|&(a, b)| [text.raw_offset(a), text.raw_offset(b)])
                .collect()
        }),
        len: row.len() as u32,
    }
}

/// # Safety
/// `b` came from `tokenizers_encode` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn tokenizers_free_buffer(b: tokenizers_buffer) {
    let len = b.len as usize;
    for values in [b.ids, b.type_ids, b.special_tokens_mask, b.attention_mask] {
        drop(unleak(values, len));
    }
    drop(unleak(b.offsets, 2 * len));
    for s in unleak(b.tokens, len).into_iter().flatten() {
        tokenizers_free_string(s);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Lower-case words of a tiny WordPiece between [CLS] and [SEP].
    pub const JSON: &str = r###"{"version":"1.0",
      "truncation":{"direction":"Right","max_length":4,"strategy":"LongestFirst","stride":0},
      "padding":null,"added_tokens":[
       {"id":1,"content":"[CLS]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
       {"id":2,"content":"[SEP]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
      "normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,
       "lowercase":true},
      "pre_tokenizer":{"type":"BertPreTokenizer"},
      "post_processor":{"type":"BertProcessing","sep":["[SEP]",2],"cls":["[CLS]",1]},
      "decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
      "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,
       "vocab":{"[UNK]":0,"[CLS]":1,"[SEP]":2,"a":3,"b":4,"##b":5,"c":6,"[":7,"]":8,"sep":9,"cls":10}}}"###;

    pub struct Handle(pub *mut c_void);

    impl Handle {
        pub fn new(encode_special_tokens: bool) -> Self {
            let mut error = ptr::null_mut();
            let options = tokenizers_options { encode_special_tokens };
            let tok = unsafe { tokenizers_from_bytes(JSON.as_ptr(), JSON.len() as u32, &options, &mut error) };
            assert!(!tok.is_null() && error.is_null());
            Handle(tok)
        }
    }

    impl Drop for Handle {
        fn drop(&mut self) {
            unsafe { tokenizers_free_tokenizer(self.0) }
        }
    }

    fn encode(tok: &Handle, text: &CStr) -> (Vec<u32>, Vec<usize>, Vec<String>) {
        let all = tokenizers_encode_options {
            add_special_tokens: true,
            return_type_ids: true,
            return_tokens: true,
            return_special_tokens_mask: true,
            return_attention_mask: true,
            return_offsets: true,
        };
        unsafe {
            let b = tokenizers_encode(tok.0, text.as_ptr(), &all);
            let len = b.len as usize;
            let ids = slice::from_raw_parts(b.ids, len).to_vec();
            let offsets = slice::from_raw_parts(b.offsets, 2 * len).to_vec();
            let tokens = slice::from_raw_parts(b.tokens, len);
            let tokens = tokens
                .iter()
                .map(|&t| CStr::from_ptr(t).to_str().unwrap().into())
                .collect();
            tokenizers_free_buffer(b);
            (ids, offsets, tokens)
        }
    }

    #[test]
    fn encodes_with_the_truncation_of_tokenizer_json() {
        let tok = Handle::new(true);
        let (ids, offsets, tokens) = encode(&tok, c"ab c a");
        assert_eq!(ids, [1, 3, 5, 2]);
        assert_eq!(offsets, [0, 0, 0, 1, 1, 2, 0, 0]);
        assert_eq!(tokens, ["[CLS]", "a", "##b", "[SEP]"]);
    }

    #[test]
    fn offsets_index_the_bytes_given() {
        let tok = Handle::new(true);
        let (ids, offsets, _) = encode(&tok, c"\xFF\xC0\x80a \xE2\x82b");
        assert_eq!(ids, [1, 3, 4, 2]); // BERT removes U+FFFD and NUL
        assert_eq!(offsets, [0, 0, 3, 4, 7, 8, 0, 0]);
    }

    #[test]
    fn special_tokens_in_a_text_are_text_where_asked_for() {
        assert_eq!(encode(&Handle::new(true), c"[SEP]").0, [1, 7, 9, 2]); // cut at 4
        assert_eq!(encode(&Handle::new(false), c"[SEP]").0, [1, 2, 2]);
    }

    #[test]
    fn a_broken_tokenizer_json_is_an_error() {
        let mut error = ptr::null_mut();
        let options = tokenizers_options {
            encode_special_tokens: true,
        };
        let tok = unsafe { tokenizers_from_bytes(b"{}".as_ptr(), 2, &options, &mut error) };
        assert!(tok.is_null());
        let message = unsafe { CStr::from_ptr(error) }.to_str().unwrap().to_owned();
        unsafe { tokenizers_free_string(error) };
        assert!(!message.is_empty());
    }

    #[test]
    fn a_null_tokenizer_is_harmless() {
        unsafe {
            assert_eq!(tokenizers_vocab_size(ptr::null_mut()), 0);
            assert!(tokenizers_decode(ptr::null_mut(), [1].as_ptr(), 1, false).is_null());
            tokenizers_free_tokenizer(ptr::null_mut());
            tokenizers_free_string(ptr::null_mut());
        }
    }

    #[test]
    fn decodes() {
        let tok = Handle::new(true);
        unsafe {
            assert_eq!(tokenizers_vocab_size(tok.0), 11);
            let ids = [1, 3, 5, 6, 2];
            let text = tokenizers_decode(tok.0, ids.as_ptr(), 5, true);
            assert_eq!(CStr::from_ptr(text).to_str().unwrap(), "ab c");
            tokenizers_free_string(text);
        }
    }
}
