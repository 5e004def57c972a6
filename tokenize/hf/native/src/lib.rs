//! libtokenizers.a: Hugging Face's `tokenizers` behind a C interface.
//!
//! `daulet` has the functions that the Go package github.com/daulet/tokenizers calls (its `tokenizers.h`). `batch` and
//! `vocab` add, under the prefix `slz_`, what that interface lacks; their C declarations are in ../../native.h.
//!
//! What differs from daulet's own Rust code, none of it visible in its Go interface:
//!   * no tiktoken, hence no dependency outside the package registry;
//!   * the bytes C0 80, which are never valid UTF-8, read as NUL, so that a caller limited to C strings can say NUL;
//!   * offsets always index the bytes the caller gave, also where invalid UTF-8 was replaced;
//!   * ids alone are made by the path of `tokenizers` that tracks no offsets, which is faster;
//!   * where special tokens in a text are to be text, they are so for every model (see `shield`);
//!   * a panic becomes an error, and prints nothing: its message may quote the text.

mod batch;
mod daulet;
mod engine;
mod memory;
mod shield;
mod text;
mod vocab;

pub use batch::*;
pub use daulet::*;
pub use vocab::*;
