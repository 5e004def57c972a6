//! Text: bytes of unknown quality as a str, and offsets of that str back to the bytes.

use std::borrow::Cow;

/// One place where the str differs in length from the bytes it came from.
struct Repair {
    str_end: usize,
    raw_end: usize,
}

pub struct Text<'a> {
    pub str: Cow<'a, str>,
    repairs: Vec<Repair>, // ascending
}

impl<'a> Text<'a> {
    /// Reads each maximal invalid part as one U+FFFD, as Python's `errors="replace"` does.
    pub fn new(raw: &'a [u8]) -> Self {
        Self::repaired(raw, |_| None)
    }

    /// The same, but C0 80 is NUL, as in Java's modified UTF-8.
    pub fn with_c0_80_as_nul(raw: &'a [u8]) -> Self {
        Self::repaired(raw, |rest| rest.starts_with(&[0xC0, 0x80]).then_some(('\0', 2)))
    }

    /// `known` may give a meaning to the invalid bytes that `rest` begins with: a character and the bytes it takes.
    fn repaired(raw: &'a [u8], known: impl Fn(&[u8]) -> Option<(char, usize)>) -> Self {
        if let Ok(str) = std::str::from_utf8(raw) {
            return Text {
                str: Cow::Borrowed(str),
                repairs: Vec::new(),
            };
        }
        let mut str = String::with_capacity(raw.len() + 16);
        let mut repairs = Vec::new();
        let mut pos = 0;
        while let Some(chunk) = raw[pos..].utf8_chunks().next() {
            str.push_str(chunk.valid());
            pos += chunk.valid().len();
            if chunk.invalid().is_empty() {
                break;
            }
            let (character, len) = known(&raw[pos..]).unwrap_or(('\u{FFFD}', chunk.invalid().len()));
            str.push(character);
            pos += len;
            repairs.push(Repair {
                str_end: str.len(),
                raw_end: pos,
            });
        }
        Text {
            str: Cow::Owned(str),
            repairs,
        }
    }

    /// Where each character of `self.str` begins, and where the last one ends; empty where every character is a byte.
    pub fn char_starts(&self) -> Vec<usize> {
        if self.str.is_ascii() {
            return Vec::new();
        }
        let starts = self.str.char_indices().map(|(at, _)| at);
        starts.chain([self.str.len()]).collect()
    }

    /// The offset in the caller's bytes of an offset in `self.str`.
    pub fn raw_offset(&self, at: usize) -> usize {
        match self.repairs.partition_point(|r| r.str_end <= at) {
            0 => at,
            n => self.repairs[n - 1].raw_end + (at - self.repairs[n - 1].str_end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_text_is_borrowed_and_keeps_its_offsets() {
        let text = Text::new("añ\0中".as_bytes());
        assert!(matches!(text.str, Cow::Borrowed("añ\0中")));
        assert_eq!(text.raw_offset(7), 7);
    }

    #[test]
    fn every_maximal_invalid_part_is_one_replacement() {
        // E2 82: the beginning of a character; ED A0 80: a surrogate, three parts; FF: never valid.
        let raw = b"a\xE2\x82b\xED\xA0\x80c\xFF";
        let text = Text::new(raw);
        assert_eq!(text.str, "a\u{FFFD}b\u{FFFD}\u{FFFD}\u{FFFD}c\u{FFFD}");
        assert_eq!(text.str, String::from_utf8_lossy(raw));
        for (at, want) in [
            (0, 0),
            (1, 1),
            (4, 3),
            (5, 4),
            (8, 5),
            (11, 6),
            (14, 7),
            (15, 8),
            (18, 9),
        ] {
            assert_eq!(text.raw_offset(at), want, "offset {at}");
        }
    }

    #[test]
    fn c0_80_is_nul_only_where_asked_for() {
        let raw = b"a\xC0\x80b\xC0c";
        assert_eq!(Text::new(raw).str, "a\u{FFFD}\u{FFFD}b\u{FFFD}c");
        let text = Text::with_c0_80_as_nul(raw);
        assert_eq!(text.str, "a\0b\u{FFFD}c");
        assert_eq!(text.raw_offset(2), 3);
        assert_eq!(text.raw_offset(6), 5);
    }
}
