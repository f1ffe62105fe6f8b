//! `sql rehearse`: what pending migrations lock, rewrite and read.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use mainstay_engine::{LiveBounds, RecordedStep, ShadowContents, TableHolder};
use mainstay_guard::Outcome;
use mainstay_migrations::ApplyOptions;
use mainstay_model::{ByteSize, Count, ExitStatus, Result};
use mainstay_ops::sql::live::LiveTables;
use mainstay_ops::sql::rehearse::{
    self, Blocks, LIVE_OPERATION, MigrationVerdict, OPERATION, RehearsalReport, RehearsalRequest, Scene,
    StatementVerdict, TableVerdict, TableWork,
};
use mainstay_ops::sql::{self, drift};
use serde_json::{Map, Value, json};

use super::staged::{live_target, permitted, prelude, shadow_target};
use super::{FolderArgs, Migrations, parse_timeout};
use crate::commands::close;
use crate::printer::shown::{duration, millis, plain};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// How many more bounds a whole rehearsal in the live database may take than a statement of it.
const STATEMENTS_MAX: u32 = 10;

/// Arguments of `sql rehearse`.
#[derive(Debug, Args)]
pub(crate) struct RehearseArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// What the shadow database begins with: the live schema, or the applied migrations replayed
    #[arg(long, value_name = "WHAT", value_enum, default_value = "schema", conflicts_with = "on_live")]
    from: Beginning,
    /// Copy all rows, too, so that times are those of real tables
    #[arg(long, conflicts_with_all = ["on_live", "from"])]
    data: bool,
    /// Rehearse in the live database itself, with short bounds, and take everything back
    #[arg(long)]
    on_live: bool,
    /// How long a statement waits for a lock in the live database
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_timeout, requires = "on_live")]
    lock_timeout: Duration,
    /// How long a statement may take in the live database
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_timeout, requires = "on_live")]
    statement_timeout: Duration,
    /// From here on a table is large; `large_table` in [sql] otherwise
    #[arg(long, value_name = "SIZE")]
    large: Option<ByteSize>,
    /// Make the shadow database on this server, without a password; `shadow_url` in [sql] otherwise
    #[arg(long, value_name = "URL", conflicts_with = "on_live")]
    shadow_url: Option<String>,
    /// Rehearse skipped migrations, too, each in its place
    #[arg(long)]
    include_skipped: bool,
}

/// What a shadow begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Beginning {
    /// The schema of the live database
    Schema,
    /// Nothing, and the applied migrations replayed into it
    Journal,
}

impl RehearseArgs {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        if self.on_live { LIVE_OPERATION } else { OPERATION }
    }

    fn scene(&self) -> Scene {
        let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1);
        match (self.on_live, self.from) {
            (true, _) => Scene::Live(LiveBounds {
                lock_timeout_ms: milliseconds(self.lock_timeout),
                statement_timeout_ms: milliseconds(self.statement_timeout),
                total_timeout_ms: milliseconds(self.statement_timeout)
                    .saturating_mul(STATEMENTS_MAX)
                    .min(i32::MAX.unsigned_abs()),
            }),
            (false, Beginning::Journal) => Scene::Shadow(ShadowContents::Nothing),
            (false, Beginning::Schema) if self.data => Scene::Shadow(ShadowContents::Rows),
            (false, Beginning::Schema) => Scene::Shadow(ShadowContents::Schema),
        }
    }
}

/// Rehearses what is pending.
///
/// # Errors
/// `Precondition` when nothing may be applied, or no shadow can be made; `Refused` by policy; `Interrupted`; the server's.
pub(super) async fn run(args: &RehearseArgs, session: &Session) -> Result<ExitStatus> {
    let migrations = Migrations::open(&args.folder, session)?;
    let folder = &migrations.folder;
    let found =
        sql::survey(migrations.target.as_ref(), folder, &migrations.table, session.clock.now()).await?;
    if args.on_live {
        found.check_server(None)?;
    }
    let pending = found.verdict.to_apply(folder, ApplyOptions { include_skipped: args.include_skipped })?;
    let large_bytes = args.large.unwrap_or(session.configuration.sql.large_table).bytes();
    if pending.is_empty() {
        let nothing = RehearsalReport {
            database: found.facts.database,
            is_live: args.on_live,
            contents: None,
            migrations: Vec::new(),
            left_out: 0,
            large_bytes,
        };
        return Ok(session.printer.report(&Shown(nothing)));
    }
    let scene = args.scene();
    let is_replayed = scene == Scene::Shadow(ShadowContents::Nothing);
    let request = RehearsalRequest {
        migrations: pending,
        done: match scene {
            // Nothing of a migration that is half applied is in what the whole ones make.
            Scene::Shadow(ShadowContents::Nothing) => BTreeMap::new(),
            Scene::Shadow(_) | Scene::Live(_) => done_steps(&found.steps),
        },
        replayed: if is_replayed { drift::applied(folder, &found.verdict) } else { Vec::new() },
        prelude: if is_replayed { prelude(session, &found.facts.database) } else { Vec::new() },
        scene,
        large_bytes,
    };
    let host = session.rehearsal(args.shadow_url.as_deref())?;
    let target = match scene {
        Scene::Live(_) => live_target(session).await?,
        Scene::Shadow(_) => shadow_target(host.as_ref(), session).await?,
    };
    let (inspection, _) = session.relational()?;
    let live = LiveTables::read(inspection.as_ref()).await?;
    let plan = rehearse::plan(&request, target, session.clock.as_ref());
    let (guard, permit) = permitted(&plan, session).await?;
    let progress = session.printer.progress();
    let rehearsed =
        rehearse::rehearse(host.as_ref(), &live, &request, progress.as_ref(), &session.cancel, &permit).await;
    session.printer.end_progress();
    let outcome = match &rehearsed {
        Ok(report) => Outcome::Done {
            summary: format!("rehearsed {} migrations", report.migrations.len()),
            facts: json!({"has_findings": report.has_findings()}),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, rehearsed, outcome).await?;
    Ok(session.printer.report(&Shown(report)))
}

/// The steps of half applied migrations that are done, by tag.
fn done_steps(recorded: &[RecordedStep]) -> BTreeMap<String, Vec<u32>> {
    let mut done: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for step in recorded.iter().filter(|step| step.is_done) {
        done.entry(step.entry.tag.clone()).or_default().push(step.entry.step);
    }
    done
}

struct Shown(RehearsalReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let mut fields = match json!(self.0) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.insert("has_findings".to_owned(), json!(self.0.has_findings()));
        fields
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        if report.migrations.is_empty() {
            return "nothing is pending: nothing to rehearse\n".to_owned();
        }
        let mut text = String::new();
        for migration in &report.migrations {
            text.push_str(&self.migration(migration, look));
        }
        text + &self.summary(look)
    }

    fn exit_status(&self) -> ExitStatus {
        if self.0.has_findings() { ExitStatus::Findings } else { ExitStatus::Ok }
    }
}

impl Shown {
    fn migration(&self, migration: &MigrationVerdict, look: &Look) -> String {
        let mut text = format!("{}\n", look.paint(Tone::Strong, &plain(&migration.path, 300)));
        let mut table =
            Table::new(&["", "AT", "STATEMENT", "TABLE", "LOCK", "BLOCKS", "WORK", "LIVE", "ABOUT", "TOOK"]);
        let mut notes = Vec::new();
        for statement in &migration.statements {
            rows(statement, look, &mut table);
            notes.extend(told(statement, look));
        }
        text.push_str(&table.render(look));
        for note in notes {
            text.push_str(&format!("{note}\n"));
        }
        if let Some(stopped) = &migration.stopped {
            text.push_str(&format!("{}\n", look.paint(Tone::Bad, &plain(stopped, 400))));
        }
        text.push('\n');
        text
    }

    fn summary(&self, look: &Look) -> String {
        let report = &self.0;
        let statements = || report.migrations.iter().flat_map(|migration| &migration.statements);
        let over = statements().filter(|statement| statement.is_over()).count();
        let not_run = statements().filter(|statement| statement.not_run.is_some()).count();
        let failed = report.migrations.iter().filter(|migration| !migration.is_whole()).count();
        let place = match (report.is_live, report.contents) {
            (true, _) => "in the live database, and taken back: times are of real tables",
            (false, Some(ShadowContents::Rows)) => {
                "in a shadow database with all rows: times are of real tables"
            }
            _ => "in a shadow database: times are of empty tables, what it takes live is reckoned from sizes",
        };
        let mut text = format!("{} statements rehearsed {place}\n", statements().count() - not_run);
        if over > 0 {
            let line = format!(
                "{over} of them rewrite tables of {} or more, or keep others waiting while they read one",
                ByteSize(report.large_bytes)
            );
            text.push_str(&format!("{}\n", look.paint(Tone::Warn, &line)));
        }
        if not_run > 0 {
            text.push_str(&format!("{not_run} were not run\n"));
        }
        if failed > 0 {
            let line = format!("{failed} failed; {} after it had no turn", report.left_out);
            text.push_str(&format!("{}\n", look.paint(Tone::Bad, &line)));
        }
        text
    }
}

fn rows(statement: &StatementVerdict, look: &Look, table: &mut Table) {
    let is_telling = |one: &&TableVerdict| {
        look.verbose || one.blocks != Blocks::Nobody || one.work != TableWork::None || one.is_over
    };
    let mut telling: Vec<&TableVerdict> = statement.tables.iter().filter(is_telling).collect();
    // The strongest first; a statement of which nothing is to be told has a row nevertheless.
    telling.sort_by_key(|one| std::cmp::Reverse((one.is_over, one.blocks, one.work)));
    let took = statement.micros.map(|micros| millis(micros.div_ceil(1_000))).unwrap_or_default();
    let mark = if statement.is_over() || statement.failure.is_some() { "!" } else { "" };
    let first = vec![
        Cell::new(mark).tone(Tone::Warn),
        Cell::new(statement.place.to_string()),
        Cell::new(statement.command.clone()),
    ];
    if telling.is_empty() {
        let mut row = first;
        row.extend((0..6).map(|_| Cell::new("")));
        row.push(Cell::right(took));
        table.row(row);
        return;
    }
    for (number, one) in telling.into_iter().enumerate() {
        let mut row: Vec<Cell> = match number {
            0 => first.clone(),
            _ => (0..3).map(|_| Cell::new("")).collect(),
        };
        let lock = one.lock.max(one.held).map(|lock| lock.to_string().to_lowercase()).unwrap_or_default();
        let size = one.live.map(|live| format!("{}, {} rows", ByteSize(live.bytes), Count(live.rows)));
        row.extend([
            Cell::new(one.table.to_string()),
            Cell::new(lock),
            Cell::new(blocks(one.blocks)).tone(if one.is_over { Tone::Bad } else { Tone::Plain }),
            Cell::new(work(one)),
            Cell::new(size.unwrap_or_default()),
            Cell::right(about(one)),
            Cell::right(if number == 0 { took.clone() } else { String::new() }),
        ]);
        table.row(row);
    }
}

fn blocks(blocks: Blocks) -> &'static str {
    match blocks {
        Blocks::Nobody => "",
        Blocks::Writes => "writes",
        Blocks::Reads => "reads, writes",
    }
}

fn work(table: &TableVerdict) -> String {
    match table.work {
        TableWork::None => String::new(),
        TableWork::Emptied => "emptied".to_owned(),
        TableWork::Read => "read whole".to_owned(),
        TableWork::Indexed => match table.built.iter().filter(|build| build.is_rebuilt).count() {
            0 => "index built".to_owned(),
            1 => "index rebuilt".to_owned(),
            count => format!("{count} indexes rebuilt"),
        },
        TableWork::Changed => "rows changed".to_owned(),
        TableWork::Rewritten => "rewritten".to_owned(),
    }
}

fn about(table: &TableVerdict) -> String {
    match table.held_ms.max(table.estimate_ms) {
        0 => String::new(),
        time => format!("~{}", millis(time)),
    }
}

/// What is to be told of a statement beside its tables.
fn told(statement: &StatementVerdict, look: &Look) -> Vec<String> {
    let place = statement.place;
    let mut lines = Vec::new();
    if let Some(failure) = &statement.failure {
        let at = statement.failure_place.unwrap_or(place);
        let line = format!("{at}: {} ({})", plain(&failure.message, 300), failure.code);
        lines.push(look.paint(Tone::Bad, &line));
        lines.extend(failure.hint.as_ref().map(|hint| format!("  hint: {}", plain(hint, 300))));
    }
    if let Some(reason) = &statement.not_run {
        lines.push(look.paint(Tone::Warn, &format!("{place}: not run: {reason}")));
    }
    if !statement.beyond.is_empty() {
        let line = format!(
            "{place}: acts beyond the database ({}), so nothing from here on was committed in the shadow",
            statement.beyond.join(", ")
        );
        lines.push(look.paint(Tone::Warn, &line));
    }
    if statement.waits_for_everybody {
        lines.push(format!("{place}: waits for the end of every transaction that is older than it"));
    }
    for table in &statement.tables {
        lines.extend(table.waits_for.iter().map(|holder| waits(statement, table, holder)));
    }
    lines
}

fn waits(statement: &StatementVerdict, table: &TableVerdict, holder: &TableHolder) -> String {
    let who = match (holder.pid, holder.app_name.as_str()) {
        (None, _) => "a prepared transaction".to_owned(),
        (Some(pid), "") => format!("process {pid}"),
        (Some(pid), app) => format!("process {pid} ({})", plain(app, 60)),
    };
    format!(
        "{}: would wait now for {who}, which holds {} for {}, and everybody behind it",
        statement.place,
        plain(&table.table.to_string(), 130),
        duration(holder.transaction_seconds)
    )
}
