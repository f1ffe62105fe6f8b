//! What `backup` and `restore` do with the append-only file of Redis: its folder, read where it lies, and made anew.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ByteSize, Count, Error, ErrorKind, ExitStatus, Plan, Result, StoreKind, Target};
use mainstay_ops::append_only::{
    self, AppendOnlyBackupContext, AppendOnlyBackupReport, AppendOnlyRestoreContext, AppendOnlyRestoreReport,
    AppendOnlySetContents, FileForm,
};
use mainstay_repository::{Repository, Set};
use serde_json::{Map, Value, json};

use super::backup::making::Making;
use super::backup::{SetChoice, choose};
use super::close;
use super::cluster::whole_path;
use super::plan;
use super::redis::elsewhere::part_of;
use super::replication::scratch_target;
use crate::printer::shown::moment;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Takes a backup of the append-only file in `folder`.
///
/// # Errors
/// The operation's.
pub(crate) async fn create(folder: &Path, dry_run: bool, session: &Session) -> Result<ExitStatus> {
    let folder = whole_path(folder)?;
    let (server, probe) = (session.key_server()?, session.probe(StoreKind::Redis).await?);
    let target = session.target(probe.as_ref()).await?;
    let plan = append_only::plan_backup(server.as_ref(), &folder, target, session.clock.as_ref()).await?;
    if let Some(status) = plan::only_planned(&plan, None, dry_run, session)? {
        return Ok(status);
    }
    let making = Making::begin(&plan, session).await?;
    let context = AppendOnlyBackupContext {
        server: server.as_ref(),
        repository: &making.repository,
        holder: &making.holder,
        clock: session.clock.as_ref(),
        observer: making.progress.as_ref(),
        cancel: &session.cancel,
    };
    let made = append_only::create(&context, &plan, &making.permit).await;
    let facts = |made: &AppendOnlyBackupReport| json!({"append_only_dir": made.contents.append_only.folder});
    let (report, elapsed) = making.close(made, |made| (&made.set, facts(made))).await?;
    Ok(session.printer.report(&Created { report, elapsed, flags: plan::flags(session) }))
}

struct Created {
    report: AppendOnlyBackupReport,
    elapsed: Duration,
    /// How server and repository were named, for what comes next.
    flags: String,
}

impl Report for Created {
    fn json(&self) -> Map<String, Value> {
        let contents = &self.report.contents;
        Map::from_iter([
            ("set".to_owned(), set_json(&self.report.set, contents)),
            ("bytes".to_owned(), json!(contents.bytes())),
            ("stored_bytes".to_owned(), json!(self.report.stored_bytes)),
            ("torn_bytes".to_owned(), json!(contents.torn_bytes())),
            ("retries".to_owned(), json!(self.report.retries)),
            ("seconds".to_owned(), json!(self.elapsed.as_secs_f64())),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let contents = &self.report.contents;
        let id = self.report.set.id();
        let label = |word: &str| look.paint(Tone::Faint, &format!("{word:8}"));
        format!(
            "{} {id}\n  {} {} files, {}: {} keys, and {} commands behind them{}\n  {} {}\n  {} {}\n  {} {:.1} s\n{}next: mainstay{} backup verify {id}\n",
            look.paint(Tone::Strong, "backup set"),
            label("read"),
            contents.append_only.files.len(),
            ByteSize(contents.bytes()),
            Count(contents.base_keys()),
            Count(contents.commands()),
            torn_text(contents),
            label("stored"),
            self.report.stored_bytes,
            label("moment"),
            moment_of(contents),
            label("took"),
            self.elapsed.as_secs_f64(),
            part_of(&contents.server)
                .map_or_else(String::new, |part| format!("  {} {part}\n", label("part"))),
            self.flags,
        )
    }
}

fn torn_text(contents: &AppendOnlySetContents) -> String {
    match contents.torn_bytes() {
        0 => String::new(),
        bytes => format!("; the last command was not written whole: {bytes} bytes that a restore leaves out"),
    }
}

fn moment_of(contents: &AppendOnlySetContents) -> String {
    format!("what the server had written at {}", moment(contents.append_only.held_at))
}

/// A set as `--json` shows it.
pub(crate) fn set_json(set: &Set, contents: &AppendOnlySetContents) -> Value {
    json!({
        "id": set.id(),
        "store": set.kind(),
        "environment": contents.environment,
        "server": contents.server,
        "begun_at": set.manifest().begun_at,
        "completed_at": set.manifest().completed_at,
        "manifest": set.manifest_blake3(),
        "append_only": contents.append_only,
        "keys_in_base": contents.base_keys(),
        "commands": contents.commands(),
        "bytes": contents.bytes(),
        "stored_bytes": set.manifest().stored_bytes(),
    })
}

/// A set as `backup show` tells it.
pub(crate) struct Shown {
    pub(crate) set: Set,
    pub(crate) contents: AppendOnlySetContents,
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
        let of = format!(
            "{} {} ({}) at {} in {}",
            self.set.kind(),
            server.version,
            server.topology,
            server.address,
            contents.environment
        );
        let facts = [
            ("of", of),
            ("taken", format!("{} to {}", moment(manifest.begun_at), moment(manifest.completed_at))),
            ("moment", moment_of(contents) + &torn_text(contents)),
            ("from", contents.append_only.folder.display().to_string()),
            ("stored", ByteSize(manifest.stored_bytes()).to_string()),
            ("manifest", self.set.manifest_blake3().to_string()),
        ];
        let part = part_of(server).map(|part| ("part", part));
        for (name, value) in facts.into_iter().chain(part) {
            text.push_str(&format!("  {} {value}\n", look.paint(Tone::Faint, &format!("{name:9}"))));
        }
        let mut table = Table::new(&["FILE", "SIZE", "HOLDS"]);
        for file in &contents.append_only.files {
            let keys = file.databases.iter().map(|size| size.keys).fold(0, u64::saturating_add);
            let holds = match file.form {
                FileForm::Keys => format!("{} keys", Count(keys)),
                FileForm::Commands => format!("{} commands", Count(file.commands)),
            };
            table.row(vec![
                file.name.as_str().into(),
                Cell::right(ByteSize(file.bytes).to_string()),
                Cell::new(holds),
            ]);
        }
        text + &table.render(look)
    }
}

/// The newest set of Redis that holds an append-only file.
///
/// # Errors
/// The repository's; that of the newest one when it is damaged.
async fn latest(repository: &Repository) -> Result<Option<Set>> {
    for entry in repository.sets(Some(StoreKind::Redis)).await?.into_iter().rev() {
        let set = entry.into_set()?;
        if AppendOnlySetContents::is_of(&set) {
            return Ok(Some(set));
        }
    }
    Ok(None)
}

/// Decides the restore of a set into the folder `into`.
///
/// # Errors
/// The operation's; `NotFound` when no set holds an append-only file.
pub(crate) async fn plan_restore(
    into: &str,
    choice: &SetChoice,
    repository: &Repository,
    session: &Session,
) -> Result<Plan> {
    let into = whole_path(&session.path(Path::new(into)))?;
    check_apart(&into, session)?;
    let set = match choice {
        SetChoice::Id(_) => choose(repository, choice, StoreKind::Redis).await?,
        SetChoice::Latest => latest(repository).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the repository holds no append-only file of redis")
                .with_state("nothing was changed")
                .with_hint("`mainstay backup create --store redis --append-only-dir DIR` takes one; `--into scratch` shows a database file")
        })?,
    };
    let environment = Target { address: into.display().to_string(), ..scratch_target(session) };
    append_only::plan_restore(&set, &into, environment, session.clock.as_ref())
}

fn check_apart(into: &Path, session: &Session) -> Result<()> {
    let Some(repository) = session.repository_folder()? else { return Ok(()) };
    let repository: PathBuf = repository.components().collect();
    match into.starts_with(&repository) {
        false => Ok(()),
        true => Err(Error::new(
            ErrorKind::Usage,
            format!("{} lies in the repository, {}", into.display(), repository.display()),
        )
        .with_state("nothing was changed")
        .with_hint("name a folder elsewhere: `--into DIR`")),
    }
}

/// Carries out a stored plan.
///
/// # Errors
/// The operation's.
pub(crate) async fn apply_restore(
    plan: &Plan,
    approve: Option<&str>,
    session: &Session,
) -> Result<ExitStatus> {
    let began = Instant::now();
    let repository = session.repository().await?;
    let guard = session.guard(&repository);
    let permit = guard.permit(plan, &BackupEvidence::default(), &session.consent(approve)?).await?;
    let progress = session.printer.progress();
    let context = AppendOnlyRestoreContext {
        repository: &repository,
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    let restored = append_only::restore(&context, plan, &permit).await;
    drop(progress);
    let outcome = match &restored {
        Ok(report) => Outcome::Done {
            summary: format!("restored {} into {}", report.set, report.into.display()),
            facts: json!({"set": report.set, "into": report.into}),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, restored, outcome).await?;
    Ok(session.printer.report(&Restored { report, elapsed: began.elapsed() }))
}

struct Restored {
    report: AppendOnlyRestoreReport,
    elapsed: Duration,
}

/// The key of the environment's marker, for people.
const MARKER: &str = "mainstay:identity:environment";

impl Report for Restored {
    fn json(&self) -> Map<String, Value> {
        let AppendOnlyRestoreReport { set, contents, into } = &self.report;
        Map::from_iter([
            ("set".to_owned(), json!(set)),
            ("into".to_owned(), json!(into)),
            ("files".to_owned(), json!(contents.append_only.files.len())),
            ("bytes".to_owned(), json!(contents.bytes())),
            ("torn_bytes".to_owned(), json!(contents.torn_bytes())),
            ("seconds".to_owned(), json!(self.elapsed.as_secs_f64())),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let AppendOnlyRestoreReport { contents, into, .. } = &self.report;
        let above = into.parent().unwrap_or(into).display();
        let name = into.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let list = &contents.append_only.manifest;
        let file = list.strip_suffix(".manifest").unwrap_or(list);
        format!(
            "{} {}: {} files, {}, in {:.1} s\nnext: give the folder to the server's user, then start a server of version {} or later:\n  \
             redis-server --dir {above} --appenddirname {name} --appendfilename {file} --appendonly yes\n\
             it will have the marker of the server that the file is of, in {}, if that had one, and pass for it: if it is to be another server, \
             type `DEL {MARKER}` on it before anything else, then `mainstay environment mark --store redis`\n",
            look.paint(Tone::Strong, "restored into"),
            into.display(),
            contents.append_only.files.len(),
            ByteSize(contents.bytes()),
            self.elapsed.as_secs_f64(),
            contents.server.version,
            contents.environment,
        )
    }
}
