//! Single tokens: id to token, tokens to text.

use std::ffi::c_void;
use std::slice;

use crate::engine::Engine;
use crate::memory::{leak, unleak};

/// A UTF-8 string that may hold NUL. `data` is null where it is empty or there is none; otherwise freed by
/// `slz_free_string`.
#[repr(C)]
pub struct slz_string {
    data: *mut u8,
    len: usize,
}

fn string(s: Option<String>) -> slz_string {
    let bytes = s.unwrap_or_default().into_bytes();
    slz_string {
        len: bytes.len(),
        data: leak(bytes),
    }
}

/// The token with this id; empty for an unknown id.
///
/// # Safety
/// `tok` is live and from a `tokenizers_from_*` function.
#[no_mangle]
pub unsafe extern "C" fn slz_token(tok: *mut c_void, id: u32) -> slz_string {
    string((*tok.cast::<Engine>()).token(id))
}

/// The text of tokens, by the decoder of tokenizer.json; empty where the decoder fails.
///
/// # Safety
/// `tok` is live and from a `tokenizers_from_*` function; `end` has `n` ascending entries, the ends of the tokens,
/// which stand end to end in `tokens`.
#[no_mangle]
pub unsafe extern "C" fn slz_join(tok: *mut c_void, tokens: *const u8, end: *const u32, n: u32) -> slz_string {
    let mut list = Vec::with_capacity(n as usize);
    let mut start = 0;
    for i in 0..n as usize {
        let stop = *end.add(i) as usize;
        let raw = if stop > start {
            slice::from_raw_parts(tokens.add(start), stop - start)
        } else {
            &[]
        };
        list.push(String::from_utf8_lossy(raw).into_owned());
        start = stop;
    }
    string((*tok.cast::<Engine>()).join(list).ok())
}

/// # Safety
/// `s` came from this library and is not used again.
#[no_mangle]
pub unsafe extern "C" fn slz_free_string(s: slz_string) {
    drop(unleak(s.data, s.len));
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;
    use crate::daulet::tests::Handle;

    unsafe fn take(s: slz_string) -> String {
        if s.data.is_null() {
            assert_eq!(s.len, 0);
            return String::new();
        }
        let copy = String::from_utf8(slice::from_raw_parts(s.data, s.len).to_vec()).unwrap();
        slz_free_string(s);
        copy
    }

    #[test]
    fn tokens_by_id() {
        let tok = Handle::new(true);
        unsafe {
            assert_eq!(take(slz_token(tok.0, 5)), "##b");
            assert_eq!(take(slz_token(tok.0, 2)), "[SEP]");
            assert_eq!(take(slz_token(tok.0, 99)), "");
        }
    }

    #[test]
    fn tokens_are_joined_by_the_decoder() {
        let tok = Handle::new(true);
        unsafe {
            let joined = slz_join(tok.0, b"a##bc".as_ptr(), [1, 4, 5].as_ptr(), 3);
            assert_eq!(take(joined), "ab c");
            assert_eq!(take(slz_join(tok.0, ptr::null(), ptr::null(), 0)), "");
        }
    }
}
