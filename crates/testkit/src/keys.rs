//! A random history of a Redis, and a small client that is not the product's.
//!
//! [`Client`] speaks the protocol over a plain socket and waits for each answer. [`KeyHistory`] does one act after another — every type, expiry
//! of keys and of fields, transactions, scripts, databases, now and then a flush — and [`KeyMoment`] is what the server itself says of
//! all its keys at one offset, in one transaction.
//!
//! Refuses nothing: an answer that is an error panics, because a history that is not what it says proves nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::history::Random;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A line, or bytes that are text.
    Text(String),
    /// A number.
    Number(i64),
    /// Nothing.
    Nil,
    /// Several.
    List(Vec<Reply>),
    /// What the server does not do.
    Refused(String),
}

impl Reply {
    /// The text or number as text; empty for anything else.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            _ => String::new(),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects; logs in when there is a password.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn connect(address: SocketAddr, password: Option<&str>) -> Self {
        let stream = TcpStream::connect(address).expect("the server takes connections");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time can be set");
        let mut client = Self { stream: BufReader::new(stream) };
        if let Some(password) = password {
            client.must(&["AUTH", password]);
        }
        client
    }

    /// One command and its answer.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn ask(&mut self, words: &[&str]) -> Reply {
        let mut command = format!("*{}\r\n", words.len());
        for word in words {
            command.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(command.as_bytes()).expect("the server reads");
        self.read()
    }

    /// The same for a command that the server must take.
    ///
    /// # Panics
    /// When it does not.
    pub fn must(&mut self, words: &[&str]) -> Reply {
        match self.ask(words) {
            Reply::Refused(why) => panic!("{}: {why}", words.join(" ")),
            reply => reply,
        }
    }

    /// A field of `INFO`.
    ///
    /// # Panics
    /// When it is not told.
    pub fn info(&mut self, field: &str) -> String {
        let all = self.must(&["INFO", "everything"]).text();
        let told = all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        told.unwrap_or_else(|| panic!("no {field} is told")).trim().to_owned()
    }

    /// What the server says of all its keys.
    ///
    /// # Panics
    /// When it does not.
    pub fn digest(&mut self) -> String {
        self.must(&["DEBUG", "DIGEST"]).text()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the server answers");
        line.trim_end().to_owned()
    }

    fn read(&mut self) -> Reply {
        let line = self.line();
        let (kind, rest) = line.split_at(1.min(line.len()));
        match kind {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Refused(rest.to_owned()),
            ":" => Reply::Number(rest.parse().expect("a number")),
            "$" => match rest.parse::<usize>() {
                Err(_) => Reply::Nil,
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes).expect("the server answers");
                    Reply::Text(String::from_utf8_lossy(&bytes[..length]).into_owned())
                }
            },
            "*" => match rest.parse::<usize>() {
                Err(_) => Reply::Nil,
                Ok(count) => Reply::List((0..count).map(|_| self.read()).collect()),
            },
            _ => panic!("the server answered {line:?}"),
        }
    }
}

/// What a server held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyMoment {
    /// The replication offset.
    pub offset: u64,
    /// This machine's clock when the server had answered, in milliseconds since 1970.
    pub at_ms: u64,
    /// The server's digest of everything.
    pub digest: String,
    /// What was done last.
    pub act: String,
}

/// What this machine's clock says.
#[expect(
    clippy::disallowed_methods,
    reason = "a history happens in the time of the server that it is done to"
)]
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    u64::try_from(now.as_millis()).expect("it is not that late")
}

/// A server and what is done to it at random.
#[derive(Debug)]
pub struct KeyHistory {
    client: Client,
    random: Random,
    number: usize,
}

impl KeyHistory {
    /// Begins to write; the same seed does the same.
    ///
    /// # Panics
    /// When the server does not answer.
    pub fn begin(address: SocketAddr, seed: u64) -> Self {
        Self { client: Client::connect(address, None), random: Random::new(seed), number: 0 }
    }

    /// The numbers that follow.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// The connection.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Does something and says what the server holds then.
    ///
    /// # Panics
    /// When the server refuses something.
    pub fn act(&mut self) -> KeyMoment {
        self.number += 1;
        let act = self.next_act();
        self.moment(act)
    }

    /// What the server holds now.
    ///
    /// # Panics
    /// When it does not say.
    pub fn moment(&mut self, act: String) -> KeyMoment {
        self.client.must(&["MULTI"]);
        self.client.must(&["DEBUG", "DIGEST"]);
        self.client.must(&["INFO", "replication"]);
        let Reply::List(answers) = self.client.must(&["EXEC"]) else { panic!("no transaction") };
        let info = answers[1].text();
        let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
        let offset = offset.expect("an offset is told").trim().parse().expect("it is a number");
        KeyMoment { offset, at_ms: now_ms(), digest: answers[0].text(), act }
    }

    fn key(&mut self, kind: &str) -> String {
        format!("{kind}:{}", self.random.below(40))
    }

    fn give(&mut self, words: &[&str]) -> String {
        self.client.must(words);
        words.iter().take(3).copied().collect::<Vec<_>>().join(" ")
    }

    fn next_act(&mut self) -> String {
        let number = self.number.to_string();
        let field = format!("f{}", self.random.below(8));
        let n = number.as_str();
        match self.random.below(26) {
            0 | 1 => {
                let key = self.key("text");
                self.give(&["SET", &key, n])
            }
            2 => {
                let key = self.key("text");
                self.give(&["SET", &key, n, "EX", "90000"])
            }
            3 => {
                let key = self.key("count");
                self.give(&["INCR", &key])
            }
            4 => {
                let key = self.key("text");
                self.give(&["APPEND", &key, n])
            }
            5 => {
                let key = self.key("hash");
                self.give(&["HSET", &key, &field, n, "other", n])
            }
            6 => {
                let key = self.key("hash");
                self.give(&["HSET", &key, &field, n]);
                self.give(&["HEXPIRE", &key, "80000", "FIELDS", "1", &field])
            }
            7 => {
                let key = self.key("hash");
                self.give(&["HDEL", &key, &field])
            }
            8 => {
                let key = self.key("list");
                self.give(&["RPUSH", &key, n, "again"])
            }
            9 => {
                let key = self.key("list");
                self.give(&["LPOP", &key])
            }
            10 => {
                let key = self.key("set");
                self.give(&["SADD", &key, n, &field, "word"])
            }
            11 => {
                let key = self.key("set");
                self.give(&["SPOP", &key])
            }
            12 => {
                let key = self.key("sorted");
                self.give(&["ZADD", &key, n, &field])
            }
            13 => {
                let key = self.key("sorted");
                self.give(&["ZPOPMIN", &key])
            }
            14 => {
                let key = self.key("stream");
                self.give(&["XADD", &key, "*", "n", n, &field, "v"])
            }
            15 => {
                let key = self.key("stream");
                self.client.ask(&["XGROUP", "CREATE", &key, "workers", "0", "MKSTREAM"]);
                self.client.ask(&[
                    "XREADGROUP",
                    "GROUP",
                    "workers",
                    "one",
                    "COUNT",
                    "2",
                    "STREAMS",
                    &key,
                    ">",
                ]);
                self.give(&["XTRIM", &key, "MAXLEN", "20"])
            }
            16 => {
                let key = self.key("script");
                let script = "for i = 1, 5 do redis.call('HINCRBY', KEYS[1], 'f' .. i, ARGV[1]) end \
                              return redis.call('SET', KEYS[1] .. ':last', ARGV[1], 'PX', 70000000)";
                self.give(&["EVAL", script, "1", &key, n])
            }
            17 => {
                let (one, other) = (self.key("text"), self.key("list"));
                self.give(&["MULTI"]);
                self.give(&["SET", &one, n]);
                self.give(&["RPUSH", &other, n]);
                self.give(&["SADD", "all", &one, &other]);
                self.give(&["EXEC"]);
                format!("MULTI {one} {other}")
            }
            18 => {
                let database = self.random.below(3).to_string();
                self.give(&["SELECT", &database])
            }
            19 => {
                // It expires at once, which the server says to its replicas when somebody looks.
                let key = self.key("brief");
                self.give(&["SET", &key, n, "PX", "1"]);
                thread::sleep(Duration::from_millis(5));
                self.give(&["EXISTS", &key])
            }
            20 => {
                let key = self.key("large");
                let value = format!("{n},").repeat(5_000);
                self.give(&["SET", &key, &value]);
                format!("SET {key}, large")
            }
            21 => {
                let (from, to) = (self.key("text"), self.key("copy"));
                self.give(&["COPY", &from, &to, "REPLACE"])
            }
            22 => {
                let keys = [self.key("text"), self.key("hash"), self.key("sorted")];
                self.give(&["UNLINK", &keys[0], &keys[1], &keys[2]])
            }
            23 => {
                let key = self.key("text");
                self.give(&["GETEX", &key, "EX", "60000"])
            }
            24 if self.random.one_in(4) => self.give(&["FLUSHDB"]),
            25 if self.random.one_in(12) => self.give(&["FLUSHALL"]),
            _ => {
                let key = self.key("bits");
                self.give(&["SETBIT", &key, n, "1"])
            }
        }
    }
}
