//! Statements without the values in them.
//!
//! The server shows statements as they were sent, with somebody's data in them. [`mask`] reads them by the lexical rules of PostgreSQL (manual,
//! "Lexical Structure") and puts a type into the place of every constant; names, keywords, operators and parameters (`$1`) stay, comments
//! go, and spaces are drawn together. It relies on nothing but the text, which may be cut off anywhere: a constant that does not end is hidden
//! to the end. Where two settings of the server would read a text in two ways (a backslash before a quote, which ends a string or does
//! not by `standard_conforming_strings`), everything from there on is hidden. Words stay words: `true`, `NULL`, and names, whatever they
//! are made of.

/// `sql` on one line, its constants replaced by their types.
pub(crate) fn mask(sql: &str) -> String {
    let mut lexer = Lexer { rest: sql, masked: String::with_capacity(sql.len()) };
    while lexer.step() {}
    lexer.masked.truncate(lexer.masked.trim_end().len());
    lexer.masked
}

/// What stands for a string, a bit string, a number.
const STRING: &str = "<string>";
const BITS: &str = "<bits>";
const NUMBER: &str = "<number>";

struct Lexer<'a> {
    rest: &'a str,
    masked: String,
}

/// How a quoted string is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoting {
    /// `'…'`: a backslash is one, or is not.
    Plain,
    /// `E'…'`: a backslash takes the next character with it.
    Escapes,
}

impl Lexer<'_> {
    /// Reads one token; false at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        match first {
            _ if first.is_whitespace() => self.space(),
            '-' if self.rest.starts_with("--") => self.line_comment(),
            '/' if self.rest.starts_with("/*") => self.block_comment(),
            '\'' => self.string(Quoting::Plain, STRING),
            '"' => self.quoted_name(),
            '$' => self.dollar(),
            '0'..='9' => self.number(),
            '.' if self.rest.starts_with("..") => self.keep(2),
            '.' if self.rest[1..].starts_with(|next: char| next.is_ascii_digit()) => self.number(),
            _ if begins_word(first) => self.word(),
            _ => self.keep(first.len_utf8()),
        }
        true
    }

    fn keep(&mut self, bytes: usize) {
        let (kept, rest) = self.rest.split_at(bytes);
        self.masked.push_str(kept);
        self.rest = rest;
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn put(&mut self, stands_for: &str) {
        self.masked.push_str(stands_for);
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
        if !self.masked.is_empty() && !self.masked.ends_with(' ') {
            self.masked.push(' ');
        }
    }

    fn line_comment(&mut self) {
        let end = self.rest.find(['\n', '\r']).unwrap_or(self.rest.len());
        self.skip(end);
        self.space();
    }

    /// Comments are nested.
    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        let bytes = self.rest.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at..].starts_with(b"/*") {
                depth += 1;
                at += 2;
            } else if bytes[at..].starts_with(b"*/") {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    break;
                }
            } else {
                at += 1;
            }
        }
        // Both ends of what is skipped are ASCII, so no character is cut.
        self.skip(at.min(bytes.len()));
        self.space();
    }

    /// A string that begins at the quote.
    fn string(&mut self, quoting: Quoting, stands_for: &str) {
        self.put(stands_for);
        match string_end(self.rest, quoting) {
            Some(end) => self.skip(end),
            None => self.rest = "",
        }
        // A string that goes on after a line break is still the same string, read in the same way.
        while quoting == Quoting::Escapes
            && let Some(next) = continuation(self.rest)
        {
            self.skip(next);
            match string_end(self.rest, quoting) {
                Some(end) => self.skip(end),
                None => self.rest = "",
            }
        }
    }

    fn quoted_name(&mut self) {
        let mut end = self.rest.len();
        let mut from = 1;
        while let Some(found) = self.rest[from..].find('"') {
            let quote = from + found;
            if self.rest[quote + 1..].starts_with('"') {
                from = quote + 2;
                continue;
            }
            end = quote + 1;
            break;
        }
        self.keep(end);
    }

    /// A parameter, or a string in dollar quotes.
    fn dollar(&mut self) {
        let after = &self.rest[1..];
        let digits = after.len() - after.trim_start_matches(|next: char| next.is_ascii_digit()).len();
        if digits > 0 {
            return self.keep(1 + digits);
        }
        let tag = match after.chars().next() {
            Some(first) if begins_word(first) => {
                after.find(|next: char| !begins_word(next) && !next.is_ascii_digit()).unwrap_or(after.len())
            }
            _ => 0,
        };
        if after[tag..].starts_with('$') {
            let delimiter = self.rest[..tag + 2].to_owned();
            self.put(STRING);
            self.skip(delimiter.len());
            let end = self.rest.find(&delimiter).map_or(self.rest.len(), |found| found + delimiter.len());
            return self.skip(end);
        }
        if tag == after.len() && tag > 0 {
            // Cut off within what may be the beginning of a string.
            self.put(STRING);
            self.rest = "";
            return;
        }
        self.keep(1);
    }

    /// A number, and whatever is written directly behind it: no name begins there.
    fn number(&mut self) {
        self.put(NUMBER);
        let bytes = self.rest.as_bytes();
        let mut end = 1;
        while let Some(next) = bytes.get(end) {
            let exponent = matches!(next, b'+' | b'-')
                && matches!(bytes[end - 1], b'e' | b'E')
                && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
            let dot = *next == b'.' && bytes.get(end + 1) != Some(&b'.');
            if !(next.is_ascii_alphanumeric() || *next == b'_' || dot || exponent) {
                break;
            }
            end += 1;
        }
        self.skip(end);
    }

    /// A keyword or name; before a quote it may say how the string is read.
    fn word(&mut self) {
        let end = self
            .rest
            .find(|next: char| !begins_word(next) && !next.is_ascii_digit() && next != '$')
            .unwrap_or(self.rest.len());
        let (word, after) = self.rest.split_at(end);
        match (word, after.chars().next()) {
            ("e" | "E", Some('\'')) => {
                self.skip(1);
                self.string(Quoting::Escapes, STRING);
            }
            ("b" | "B" | "x" | "X", Some('\'')) => {
                self.skip(1);
                self.string(Quoting::Plain, BITS);
            }
            ("n" | "N", Some('\'')) => {
                self.skip(1);
                self.string(Quoting::Plain, STRING);
            }
            ("u" | "U", Some('&')) if after[1..].starts_with('\'') => {
                self.skip(2);
                self.string(Quoting::Plain, STRING);
            }
            _ => self.keep(end),
        }
    }
}

/// Whether a word may begin with this: letters, `_`, and everything beyond ASCII.
fn begins_word(first: char) -> bool {
    first.is_ascii_alphabetic() || first == '_' || !first.is_ascii()
}

/// Where the string that begins at the quote ends, behind its last quote; `None` when it does not, or when that is not certain.
fn string_end(text: &str, quoting: Quoting) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    loop {
        match (bytes.get(at)?, bytes.get(at + 1), quoting) {
            (b'\\', Some(_), Quoting::Escapes) => at += 2,
            (b'\\', Some(b'\''), Quoting::Plain) => return None,
            (b'\\', Some(b'\\'), Quoting::Plain) => at += 2,
            (b'\'', Some(b'\''), _) => at += 2,
            (b'\'', _, _) => return Some(at + 1),
            _ => at += 1,
        }
    }
}

/// Where the quote of the same string's next piece is: behind space that holds a line break, comments to the ends of lines included.
fn continuation(text: &str) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_hidden_and_everything_else_stays() {
        let cases = [
            ("", ""),
            ("SELECT 1", "SELECT <number>"),
            ("select  a.b ,\n\tc from t1 where x=$1", "select a.b , c from t1 where x=$1"),
            ("SELECT 'canary'", "SELECT <string>"),
            ("SELECT 'it''s canary' AS x", "SELECT <string> AS x"),
            ("SELECT '' , 'canary'", "SELECT <string> , <string>"),
            ("SELECT E'a\\'canary' , y", "SELECT <string> , y"),
            ("SELECT e'a\\\\' , y", "SELECT <string> , y"),
            ("SELECT E'a''canary\\'' , y", "SELECT <string> , y"),
            ("SELECT E'a'\n  'b\\'canary' , y", "SELECT <string> , y"),
            ("SELECT E'a' -- canary\n 'b\\'canary' , y", "SELECT <string> , y"),
            ("SELECT E'a' , 'b' , y", "SELECT <string> , <string> , y"),
            (
                "SELECT B'1010', x'CAFE', n'canary', U&'\\0041canary'",
                "SELECT <bits>, <bits>, <string>, <string>",
            ),
            ("SELECT date'2020-01-01'", "SELECT date<string>"),
            ("SELECT rate'canary'", "SELECT rate<string>"),
            ("SELECT $$canary$$, $a$can$$ary$a$, $_1$canary$_1$", "SELECT <string>, <string>, <string>"),
            ("DO $do$ BEGIN PERFORM 'canary'; END $do$ LANGUAGE plpgsql", "DO <string> LANGUAGE plpgsql"),
            ("SELECT a$$b, c$d$e, 'canary'", "SELECT a$$b, c$d$e, <string>"),
            (
                "SELECT 1.5e-3, .5, 1_000, 0xCAFE, 1e10, -7",
                "SELECT <number>, <number>, <number>, <number>, <number>, -<number>",
            ),
            ("SELECT t1.c2 + 3", "SELECT t1.c2 + <number>"),
            ("SELECT a[1:2]", "SELECT a[<number>:<number>]"),
            ("SELECT 1..10", "SELECT <number>..<number>"),
            ("SELECT \"od\"\"d 'na me' 1\" , 'canary'", "SELECT \"od\"\"d 'na me' 1\" , <string>"),
            ("SELECT \u{e9}t\u{e9} , '\u{fc}canary'", "SELECT \u{e9}t\u{e9} , <string>"),
            ("/* canary */ SELECT 1 -- canary", "SELECT <number>"),
            ("SELECT /* a /* canary */ 'canary' */ x", "SELECT x"),
            ("SELECT 1 --canary\n, x", "SELECT <number> , x"),
            ("SELECT a--canary", "SELECT a"),
            ("ALTER ROLE app PASSWORD 'canary'", "ALTER ROLE app PASSWORD <string>"),
            ("SELECT j->>'canary' @> '{}'::jsonb", "SELECT j->><string> @> <string>::jsonb"),
            (
                "INSERT INTO t VALUES (1,'canary',true,NULL)",
                "INSERT INTO t VALUES (<number>,<string>,true,NULL)",
            ),
        ];
        for (sql, masked) in cases {
            assert_eq!(mask(sql), masked, "{sql}");
        }
    }

    #[test]
    fn what_is_cut_off_or_can_be_read_in_two_ways_is_hidden_to_its_end() {
        let cases = [
            ("SELECT 'canary", "SELECT <string>"),
            ("SELECT 'canary''", "SELECT <string>"),
            ("SELECT E'canary\\", "SELECT <string>"),
            ("SELECT E'a'\n'canary", "SELECT <string>"),
            ("SELECT $a$canary", "SELECT <string>"),
            ("SELECT $a$canary$a", "SELECT <string>"),
            ("SELECT $cana", "SELECT <string>"),
            ("SELECT $", "SELECT $"),
            ("SELECT /* canary", "SELECT"),
            ("SELECT /* a /* b */ canary", "SELECT"),
            ("SELECT -- canary", "SELECT"),
            ("SELECT \"na", "SELECT \"na"),
            ("SELECT U&'canary", "SELECT <string>"),
            ("SELECT x'CA", "SELECT <bits>"),
            ("SELECT 12", "SELECT <number>"),
            ("SELECT 1e", "SELECT <number>"),
            // Ends behind the backslash by one setting, and does not by the other.
            ("SELECT 'a\\' , 'canary'", "SELECT <string>"),
            ("SELECT 'a\\\\' , 'canary'", "SELECT <string> , <string>"),
            ("SELECT 1E'a\\'canary'", "SELECT <number><string>"),
        ];
        for (sql, masked) in cases {
            assert_eq!(mask(sql), masked, "{sql}");
        }
    }

    #[test]
    fn no_cut_of_a_statement_shows_a_value() {
        let sql = "SELECT E'SECRET\\'SECRET' , $q$SECRET$q$, 'SECRET''SECRET', x'5EC4E7' /* SECRET /* SECRET */ */ , U&'SECRET' -- SECRET";
        for (end, _) in sql.char_indices().chain([(sql.len(), ' ')]) {
            let masked = mask(&sql[..end]);
            assert!(!masked.contains("SEC") && !masked.contains("5E"), "{masked}");
        }
    }
}
