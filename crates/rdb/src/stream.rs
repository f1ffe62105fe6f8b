//! Redis's replication stream as bytes, and the increments of its append-only file, which are the same with notes of time: cut into commands, never
//! kept.
//!
//! [`Cutter`] takes the stream in pieces of any length and tells each command when it ends: where it began, which database it is for, whether
//! a transaction is open, how many words it has, and the beginnings of the first few. Values are passed over, so memory does not grow with
//! them. Between two commands and outside `MULTI … EXEC` lies a *boundary*: a server that has had the stream up to there shows a state that its
//! primary showed, too.
//!
//! Relies on the stream being RESP arrays of bulk strings, which is what a primary sends after the database file. Whatever else comes is an
//! error, after which nothing is believed.
//!
//! Source: Redis serialization protocol; Redis documentation, "Redis replication" and "Transactions".

use std::fmt;

/// How many words of a command are told.
const WORD_COUNT_MAX: usize = 4;

/// How many bytes of each.
const WORD_BYTES_MAX: usize = 512;

/// The longest word: what a server can be configured to take (`proto-max-bulk-len`) ends far below.
const LENGTH_MAX: u64 = 1 << 40;

/// The most words of a command. The server's own limit.
const COUNT_MAX: u64 = i32::MAX as u64;

/// The longest number with its end of line.
const LINE_BYTES_MAX: usize = 24;

/// Bytes that are no replication stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at offset {at} {what}")]
pub struct StreamFault {
    /// The position of the byte that does not fit.
    pub at: u64,
    what: &'static str,
}

/// The beginning of a word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// At most 512 bytes of it.
    pub head: Vec<u8>,
    /// How long it is.
    pub bytes: u64,
}

impl Word {
    /// The word, when all of it is known.
    pub fn whole(&self) -> Option<&[u8]> {
        (self.head.len() as u64 == self.bytes).then_some(&self.head)
    }

    fn is(&self, name: &str) -> bool {
        self.whole().is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    }

    fn number(&self) -> Option<u64> {
        std::str::from_utf8(self.whole()?).ok()?.parse().ok()
    }
}

/// A command that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'c> {
    /// The position before it.
    pub begin: u64,
    /// The position after it.
    pub end: u64,
    /// The database that it is for; `None` before the stream has selected one.
    pub database: Option<u64>,
    /// Whether it lies inside a transaction, `MULTI` and `EXEC` included.
    pub in_transaction: bool,
    /// How many words it has.
    pub count: u64,
    /// The first of them.
    pub words: &'c [Word],
}

impl Command<'_> {
    /// Whether it is called `name`, in whatever case.
    pub fn is(&self, name: &str) -> bool {
        self.words.first().is_some_and(|word| word.is(name))
    }
}

impl fmt::Display for Command<'_> {
    /// Its name alone: what follows may be somebody's data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.words.first().map(|word| String::from_utf8_lossy(&word.head).to_uppercase());
        f.write_str(&name.unwrap_or_default())
    }
}

/// What is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// `*<count>` and the end of the line.
    Count,
    /// `$<length>` and the end of the line.
    Length,
    /// So many bytes of a word.
    Word(u64),
    /// The end of the line behind a word: its first or its second byte.
    End(u8),
}

/// Cuts a stream.
#[derive(Debug, Clone)]
pub struct Cutter {
    position: u64,
    expected: Expected,
    line: Vec<u8>,
    begin: u64,
    count: u64,
    words_left: u64,
    words: Vec<Word>,
    database: Option<u64>,
    in_transaction: bool,
    boundary: u64,
    /// Lines that begin with `#` may stand between commands.
    has_notes: bool,
}

impl Cutter {
    /// Cuts a stream from `position` on, which is a boundary. `database` is selected there, when that is known.
    pub fn new(position: u64, database: Option<u64>) -> Self {
        Self {
            position,
            expected: Expected::Count,
            line: Vec::new(),
            begin: position,
            count: 0,
            words_left: 0,
            words: Vec::new(),
            database,
            in_transaction: false,
            boundary: position,
            has_notes: false,
        }
    }

    /// Cuts a file of commands from its beginning; a server may have written the time between them (`aof-timestamp-enabled`).
    pub fn of_file() -> Self {
        Self { has_notes: true, ..Self::new(0, None) }
    }

    /// Takes the next bytes, and tells each command that ends in them.
    ///
    /// # Errors
    /// The first byte that does not fit. What comes after it cannot be read.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&Command<'_>)) -> Result<(), StreamFault> {
        while let Some(&first) = bytes.first() {
            let expected = self.expected;
            let taken = match expected {
                Expected::Word(left) => self.word(bytes, left),
                Expected::End(number) => {
                    if first != b"\r\n"[usize::from(number)] {
                        return Err(self.fault("a word does not end where it should"));
                    }
                    1
                }
                Expected::Count | Expected::Length => {
                    if self.line.is_empty() && !self.may_begin(first) {
                        return Err(self.fault("no command begins"));
                    }
                    if self.line.len() >= LINE_BYTES_MAX {
                        return Err(self.fault("a number does not end"));
                    }
                    self.line.push(first);
                    1
                }
            };
            self.position += taken as u64;
            bytes = &bytes[taken..];
            match expected {
                Expected::Count | Expected::Length if first == b'\n' => self.number()?,
                Expected::End(0) => self.expected = Expected::End(1),
                Expected::End(_) => self.word_ended(&mut each)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The position after the last byte that was taken.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The last position between two commands and outside a transaction.
    pub fn boundary(&self) -> u64 {
        self.boundary
    }

    /// The database that is selected; `None` before the stream has selected one.
    pub fn database(&self) -> Option<u64> {
        self.database
    }

    fn fault(&self, what: &'static str) -> StreamFault {
        StreamFault { at: self.position, what }
    }

    /// Whether a line that is expected may begin so.
    fn may_begin(&self, first: u8) -> bool {
        match self.expected {
            Expected::Count => first == b'*' || (first == b'#' && self.has_notes),
            _ => first == b'$',
        }
    }

    /// Takes what there is of a word.
    fn word(&mut self, bytes: &[u8], left: u64) -> usize {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let is_told = self.is_told();
        if let Some(word) = self.words.last_mut().filter(|_| is_told) {
            let room = WORD_BYTES_MAX.saturating_sub(word.head.len());
            word.head.extend_from_slice(&bytes[..here.min(room)]);
        }
        self.expected = match left - here as u64 {
            0 => Expected::End(0),
            left => Expected::Word(left),
        };
        here
    }

    /// Whether the word under way is one of the first.
    fn is_told(&self) -> bool {
        self.count - self.words_left < WORD_COUNT_MAX as u64
    }

    /// A line with a number has come.
    fn number(&mut self) -> Result<(), StreamFault> {
        if self.line.first() == Some(&b'#') {
            self.line.clear();
            self.begin = self.position;
            if !self.in_transaction {
                self.boundary = self.position;
            }
            return Ok(());
        }
        let (mark, most) = match self.expected {
            Expected::Count => (b'*', COUNT_MAX),
            _ => (b'$', LENGTH_MAX),
        };
        let number = match self.line.as_slice() {
            [first, digits @ .., b'\r', b'\n'] if *first == mark && is_number(digits) => {
                std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok())
            }
            _ => None,
        };
        let number =
            number.filter(|number| *number <= most).ok_or_else(|| self.fault("no command begins"))?;
        self.line.clear();
        match self.expected {
            Expected::Count if number == 0 => return Err(self.fault("a command has no words")),
            Expected::Count => {
                (self.count, self.words_left) = (number, number);
                self.words.clear();
                self.expected = Expected::Length;
            }
            _ => {
                if self.is_told() {
                    self.words.push(Word { head: Vec::new(), bytes: number });
                }
                self.expected = if number == 0 { Expected::End(0) } else { Expected::Word(number) };
            }
        }
        Ok(())
    }

    fn word_ended(&mut self, each: &mut impl FnMut(&Command<'_>)) -> Result<(), StreamFault> {
        self.words_left -= 1;
        self.expected = Expected::Length;
        if self.words_left > 0 {
            return Ok(());
        }
        self.expected = Expected::Count;
        let name = self.words.first().cloned().unwrap_or_default();
        if name.is("multi") {
            if self.in_transaction {
                return Err(self.fault("a transaction begins inside another"));
            }
            self.in_transaction = true;
        }
        if name.is("select") {
            let database = self.words.get(1).and_then(Word::number);
            self.database = Some(database.ok_or_else(|| self.fault("no database is selected"))?);
        }
        each(&Command {
            begin: self.begin,
            end: self.position,
            database: self.database,
            in_transaction: self.in_transaction,
            count: self.count,
            words: &self.words,
        });
        if name.is("exec") {
            self.in_transaction = false;
        }
        self.begin = self.position;
        if !self.in_transaction {
            self.boundary = self.position;
        }
        Ok(())
    }
}

/// Digits, and at least one.
fn is_number(digits: &[u8]) -> bool {
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn command(words: &[&str]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
        }
        bytes
    }

    /// Name, database, whether inside a transaction, and the boundary after it.
    fn told(stream: &[u8], piece: usize) -> Vec<(String, Option<u64>, bool)> {
        let mut cutter = Cutter::new(100, None);
        let mut seen = Vec::new();
        for piece in stream.chunks(piece) {
            cutter
                .feed(piece, |command| {
                    seen.push((command.to_string(), command.database, command.in_transaction));
                })
                .unwrap();
        }
        assert_eq!(cutter.position(), 100 + stream.len() as u64);
        seen
    }

    #[test]
    fn commands_databases_and_transactions_are_told_however_the_stream_is_cut() {
        let stream = [
            command(&["PING"]),
            command(&["SELECT", "3"]),
            command(&["set", "a", "1\r\n2"]),
            command(&["MULTI"]),
            command(&["SET", "b", ""]),
            command(&["EXEC"]),
            command(&["FLUSHALL"]),
        ]
        .concat();
        let expected = [
            ("PING", None, false),
            ("SELECT", Some(3), false),
            ("SET", Some(3), false),
            ("MULTI", Some(3), true),
            ("SET", Some(3), true),
            ("EXEC", Some(3), true),
            ("FLUSHALL", Some(3), false),
        ]
        .map(|(name, database, inside)| (name.to_owned(), database, inside));
        for piece in [1, 2, 3, 7, stream.len()] {
            assert_eq!(told(&stream, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_boundary_lies_between_commands_and_outside_transactions() {
        let parts = [
            command(&["SET", "a", "1"]),
            command(&["MULTI"]),
            command(&["INCR", "a"]),
            command(&["EXEC"]),
            command(&["PING"]),
        ];
        let ends: Vec<u64> = parts
            .iter()
            .scan(0, |end, part| {
                *end += part.len() as u64;
                Some(*end)
            })
            .collect();
        let stream = parts.concat();
        for length in 0..=stream.len() {
            let mut cutter = Cutter::new(0, None);
            cutter.feed(&stream[..length], |_| {}).unwrap();
            let boundaries = [0, ends[0], ends[3], ends[4]];
            let expected = boundaries.into_iter().rfind(|end| *end <= length as u64).unwrap();
            assert_eq!(cutter.boundary(), expected, "after {length} bytes");
        }
    }

    #[test]
    fn a_file_may_have_notes_between_its_commands_alone() {
        let note = b"#TS:1764500000\r\n".to_vec();
        let whole =
            [note.clone(), command(&["SELECT", "0"]), note.clone(), command(&["SET", "a", "1"])].concat();
        for piece in [1, 5, whole.len()] {
            let (mut cutter, mut count) = (Cutter::of_file(), 0);
            whole.chunks(piece).for_each(|piece| cutter.feed(piece, |_| count += 1).unwrap());
            assert_eq!((count, cutter.boundary()), (2, whole.len() as u64));
        }
        let mut cutter = Cutter::of_file();
        cutter.feed(&whole[..note.len() + 3], |_| {}).unwrap();
        assert_eq!(cutter.boundary(), note.len() as u64);
        assert!(Cutter::new(0, None).feed(&whole, |_| {}).is_err());
        assert!(Cutter::of_file().feed(b"*1\r\n#TS:1\r\n", |_| {}).is_err());
        assert!(Cutter::of_file().feed(&[b'#'; 100], |_| {}).is_err());
    }

    #[test]
    fn long_words_are_told_by_their_beginning() {
        let mut cutter = Cutter::new(0, Some(2));
        let mut seen = Vec::new();
        cutter.feed(b"*5\r\n$3\r\nSET\r\n$4\r\nhuge\r\n$1048576\r\n", |_| {}).unwrap();
        for _ in 0..1024 {
            cutter.feed(&[b'v'; 1024], |_| {}).unwrap();
        }
        cutter.feed(b"\r\n$2\r\nPX\r\n$2\r\n10\r\n", |command| seen = command.words.to_vec()).unwrap();
        assert_eq!(seen.len(), 4, "the fifth is not kept");
        assert_eq!((seen[2].head.len(), seen[2].bytes, seen[2].whole()), (512, 1 << 20, None));
        assert_eq!((seen[1].whole(), cutter.database()), (Some(&b"huge"[..]), Some(2)));
    }

    #[test]
    fn what_is_no_stream_is_an_error_where_it_begins() {
        for (stream, at) in [
            (&b"PING\r\n"[..], 0),
            (b"*0\r\n", 4),
            (b"*-1\r\n", 5),
            (b"*1\n", 3),
            (b"*1\r\n:1\r\n", 4),
            (b"*1\r\n$-1\r\n", 9),
            (b"*1\r\n$4\r\nPINGxx", 12),
            (b"*99999999999\r\n", 14),
            (b"*1\r\n$99999999999999999\r\n", 24),
            (b"*0000000000000000000000000001\r\n", 24),
            (b"*2\r\n$6\r\nSELECT\r\n$1\r\nx\r\n", 23),
            (b"*1\r\n$5\r\nMULTI\r\n*1\r\n$5\r\nMULTI\r\n", 30),
        ] {
            let fault = Cutter::new(0, None).feed(stream, |_| {}).unwrap_err();
            assert_eq!(fault.at, at, "{}: {fault}", String::from_utf8_lossy(stream));
        }
    }
}
