//! `sql drift`: the live catalogue against what the applied migrations make of nothing.

use clap::Args;
use mainstay_guard::Outcome;
use mainstay_model::{ExitStatus, Result};
use mainstay_ops::sql;
use mainstay_ops::sql::drift::{self, Difference, DriftReport, DriftRequest, OPERATION, Side};
use serde_json::{Map, Value, json};

use super::staged::{permitted, prelude, shadow_target};
use super::{FolderArgs, Migrations};
use crate::commands::close;
use crate::printer::shown::{plain, plain_lines};
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// Arguments of `sql drift`.
#[derive(Debug, Args)]
pub(crate) struct DriftArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// Compare rights, too
    #[arg(long)]
    privileges: bool,
    /// Make the shadow database on this server, without a password; `shadow_url` in [sql] otherwise
    #[arg(long, value_name = "URL")]
    shadow_url: Option<String>,
}

/// Compares.
///
/// # Errors
/// `Precondition` when an applied migration cannot be replayed or no shadow can be made; `Interrupted`; the server's.
pub(super) async fn run(args: &DriftArgs, session: &Session) -> Result<ExitStatus> {
    let migrations = Migrations::open(&args.folder, session)?;
    let report = compared(&migrations, args.privileges, args.shadow_url.as_deref(), session).await?;
    Ok(session.printer.report(&Shown(report)))
}

/// What was found; for `sql verify`, too.
///
/// # Errors
/// As [`run`].
pub(super) async fn compared(
    migrations: &Migrations,
    privileges: bool,
    shadow_url: Option<&str>,
    session: &Session,
) -> Result<DriftReport> {
    let (folder, table) = (&migrations.folder, &migrations.table);
    let found = sql::survey(migrations.target.as_ref(), folder, table, session.clock.now()).await?;
    let request = DriftRequest {
        applied: drift::applied(folder, &found.verdict),
        prelude: prelude(session, &found.facts.database),
        scope: drift::scope(table, privileges),
    };
    let host = session.rehearsal(shadow_url)?;
    let target = shadow_target(host.as_ref(), session).await?;
    let plan = drift::plan(OPERATION, &request, target, session.clock.as_ref());
    let (guard, permit) = permitted(&plan, session).await?;
    let progress = session.printer.progress();
    let compared = drift::drift(host.as_ref(), &request, progress.as_ref(), &session.cancel, &permit).await;
    session.printer.end_progress();
    let outcome = match &compared {
        Ok(report) => Outcome::Done {
            summary: format!("compared {} things of {}", report.object_count, report.database),
            facts: json!({"difference_count": report.differences.len()}),
        },
        Err(error) => Outcome::of_error(error),
    };
    close(&guard, permit, compared, outcome).await
}

struct Shown(DriftReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let mut fields = match json!(self.0) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.insert("is_drift".to_owned(), json!(self.0.is_drift()));
        fields
    }

    fn text(&self, look: &Look) -> String {
        text(&self.0, look)
    }

    fn exit_status(&self) -> ExitStatus {
        if self.0.is_drift() { ExitStatus::Findings } else { ExitStatus::Ok }
    }
}

/// The differences as lines, and a line that counts them.
pub(super) fn text(report: &DriftReport, look: &Look) -> String {
    let compared = format!(
        "{} compared with {} migrations replayed, {} things",
        report.database, report.replayed_count, report.object_count
    );
    if !report.is_drift() {
        return format!("{}\n", look.paint(Tone::Good, &format!("{compared}: no difference")));
    }
    let mut text = String::new();
    for difference in &report.differences {
        text.push_str(&lines(difference, look));
    }
    let count = |side: Side| report.differences.iter().filter(|one| one.side == side).count();
    text.push_str(&format!(
        "{compared}: {} only live, {} only in the migrations, {} different\n",
        count(Side::OnlyLive),
        count(Side::OnlyJournal),
        count(Side::Differs)
    ));
    let is_declarable = |one: &Difference| {
        one.side == Side::OnlyJournal && matches!(one.kind.as_str(), "extension" | "schema")
    };
    if report.differences.iter().any(is_declarable) {
        text.push_str("next: `mainstay init plan --store postgres` shows what of it [init.postgres] declares, and `init apply` makes that\n");
    }
    text + "next: write a migration that makes what was made by hand, or takes it away; `mainstay sql verify` tells of migrations that were edited or skipped\n"
}

fn lines(difference: &Difference, look: &Look) -> String {
    let (mark, tone, what) = match difference.side {
        Side::OnlyLive => ("+", Tone::Warn, "only live"),
        Side::OnlyJournal => ("-", Tone::Bad, "only in the migrations"),
        Side::Differs => ("~", Tone::Warn, "different"),
    };
    let name = plain(&difference.name, 300);
    let parts = match difference.part_count {
        0 => String::new(),
        count => format!(", with {count} things of its own"),
    };
    let mut text = format!("{} {} {name}: {what}{parts}\n", look.paint(tone, mark), difference.kind);
    let sides = [("live", &difference.live), ("migrations", &difference.journal)];
    for (side, definition) in sides {
        let Some(definition) = definition.as_ref().filter(|text| !text.trim().is_empty()) else { continue };
        if difference.side != Side::Differs && !look.verbose {
            continue;
        }
        let indented = plain_lines(definition.trim()).replace('\n', "\n               ");
        text.push_str(&format!("    {:10} {indented}\n", look.paint(Tone::Faint, side)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_read_well() {
        let difference = |side, name: &str, live: Option<&str>, journal: Option<&str>| Difference {
            side,
            kind: "column".to_owned(),
            name: name.to_owned(),
            live: live.map(str::to_owned),
            journal: journal.map(str::to_owned),
            part_count: 0,
        };
        let report = DriftReport {
            database: "shop".to_owned(),
            replayed_count: 3,
            object_count: 40,
            differences: vec![
                difference(Side::OnlyLive, "public.users.nick", Some("text"), None),
                difference(Side::Differs, "public.users.age", Some("bigint"), Some("integer")),
            ],
        };
        let expected = "\
+ column public.users.nick: only live
~ column public.users.age: different
    live       bigint
    migrations integer
shop compared with 3 migrations replayed, 40 things: 1 only live, 0 only in the migrations, 1 different
";
        let told = text(&report, &Look::default());
        assert!(told.starts_with(expected), "{told}");
    }
}
