//! A random writer whose every state is known: what a restore to any moment must give.
//!
//! [`History::act`] does one thing to a database, drawn from a seed: inserts, updates of every kind, deletes, transactions, and everything
//! that changes definitions. What it came to is taken from the server's own answers, never reckoned here, and kept with the position of
//! the change log at that time. One writer, one database: between two positions nothing happens, so any moment from one position to
//! the next has the state of the first. [`differences`] compares a database with such a state, document by document and definition by
//! definition, and with the server's own hash where one was taken.
//!
//! Everything goes through the official driver. Refuses to be clever: a collection is read whole whenever an act changed more of it than
//! the answer tells.

mod acts;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::{Client, ClientSession, Database};

pub use state::{State, differences};

use self::state::{Contents, contents, definitions};
use crate::servers::db_hash;

/// How often the server's own hash is taken: it reads everything.
const ACTS_PER_HASH: usize = 20;

/// A position in the change log: seconds, and the counter within them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Seconds since 1970.
    pub seconds: u32,
    /// Counter within the second.
    pub increment: u32,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.seconds, self.increment)
    }
}

/// What the database was after an act.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The newest position then.
    pub at: Position,
    /// The act.
    pub act: String,
    /// Whether the act changed definitions.
    pub is_definition: bool,
    /// What there was.
    pub state: State,
}

/// Numbers that look random and are the same for the same seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16;
        (number % bound as u64) as usize
    }

    /// Whether the one case in `cases` has come.
    pub fn one_in(&mut self, cases: usize) -> bool {
        self.below(cases) == 0
    }

    /// One of `choices`.
    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())].clone()
    }
}

/// A database and all that was done to it.
pub struct History {
    client: Client,
    session: ClientSession,
    database: Database,
    random: Random,
    state: State,
    moments: Vec<Moment>,
    /// For names and ids that are new.
    next: i64,
}

impl History {
    /// Begins to write to `database`, which must be empty.
    ///
    /// # Panics
    /// When the server fails.
    pub async fn begin(client: Client, database: &str, seed: u64) -> Self {
        let session = client.start_session().await.expect("a session");
        let database = client.database(database);
        let mut history = Self {
            client,
            session,
            database,
            random: Random::new(seed),
            state: State::default(),
            moments: Vec::new(),
            next: 0,
        };
        history.create_first().await;
        history
    }

    /// What there was after each act, in order.
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// Reads the database again and remembers where the log stands: the end of an act.
    async fn remember(&mut self, act: String, touched: &[String], is_definition: bool) {
        if is_definition {
            self.state.definitions = Arc::new(definitions(&self.database).await);
            let known = Arc::clone(&self.state.definitions);
            self.state.contents.retain(|name, _| known.contains_key(name));
        }
        for name in touched {
            match contents(&self.database, name, &self.state.definitions).await {
                Some(contents) => drop(self.state.contents.insert(name.clone(), Arc::new(contents))),
                None => drop(self.state.contents.remove(name)),
            }
        }
        self.state.hashes = match self.moments.len() % ACTS_PER_HASH {
            0 => Some(Arc::new(hashes(&self.client, self.database.name()).await)),
            _ => None,
        };
        let at = self.position().await;
        self.moments.push(Moment { at, act, is_definition, state: self.state.clone() });
    }

    /// Notes one document that the server's answer showed, or that it is gone.
    fn note(&mut self, collection: &str, id: &Document, document: Option<RawDocumentBuf>) {
        let contents = self.state.contents.entry(collection.to_owned()).or_default();
        let Contents::ById(documents) = Arc::make_mut(contents) else { return };
        let key = id.to_vec().expect("a key has a form");
        match document {
            Some(document) => drop(documents.insert(key, Arc::new(document))),
            None => drop(documents.remove(&key)),
        }
    }

    /// The newest position of the log. Answers to reads with local concern tell it (MongoDB manual, "operationTime").
    async fn position(&self) -> Position {
        let reply = self.database.run_command(doc! { "ping": 1 }).await.expect("the server answers");
        let time = reply.get_timestamp("operationTime").expect("a replica set tells its time");
        Position { seconds: time.time, increment: time.increment }
    }
}

/// The server's hashes of what can be compared between databases of different names.
async fn hashes(client: &Client, database: &str) -> BTreeMap<String, String> {
    let mut hashes = db_hash(client, database).await.expect("the server hashes");
    hashes.remove("system.views");
    hashes
}
