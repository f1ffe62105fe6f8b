//! What `backup` does for a store that writes all its keys into one file: Redis.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mainstay_model::{ByteSize, Count, ExitStatus, Plan, Result, StoreKind};
use mainstay_ops::keyfile::{self, KeyFileBackupContext, KeyFileBackupReport, KeyFileSetContents};
use mainstay_repository::Set;
use serde_json::{Map, Value, json};

use super::append_only;
use super::backup::making::Making;
use super::cluster::refuse;
use super::plan::{self, by_plan_file_again};
use super::redis::elsewhere;
use super::restore::other_target;
use crate::printer::shown::moment;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// What backs up another server.
const AGAIN: &str = "backup create --store redis";

/// Arguments of `backup create` that mean something for Redis alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "Redis")]
pub(crate) struct KeyFileArgs {
    /// Have the server send its keys without packing them, by `rdbcompression no` until it has forked: less work for it, and smaller here
    #[arg(long)]
    plain_transfer: bool,
    /// Read the append-only file in this folder of the server, as this machine sees it, instead of asking the server for its keys
    #[arg(long, value_name = "DIR", conflicts_with = "plain_transfer")]
    append_only_dir: Option<PathBuf>,
    /// Write the plan to this file instead of carrying it out
    #[arg(long, value_name = "FILE", requires = "plain_transfer")]
    output: Option<PathBuf>,
}

impl KeyFileArgs {
    /// Refuses them for something else.
    ///
    /// # Errors
    /// `Usage`, naming the first.
    pub(crate) fn refuse(&self, what: impl Display) -> Result<()> {
        let given = [
            ("plain-transfer", self.plain_transfer),
            ("append-only-dir", self.append_only_dir.is_some()),
            ("output", self.output.is_some()),
        ];
        refuse(&given, what)
    }
}

/// Copies the server's file.
///
/// # Errors
/// The operation's.
pub(crate) async fn create(args: &KeyFileArgs, dry_run: bool, session: &Session) -> Result<ExitStatus> {
    if let Some(folder) = &args.append_only_dir {
        return append_only::create(&session.path(folder), dry_run, session).await;
    }
    let probe = session.probe(StoreKind::Redis).await?;
    let target = session.target(probe.as_ref()).await?;
    let (part, clock) = (session.keyspace()?.part().await?, session.clock.as_ref());
    let plan = match args.plain_transfer {
        true => {
            let server = session.key_server_of_backup()?;
            keyfile::plan_plain_backup(server.as_ref(), target, part.as_ref(), clock).await?
        }
        false => keyfile::plan_backup(target, part.as_ref(), clock),
    };
    if let Some(status) = plan::only_planned(&plan, args.output.as_deref(), dry_run, session)? {
        return Ok(status);
    }
    let made = make(&plan, None, session).await;
    made.map_err(|refusal| by_plan_file_again("--plain-transfer --output plan.json", session, refusal))
}

/// Carries out a plan whose file begins to come without being packed.
///
/// # Errors
/// `StalePlan` when another server answers; the operation's.
pub(crate) async fn apply_plan(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let probe = session.probe(StoreKind::Redis).await?;
    let target = session.target(probe.as_ref()).await?;
    if let Some(stale) = other_target(&plan.target, &target) {
        let repository = session.repository_or_create().await?;
        let guard = session.guard(&repository);
        return Err(guard.refuse(&plan.operation, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    make(plan, approve, session).await
}

async fn make(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let (source, server) = (session.key_file()?, session.key_server_of_backup()?);
    let making = Making::begin_approved(plan, approve, session).await?;
    let context = KeyFileBackupContext {
        source: source.as_ref(),
        server: server.as_ref(),
        repository: &making.repository,
        holder: &making.holder,
        clock: session.clock.as_ref(),
        observer: making.progress.as_ref(),
        cancel: &session.cancel,
    };
    let made = keyfile::create(&context, plan, &making.permit).await;
    let facts = |made: &KeyFileBackupReport| json!({"replication": made.contents.replication, "plain_transfer": made.is_plain});
    let (report, elapsed) = making.close(made, |made| (&made.set, facts(made))).await?;
    let others = elsewhere::commands_for_others(&report.contents.server, AGAIN, session);
    Ok(session.printer.report(&Created { report, elapsed, flags: plan::flags(session), others }))
}

struct Created {
    report: KeyFileBackupReport,
    elapsed: Duration,
    /// How server and repository were named, for what comes next.
    flags: String,
    /// Commands for the other primaries of a cluster.
    others: Vec<String>,
}

impl Report for Created {
    fn json(&self) -> Map<String, Value> {
        let contents = &self.report.contents;
        Map::from_iter([
            ("set".to_owned(), set_json(&self.report.set, contents)),
            ("keys".to_owned(), json!(contents.keys())),
            ("bytes".to_owned(), json!(contents.bytes)),
            ("stored_bytes".to_owned(), json!(self.report.stored_bytes)),
            ("checksum".to_owned(), json!(self.report.has_checksum)),
            ("plain_transfer".to_owned(), json!(self.report.is_plain)),
            ("seconds".to_owned(), json!(self.elapsed.as_secs_f64())),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let contents = &self.report.contents;
        let seconds = self.elapsed.as_secs_f64();
        let rate = ByteSize((contents.bytes as f64 / seconds.max(0.001)) as u64);
        let id = self.report.set.id();
        let label = |word: &str| look.paint(Tone::Faint, &format!("{word:8}"));
        let checked = match self.report.has_checksum {
            true => "every key walked, the file's checksum is right",
            false => "every key walked; this server writes no checksum (rdbchecksum no)",
        };
        let part = elsewhere::part_of(&contents.server)
            .map_or_else(String::new, |part| format!("  {} {part}\n", label("part")));
        format!(
            "{} {id}\n  {} {} keys in {} databases, {}\n{part}  {} {checked}\n  {} {}\n  {} {}\n  {} {seconds:.1} s, {rate}/s\nnext: mainstay{} backup verify {id}\n{}",
            look.paint(Tone::Strong, "backup set"),
            label("read"),
            Count(contents.keys()),
            contents.databases.len(),
            ByteSize(contents.bytes),
            label("checked"),
            label("stored"),
            self.report.stored_bytes,
            label("moment"),
            moment_of(contents),
            label("took"),
            self.flags,
            elsewhere::others_text(&self.others),
        )
    }
}

/// The moment a set shows, for people.
pub(crate) fn moment_of(contents: &KeyFileSetContents) -> String {
    match &contents.replication {
        Some(point) => format!("offset {} of stream {}", point.offset, point.id),
        None => "the server's fork".to_owned(),
    }
}

/// A set as `--json` shows it.
pub(crate) fn set_json(set: &Set, contents: &KeyFileSetContents) -> Value {
    json!({
        "id": set.id(),
        "store": set.kind(),
        "environment": contents.environment,
        "server": contents.server,
        "begun_at": set.manifest().begun_at,
        "completed_at": set.manifest().completed_at,
        "manifest": set.manifest_blake3(),
        "replication": contents.replication,
        "rdb_version": contents.version,
        "databases": contents.databases,
        "functions": contents.functions,
        "keys": contents.keys(),
        "expiring": contents.expiring(),
        "bytes": contents.bytes,
        "stored_bytes": set.manifest().stored_bytes(),
    })
}

/// A set as `backup show` tells it.
pub(crate) struct Shown {
    set: Set,
    contents: KeyFileSetContents,
    /// Commands for the other primaries of a cluster.
    others: Vec<String>,
}

impl Shown {
    pub(crate) fn new(set: Set, contents: KeyFileSetContents, session: &Session) -> Self {
        let others = elsewhere::commands_for_others(&contents.server, AGAIN, session);
        Self { set, contents, others }
    }
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let mut set = set_json(&self.set, &self.contents);
        set["objects"] = json!(self.set.manifest().objects);
        Map::from_iter([("set".to_owned(), set)])
    }

    fn text(&self, look: &Look) -> String {
        let (manifest, contents) = (self.set.manifest(), &self.contents);
        let server = &contents.server;
        let mut text = format!("{} {}\n", look.paint(Tone::Strong, "backup set"), self.set.id());
        let facts = [
            (
                "of",
                format!(
                    "{} {} ({}) at {} in {}",
                    self.set.kind(),
                    server.version,
                    server.topology,
                    server.address,
                    contents.environment
                ),
            ),
            ("taken", format!("{} to {}", moment(manifest.begun_at), moment(manifest.completed_at))),
            ("moment", moment_of(contents)),
            (
                "file",
                format!("{}, {}, RDB version {}", contents.file, ByteSize(contents.bytes), contents.version),
            ),
            ("stored", ByteSize(manifest.stored_bytes()).to_string()),
            ("functions", format!("{} libraries", contents.functions)),
            ("manifest", self.set.manifest_blake3().to_string()),
        ];
        let part = elsewhere::part_of(server).map(|part| ("part", part));
        for (name, value) in facts.into_iter().chain(part) {
            text.push_str(&format!("  {} {value}\n", look.paint(Tone::Faint, &format!("{name:9}"))));
        }
        let mut table = Table::new(&["DB", "KEYS", "EXPIRE"]);
        for size in &contents.databases {
            table.row(vec![
                Cell::right(size.database.to_string()),
                Cell::right(Count(size.keys).to_string()),
                Cell::right(Count(size.expiring).to_string()),
            ]);
        }
        text + &table.render(look) + &elsewhere::others_text(&self.others)
    }
}
