//! A run of a plan: one migration after the other, and what becomes of each.
//!
//! Before each transaction it is known how the tracking table must look; the adapter looks again behind its lock and does nothing when it looks
//! otherwise. Rows that are new by then and belong to planned migrations were written by another runner: those migrations are applied. Anything
//! else ends the run.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_engine::{
    AloneOutcome, AloneWork, BackendId, LockHolder, MigrationRun, RecordedStep, RowWrite, StepEntry,
    StepTrace, TrackingLook, TransactionWork, WorkFailure, WorkLimits, WorkOutcome, WorkPlace, WorkRecord,
    WorkStart,
};
use mainstay_guard::Permit;
use mainstay_migrations::{TableVersion, TrackingRow, readiness};
use mainstay_model::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::apply::{AppliedBy, HINT_STALE, MigrationDone, is_of, millis, steps_done};
use super::planned::{Piece, Program};
use super::progress::{backoff, pause, watched};
use super::{ApplyParameters, PlannedMigration, SqlContext, Transactions, called, rivals, rows, told};

/// How many tags an error names.
const TAGS_TOLD: usize = 5;

/// A run of a plan.
pub(super) struct Applying<'r> {
    context: &'r SqlContext<'r>,
    run: &'r dyn MigrationRun,
    permit: &'r Permit,
    parameters: &'r ApplyParameters,
    /// The tracking table as it must be before the next transaction.
    look: TrackingLook,
    done: Vec<MigrationDone>,
    /// Steps of the migration that is under way are done and recorded.
    has_steps: bool,
    /// Sessions that have read the tracking table, were waited for, and did nothing about it.
    idle: Vec<BackendId>,
}

/// What came of a transaction that was tried until it got its locks.
enum Transacted {
    Done { readers: Vec<LockHolder>, repetitions: u32 },
    Moved(TrackingLook),
}

/// How a migration went so far.
#[derive(Default)]
struct Going {
    repetitions: u32,
    steps_done_before: usize,
    leftovers_dropped: usize,
}

impl<'r> Applying<'r> {
    /// Applies the programs, and tells what became of each.
    ///
    /// # Errors
    /// As [`apply`](super::apply::apply).
    pub(super) async fn run(
        (context, run, permit): (&'r SqlContext<'r>, &'r dyn MigrationRun, &'r Permit),
        parameters: &'r ApplyParameters,
        programs: &[Program],
    ) -> Result<Vec<MigrationDone>> {
        let look = context.target.tracking(context.table).await?;
        let (done, idle) = (Vec::new(), Vec::new());
        let mut applying = Applying { context, run, permit, parameters, look, done, has_steps: false, idle };
        applying.begin(programs).await?;
        match parameters.transactions {
            Transactions::Each => applying.each(programs).await?,
            Transactions::All => applying.together(programs).await?,
        }
        Ok(applying.done)
    }

    /// Makes the tracking table where it is absent, and sees what is applied already.
    async fn begin(&mut self, programs: &[Program]) -> Result<()> {
        let context = self.context;
        if programs.is_empty() {
            return Ok(());
        }
        if self.look.version == TableVersion::Absent {
            let version = TableVersion::of_format(context.folder.format);
            self.run.create_table(version, self.permit).await?;
            self.look = context.target.tracking(context.table).await?;
        }
        rivals::tell_hidden(context, self.run).await?;
        if self.parameters.takes_over && self.look.version == TableVersion::Classic {
            self.take_over().await?;
        }
        for program in programs.iter().filter(|program| has_row(&self.look, program)) {
            self.done.push(by_another(program));
        }
        Ok(())
    }

    /// Gives the rows of a classic table the names of their entries, as Drizzle 1.0 does before it applies anything.
    async fn take_over(&mut self) -> Result<()> {
        let context = self.context;
        context.observer.phase("take the tracking table over");
        let names = readiness(context.folder, &self.look.rows).matches;
        let names = names.into_iter().map(|found| RowWrite::Name { row: found.row, name: found.tag });
        let writes: Vec<RowWrite> = [RowWrite::TakeOver].into_iter().chain(names).collect();
        rows::write_all(context, self.run, self.permit, &writes, &self.look).await?;
        self.look = context.target.tracking(context.table).await?;
        Ok(())
    }

    /// Each migration by itself.
    async fn each(&mut self, programs: &[Program]) -> Result<()> {
        for (number, program) in programs.iter().enumerate() {
            if self.is_done(program) {
                continue;
            }
            self.safe_point(programs, program)?;
            let (place, count) = (number + 1, programs.len());
            self.context.observer.phase(&format!("apply {} ({place} of {count})", program.tag));
            self.migration(programs, program).await?;
        }
        Ok(())
    }

    /// All in one transaction.
    async fn together(&mut self, programs: &[Program]) -> Result<()> {
        loop {
            let open: Vec<&Program> = programs.iter().filter(|program| !self.is_done(program)).collect();
            let Some(first) = open.first() else { return Ok(()) };
            self.safe_point(programs, first)?;
            self.context.observer.phase(&format!("apply {} migrations in one transaction", open.len()));
            let began = Instant::now();
            let pieces: Vec<(&Program, &Piece)> = open
                .iter()
                .flat_map(|program| program.pieces.iter().map(move |piece| (*program, piece)))
                .collect();
            let row = |program: &Program| WorkRecord::Row { row: program.row.clone(), steps_of: None };
            let work: Vec<TransactionWork> = pieces
                .iter()
                .map(|(program, piece)| TransactionWork { texts: piece.texts(), record: row(program) })
                .collect();
            match self.transact(programs, &pieces, &work).await? {
                Transacted::Done { repetitions, .. } => {
                    for program in open {
                        let going = Going { repetitions, ..Going::default() };
                        self.done.push(by_us(program, began, &going));
                    }
                }
                Transacted::Moved(look) => self.absorb(programs, look)?,
            }
        }
    }

    async fn migration(&mut self, programs: &[Program], program: &Program) -> Result<()> {
        let began = Instant::now();
        let mut going = Going::default();
        let readers = match program.is_one_transaction() {
            true => self.at_once(programs, program, &mut going).await?,
            false => self.step_by_step(programs, program, &mut going).await?,
        };
        let Some(readers) = readers else { return Ok(()) };
        self.done.push(by_us(program, began, &going));
        if programs.iter().all(|program| self.is_done(program)) {
            return Ok(());
        }
        if !readers.is_empty() {
            let readers = (readers.as_slice(), "waited to read");
            let idle = self.let_go_on(programs, readers, Instant::now()).await?;
            self.idle.extend(idle);
        }
        let look = self.context.target.tracking(self.context.table).await;
        let look = look.map_err(|error| self.with_state(error, programs))?;
        self.absorb(programs, look)
    }

    /// A migration that is one transaction. Gives those who waited to read the table; `None` when somebody else applied it meanwhile.
    async fn at_once(
        &mut self,
        programs: &[Program],
        program: &Program,
        going: &mut Going,
    ) -> Result<Option<Vec<LockHolder>>> {
        let Some(piece) = program.pieces.first() else { return Ok(None) };
        let record = WorkRecord::Row { row: program.row.clone(), steps_of: None };
        self.transaction(programs, (program, piece), record, going).await
    }

    /// A migration of several steps, or of one that is in no transaction.
    async fn step_by_step(
        &mut self,
        programs: &[Program],
        program: &Program,
        going: &mut Going,
    ) -> Result<Option<Vec<LockHolder>>> {
        let recorded = self.context.target.recorded_steps(self.context.table).await;
        let recorded: Vec<RecordedStep> = recorded
            .map_err(|error| self.with_state(error, programs))?
            .into_iter()
            .filter(|step| step.entry.tag == program.tag)
            .collect();
        let done_before = steps_done(program, recorded.iter());
        going.steps_done_before = done_before.map_err(|error| self.with_state(error, programs))?;
        self.has_steps = going.steps_done_before > 0;
        let row = WorkRecord::Row { row: program.row.clone(), steps_of: Some(program.tag.clone()) };
        let count = program.pieces.len();
        for (number, piece) in program.pieces.iter().enumerate() {
            if recorded.iter().any(|step| step.is_done && step.entry == piece.entry) {
                continue;
            }
            self.safe_point(programs, program)?;
            let phase = format!("apply {}, step {} of {count}", program.tag, number + 1);
            self.context.observer.phase(&phase);
            if let Some(trace) = &piece.alone {
                self.alone(programs, (program, piece), trace, going).await?;
                self.has_steps = true;
                continue;
            }
            let is_last = number + 1 == count;
            let record = if is_last { row.clone() } else { WorkRecord::Step(piece.entry.clone()) };
            let ended = self.transaction(programs, (program, piece), record, going).await?;
            self.has_steps = !is_last;
            if is_last || ended.is_none() {
                return Ok(ended);
            }
        }
        // What ended in no transaction, or was done but for its row.
        let Some(last) = program.pieces.last() else { return Ok(None) };
        let nothing = Piece { units: Vec::new(), prelude: Vec::new(), alone: None, ..last.clone() };
        let ended = self.transaction(programs, (program, &nothing), row, going).await?;
        self.has_steps = false;
        Ok(ended)
    }

    /// One transaction. `None` when somebody else applied the migration meanwhile.
    async fn transaction(
        &mut self,
        programs: &[Program],
        (program, piece): (&Program, &Piece),
        record: WorkRecord,
        going: &mut Going,
    ) -> Result<Option<Vec<LockHolder>>> {
        let work = [TransactionWork { texts: piece.texts(), record }];
        loop {
            match self.transact(programs, &[(program, piece)], &work).await? {
                Transacted::Done { readers, repetitions } => {
                    going.repetitions += repetitions;
                    return Ok(Some(readers));
                }
                Transacted::Moved(look) => self.absorb(programs, look)?,
            }
            if self.is_done(program) {
                return Ok(None);
            }
        }
    }

    /// Tries a transaction until it gets its locks and no other runner is at the same, for as long as that may take.
    async fn transact(
        &mut self,
        programs: &[Program],
        pieces: &[(&Program, &Piece)],
        work: &[TransactionWork],
    ) -> Result<Transacted> {
        let limits = WorkLimits { lock_timeout_ms: self.parameters.lock_timeout_ms };
        let texts = rivals::texts(self.context, pieces.iter().map(|(program, _)| program.tag.as_str()));
        let (began, mut tries) = (Instant::now(), 0);
        loop {
            tries += 1;
            self.run.check_lock().await.map_err(|error| self.with_state(error, programs))?;
            let start = WorkStart { look: &self.look, texts: &texts, idle: &self.idle };
            let doing = self.run.transact(work, &start, limits, self.permit);
            let (ended, blockers) = watched(self.context, self.run, doing).await;
            let ended = ended.map_err(|error| self.ended(error.context(work_name(pieces)), programs));
            let failure = match ended? {
                WorkOutcome::Done { readers } => {
                    return Ok(Transacted::Done { readers, repetitions: tries - 1 });
                }
                WorkOutcome::Moved(look) => return Ok(Transacted::Moved(look)),
                WorkOutcome::Rivals(found) => {
                    let idle = self.let_go_on(programs, (found.as_slice(), "has read"), began).await?;
                    self.idle.extend(idle);
                    // It was not for want of a lock.
                    tries -= 1;
                    continue;
                }
                WorkOutcome::Failed(failure) => failure,
            };
            let (program, piece) = at(pieces, &failure)?;
            self.check_failure(programs, program, piece, &failure)?;
            let locked = told::locked_out(program, piece, &failure, &blockers, self.context.literals);
            if !self.waits_again(programs, began, tries, &locked).await? {
                return Err(self.with_state(locked, programs));
            }
        }
    }

    /// A statement outside a transaction, tried until it gets its locks and whoever runs it has ended.
    async fn alone(
        &self,
        programs: &[Program],
        (program, piece): (&Program, &Piece),
        trace: &StepTrace,
        going: &mut Going,
    ) -> Result<()> {
        let text = piece.units.first().map(|unit| unit.text.clone()).unwrap_or_default();
        let work = AloneWork {
            prelude: piece.prelude.clone(),
            text,
            entry: piece.entry.clone(),
            trace: trace.clone(),
        };
        let limits = piece.limits(self.parameters.lock_timeout_ms);
        let (began, mut tries) = (Instant::now(), 0);
        loop {
            tries += 1;
            self.run.check_lock().await.map_err(|error| self.with_state(error, programs))?;
            let doing = self.run.alone(&work, limits, self.permit);
            let (ended, blockers) = watched(self.context, self.run, doing).await;
            let name = work_name(&[(program, piece)]);
            let ended = ended.map_err(|error| self.ended(error.context(name), programs));
            let again = match ended? {
                AloneOutcome::Done { was_done, dropped_leftover } => {
                    going.repetitions += tries - 1;
                    going.steps_done_before += usize::from(was_done);
                    going.leftovers_dropped += usize::from(dropped_leftover);
                    return Ok(());
                }
                AloneOutcome::Busy(holder) => {
                    let busy = busy(&piece.entry, &holder);
                    if began.elapsed() >= self.retry_for() {
                        return Err(self.with_state(busy, programs));
                    }
                    self.context.observer.notice(&format!("{busy}; waiting until it has ended"));
                    pause(self.context.cancel, backoff(tries)).await
                }
                AloneOutcome::Failed(failure) => {
                    // The adapter sends one text; the settings before it are its own business.
                    let failure = WorkFailure {
                        place: WorkPlace::Text { work: 0, text: piece.prelude.len() },
                        left: failure.left.clone().or_else(|| piece.may_leave.clone()),
                        ..*failure
                    };
                    self.check_failure(programs, program, piece, &failure)?;
                    let locked = told::locked_out(program, piece, &failure, &blockers, self.context.literals);
                    if !self.waits_again(programs, began, tries, &locked).await? {
                        return Err(self.with_state(locked, programs));
                    }
                    true
                }
            };
            if !again {
                return Err(self.interrupted(programs));
            }
        }
    }

    fn retry_for(&self) -> Duration {
        Duration::from_millis(self.parameters.retry_for_ms)
    }

    /// The failure as an error, unless it is one that may pass.
    fn check_failure(
        &self,
        programs: &[Program],
        program: &Program,
        piece: &Piece,
        failure: &WorkFailure,
    ) -> Result<()> {
        if failure.is_cancelled() && self.context.cancel.is_cancelled() {
            return Err(self.interrupted(programs));
        }
        match failure.is_contention() {
            true => Ok(()),
            false => Err(told::failed(program, piece, failure, self.state(programs))),
        }
    }

    /// Waits a while before the next try; `false` when there was time enough.
    async fn waits_again(
        &self,
        programs: &[Program],
        began: Instant,
        tries: u32,
        locked: &Error,
    ) -> Result<bool> {
        if began.elapsed() >= self.retry_for() {
            return Ok(false);
        }
        self.context.observer.notice(&format!("{locked}; it is tried again"));
        match pause(self.context.cancel, backoff(tries)).await {
            true => Ok(true),
            false => Err(self.interrupted(programs)),
        }
    }

    /// Waits until those who have read the table while it said less than it does now have done what they do about it. Gives who only looked.
    async fn let_go_on(
        &self,
        programs: &[Program],
        sessions: (&[LockHolder], &str),
        began: Instant,
    ) -> Result<Vec<BackendId>> {
        let deadline = rivals::deadline(began, self.retry_for());
        let waited = rivals::let_go_on(self.context, self.run, sessions, deadline).await;
        waited.map_err(|error| self.with_state(error, programs))
    }

    /// Takes `look` for what is there now: rows that are new must be those of planned migrations, one each; nothing else may have changed.
    fn absorb(&mut self, programs: &[Program], look: TrackingLook) -> Result<()> {
        let by_id = |look: &TrackingLook| -> BTreeMap<i64, TrackingRow> {
            look.rows.iter().map(|row| (row.id, row.clone())).collect()
        };
        let (before, now) = (by_id(&self.look), by_id(&look));
        let is_kept = |row: &TrackingRow| now.get(&row.id) == Some(row);
        let mut is_plain = look.version == self.look.version && self.look.rows.iter().all(is_kept);
        let mut expected: Vec<&Program> =
            programs.iter().filter(|program| !has_row(&self.look, program)).collect();
        for row in now.values().filter(|row| !before.contains_key(&row.id)) {
            match expected.iter().position(|program| is_of(row, &program.row, look.version)) {
                Some(place) => {
                    expected.remove(place);
                }
                None => is_plain = false,
            }
        }
        if !is_plain {
            let error = Error::new(
                ErrorKind::StalePlan,
                format!("somebody else has written into {} meanwhile", self.context.table),
            );
            return Err(self.with_state(error.with_hint(HINT_STALE), programs));
        }
        self.look = look;
        for program in programs {
            if has_row(&self.look, program) && !self.is_done(program) {
                self.done.push(by_another(program));
            }
        }
        Ok(())
    }

    fn is_done(&self, program: &Program) -> bool {
        self.done.iter().any(|done| done.tag == program.tag)
    }

    fn safe_point(&self, programs: &[Program], next: &Program) -> Result<()> {
        match self.context.cancel.is_cancelled() {
            true => Err(self.interrupted(programs).context(format!("before {}", next.tag))),
            false => Ok(()),
        }
    }

    fn interrupted(&self, programs: &[Program]) -> Error {
        let error = Error::new(ErrorKind::Interrupted, "applying was stopped on request");
        self.with_state(error.with_hint("the same command goes on"), programs)
    }

    /// An error of work that was ended on request is told as that.
    fn ended(&self, error: Error, programs: &[Program]) -> Error {
        let is_asked_for = self.context.cancel.is_cancelled() && error.kind() == ErrorKind::Server;
        match is_asked_for {
            true => self.interrupted(programs),
            false if error.state().is_some() => {
                let state = format!("{}; {}", error.state().unwrap_or_default(), self.state(programs));
                error.with_state(state)
            }
            false => self.with_state(error, programs),
        }
    }

    fn with_state(&self, error: Error, programs: &[Program]) -> Error {
        error.with_state(self.state(programs))
    }

    /// What stands now.
    fn state(&self, programs: &[Program]) -> String {
        let tags: Vec<&str> = self.done.iter().map(|done| done.tag.as_str()).take(TAGS_TOLD).collect();
        let more = match self.done.len().saturating_sub(TAGS_TOLD) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let applied = match self.done.is_empty() {
            true => format!("none of {} migrations is applied", programs.len()),
            false => format!(
                "{} of {} migrations are applied: {}{more}",
                self.done.len(),
                programs.len(),
                tags.join(", ")
            ),
        };
        // Those of an earlier run count as well.
        let is_begun = |planned: &PlannedMigration| {
            planned.steps_done > 0 && !self.done.iter().any(|done| done.tag == planned.tag)
        };
        match self.has_steps || self.parameters.migrations.iter().any(is_begun) {
            true => format!("{applied}; what is done of the next one is recorded, step by step"),
            false => format!("{applied}; nothing of the others stays"),
        }
    }
}

/// What is done with these, for an error that names no file: `apply 0001_b`.
fn work_name(pieces: &[(&Program, &Piece)]) -> String {
    match pieces {
        [(program, _)] => format!("apply {}", program.tag),
        _ => format!("apply {} migrations in one transaction", pieces.len()),
    }
}

/// The program and the piece that a failure is about.
fn at<'p>(pieces: &[(&'p Program, &'p Piece)], failure: &WorkFailure) -> Result<(&'p Program, &'p Piece)> {
    let number = match failure.place {
        WorkPlace::Text { work, .. } | WorkPlace::Record { work } => work,
        WorkPlace::TrackingTable | WorkPlace::Commit => 0,
    };
    pieces.get(number).copied().ok_or_else(|| {
        Error::new(ErrorKind::Internal, format!("work number {number} failed, which was not given"))
    })
}

fn has_row(look: &TrackingLook, program: &Program) -> bool {
    look.rows.iter().any(|row| is_of(row, &program.row, look.version))
}

fn by_us(program: &Program, began: Instant, going: &Going) -> MigrationDone {
    MigrationDone {
        tag: program.tag.clone(),
        by: AppliedBy::ThisRun,
        millis: millis(began.elapsed()),
        repetitions: going.repetitions,
        steps: program.pieces.len(),
        steps_done_before: going.steps_done_before,
        leftovers_dropped: going.leftovers_dropped,
    }
}

fn by_another(program: &Program) -> MigrationDone {
    MigrationDone {
        tag: program.tag.clone(),
        by: AppliedBy::Another,
        millis: 0,
        repetitions: 0,
        steps: program.pieces.len(),
        steps_done_before: 0,
        leftovers_dropped: 0,
    }
}

fn busy(entry: &StepEntry, holder: &LockHolder) -> Error {
    let end = match holder.id.pid {
        0 => "`mainstay pg blockers` shows who has it".to_owned(),
        pid => format!("`mainstay pg activity --terminate {pid}`"),
    };
    Error::new(
        ErrorKind::Locked,
        format!("step {} of {} cannot begin: {} is at it, or at the same index", entry.step, entry.tag, called(holder)),
    )
    .with_hint(format!(
        "the statement of an earlier run that was killed may go on in the server, or the table is vacuumed: let it end, or {end}"
    ))
}
