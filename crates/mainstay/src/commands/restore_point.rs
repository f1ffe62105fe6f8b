//! `restore point create|list`: places in the WAL of PostgreSQL that have a name.

use clap::{Args, Subcommand};
use mainstay_guard::{BackupEvidence, Outcome};
use mainstay_model::{ExitStatus, Lsn, Result, StoreKind, Timestamp};
use mainstay_ops::named_point;
use mainstay_repository::{NamedPoint, PointEntry};
use serde_json::{Map, Value, json};

use super::close;
use super::plan::PlanReport;
use crate::printer::shown::ago;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// The commands below `restore point`.
#[derive(Debug, Subcommand)]
pub(crate) enum PointCommand {
    /// Give this moment of PostgreSQL a name, to which it can be restored
    Create(CreateArgs),
    /// List the named moments
    List,
}

/// Arguments of `restore point create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The name
    name: String,
    /// Show what would be named, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl PointCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => named_point::OPERATION,
            Self::List => "restore.point.list",
        }
    }
}

/// Runs a command below `restore point`.
///
/// # Errors
/// The operation's.
pub(crate) async fn run(command: PointCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        PointCommand::Create(args) => create(&args, session).await,
        PointCommand::List => {
            let repository = session.repository().await?;
            let points = named_point::list(&repository).await?;
            Ok(session.printer.report(&Listed { points, now: session.clock.now() }))
        }
    }
}

async fn create(args: &CreateArgs, session: &Session) -> Result<ExitStatus> {
    named_point::check_name(&args.name)?;
    let source = session.wal()?;
    let probe = session.probe(StoreKind::Postgres).await?;
    let target = session.target(probe.as_ref()).await?;
    if args.dry_run {
        let repository = session.existing_repository().await?;
        let plan = named_point::plan(repository.as_ref(), target, &args.name, session.clock.as_ref()).await?;
        return Ok(session.printer.report(&PlanReport::new(plan, None, session.clock.now())?));
    }
    let repository = session.repository_or_create().await?;
    let plan = named_point::plan(Some(&repository), target, &args.name, session.clock.as_ref()).await?;
    let guard = session.guard(&repository);
    let permit = guard.permit(&plan, &BackupEvidence::default(), &session.consent(None)?).await?;
    let made = named_point::create(&repository, source.as_ref(), &session.holder(), &plan, &permit).await;
    let outcome = match &made {
        Ok(point) => Outcome::Done {
            summary: format!("named {} {}", Lsn(point.at.0), point.name),
            facts: point_json(point),
        },
        Err(error) => Outcome::of_error(error),
    };
    let point = close(&guard, permit, made, outcome).await?;
    Ok(session.printer.report(&Created(point)))
}

fn point_json(point: &NamedPoint) -> Value {
    json!({
        "name": point.name,
        "at": Lsn(point.at.0),
        "timeline": point.timeline,
        "server": point.server,
        "environment": point.environment,
        "created_at": point.created_at,
        "created_by": point.created_by,
    })
}

struct Created(NamedPoint);

impl Report for Created {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("point".to_owned(), point_json(&self.0))])
    }

    fn text(&self, look: &Look) -> String {
        let point = &self.0;
        format!(
            "{} {} at LSN {}\nnext, once capture has stored it: mainstay restore plan --store postgres --to {} --into DIR\n",
            look.paint(Tone::Strong, "restore point"),
            point.name,
            Lsn(point.at.0),
            point.name
        )
    }
}

struct Listed {
    points: Vec<PointEntry>,
    now: Timestamp,
}

impl Report for Listed {
    fn json(&self) -> Map<String, Value> {
        let points = self.points.iter().map(|entry| match &entry.point {
            Ok(point) => point_json(point),
            Err(error) => json!({"key": entry.key.as_str(), "damaged": error.to_string()}),
        });
        Map::from_iter([("points".to_owned(), points.collect())])
    }

    fn text(&self, look: &Look) -> String {
        if self.points.is_empty() {
            return "no restore point has a name; `mainstay restore point create NAME` gives this moment one\n".to_owned();
        }
        let mut table = Table::new(&["NAME", "LSN", "TIMELINE", "NAMED", "BY", "ENVIRONMENT", "SERVER"]);
        for entry in &self.points {
            table.row(match &entry.point {
                Ok(point) => vec![
                    point.name.clone().into(),
                    Lsn(point.at.0).to_string().into(),
                    Cell::right(
                        point.timeline.map_or_else(|| "-".to_owned(), |timeline| timeline.to_string()),
                    ),
                    ago(point.created_at, self.now).into(),
                    point.created_by.clone().into(),
                    point.environment.clone().into(),
                    point.server.clone().into(),
                ],
                Err(error) => vec![Cell::new(format!("DAMAGED: {error}")).tone(Tone::Bad)],
            });
        }
        table.render(look)
    }

    fn exit_status(&self) -> ExitStatus {
        if self.points.iter().any(|entry| entry.point.is_err()) {
            ExitStatus::Critical
        } else {
            ExitStatus::Ok
        }
    }
}
