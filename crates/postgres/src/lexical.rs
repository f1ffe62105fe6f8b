//! Where the parts of a statement end, by the lexical rules of PostgreSQL (manual, "Lexical Structure").
//!
//! Relies on nothing but the text, which may be cut off anywhere: what does not end has no end. What is done with the parts is the caller's
//! business: `mask` hides them, `script` walks over them.

/// How a quoted string is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quoting {
    /// `'…'` of a server of which it is not known whether a backslash is one: by `standard_conforming_strings`.
    Either,
    /// `'…'` where a backslash is one.
    Standard,
    /// `E'…'`: a backslash takes the next character with it.
    Escapes,
}

/// Whether a word may begin with this: letters, `_`, and everything beyond ASCII.
pub(crate) fn begins_word(first: char) -> bool {
    first.is_ascii_alphabetic() || first == '_' || !first.is_ascii()
}

/// Where the word ends that `text` begins with.
pub(crate) fn word_end(text: &str) -> usize {
    text.find(|next: char| !begins_word(next) && !next.is_ascii_digit() && next != '$').unwrap_or(text.len())
}

/// Where the string that begins at the quote ends, behind its last quote; `None` when it does not, or when that is not certain.
pub(crate) fn string_end(text: &str, quoting: Quoting) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    loop {
        match (bytes.get(at)?, bytes.get(at + 1), quoting) {
            (b'\\', Some(_), Quoting::Escapes) => at += 2,
            (b'\\', Some(b'\''), Quoting::Either) => return None,
            (b'\\', Some(b'\\'), Quoting::Either) => at += 2,
            (b'\'', Some(b'\''), _) => at += 2,
            (b'\'', _, _) => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// Where the quoted name that begins at the quote ends, behind its last quote.
pub(crate) fn quoted_name_end(text: &str) -> Option<usize> {
    let mut from = 1;
    loop {
        let quote = from + text[from..].find('"')?;
        if !text[quote + 1..].starts_with('"') {
            return Some(quote + 1);
        }
        from = quote + 2;
    }
}

/// Where the comment ends that begins with `/*`; such comments are nested.
pub(crate) fn block_comment_end(text: &str) -> Option<usize> {
    let (bytes, mut depth, mut at) = (text.as_bytes(), 0_usize, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    None
}

/// What `text`, which begins with a dollar, may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dollar {
    /// A parameter of so many bytes: `$1`.
    Parameter(usize),
    /// The beginning of a string, its delimiter so many bytes long: `$tag$`.
    Quote(usize),
    /// Cut off within what may be the beginning of a string.
    Cut,
    /// A character like another.
    Other,
}

impl Dollar {
    pub(crate) fn of(text: &str) -> Self {
        let after = &text[1..];
        let digits = after.len() - after.trim_start_matches(|next: char| next.is_ascii_digit()).len();
        if digits > 0 {
            return Self::Parameter(1 + digits);
        }
        let tag = match after.chars().next() {
            Some(first) if begins_word(first) => {
                after.find(|next: char| !begins_word(next) && !next.is_ascii_digit()).unwrap_or(after.len())
            }
            _ => 0,
        };
        match after[tag..].starts_with('$') {
            true => Self::Quote(tag + 2),
            false if tag == after.len() && tag > 0 => Self::Cut,
            false => Self::Other,
        }
    }
}

/// Where the string in dollar quotes ends, behind its delimiter, which is the first `delimiter` bytes.
pub(crate) fn dollar_string_end(text: &str, delimiter: usize) -> Option<usize> {
    text[delimiter..].find(&text[..delimiter]).map(|found| 2 * delimiter + found)
}

/// Where the quote of the same string's next piece is: behind space that holds a line break, comments to the ends of lines included.
pub(crate) fn continuation(text: &str) -> Option<usize> {
    let mut has_break = false;
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start();
        has_break |= rest[..rest.len() - trimmed.len()].contains(['\n', '\r']);
        if trimmed.starts_with('\'') {
            return has_break.then_some(text.len() - trimmed.len());
        }
        rest = &trimmed[trimmed.starts_with("--").then(|| trimmed.find(['\n', '\r'])).flatten()?..];
    }
}
