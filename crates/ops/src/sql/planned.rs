//! What a plan to apply says, and the programs that its migrations become.
//!
//! A migration that is one transaction is sent as Drizzle sends it, chunk by chunk. One that is not is a row of steps, each recorded; so is one whose
//! file ends its transaction itself (a trailing `COMMIT`): what stands behind that border is another step, so that a failure there loses nothing
//! and repeats nothing. A setting that a file makes for its session holds for the steps behind it, on whatever connection they run.

use mainstay_engine::{StepEntry, StepTrace, WorkLimits};
use mainstay_migrations::{
    Alone, Chunk, Control, Execution, Folder, Migration, NewRow, Place, Statement, Step, TrackingTable, steps,
};
use mainstay_model::{Blake3, Effect, Error, ErrorKind, Plan, Result};
use serde::{Deserialize, Serialize};

/// How migrations are put into transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transactions {
    /// One for each migration.
    Each,
    /// One around all that are applied, as Drizzle's own runner has it.
    All,
}

/// The decided parameters of a plan to apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyParameters {
    /// The database.
    pub database: String,
    /// The tracking table.
    pub table: TrackingTable,
    /// How they are put into transactions.
    pub transactions: Transactions,
    /// How long one lock is waited for, in milliseconds.
    pub lock_timeout_ms: u64,
    /// For how long a migration that does not get a lock is tried again, in milliseconds.
    pub retry_for_ms: u64,
    /// The table is of Drizzle 0.x and the folder of 1.0: its rows get their names first, as Drizzle 1.0 gives them.
    pub takes_over: bool,
    /// The migrations in order.
    pub migrations: Vec<PlannedMigration>,
}

/// A migration that will be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedMigration {
    /// Its tag.
    pub tag: String,
    /// Its file in the folder.
    pub path: String,
    /// The hash of its file.
    pub hash: String,
    /// Its milliseconds.
    pub created_at: i64,
    /// How many steps it takes; 1 for one transaction.
    pub steps: usize,
    /// How many of these are done and recorded.
    pub steps_done: usize,
    /// The worst that its statements do.
    pub effect: Effect,
    /// Its statements.
    pub statements: Vec<PlannedStatement>,
}

/// A statement of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStatement {
    /// The step that it belongs to, from 1.
    pub step: usize,
    /// Its chunk, from 1.
    pub chunk: usize,
    /// The line of the file that it begins in.
    pub line: u32,
    /// Its first words, and the tables that it names.
    pub what: String,
    /// It is in no transaction.
    pub is_alone: bool,
    /// What it does.
    pub effect: Effect,
    /// Why that is more than additive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ApplyParameters {
    /// Those of `plan`.
    ///
    /// # Errors
    /// `Usage` when it is no plan to apply migrations.
    pub fn of(plan: &Plan) -> Result<Self> {
        serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of SQL migrations")
                .with_source(source)
                .with_state("nothing was changed")
        })
    }

    /// The worst that any of them does; additive when there is none.
    pub fn effect(&self) -> Effect {
        let effects = self.migrations.iter().map(|migration| migration.effect);
        effects.max().unwrap_or(Effect::Additive).max(Effect::Additive)
    }

    /// Why it is as bad as it is: the reason of the first statement that does the worst.
    pub fn worst_reason(&self) -> Option<&str> {
        let statements = self.migrations.iter().flat_map(|migration| &migration.statements);
        let worst = statements.reduce(|worst, other| if other.effect > worst.effect { other } else { worst });
        worst?.reason.as_deref()
    }
}

/// A migration, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) tag: String,
    pub(super) path: String,
    pub(super) row: NewRow,
    /// At least one.
    pub(super) pieces: Vec<Piece>,
}

/// What is done at once.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) entry: StepEntry,
    /// Settings that the file made before it.
    pub(super) prelude: Vec<String>,
    pub(super) units: Vec<Unit>,
    /// Of a statement that cannot be in a transaction: how it is known.
    pub(super) alone: Option<StepTrace>,
    /// A lock is waited for as long as it takes: the wait holds up nobody who reads or writes.
    pub(super) is_patient: bool,
    /// What a failure may leave that nobody can find by name.
    pub(super) may_leave: Option<String>,
}

/// One message to the server.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) text: String,
    pub(super) place: Place,
    pub(super) chunk: usize,
    pub(super) statements: Vec<Statement>,
}

impl Piece {
    /// What is sent: the settings, then the units.
    pub(super) fn texts(&self) -> Vec<String> {
        self.prelude.iter().cloned().chain(self.units.iter().map(|unit| unit.text.clone())).collect()
    }

    /// The unit that a text of [`Piece::texts`] is; `None` for a setting.
    pub(super) fn unit(&self, text: usize) -> Option<&Unit> {
        self.units.get(text.checked_sub(self.prelude.len())?)
    }

    pub(super) fn limits(&self, lock_timeout_ms: u64) -> WorkLimits {
        WorkLimits { lock_timeout_ms: if self.is_patient { 0 } else { lock_timeout_ms } }
    }
}

impl Program {
    /// What `migration` becomes.
    ///
    /// # Errors
    /// `Precondition` when its file ends transactions in a way that nothing could be recorded of, or copies through a client; `Unsupported` when it
    /// holds what no text of the server can.
    pub(super) fn of(migration: &Migration, folder: &Folder) -> Result<Self> {
        if migration.text.contains('\0') {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} holds a NUL, which no statement can", migration.path),
            )
            .with_state("nothing was changed")
            .with_hint("save the file as UTF-8"));
        }
        let chunks = migration.chunks();
        check_copies(migration, &chunks)?;
        let steps = steps(migration).map_err(|error| {
            Error::new(ErrorKind::Precondition, error.to_string())
                .with_state("nothing was changed")
                .with_hint("take that statement out of the file: what is to be undone is not applied, and each migration has its own transaction")
        })?;
        Ok(Self {
            tag: migration.tag.clone(),
            path: migration.path.clone(),
            row: NewRow::of(migration, folder.format),
            pieces: pieces(&migration.tag, &chunks, &steps),
        })
    }

    /// Whether it is one transaction, of which nothing needs to be recorded but its row.
    pub(super) fn is_one_transaction(&self) -> bool {
        matches!(self.pieces.as_slice(), [piece] if piece.alone.is_none())
    }

    /// What a plan says of it.
    pub(super) fn planned(&self, steps_done: usize) -> PlannedMigration {
        let statements: Vec<PlannedStatement> = self
            .pieces
            .iter()
            .enumerate()
            .flat_map(|(number, piece)| {
                let statements = piece.units.iter().flat_map(|unit| &unit.statements);
                statements.map(move |statement| planned_statement(number + 1, piece, statement))
            })
            .collect();
        PlannedMigration {
            tag: self.tag.clone(),
            path: self.path.clone(),
            hash: self.row.hash.clone(),
            created_at: self.row.created_at,
            steps: self.pieces.len(),
            steps_done,
            effect: statements.iter().map(|statement| statement.effect).max().unwrap_or(Effect::Additive),
            statements,
        }
    }
}

/// Refuses what would wait for rows that nobody sends, or send rows that nobody takes.
fn check_copies(migration: &Migration, chunks: &[Chunk]) -> Result<()> {
    let mut statements = chunks.iter().flat_map(|chunk| &chunk.statements);
    match statements.find(|statement| statement.copies_through_client()) {
        None => Ok(()),
        Some(copy) => Err(Error::new(
            ErrorKind::Precondition,
            format!(
                "{}:{}: COPY from STDIN or to STDOUT passes its rows through a client, and a migration has none",
                migration.path, copy.place
            ),
        )
        .with_state("nothing was changed")
        .with_hint("write INSERTs, or declare the rows as a seed: `mainstay seed list`")),
    }
}

fn planned_statement(step: usize, piece: &Piece, statement: &Statement) -> PlannedStatement {
    PlannedStatement {
        step,
        chunk: statement.chunk,
        line: statement.place.line,
        what: what(statement),
        is_alone: piece.alone.is_some(),
        effect: statement.effect,
        reason: statement.reason.clone(),
    }
}

/// A statement without anything that may be a value: `ALTER TABLE shop.users`.
pub(super) fn what(statement: &Statement) -> String {
    let tables: Vec<String> = statement.tables.iter().map(ToString::to_string).collect();
    match tables.is_empty() {
        true => statement.command.clone(),
        false => format!("{} {}", statement.command, tables.join(", ")),
    }
}

fn pieces(tag: &str, chunks: &[Chunk], steps: &[Step]) -> Vec<Piece> {
    let is_one_transaction = match steps {
        [] => true,
        [only] => !only.is_alone(),
        _ => false,
    };
    if is_one_transaction && !chunks.iter().flat_map(|chunk| &chunk.statements).any(is_border) {
        return vec![piece(tag, 1, chunks.iter().map(Unit::of_chunk).collect(), Vec::new(), None)];
    }
    let mut pieces = Vec::new();
    let mut settings: Vec<String> = Vec::new();
    for (number, step) in (1..).zip(steps) {
        let units = step.statements().iter().map(Unit::of_statement).collect();
        let alone = step.is_alone().then(|| step.statements().first()).flatten();
        pieces.push(piece(tag, number, units, settings.clone(), alone));
        settings.extend(
            step.statements().iter().filter(|found| is_setting(found)).map(|found| found.text.clone()),
        );
    }
    if pieces.is_empty() {
        // Nothing but borders: its row alone.
        pieces.push(piece(tag, 1, Vec::new(), Vec::new(), None));
    }
    pieces
}

fn piece(tag: &str, number: u32, units: Vec<Unit>, prelude: Vec<String>, alone: Option<&Statement>) -> Piece {
    let texts: Vec<&str> = units.iter().map(|unit| unit.text.as_str()).collect();
    let chunk = units.first().map_or(1, |unit| unit.chunk);
    Piece {
        entry: StepEntry {
            tag: tag.to_owned(),
            step: number,
            chunk: u32::try_from(chunk).unwrap_or(u32::MAX),
            text_hash: Blake3::of(texts.join("\0").as_bytes()),
        },
        prelude,
        units,
        alone: alone.map(trace),
        is_patient: alone.is_some_and(is_patient),
        may_leave: alone.and_then(may_leave),
    }
}

impl Unit {
    fn of_chunk(chunk: &Chunk) -> Self {
        Self {
            text: chunk.text.clone(),
            place: chunk.place,
            chunk: chunk.number,
            statements: chunk.statements.clone(),
        }
    }

    fn of_statement(statement: &Statement) -> Self {
        Self {
            text: statement.text.clone(),
            place: statement.place,
            chunk: statement.chunk,
            statements: vec![statement.clone()],
        }
    }
}

/// Whether it would end or begin the transaction that the runner is in.
fn is_border(statement: &Statement) -> bool {
    matches!(&statement.execution, Execution::Control(control) if *control != Control::Savepoint)
}

/// Whether it makes a setting for the session: what is `LOCAL`, or of the transaction, goes with the transaction.
fn is_setting(statement: &Statement) -> bool {
    let mut words = statement.text.split_whitespace();
    let first = words.next().unwrap_or_default().to_ascii_uppercase();
    let second = words.next().unwrap_or_default().to_ascii_uppercase();
    match first.as_str() {
        "SET" => !matches!(second.as_str(), "LOCAL" | "TRANSACTION" | "CONSTRAINTS"),
        "RESET" => true,
        // What `pg_dump` writes at the top of its files.
        "SELECT" => statement.text.to_ascii_lowercase().contains("set_config("),
        _ => false,
    }
}

fn trace(statement: &Statement) -> StepTrace {
    match &statement.execution {
        Execution::Alone(Alone::CreateIndexConcurrently { index: Some(index), table, .. }) => {
            StepTrace::IndexMade { index: index.clone(), table: table.clone() }
        }
        Execution::Alone(Alone::DropIndexConcurrently { index, .. }) => {
            StepTrace::IndexDropped { index: index.clone() }
        }
        _ => StepTrace::None,
    }
}

/// What a failed statement may leave under a name that the server has made up.
fn may_leave(statement: &Statement) -> Option<String> {
    match &statement.execution {
        Execution::Alone(Alone::CreateIndexConcurrently { index: None, table, .. }) => Some(format!(
            "perhaps an invalid index of {table}, under a name that the server has made up: give it one in the file"
        )),
        Execution::Alone(Alone::Reindex { is_concurrent: true, .. }) => {
            Some("perhaps an invalid index whose name ends in `_ccnew` or `_ccold`, which is to be dropped by hand".to_owned())
        }
        _ => None,
    }
}

/// Whether waiting for its locks holds up neither reading nor writing, and may take as long as the oldest transaction.
fn is_patient(statement: &Statement) -> bool {
    match &statement.execution {
        Execution::Alone(
            Alone::CreateIndexConcurrently { .. }
            | Alone::DropIndexConcurrently { .. }
            | Alone::DetachPartitionConcurrently { .. },
        ) => true,
        Execution::Alone(Alone::Reindex { is_concurrent, .. }) => *is_concurrent,
        _ => false,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_migrations::Format;

    use super::*;

    fn program(text: &str) -> Result<Program> {
        let migration = Migration::new("0001_a", "0001_a.sql", 7, text);
        let folder =
            Folder { format: Format::Journal, migrations: vec![migration.clone()], notes: Vec::new() };
        Program::of(&migration, &folder)
    }

    #[test]
    fn an_ordinary_file_is_sent_chunk_by_chunk_as_it_stands() {
        let text = "CREATE TABLE a (i int); CREATE TABLE b (i int);\n--> statement-breakpoint\n\nINSERT INTO a VALUES (1);\n";
        let program = program(text).unwrap();
        assert!(program.is_one_transaction());
        let sent = program.pieces[0].texts();
        assert_eq!(sent.join("--> statement-breakpoint"), text);
        assert_eq!((sent.len(), program.row.name.as_deref()), (2, None));
        assert_eq!(program.planned_effect(), Effect::Additive);
    }

    #[test]
    fn what_must_run_alone_makes_steps_that_keep_the_settings_of_the_file() {
        let text = "SET search_path TO shop; CREATE TABLE a (i int);\n--> statement-breakpoint\n\
                    CREATE INDEX CONCURRENTLY a_i ON a (i);\n--> statement-breakpoint\nINSERT INTO a VALUES (1);";
        let program = program(text).unwrap();
        assert!(!program.is_one_transaction());
        let alone: Vec<bool> = program.pieces.iter().map(|piece| piece.alone.is_some()).collect();
        assert_eq!(alone, [false, true, false]);
        let index = &program.pieces[1];
        assert!(matches!(&index.alone, Some(StepTrace::IndexMade { index, .. }) if index.name == "a_i"));
        assert_eq!(index.prelude, ["SET search_path TO shop"]);
        assert_eq!(
            (index.limits(500).lock_timeout_ms, program.pieces[2].limits(500).lock_timeout_ms),
            (0, 500)
        );
        assert!(index.unit(0).is_none() && index.unit(1).is_some());
        assert_eq!(program.pieces[2].entry.step, 3);
    }

    #[test]
    fn a_commit_in_a_file_is_a_border_between_steps() {
        let program = program("CREATE TABLE a (i int);\n--> statement-breakpoint\nCOMMIT;\n--> statement-breakpoint\nCREATE INDEX CONCURRENTLY a_i ON a (i);").unwrap();
        assert_eq!(program.pieces.len(), 2);
        let wrapped = self::program("BEGIN; CREATE TABLE a (i int); COMMIT;").unwrap();
        assert!(wrapped.is_one_transaction());
        assert_eq!(wrapped.pieces[0].texts(), ["CREATE TABLE a (i int)"]);
        assert_eq!(
            self::program("BEGIN; DELETE FROM a; ROLLBACK;").unwrap_err().kind(),
            ErrorKind::Precondition
        );
        assert_eq!(self::program("SELECT '\0'").unwrap_err().kind(), ErrorKind::Unsupported);
        let copy = self::program("SELECT 1;\nCOPY a FROM STDIN").unwrap_err();
        assert_eq!(copy.kind(), ErrorKind::Precondition);
        assert!(copy.message().starts_with("0001_a.sql:2:1: COPY from STDIN"), "{copy}");
    }

    impl Program {
        fn planned_effect(&self) -> Effect {
            self.planned(0).effect
        }
    }
}
