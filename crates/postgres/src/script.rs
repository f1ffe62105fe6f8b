//! A file of queries, told apart without a server: what is wrong with it is known before anything begins.
//!
//! Queries end with `;`, the last one at the end of the file. `\connect NAME` on a line of its own says of which database those after it are
//! asked. What begins with another word than a query does is refused; that nothing is written is the server's doing, by a transaction that
//! cannot. Strings are read as by `standard_conforming_strings`, which is set where they are asked.

use mainstay_engine::ScratchQuery;
use mainstay_model::{Error, ErrorKind, Result};

use crate::lexical::{
    Dollar, Quoting, begins_word, block_comment_end, continuation, dollar_string_end, quoted_name_end,
    string_end, word_end,
};

/// How long a file may be.
const SCRIPT_BYTES_MAX: usize = 1024 * 1024;
/// How many queries it may hold.
const QUERY_COUNT_MAX: usize = 1_000;
/// With what a query begins.
const BEGINNINGS: &[&str] = &["select", "with", "values", "table", "show"];

/// The queries of a file, in order; at least one.
pub(crate) fn queries(bytes: &[u8]) -> Result<Vec<ScratchQuery>> {
    if bytes.len() > SCRIPT_BYTES_MAX {
        return Err(unusable(format!("the file is longer than {SCRIPT_BYTES_MAX} bytes")));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        unusable(format!("line {line} is not UTF-8"))
    })?;
    let mut script = Script { rest: text, line: 1, database: None, queries: Vec::new() };
    while script.step()? {}
    match script.queries.is_empty() {
        true => Err(unusable("there is no query in it".to_owned())),
        false => Ok(script.queries),
    }
}

fn unusable(message: String) -> Error {
    Error::new(ErrorKind::Usage, message).with_state("nothing was changed").with_hint(
        "one query after another, each ended by `;`; `\\connect NAME` on a line of its own names their database",
    )
}

struct Script<'a> {
    rest: &'a str,
    /// The line that `rest` begins in.
    line: u64,
    database: Option<String>,
    queries: Vec<ScratchQuery>,
}

impl Script<'_> {
    /// Reads what comes next; false at the end.
    fn step(&mut self) -> Result<bool> {
        match self.rest.chars().next() {
            None => return Ok(false),
            Some(first) if first.is_whitespace() || first == ';' => self.skip(first.len_utf8()),
            Some('\u{feff}') => self.skip('\u{feff}'.len_utf8()),
            Some('-') if self.rest.starts_with("--") => self.skip(line_end(self.rest)),
            Some('/') if self.rest.starts_with("/*") => {
                let end = block_comment_end(self.rest);
                self.skip(end.ok_or_else(|| self.fault("a comment begins here and does not end"))?);
            }
            Some('\\') => self.connect()?,
            Some(_) => self.query()?,
        }
        Ok(true)
    }

    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.line += skipped.matches('\n').count() as u64;
        self.rest = rest;
    }

    fn fault(&self, what: &str) -> Error {
        unusable(format!("line {}: {what}", self.line))
    }

    /// `\connect NAME`, or `\c NAME`.
    fn connect(&mut self) -> Result<()> {
        let line = &self.rest[..line_end(self.rest)];
        let (command, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if !matches!(command, "\\connect" | "\\c") {
            return Err(self
                .fault(&format!("`{command}` is not known; of psql's commands there is `\\connect` alone")));
        }
        let name = name.trim().trim_end_matches(';');
        let inner = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let name = inner.map_or_else(|| name.to_owned(), |inner| inner.replace("\"\"", "\""));
        if name.is_empty() || (inner.is_none() && name.contains(char::is_whitespace)) {
            return Err(self.fault("`\\connect` takes the name of a database, and nothing else"));
        }
        self.skip(line.len());
        self.database = Some(name);
        Ok(())
    }

    /// A query, up to its `;`.
    fn query(&mut self) -> Result<()> {
        let number = self.queries.len() + 1;
        let fault = |what: &str| self.fault(&format!("query {number} {what}"));
        if number > QUERY_COUNT_MAX {
            return Err(fault(&format!("is one too many: at most {QUERY_COUNT_MAX}")));
        }
        let opened = self.rest.trim_start_matches(|next: char| next == '(' || next.is_whitespace());
        let word = &opened[..word_end(opened)];
        if !BEGINNINGS.iter().any(|known| word.eq_ignore_ascii_case(known)) {
            let shown: String = opened.chars().take_while(|next| !next.is_whitespace()).take(32).collect();
            return Err(fault(&format!(
                "begins with `{shown}`, which is no question: {}",
                BEGINNINGS.join(", ")
            )));
        }
        let end = query_end(self.rest).map_err(|what| fault(&format!("holds {what} that does not end")))?;
        let text = &self.rest[..end];
        if text.contains('\0') {
            return Err(fault("holds a zero byte"));
        }
        self.queries.push(ScratchQuery {
            number: number as u64,
            line: self.line,
            database: self.database.clone(),
            text: text.trim_end().to_owned(),
        });
        self.skip(end);
        Ok(())
    }
}

fn line_end(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// Where the query that `text` begins with ends, before its `;`; otherwise what in it does not end.
fn query_end(text: &str) -> Result<usize, &'static str> {
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        at += match first {
            ';' => return Ok(at),
            '\'' => string_end(rest, Quoting::Standard).ok_or("a string")?,
            '"' => quoted_name_end(rest).ok_or("a quoted name")?,
            '-' if rest.starts_with("--") => line_end(rest),
            '/' if rest.starts_with("/*") => block_comment_end(rest).ok_or("a comment")?,
            '$' => match Dollar::of(rest) {
                Dollar::Parameter(bytes) => bytes,
                Dollar::Quote(delimiter) => dollar_string_end(rest, delimiter).ok_or("a string")?,
                Dollar::Cut | Dollar::Other => 1,
            },
            _ if begins_word(first) => {
                let word = word_end(rest);
                match &rest[..word] {
                    "e" | "E" if rest[word..].starts_with('\'') => {
                        word + escapes_end(&rest[word..]).ok_or("a string")?
                    }
                    _ => word,
                }
            }
            _ => first.len_utf8(),
        };
    }
    Ok(text.len())
}

/// Where a string with escapes ends, with the pieces of it that stand on further lines.
fn escapes_end(text: &str) -> Option<usize> {
    let mut end = string_end(text, Quoting::Escapes)?;
    while let Some(next) = continuation(&text[end..]) {
        end += next + string_end(&text[end + next..], Quoting::Escapes)?;
    }
    Some(end)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn queries_are_told_apart_as_the_server_would() {
        let text = "-- what must hold; always\n\u{feff}SELECT 1;;\n/* a /* b; */ */ (SELECT ';' , \"a;\"\"b\")\n;\
            \\c shop\nselect E'it\\'s;'\n 'x\\';' , 'a\\';WITH x AS (SELECT $a$;$$;$a$, $1) TABLE x -- ;\n;\n\
            \\connect \"od\"\"d one\"\nvalues (1)";
        let found = queries(text.as_bytes()).unwrap();
        let told: Vec<(u64, u64, Option<&str>, &str)> = found
            .iter()
            .map(|one| (one.number, one.line, one.database.as_deref(), one.text.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                (1, 2, None, "SELECT 1"),
                (2, 3, None, "(SELECT ';' , \"a;\"\"b\")"),
                (3, 5, Some("shop"), "select E'it\\'s;'\n 'x\\';' , 'a\\'"),
                (4, 6, Some("shop"), "WITH x AS (SELECT $a$;$$;$a$, $1) TABLE x -- ;"),
                (5, 9, Some("od\"d one"), "values (1)"),
            ]
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_line() {
        for (text, told) in [
            ("", "there is no query in it"),
            ("-- none\n;\n", "there is no query in it"),
            ("SELECT 1;\nDELETE FROM t", "line 2: query 2 begins with `DELETE`, which is no question"),
            ("\nSELECT 'a;\n", "line 2: query 1 holds a string that does not end"),
            ("SELECT $a$ ; $", "line 1: query 1 holds a string that does not end"),
            ("SELECT \"a", "line 1: query 1 holds a quoted name that does not end"),
            ("SELECT 1 /* ", "line 1: query 1 holds a comment that does not end"),
            ("\n\n/* x", "line 3: a comment begins here and does not end"),
            ("SELECT 1;\n\\! rm -r", "line 2: `\\!` is not known"),
            ("\\connect", "line 1: `\\connect` takes the name"),
            ("\\c a b", "line 1: `\\connect` takes the name"),
            ("SELECT '\0'", "query 1 holds a zero byte"),
            ("\\connect a", "there is no query in it"),
            ("1", "begins with `1`"),
        ] {
            let error = queries(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.message().contains(told), "{text:?}: {error}");
        }
        assert!(queries(b"SELECT 1;\n\xff").unwrap_err().message().contains("line 2 is not UTF-8"));
        assert!(queries(&vec![b' '; SCRIPT_BYTES_MAX + 1]).is_err());
        assert!(queries("SELECT 1;".repeat(QUERY_COUNT_MAX + 1).as_bytes()).is_err());
        assert_eq!(queries("SELECT 1;".repeat(QUERY_COUNT_MAX).as_bytes()).unwrap().len(), QUERY_COUNT_MAX);
    }
}
