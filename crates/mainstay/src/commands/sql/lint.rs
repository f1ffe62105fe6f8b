//! `sql lint`: what is dangerous in migrations, as a compiler would say it.

use std::path::PathBuf;

use clap::Args;
use mainstay_migrations::{Folder, LintLevel, LintOptions, Migration};
use mainstay_model::{ByteSize, Count, Error, ErrorKind, ExitStatus, Result};
use mainstay_ops::sql;
use mainstay_ops::sql::lint::{self, LintFacts, LintReport, LintedFinding};
use serde_json::{Map, Value, json};

use super::{FolderArgs, Migrations};
use crate::printer::shown::{duration, plain, plain_lines};
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// From how old on a transaction is worth a word.
const OLD_TRANSACTION_SECONDS: u64 = 30;

/// Arguments of `sql lint`.
#[derive(Debug, Args)]
pub(crate) struct LintArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Look at all migrations, not only at those that are pending
    #[arg(long)]
    all: bool,
    /// Ask no server: all migrations, without the size of tables
    #[arg(long)]
    offline: bool,
    /// Leave this rule out; may be repeated
    #[arg(long, value_name = "RULE")]
    exclude: Vec<String>,
    /// Ask also for this rule, which is not on by itself; may be repeated
    #[arg(long, value_name = "RULE")]
    include: Vec<String>,
}

/// Looks.
///
/// # Errors
/// `Usage` for a rule that there is not; `Unreachable` when the server does not answer; what keeps migrations from being read.
pub(super) async fn run(args: &LintArgs, session: &Session) -> Result<ExitStatus> {
    let mut options = LintOptions {
        exclude: args.exclude.clone(),
        include: args.include.clone(),
        ..LintOptions::default()
    };
    check_rules(&options)?;
    let folder_path = session.migrations_place(args.folder.folder.as_deref())?.folder;
    let folder_path =
        folder_path.strip_prefix(&session.outside.working_dir).unwrap_or(&folder_path).to_owned();
    if args.offline {
        let (folder, _) = session.migrations(args.folder.folder.as_deref())?;
        let report = lint::lint(&all(&folder), &options, None);
        return Ok(session.printer.report(&Shown { report, folder: folder_path }));
    }
    let migrations = Migrations::open(&args.folder, session)?;
    let folder = &migrations.folder;
    let found = sql::survey(migrations.target.as_ref(), folder, &migrations.table, session.clock.now())
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::Unreachable => {
                error.with_hint("`--offline` asks no server, and looks at all migrations")
            }
            _ => error,
        })?;
    if let Some(major) = major(&found.facts.version) {
        options.server_major = major;
    }
    let (inspection, _) = session.relational()?;
    let facts: LintFacts = lint::facts(inspection.as_ref(), &found.facts.database).await?;
    let chosen = match args.all {
        true => all(folder),
        false => lint::not_applied(folder, &found.verdict),
    };
    let report = lint::lint(&chosen, &options, Some(&facts));
    Ok(session.printer.report(&Shown { report, folder: folder_path }))
}

fn all(folder: &Folder) -> Vec<&Migration> {
    folder.migrations.iter().collect()
}

fn major(version: &str) -> Option<u32> {
    version.split(|one: char| !one.is_ascii_digit()).next()?.parse().ok()
}

fn check_rules(options: &LintOptions) -> Result<()> {
    match options.unknown_rules().first() {
        None => Ok(()),
        Some(name) => {
            let names: Vec<String> = mainstay_migrations::rules().into_iter().map(|rule| rule.name).collect();
            Err(Error::new(ErrorKind::Usage, format!("there is no rule `{name}`"))
                .with_state("nothing was looked at")
                .with_hint(format!("the rules are {}", names.join(", "))))
        }
    }
}

struct Shown {
    report: LintReport,
    folder: PathBuf,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let mut fields = match json!(self.report) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.insert("folder".to_owned(), json!(self.folder));
        fields.insert("has_findings".to_owned(), json!(self.report.has_findings()));
        fields
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.report;
        let mut text: String = report.findings.iter().map(|one| self.finding(one, look)).collect();
        let old = report.oldest.as_ref().filter(|oldest| oldest.seconds >= OLD_TRANSACTION_SECONDS);
        if let Some(oldest) = old.filter(|_| !report.findings.is_empty()) {
            let app = match oldest.app_name.as_str() {
                "" => String::new(),
                name => format!(" ({})", plain(name, 60)),
            };
            text.push_str(&format!(
                "note: process {}{app} has been in a transaction for {}: a lock may wait for it, and everybody behind the lock\n",
                oldest.pid,
                duration(oldest.seconds)
            ));
        }
        text + &self.summary(look)
    }

    fn exit_status(&self) -> ExitStatus {
        if self.report.has_findings() { ExitStatus::Findings } else { ExitStatus::Ok }
    }
}

impl Shown {
    fn finding(&self, one: &LintedFinding, look: &Look) -> String {
        let finding = &one.finding;
        let (word, tone) = match finding.level {
            LintLevel::Error => ("error", Tone::Bad),
            LintLevel::Warning => ("warning", Tone::Warn),
            LintLevel::Note => ("note", Tone::Faint),
        };
        let path = self.folder.join(&finding.path);
        let mut text = format!(
            "{}:{}: {}: {} [{}]\n",
            plain(&path.display().to_string(), 300),
            finding.place,
            look.paint(tone, word),
            plain(&finding.message, 400),
            plain(&finding.rule, 60)
        );
        if let (Some(table), Some(live)) = (&one.live_table, one.live) {
            text.push_str(&format!(
                "  {} {}: {}, {} rows, indexes {}\n",
                look.paint(Tone::Faint, "live:"),
                plain(&table.to_string(), 130),
                ByteSize(live.bytes),
                Count(live.rows),
                ByteSize(live.index_bytes)
            ));
        }
        if let Some(suggestion) = &finding.suggestion {
            let indented = plain_lines(suggestion.trim()).replace('\n', "\n        ");
            text.push_str(&format!("  {} {indented}\n", look.paint(Tone::Faint, "help:")));
        }
        text
    }

    fn summary(&self, look: &Look) -> String {
        let report = &self.report;
        let files = match report.file_count {
            0 => return "no migration to look at\n".to_owned(),
            1 => "1 migration".to_owned(),
            count => format!("{count} migrations"),
        };
        if report.findings.is_empty() {
            return format!("{}\n", look.paint(Tone::Good, &format!("{files}: no findings")));
        }
        let levels =
            [(LintLevel::Error, "errors"), (LintLevel::Warning, "warnings"), (LintLevel::Note, "notes")];
        let told =
            levels.iter().map(|(level, word)| (report.count(*level), word)).filter(|(count, _)| *count > 0);
        let told: Vec<String> = told.map(|(count, word)| format!("{count} {word}")).collect();
        format!(
            "{files}: {}\nnext: mainstay sql rehearse measures what they lock and rewrite\n",
            told.join(", ")
        )
    }
}
