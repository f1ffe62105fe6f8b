//! `plan show FILE`: a stored plan, for the person who is to approve it. Also how every other command shows a plan.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mainstay_model::{
    Blake3, ByteSize, Clock, Count, Error, ErrorKind, ExitStatus, Plan, PlanStep, Result, SystemClock,
    Timestamp,
};
use serde_json::{Map, Value, json};

use crate::bounded;
use crate::new_file;
use crate::printer::shown::{moment, plain};
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// The longest plan file that is read.
const PLAN_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What is said when the file of a new plan exists.
const ANOTHER_FILE: &str = "name another file with `--output`";

/// The commands below `plan`.
#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// Show a plan file and its hash
    Show(ShowArgs),
}

/// Arguments of `plan show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The plan file
    file: PathBuf,
}

impl PlanCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Show(_) => "plan.show",
        }
    }
}

/// A plan as it is shown.
pub(crate) struct PlanReport {
    /// The plan.
    pub(crate) plan: Plan,
    /// Its hash.
    pub(crate) hash: Blake3,
    /// The file it is kept in, if it is.
    pub(crate) file: Option<PathBuf>,
    /// The present moment.
    pub(crate) now: Timestamp,
    /// The flags that said how the plan's server and repository are reached, for whoever goes on with it: each after a blank.
    pub(crate) flags: String,
}

impl PlanReport {
    /// How `plan` is shown.
    ///
    /// # Errors
    /// `Internal` when the plan has no hash.
    pub(crate) fn new(plan: Plan, file: Option<PathBuf>, now: Timestamp) -> Result<Self> {
        let hash = plan.hash()?;
        Ok(Self { plan, hash, file, now, flags: String::new() })
    }
}

/// Writes the plan to the file that is named, and shows it.
///
/// # Errors
/// As [`write`].
pub(crate) fn report(plan: &Plan, output: Option<&Path>, session: &Session) -> Result<ExitStatus> {
    if let Some(file) = output {
        write(plan, &session.path(file))?;
    }
    let file = output.map(Path::to_owned);
    let report = PlanReport::new(plan.clone(), file, session.clock.now())?;
    Ok(session.printer.report(&PlanReport { flags: flags(session), ..report }))
}

/// The global flags that this command was given, each after a blank, for whoever goes on with it; none of them may hold a password.
pub(crate) fn flags(session: &Session) -> String {
    flags_but(&[], session)
}

/// The same without those that are called so.
pub(crate) fn flags_but(left_out: &[&str], session: &Session) -> String {
    let config = session.outside.config_flag.as_ref().map(|file| ("config", file.display().to_string()));
    let given = session.outside.flags.iter().map(|(name, value)| (*name, value.clone()));
    let told = config.into_iter().chain(given).filter(|(name, _)| !left_out.contains(name));
    told.map(|(name, value)| format!(" --{name} {}", quoted(&value))).collect()
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_./:@%+,=".contains(character);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// The same when the plan is all that is asked for, and the status to end with; `None` when it is to be carried out at once.
///
/// # Errors
/// As [`report`].
pub(crate) fn only_planned(
    plan: &Plan,
    output: Option<&Path>,
    dry_run: bool,
    session: &Session,
) -> Result<Option<ExitStatus>> {
    match dry_run || output.is_some() {
        true => report(plan, output, session).map(Some),
        false => Ok(None),
    }
}

/// Reads a plan for display.
///
/// # Errors
/// As [`read`].
pub(crate) fn show(args: &ShowArgs, working_dir: &Path) -> Result<PlanReport> {
    let file = working_dir.join(&args.file);
    PlanReport::new(read(&file)?, Some(args.file.clone()), SystemClock.now())
}

/// Reads a plan file.
///
/// # Errors
/// `NotFound` or `Storage` when it cannot be read, otherwise as [`Plan::from_json`].
pub(crate) fn read(file: &Path) -> Result<Plan> {
    let name = file.display();
    let refuse = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("there is no plan file {name}"))
                .with_hint("commands that plan write one with `--output FILE`")
        }
        _ => Error::new(ErrorKind::Storage, format!("cannot read the plan file {name}")).with_source(source),
    };
    // A pipe without a writer would be waited for, deaf to signals.
    if !std::fs::metadata(file).map_err(refuse)?.is_file() {
        return Err(Error::new(ErrorKind::Usage, format!("{name} is no regular file: it is not a plan"))
            .with_hint("write the plan to a file first"));
    }
    let bytes = bounded::read(file, PLAN_BYTES_MAX).map_err(refuse)?.ok_or_else(|| {
        let message = format!("{name} has more than {}: it is not a plan", ByteSize(PLAN_BYTES_MAX));
        Error::new(ErrorKind::Usage, message)
    })?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorKind::Usage, format!("{name} is not text: it is not a plan")))?;
    Plan::from_json(&text).map_err(|error| {
        let error = error.context(format!("read {name}"));
        match error.hint() {
            Some(_) => error,
            None => {
                error.with_hint("commands that plan write one with `--output FILE`; it is not to be edited")
            }
        }
    })
}

/// Writes a plan file. Never overwrites.
///
/// # Errors
/// `Precondition` when the file exists; `Storage` when it cannot be written.
pub(crate) fn write(plan: &Plan, file: &Path) -> Result<()> {
    let mut text = serde_json::to_string_pretty(plan)
        .map_err(|source| Error::new(ErrorKind::Internal, "the plan has no JSON form").with_source(source))?;
    text.push('\n');
    new_file::write(file, &text, ANOTHER_FILE)
}

/// Refuses to plan for long into a file that exists.
///
/// # Errors
/// `Precondition` when it does; `Storage` when that cannot be seen.
pub(crate) fn expect_free(file: &Path) -> Result<()> {
    new_file::expect_free(file, ANOTHER_FILE)
}

/// The guard's refusal for want of somebody to ask, with the way that commands have that take no hash: the plan that they make the next time
/// is another one, so that consent beforehand needs a plan that is kept.
pub(crate) fn by_plan_file(refusal: Error) -> Error {
    by_plan_file_with("--output plan.json", refusal)
}

/// The same for a command that keeps its plan with other `options`.
pub(crate) fn by_plan_file_with(options: &str, refusal: Error) -> Error {
    by_kept_plan(&format!("add `{options}`"), "", refusal)
}

/// The same with the flags that this command was given, where they say which server is meant.
pub(crate) fn by_plan_file_again(options: &str, session: &Session, refusal: Error) -> Error {
    by_kept_plan(&format!("add `{options}`"), &flags(session), refusal)
}

/// The same where the plan is kept by doing as `how` says, and applied with the same `flags`, each after a blank.
pub(crate) fn by_kept_plan(how: &str, flags: &str, refusal: Error) -> Error {
    let asks_for_hash = refusal.hint().is_some_and(|hint| hint.contains("--approve"));
    if refusal.kind() != ErrorKind::Refused || !asks_for_hash {
        return refusal;
    }
    refusal.with_hint(format!(
        "{how}, review the plan, then run `mainstay{flags} apply plan.json --approve HASH`"
    ))
}

impl Report for PlanReport {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("plan_hash".to_owned(), json!(self.hash)),
            ("fresh".to_owned(), json!(self.now < self.plan.expires_at)),
            ("file".to_owned(), json!(self.file)),
            ("plan".to_owned(), json!(self.plan)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let plan = &self.plan;
        let target = &plan.target;
        // A plan file is somebody's text until it is approved.
        let own = |text: &str| plain(text, usize::MAX);
        let mut text = format!("{}\n", look.paint(Tone::Strong, &own(&format!("plan {}", plan.operation))));
        let expiry = if self.now < plan.expires_at { "expires" } else { "EXPIRED" };
        let lines = [
            ("hash", self.hash.to_string()),
            ("effect", plan.effect.to_string()),
            (
                "target",
                format!(
                    "{} at {} in {} ({})",
                    target.store, target.address, target.environment, target.class
                ),
            ),
            ("server", target.fingerprint.clone()),
            ("made", format!("{} by version {}", moment(plan.created_at), plan.tool_version)),
            (expiry, moment(plan.expires_at)),
        ];
        for (name, value) in lines {
            text.push_str(&format!("  {name:8} {}\n", own(&value)));
        }
        for (name, value) in asked(plan) {
            text.push_str(&format!("  asked    {}\n", own(&format!("{name} {value}"))));
        }
        text.push_str(&steps_text(&plan.steps, look));
        if look.verbose {
            for assumption in &plan.assumptions {
                let assumed = format!("{} is {}", assumption.name, assumption.value);
                text.push_str(&format!("  assumes  {}\n", own(&assumed)));
            }
        }
        text.push_str(&format!(
            "  at stake {} items, {}\n",
            Count(plan.blast_radius.items),
            ByteSize(plan.blast_radius.bytes)
        ));
        if let Some(file) = &self.file {
            let file = own(&file.display().to_string());
            let flags = own(&self.flags);
            text.push_str(&format!(
                "next: mainstay{flags} apply {file}, or without a terminal: mainstay{flags} apply {file} --approve {}\n",
                self.hash
            ));
        }
        text
    }
}

/// What of Redis was asked for, as the parameters say that are carried out: steps tell what it came to when the plan was made, and whoever
/// approves a glob means the glob. What is empty, off or not set was not asked for; lists of records are the operation's own, and what leads to a
/// moment is told by steps.
fn asked(plan: &Plan) -> Vec<(String, String)> {
    fn gather(name: &str, value: &Value, asked: &mut Vec<(String, String)>) {
        match value {
            Value::Null | Value::Bool(false) => {}
            Value::Array(items) if items.iter().all(|item| item.is_object() || item.is_array()) => {}
            Value::Object(fields) => {
                for (field, value) in fields.iter().filter(|(field, _)| *field != "moment") {
                    gather(&format!("{name}.{field}"), value, asked);
                }
            }
            told => asked.push((name.trim_start_matches('.').to_owned(), told.to_string())),
        }
    }
    let mut told = Vec::new();
    if plan.operation.starts_with("redis.") {
        gather("", &plan.parameters, &mut told);
    }
    told
}

fn steps_text(steps: &[PlanStep], look: &Look) -> String {
    let mut table = Table::new(&["", "STEP", ""]);
    for step in steps {
        let tone = match step.mark {
            '+' => Tone::Good,
            '~' => Tone::Warn,
            '-' => Tone::Bad,
            _ => Tone::Plain,
        };
        let mark = Cell::new(format!("  {}", step.mark)).tone(tone);
        table.row(vec![
            mark,
            Cell::new(step.name.clone()),
            Cell::new(step.summary.clone()).tone(Tone::Faint),
        ]);
    }
    table.render(look)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_model::{Assumption, BlastRadius, Effect, EnvironmentClass, PLAN_FORMAT, StoreKind, Target};

    use super::*;

    fn sample() -> Plan {
        let created_at = Timestamp::from_second(1_800_000_000).unwrap();
        Plan {
            format: PLAN_FORMAT,
            operation: "restore.apply.drop".to_owned(),
            effect: Effect::Destructive,
            target: Target {
                environment: "shop-dev".to_owned(),
                class: EnvironmentClass::Development,
                store: StoreKind::Mongo,
                fingerprint: "rs0/65".to_owned(),
                address: "127.0.0.1:27017".to_owned(),
            },
            assumptions: vec![Assumption { name: "shop.users".to_owned(), value: "present".to_owned() }],
            steps: vec![PlanStep {
                name: "load shop.users".to_owned(),
                mark: '-',
                summary: "replaces 5".to_owned(),
            }],
            blast_radius: BlastRadius {
                phrase: "restore shop@shop-dev".to_owned(),
                items: 48_211,
                bytes: 1_200_000,
            },
            parameters: json!({}),
            created_at,
            expires_at: created_at + Plan::LIFETIME,
            tool_version: "0.1.0".to_owned(),
        }
    }

    #[test]
    fn a_plan_is_shown_whole() {
        let plan = sample();
        let hash = plan.hash().unwrap();
        let report = PlanReport::new(plan.clone(), Some("p.json".into()), plan.created_at).unwrap();
        let expected = format!(
            "\
plan restore.apply.drop
  hash     {hash}
  effect   destructive
  target   mongo at 127.0.0.1:27017 in shop-dev (development)
  server   rs0/65
  made     2027-01-15 08:00:00 UTC by version 0.1.0
  expires  2027-01-16 08:00:00 UTC
     STEP
  -  load shop.users  replaces 5
  at stake 48,211 items, 1.2 MB
next: mainstay apply p.json, or without a terminal: mainstay apply p.json --approve {hash}
"
        );
        assert_eq!(report.text(&Look::default()), expected);
        let flags = " --redis-url redis://h:1".to_owned();
        let report = PlanReport { flags, ..report };
        assert!(
            report.text(&Look::default()).contains("next: mainstay --redis-url redis://h:1 apply p.json,")
        );
        assert!(PlanReport { now: plan.expires_at, ..report }.text(&Look::default()).contains("EXPIRED"));
    }

    #[test]
    fn a_plan_cannot_rewrite_what_is_shown_of_it() {
        let mut plan = sample();
        plan.operation = "restore\u{1b}[1A".to_owned();
        plan.target.environment = "shop\ndev\r".to_owned();
        plan.steps[0].name = "\u{1b}[2K\rload nothing".to_owned();
        plan.steps[0].mark = '\r';
        plan.assumptions[0].value = "\u{202e}present".to_owned();
        let report = PlanReport::new(plan.clone(), Some("p\u{1b}c.json".into()), plan.created_at).unwrap();
        let shown = report.text(&Look { color: false, verbose: true });
        assert!(shown.contains("\u{fffd}[2K\u{fffd}load nothing  replaces 5\n"), "{shown:?}");
        let usual = PlanReport::new(sample(), Some("p.json".into()), plan.created_at).unwrap();
        assert_eq!(shown.lines().count(), usual.text(&Look { color: false, verbose: true }).lines().count());
        let acts = |one: char| one != '\n' && (one.is_control() || one == '\u{202e}');
        assert!(!shown.contains(acts), "{shown:?}");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, expected) in
            [("redis://h:1/0", "redis://h:1/0"), ("", "''"), ("a b", "'a b'"), ("it's", r"'it'\''s'")]
        {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn what_was_asked_of_redis_is_shown_as_it_is_carried_out() {
        let mut plan = sample();
        plan.operation = "redis.purge".to_owned();
        plan.parameters = json!({
            "patterns": ["a:*", "b, c"], "protect": [], "everything": false, "file": {"path": "/x"},
            "steps": [{"to": 1}], "moment": {"through": 7}, "at": 7
        });
        let mut told: Vec<String> =
            asked(&plan).iter().map(|(name, value)| format!("{name} {value}")).collect();
        told.sort();
        assert_eq!(told, ["at 7", "file.path \"/x\"", "patterns [\"a:*\",\"b, c\"]"]);
        assert!(asked(&sample()).is_empty());
    }

    #[test]
    fn a_file_is_written_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.json");
        write(&sample(), &file).unwrap();
        assert_eq!(read(&file).unwrap(), sample());
        assert_eq!(write(&sample(), &file).unwrap_err().kind(), ErrorKind::Precondition);
        assert_eq!(read(&folder.path().join("absent")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
