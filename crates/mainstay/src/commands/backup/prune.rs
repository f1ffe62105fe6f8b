//! `backup prune`: what interrupted backups left behind.

use clap::Args;
use mainstay_guard::{BackupEvidence, Outcome, UNKNOWN_ENVIRONMENT};
use mainstay_model::{ByteSize, EnvironmentClass, ExitStatus, Result, SetId, StoreKind};
use mainstay_ops::prune::{self, PruneReport, PruneScope};
use mainstay_repository::Leftover;
use serde_json::{Map, Value, json};

use crate::commands::close;
use crate::printer::{Cell, Look, Report, Table};
use crate::wiring::Session;

/// Arguments of `backup prune`.
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Also remove what interrupted backups need to be continued, however young
    #[arg(long)]
    resumable: bool,
    /// Show what would be removed, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Removes them, or shows what would be removed.
///
/// # Errors
/// The operation's.
pub(super) async fn run(args: &PruneArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let scope = PruneScope { resumable: args.resumable };
    if args.dry_run {
        let judged = prune::judge(&repository, scope, session.clock.as_ref()).await?;
        let (report, headless) = (PruneReport::of(judged), repository.headless_sets().await?);
        return Ok(session.printer.report(&Pruned { report, headless, dry_run: true }));
    }
    let guard = session.guard(&repository);
    let environment = session.configured_environment();
    let name = environment.name.as_deref().unwrap_or(UNKNOWN_ENVIRONMENT);
    let class = environment.class.unwrap_or(EnvironmentClass::Production);
    let plan = prune::plan(&repository, name, class, scope, session.clock.as_ref()).await?;
    let permit = guard.permit(&plan, &BackupEvidence::default(), &session.consent(None)?).await?;
    let pruned = prune::prune(&repository, &plan, &permit, session.clock.as_ref()).await;
    let outcome = match &pruned {
        Ok(report) => Outcome::Done {
            summary: format!("removed {} leftovers", report.removed.len()),
            facts: json!({"removed": report.removed.iter().map(Leftover::subject).collect::<Vec<_>>(), "bytes": report.removed_bytes()}),
        },
        Err(error) => Outcome::of_error(error),
    };
    let report = close(&guard, permit, pruned, outcome).await?;
    let headless = repository.headless_sets().await?;
    Ok(session.printer.report(&Pruned { report, headless, dry_run: false }))
}

struct Pruned {
    report: PruneReport,
    /// Kept, although they look like leftovers.
    headless: Vec<(StoreKind, SetId)>,
    dry_run: bool,
}

impl Report for Pruned {
    fn json(&self) -> Map<String, Value> {
        let shown = |leftovers: &[Leftover]| -> Value {
            let one = |leftover: &Leftover| json!({"subject": leftover.subject(), "objects": leftover.objects, "bytes": leftover.bytes});
            leftovers.iter().map(one).collect()
        };
        Map::from_iter([
            ("dry_run".to_owned(), json!(self.dry_run)),
            ("removed".to_owned(), shown(&self.report.removed)),
            ("in_use".to_owned(), shown(&self.report.in_use)),
            ("resumable".to_owned(), self.report.resumable.iter().map(|(_, run)| json!(run)).collect()),
            ("needed".to_owned(), shown(&self.report.needed)),
            ("damaged".to_owned(), self.headless.iter().map(|(_, id)| json!(id)).collect()),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let verb = if self.dry_run { "would remove" } else { "removed" };
        let mut table = Table::new(&["", "LEFTOVER", "OBJECTS", "SIZE"]);
        let rows = self.report.removed.iter().map(|leftover| (verb, leftover));
        for (verb, leftover) in rows.chain(self.report.in_use.iter().map(|leftover| ("in use", leftover))) {
            table.row(vec![
                verb.into(),
                leftover.subject().into(),
                Cell::right(leftover.objects.to_string()),
                Cell::right(ByteSize(leftover.bytes).to_string()),
            ]);
        }
        for (leftover, _) in &self.report.resumable {
            table.row(vec![
                "kept".into(),
                leftover.subject().into(),
                Cell::right(leftover.objects.to_string()),
                Cell::right(ByteSize(leftover.bytes).to_string()),
            ]);
        }
        let mut text = table.render(look);
        text.push_str(&format!(
            "{verb} {} leftovers, {}\n",
            self.report.removed.len(),
            self.report.removed_bytes()
        ));
        if !self.report.in_use.is_empty() {
            text.push_str(
                "leftovers in use belong to a backup that is running, or was killed within the last minute; a single file counts as in use until it has been quiet for an hour\n",
            );
        }
        for leftover in &self.report.needed {
            text.push_str(&format!(
                "kept {}: its manifest is missing, but sets build on it; copy manifest.json back from an off-site copy of the repository\n",
                leftover.subject()
            ));
        }
        for (store, id) in &self.headless {
            text.push_str(&format!(
                "kept {store}/sets/{id}: its manifest is missing, but it has been verified, so it was a complete backup; copy manifest.json \
                 back from an off-site copy of the repository\n"
            ));
        }
        for (_, run) in &self.report.resumable {
            text.push_str(&format!(
                "kept for a day: {} of {} ranges, {}; continue with `mainstay backup create --resume {}`, remove with `backup prune --resumable`\n",
                run.parts,
                run.total,
                ByteSize(run.bytes),
                run.run
            ));
        }
        text
    }
}
