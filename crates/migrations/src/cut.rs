//! A file cut into chunks, and chunks into statements.
//!
//! Chunks part at the marker wherever it stands, as Drizzle parts them. Statements part at semicolons as `psql` parts them: not within
//! parentheses, nor within the body of a function or procedure that is written in SQL (`BEGIN ATOMIC … END`).

use crate::effect::effect;
use crate::execution::{command, execution, tables};
use crate::folder::MARKER;
use crate::lexer::{Lexed, Words};
use crate::place::Place;
use crate::statement::{Chunk, Statement};

/// The chunks of a file.
pub(crate) fn chunks(text: &str) -> Vec<Chunk> {
    let (mut place, mut offset) = (Place::START, 0);
    let mut chunks = Vec::new();
    for (index, part) in text.split(MARKER).enumerate() {
        let mut chunk =
            Chunk { number: index + 1, place, offset, text: part.to_owned(), statements: Vec::new() };
        chunk.statements = statements(&chunk);
        chunks.push(chunk);
        place = place.after(part).after(MARKER);
        offset += part.len() + MARKER.len();
    }
    chunks
}

/// The statements of a chunk.
fn statements(chunk: &Chunk) -> Vec<Statement> {
    let text = chunk.text.as_str();
    let lexed = Lexed::of(text);
    let (mut at, mut place) = (0, chunk.place);
    let mut statements = Vec::new();
    for words in pieces(lexed.words()) {
        let (Some(first), Some(last)) = (words.tokens.first(), words.tokens.last()) else { continue };
        place = place.after(text.get(at..first.start).unwrap_or(""));
        at = first.start;
        let (effect, reason) = effect(&words);
        statements.push(Statement {
            chunk: chunk.number,
            number: statements.len() + 1,
            place,
            offset: chunk.offset + first.start,
            text: text.get(first.start..last.end).unwrap_or("").to_owned(),
            command: command(&words).0,
            execution: execution(&words),
            effect,
            reason,
            tables: tables(&words),
        });
    }
    statements
}

/// The tokens of each statement, without semicolons; empty ones are left out.
pub(crate) fn pieces(words: Words<'_>) -> Vec<Words<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut parentheses, mut blocks) = (0, 0_usize, 0_usize);
    let mut is_routine = None;
    for at in 0..words.len() {
        if words.is_symbol(at, "(") {
            parentheses += 1;
        } else if words.is_symbol(at, ")") {
            parentheses = parentheses.saturating_sub(1);
        } else if words.is_symbol(at, ";") && parentheses == 0 && blocks == 0 {
            pieces.push(words.slice(start, at));
            start = at + 1;
            is_routine = None;
        } else if words.is_any(at, &["BEGIN", "CASE", "END"])
            && *is_routine.get_or_insert_with(|| creates_routine(&words.from(start)))
        {
            match blocks {
                0 if words.is_row(at, &["BEGIN", "ATOMIC"]) => blocks = 1,
                0 => {}
                _ if words.is(at, "END") => blocks -= 1,
                _ => blocks += 1,
            }
        }
    }
    pieces.push(words.from(start));
    pieces.retain(|piece| piece.len() > 0);
    pieces
}

fn creates_routine(words: &Words<'_>) -> bool {
    let at = words.skip(1, &["OR", "REPLACE"]);
    words.is(0, "CREATE") && words.is_any(at, &["FUNCTION", "PROCEDURE"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        chunks(text).into_iter().flat_map(|chunk| chunk.statements).map(|statement| statement.text).collect()
    }

    #[test]
    fn a_file_falls_into_statements() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            ("-- nothing\n;;", &[]),
            ("select 1; select 2", &["select 1", "select 2"]),
            ("select ';' /* ; */; x", &["select ';'", "x"]),
            (
                "create rule r as on insert to t do (select 1; select 2); x",
                &["create rule r as on insert to t do (select 1; select 2)", "x"],
            ),
            (
                "create function f() returns int begin atomic select case when true then 1 end; select 2; end; x",
                &[
                    "create function f() returns int begin atomic select case when true then 1 end; select 2; end",
                    "x",
                ],
            ),
            (
                "create or replace procedure p() begin atomic end; x",
                &["create or replace procedure p() begin atomic end", "x"],
            ),
            (
                "begin; select case when true then 1 end; end; x",
                &["begin", "select case when true then 1 end", "end", "x"],
            ),
            ("create table begin_x(a int); x", &["create table begin_x(a int)", "x"]),
            ("do $$ begin perform 1; end $$; x", &["do $$ begin perform 1; end $$", "x"]),
            ("a)); b", &["a))", "b"]),
        ];
        for (text, expected) in table {
            assert_eq!(&texts(text), expected, "{text:?}");
        }
    }

    #[test]
    fn chunks_part_at_the_marker_wherever_it_stands_and_know_where_they_begin() {
        let text = "\n-- é\nSELECT 1;--> statement-breakpoint\r\n  SELECT 2;\n--> statement-breakpoint--> statement-breakpoint 'x";
        let chunks = chunks(text);
        assert_eq!(
            chunks.iter().map(|chunk| chunk.text.as_str()).collect::<Vec<_>>().concat(),
            text.replace(MARKER, "")
        );
        let places: Vec<_> =
            chunks.iter().map(|chunk| (chunk.number, chunk.place.line, chunk.place.column)).collect();
        assert_eq!(places, [(1, 1, 1), (2, 3, 34), (3, 5, 25), (4, 5, 49)]);
        let statements: Vec<_> = chunks
            .iter()
            .flat_map(|chunk| &chunk.statements)
            .map(|found| (found.chunk, found.number, found.place.line, found.place.column))
            .collect();
        assert_eq!(statements, [(1, 1, 3, 1), (2, 1, 4, 3), (4, 1, 5, 50)]);
        assert_eq!(chunks[1].place.of_position(&chunks[1].text, 11).to_string(), "4:9");
        assert_eq!(chunks[1].statements[0].locate(8).to_string(), "4:10");
    }

    #[test]
    fn whatever_the_text_its_pieces_stand_where_they_say() {
        const PIECES: [&str; 24] = [
            "select 1",
            ";",
            "'",
            "''",
            "\"",
            "$$",
            "$a$",
            "--",
            "\n",
            "/*",
            "*/",
            "E'\\",
            "é",
            "(",
            ")",
            "BEGIN",
            " ATOMIC ",
            "END",
            "create function ",
            "CASE ",
            "--> statement-breakpoint",
            "\r\n",
            "U&'",
            " ",
        ];
        let mut state = 20_261_126_u64;
        let mut below = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % bound as u64) as usize
        };
        for _ in 0..5_000 {
            let count = below(30);
            let text: String = (0..count).map(|_| PIECES[below(PIECES.len())]).collect();
            crate::fuzzing::statements(text.as_bytes());
        }
    }
}
