//! Statements without the values in them.
//!
//! The server shows statements as they were sent, with somebody's data in them. [`mask`] reads them by the lexical rules of PostgreSQL (manual,
//! "Lexical Structure") and puts a type into the place of every constant; names, keywords, operators and parameters (`$1`) stay, comments
//! go, and spaces are drawn together. It relies on nothing but the text, which may be cut off anywhere: a constant that does not end is hidden
//! to the end. Where two settings of the server would read a text in two ways (a backslash before a quote, which ends a string or does
//! not by `standard_conforming_strings`), everything from there on is hidden. Words stay words: `true`, `NULL`, and names, whatever they
//! are made of.

use crate::lexical::{
    Dollar, Quoting, begins_word, block_comment_end, continuation, dollar_string_end, quoted_name_end,
    string_end, word_end,
};

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

impl Lexer<'_> {
    /// Reads one token; false at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        match first {
            _ if first.is_whitespace() => self.space(),
            '-' if self.rest.starts_with("--") => self.line_comment(),
            '/' if self.rest.starts_with("/*") => self.block_comment(),
            '\'' => self.string(Quoting::Either, STRING),
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

    fn block_comment(&mut self) {
        self.skip(block_comment_end(self.rest).unwrap_or(self.rest.len()));
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
        self.keep(quoted_name_end(self.rest).unwrap_or(self.rest.len()));
    }

    /// A parameter, or a string in dollar quotes.
    fn dollar(&mut self) {
        match Dollar::of(self.rest) {
            Dollar::Parameter(bytes) => self.keep(bytes),
            Dollar::Quote(delimiter) => {
                self.put(STRING);
                self.skip(dollar_string_end(self.rest, delimiter).unwrap_or(self.rest.len()));
            }
            Dollar::Cut => {
                self.put(STRING);
                self.rest = "";
            }
            Dollar::Other => self.keep(1),
        }
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
        let (word, after) = self.rest.split_at(word_end(self.rest));
        match (word, after.chars().next()) {
            ("e" | "E", Some('\'')) => {
                self.skip(1);
                self.string(Quoting::Escapes, STRING);
            }
            ("b" | "B" | "x" | "X", Some('\'')) => {
                self.skip(1);
                self.string(Quoting::Either, BITS);
            }
            ("n" | "N", Some('\'')) => {
                self.skip(1);
                self.string(Quoting::Either, STRING);
            }
            ("u" | "U", Some('&')) if after[1..].starts_with('\'') => {
                self.skip(2);
                self.string(Quoting::Either, STRING);
            }
            _ => self.keep(word.len()),
        }
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
