//! SQL text as tokens, by the rules of PostgreSQL's own scanner (`src/backend/parser/scan.l`) with `standard_conforming_strings` on.
//!
//! Comments and blanks are no tokens. Every text has tokens: what does not end reaches to the end of the text and is marked, and the server
//! will say what is wrong with it. Takes time in proportion to the text and no memory but the tokens.

use std::borrow::Cow;

use crate::name::{NAME_BYTES_MAX, ObjectName};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A word without quotes: a key word or a name.
    Word,
    /// A name in double quotes, also `U&"…"`.
    Quoted,
    /// A string in any of its forms.
    Text,
    /// A number or a parameter.
    Number,
    /// Any other character, one at a time.
    Symbol,
}

/// A piece of text that means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    /// Bytes of the text; `end` is exclusive.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// It should have ended before the text did.
    pub(crate) is_open: bool,
}

/// A text and its tokens.
#[derive(Debug, Clone)]
pub(crate) struct Lexed<'a> {
    pub(crate) text: &'a str,
    pub(crate) tokens: Vec<Token>,
    /// Where comments stand, in bytes; the end is exclusive.
    pub(crate) comments: Vec<(usize, usize)>,
    /// The last comment does not end.
    pub(crate) is_comment_open: bool,
}

impl<'a> Lexed<'a> {
    /// The tokens of a text.
    pub(crate) fn of(text: &'a str) -> Self {
        let mut scanner =
            Scanner { text, bytes: text.as_bytes(), at: 0, comments: Vec::new(), is_comment_open: false };
        let mut tokens = Vec::new();
        while let Some(token) = scanner.next_token() {
            tokens.push(token);
        }
        Self { text, tokens, comments: scanner.comments, is_comment_open: scanner.is_comment_open }
    }

    /// All tokens.
    pub(crate) fn words(&self) -> Words<'_> {
        Words { text: self.text, tokens: &self.tokens }
    }
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    comments: Vec<(usize, usize)>,
    is_comment_open: bool,
}

impl Scanner<'_> {
    fn next_token(&mut self) -> Option<Token> {
        self.skip_blanks();
        let start = self.at;
        let first = self.byte(start)?;
        let (kind, is_open) = match first {
            b'\'' => (TokenKind::Text, self.string(start + 1, false)),
            b'"' => (TokenKind::Quoted, self.quoted(start + 1)),
            b'$' => self.dollar(start),
            b'0'..=b'9' => self.number(start),
            _ if is_word_start(first) => self.word(start),
            _ => {
                self.at = start + self.width(start);
                (TokenKind::Symbol, false)
            }
        };
        Some(Token { kind, start, end: self.at, is_open })
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// How many bytes the character has that begins at `at`; at least one.
    fn width(&self, at: usize) -> usize {
        self.text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
    }

    fn skip_blanks(&mut self) {
        while let Some(byte) = self.byte(self.at) {
            match (byte, self.byte(self.at + 1)) {
                (b' ' | b'\t' | b'\n' | b'\r' | 0x0c | 0x0b, _) => self.at += 1,
                (b'-', Some(b'-')) => {
                    let start = self.at;
                    self.at = self.line_end(start);
                    self.comments.push((start, self.at));
                }
                (b'/', Some(b'*')) => self.block_comment(),
                _ => break,
            }
        }
    }

    /// The end of the line that `at` is in, without what ends it.
    fn line_end(&self, at: usize) -> usize {
        let rest = self.bytes.get(at..).unwrap_or_default();
        rest.iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'))
            .map_or(self.bytes.len(), |count| at + count)
    }

    /// Block comments nest.
    fn block_comment(&mut self) {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match (self.byte(self.at), self.byte(self.at + 1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                }
                (Some(_), _) => self.at += 1,
                (None, _) => self.is_comment_open = true,
            }
            if depth == 0 || self.is_comment_open {
                break;
            }
        }
        self.comments.push((start, self.at));
    }

    /// Goes behind a string of which the content begins at `at`, and behind its continuations on later lines. True when it does not end.
    fn string(&mut self, at: usize, has_escapes: bool) -> bool {
        self.at = at;
        loop {
            match self.byte(self.at) {
                None => return true,
                Some(b'\\') if has_escapes => self.at = (self.at + 2).min(self.bytes.len()),
                Some(b'\'') if self.byte(self.at + 1) == Some(b'\'') => self.at += 2,
                Some(b'\'') => {
                    self.at += 1;
                    match self.continuation() {
                        Some(next) => self.at = next,
                        None => return false,
                    }
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// Where a string goes on that has just ended: behind a quote with nothing but blanks, line comments and at least one end of line before.
    fn continuation(&self) -> Option<usize> {
        let mut at = self.at;
        let mut has_line_end = false;
        loop {
            match (self.byte(at)?, self.byte(at + 1)) {
                (b'\n' | b'\r', _) => {
                    has_line_end = true;
                    at += 1;
                }
                (b' ' | b'\t' | 0x0c | 0x0b, _) => at += 1,
                (b'-', Some(b'-')) => at = self.line_end(at),
                (b'\'', _) if has_line_end => return Some(at + 1),
                _ => return None,
            }
        }
    }

    fn quoted(&mut self, at: usize) -> bool {
        self.at = at;
        loop {
            match self.byte(self.at) {
                None => return true,
                Some(b'"') if self.byte(self.at + 1) == Some(b'"') => self.at += 2,
                Some(b'"') => {
                    self.at += 1;
                    return false;
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// `$tag$ … $tag$`, `$1`, or a lone `$`.
    fn dollar(&mut self, start: usize) -> (TokenKind, bool) {
        let rest = self.bytes.get(start + 1..).unwrap_or_default();
        let tag = match rest.first() {
            Some(first) if is_word_start(*first) => {
                rest.iter().position(|byte| !is_tag_byte(*byte)).unwrap_or(rest.len())
            }
            _ => 0,
        };
        if rest.get(tag) == Some(&b'$') {
            let body = start + tag + 2;
            let delimiter = self.text.get(start..body).unwrap_or("$$");
            let found = self.text.get(body..).and_then(|rest| rest.find(delimiter));
            self.at = found.map_or(self.bytes.len(), |offset| body + offset + delimiter.len());
            return (TokenKind::Text, found.is_none());
        }
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at = start + 1 + digits;
        (if digits > 0 { TokenKind::Number } else { TokenKind::Symbol }, false)
    }

    fn number(&mut self, start: usize) -> (TokenKind, bool) {
        let rest = self.bytes.get(start..).unwrap_or_default();
        let count =
            rest.iter().position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_')));
        self.at = start + count.unwrap_or(rest.len());
        (TokenKind::Number, false)
    }

    /// A word, or a string or name that a letter introduces.
    fn word(&mut self, start: usize) -> (TokenKind, bool) {
        let (next, second) = (self.byte(start + 1), self.byte(start + 2));
        match (self.byte(start), next, second) {
            (Some(b'e' | b'E'), Some(b'\''), _) => (TokenKind::Text, self.string(start + 2, true)),
            (Some(b'b' | b'B' | b'x' | b'X' | b'n' | b'N'), Some(b'\''), _) => {
                (TokenKind::Text, self.string(start + 2, false))
            }
            (Some(b'u' | b'U'), Some(b'&'), Some(b'\'')) => (TokenKind::Text, self.string(start + 3, false)),
            (Some(b'u' | b'U'), Some(b'&'), Some(b'"')) => (TokenKind::Quoted, self.quoted(start + 3)),
            _ => {
                let rest = self.bytes.get(start..).unwrap_or_default();
                let count = rest.iter().position(|byte| !(is_tag_byte(*byte) || *byte == b'$'));
                self.at = start + count.unwrap_or(rest.len());
                (TokenKind::Word, false)
            }
        }
    }
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_tag_byte(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit()
}

/// Some tokens of a text, read by their number. Numbers behind the last are nothing, never an error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words<'a> {
    pub(crate) text: &'a str,
    pub(crate) tokens: &'a [Token],
}

impl<'a> Words<'a> {
    pub(crate) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens from `from` on, before `to`.
    pub(crate) fn slice(&self, from: usize, to: usize) -> Self {
        let to = to.min(self.tokens.len());
        Self { text: self.text, tokens: self.tokens.get(from.min(to)..to).unwrap_or_default() }
    }

    pub(crate) fn from(&self, from: usize) -> Self {
        self.slice(from, self.tokens.len())
    }

    /// The text of a token.
    pub(crate) fn raw(&self, at: usize) -> &'a str {
        self.tokens.get(at).and_then(|token| self.text.get(token.start..token.end)).unwrap_or("")
    }

    fn kind(&self, at: usize) -> Option<TokenKind> {
        self.tokens.get(at).map(|token| token.kind)
    }

    /// Whether a word without quotes stands there, in any case.
    pub(crate) fn is(&self, at: usize, word: &str) -> bool {
        self.kind(at) == Some(TokenKind::Word) && self.raw(at).eq_ignore_ascii_case(word)
    }

    /// Whether any of these words stands there.
    pub(crate) fn is_any(&self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(at, word))
    }

    /// Whether these words stand there one behind the other.
    pub(crate) fn is_row(&self, at: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(offset, word)| self.is(at + offset, word))
    }

    pub(crate) fn is_symbol(&self, at: usize, symbol: &str) -> bool {
        self.kind(at) == Some(TokenKind::Symbol) && self.raw(at) == symbol
    }

    pub(crate) fn is_text(&self, at: usize) -> bool {
        self.kind(at) == Some(TokenKind::Text)
    }

    /// Behind these words when they stand there; `at` itself when they do not.
    pub(crate) fn skip(&self, at: usize, words: &[&str]) -> usize {
        if self.is_row(at, words) { at + words.len() } else { at }
    }

    /// The number of the first token from `from` on at which these words stand one behind the other.
    pub(crate) fn find(&self, from: usize, words: &[&str]) -> Option<usize> {
        (from..self.len()).find(|at| self.is_row(*at, words))
    }

    /// The word there in upper case; nothing when there is none.
    pub(crate) fn upper(&self, at: usize) -> Option<String> {
        (self.kind(at) == Some(TokenKind::Word)).then(|| self.raw(at).to_ascii_uppercase())
    }

    /// One part of a name, folded as the server folds it.
    fn part(&self, at: usize) -> Option<String> {
        let raw = self.raw(at);
        let name: Cow<'_, str> = match self.kind(at)? {
            TokenKind::Word => Cow::Owned(raw.to_ascii_lowercase()),
            TokenKind::Quoted if raw.starts_with('"') => Cow::Owned(inside(raw, 1).replace("\"\"", "\"")),
            TokenKind::Quoted => Cow::Owned(unescaped(&inside(raw, 3).replace("\"\"", "\""))),
            _ => return None,
        };
        Some(cut(&name).to_owned())
    }

    /// The name that begins there, and the number of the token behind it. Of three parts and more the last two count.
    pub(crate) fn name(&self, at: usize) -> Option<(ObjectName, usize)> {
        let mut name = ObjectName { schema: None, name: self.part(at)? };
        let mut next = at + 1;
        while self.is_symbol(next, ".") {
            let Some(part) = self.part(next + 1) else { break };
            name = ObjectName { schema: Some(name.name), name: part };
            next += 2;
        }
        Some((name, next))
    }

    /// The names that stand there in a list, each with `*` behind it or not.
    pub(crate) fn names(&self, at: usize) -> Vec<ObjectName> {
        let mut names = Vec::new();
        let mut next = at;
        while let Some((name, behind)) = self.name(self.skip(next, &["ONLY"])) {
            names.push(name);
            let behind = if self.is_symbol(behind, "*") { behind + 1 } else { behind };
            if !self.is_symbol(behind, ",") {
                break;
            }
            next = behind + 1;
        }
        names
    }

    /// The parts between the commas that stand in no parenthesis.
    pub(crate) fn parts(&self, from: usize) -> Vec<Self> {
        let mut parts = Vec::new();
        let (mut depth, mut start) = (0_usize, from);
        for at in from..self.len() {
            match self.raw(at) {
                "(" | "[" if self.kind(at) == Some(TokenKind::Symbol) => depth += 1,
                ")" | "]" if self.kind(at) == Some(TokenKind::Symbol) => depth = depth.saturating_sub(1),
                "," if depth == 0 => {
                    parts.push(self.slice(start, at));
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(self.from(start));
        parts
    }

    /// Whether what stands there is the last thing but one: a plain string's content, as far as it has no escapes.
    pub(crate) fn string(&self, at: usize) -> Option<String> {
        if !self.is_text(at) {
            return None;
        }
        let raw = self.raw(at);
        if raw.starts_with('$') {
            let delimiter = raw.get(1..)?.find('$')? + 2;
            return Some(raw.get(delimiter..raw.len().saturating_sub(delimiter)).unwrap_or("").to_owned());
        }
        let begin = raw.find('\'')? + 1;
        Some(inside(raw, begin).replace("''", "'"))
    }
}

/// What stands between the first `begin` bytes and the last.
fn inside(raw: &str, begin: usize) -> &str {
    raw.get(begin..raw.len().saturating_sub(1)).unwrap_or("")
}

/// A name as long as the server keeps it.
fn cut(name: &str) -> &str {
    let end = (0..=NAME_BYTES_MAX.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    name.get(..end.unwrap_or(0)).unwrap_or(name)
}

/// The content of a `U&"…"` with the default escape: `\00e9`, `\+0000e9`, `\\`. What is no escape stays as it is.
fn unescaped(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    let mut rest = content;
    while let Some(at) = rest.find('\\') {
        out.push_str(rest.get(..at).unwrap_or(""));
        let behind = rest.get(at + 1..).unwrap_or("");
        let (digits, skipped) = match behind.strip_prefix('+') {
            Some(long) => (long.get(..6), 7),
            None => (behind.get(..4), 4),
        };
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
        rest = match (code, behind.strip_prefix('\\')) {
            (Some(character), _) => {
                out.push(character);
                behind.get(skipped..).unwrap_or("")
            }
            (None, Some(behind)) => {
                out.push('\\');
                behind
            }
            (None, None) => {
                out.push('\\');
                behind
            }
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn tokens(text: &str) -> Vec<&str> {
        Lexed::of(text).tokens.iter().map(|token| &text[token.start..token.end]).collect()
    }

    #[test]
    fn texts_fall_into_the_tokens_that_the_server_sees() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            ("select 1", &["select", "1"]),
            ("a;b", &["a", ";", "b"]),
            (r"'a\';b", &[r"'a\'", ";", "b"]),
            (r"E'a\';b'", &[r"E'a\';b'"]),
            ("'it''s;'x", &["'it''s;'", "x"]),
            ("'a'\n  'b;' c", &["'a'\n  'b;'", "c"]),
            ("'a' 'b'", &["'a'", "'b'"]),
            ("E'a' -- why\n '\\'' c", &["E'a' -- why\n '\\''", "c"]),
            (r"U&'d\0061t';x", &[r"U&'d\0061t'", ";", "x"]),
            ("U&\"a;\"\"b\" c", &["U&\"a;\"\"b\"", "c"]),
            ("n'x' b'01' X'ff'", &["n'x'", "b'01'", "X'ff'"]),
            ("\"a\"\";\" b", &["\"a\"\";\"", "b"]),
            ("$$a;$x$$$ b", &["$$a;$x$$", "$", "b"]),
            ("$é1$;$1$;$é1$ b", &["$é1$;$1$;$é1$", "b"]),
            ("foo$bar$ $1 a", &["foo$bar$", "$1", "a"]),
            ("a/* x /* ; */ ' */b--c;'\nd", &["a", "b", "d"]),
            ("1--2\n-3", &["1", "-", "3"]),
            ("a->>'b' <> c", &["a", "-", ">", ">", "'b'", "<", ">", "c"]),
            ("naïve\u{a0}x", &["naïve\u{a0}x"]),
            ("e1'x'", &["e1", "'x'"]),
        ];
        for (text, expected) in table {
            assert_eq!(&tokens(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_does_not_end_is_marked() {
        for text in ["'a", "E'a\\", "\"a", "$$a", "$x$ a $y$", "U&\"", "x '"] {
            assert!(Lexed::of(text).tokens.last().is_some_and(|token| token.is_open), "{text:?}");
        }
        assert!(Lexed::of("a /* /* */").is_comment_open);
        assert!(!Lexed::of("a /* */").is_comment_open);
    }

    #[test]
    fn names_are_folded_as_the_server_folds_them() {
        let long = "x".repeat(70);
        let table = [
            ("Users", None, "users"),
            ("\"Users\"", None, "Users"),
            ("shop . \"a.\"\"b\"", Some("shop"), "a.\"b"),
            ("db.Shop.T", Some("shop"), "t"),
            ("U&\"\\0061\\+000062\\\\\"", None, "ab\\"),
        ];
        for (text, schema, name) in table {
            let lexed = Lexed::of(text);
            let (found, next) = lexed.words().name(0).unwrap();
            assert_eq!((found.schema.as_deref(), found.name.as_str()), (schema, name), "{text}");
            assert_eq!(next, lexed.tokens.len());
        }
        assert_eq!(Lexed::of(&long).words().name(0).unwrap().0.name.len(), 63);
        let accents = "é".repeat(40);
        assert_eq!(Lexed::of(&accents).words().name(0).unwrap().0.name.len(), 62);
    }
}
