//! Values that cross the C boundary: handed out as plain pointers, taken back by the function that frees them.

use std::ffi::{c_char, CString};
use std::ptr;

/// A C string. NUL cannot be in one and is left out.
pub fn c_string(s: impl Into<Vec<u8>>) -> *mut c_char {
    let mut bytes = s.into();
    bytes.retain(|&b| b != 0);
    CString::new(bytes).expect("no NUL is left").into_raw()
}

/// Hands out the values; the caller keeps their number. Null for none, as in `start_of`.
pub fn leak<T>(values: Vec<T>) -> *mut T {
    if values.is_empty() {
        return ptr::null_mut();
    }
    Box::into_raw(values.into_boxed_slice()).cast()
}

/// Takes back what `leak` handed out.
///
/// # Safety
/// `values` is null or came from `leak` with `len` values, and is not used again.
pub unsafe fn unleak<T>(values: *mut T, len: usize) -> Option<Box<[T]>> {
    (!values.is_null()).then(|| Box::from_raw(ptr::slice_from_raw_parts_mut(values, len)))
}

/// Where the values stand. Null for none, not Rust's dangling pointer: Go stops a program that has a small number where
/// it expects a pointer.
pub fn start_of<T>(values: &[T]) -> *const T {
    if values.is_empty() {
        ptr::null()
    } else {
        values.as_ptr()
    }
}
