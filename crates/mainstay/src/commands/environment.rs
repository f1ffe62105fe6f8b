//! `environment show|mark`: which environment this is by every source, and writing that into the stores.
//!
//! A marker travels with the data: it is what makes a configuration that points at another environment's servers stand out. Marking is
//! disruptive (policy changes with it), so each store's marker is a plan of its own, permitted and recorded by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use mainstay_engine::Probe;
use mainstay_guard::{
    BackupEvidence, Environment, Guard, Marker, Outcome, UNKNOWN_ENVIRONMENT, identify, sources,
};
use mainstay_model::{
    Assumption, BlastRadius, Effect, EnvironmentClass, Error, ErrorKind, ExitStatus, PLAN_FORMAT, Plan,
    PlanStep, Result, ResultExt, StoreKind, Target,
};
use mainstay_ops::status::{self, StoreStatus, counted_marker};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::close;
use super::plan::{self, PlanReport, by_plan_file_again};
use super::redis::elsewhere::command_at;
use crate::printer::consent::TerminalConsent;
use crate::printer::{Cell, Look, Report, Table, Tone, problem_details};
use crate::wiring::Session;

/// The operation's registered name.
pub(crate) const MARK: &str = "environment.mark";
/// How long a store may take to say what its marker is.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// The commands below `environment`.
#[derive(Debug, Subcommand)]
pub(crate) enum EnvironmentCommand {
    /// Show which environment this is and which source says so
    Show,
    /// Write the environment's name and class into the stores
    Mark(MarkArgs),
}

/// A class as an argument.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ClassArgument {
    Development,
    Staging,
    Production,
}

impl From<ClassArgument> for EnvironmentClass {
    fn from(class: ClassArgument) -> Self {
        match class {
            ClassArgument::Development => Self::Development,
            ClassArgument::Staging => Self::Staging,
            ClassArgument::Production => Self::Production,
        }
    }
}

/// Arguments of `environment mark`.
#[derive(Debug, Args)]
pub(crate) struct MarkArgs {
    /// The environment's name; the configured one when left out
    #[arg(long)]
    name: Option<String>,
    /// The environment's class; the configured one when left out
    #[arg(long, value_enum)]
    class: Option<ClassArgument>,
    /// Mark this store only: mongo, postgres or redis
    #[arg(long)]
    store: Option<StoreKind>,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the plan to this file instead of carrying it out; needs --store
    #[arg(long, value_name = "FILE", requires = "store")]
    output: Option<PathBuf>,
}

impl EnvironmentCommand {
    /// The operation's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Show => "environment.show",
            Self::Mark(_) => MARK,
        }
    }
}

/// Runs a command below `environment`.
///
/// # Errors
/// See the commands.
pub(crate) async fn run(command: EnvironmentCommand, session: &Session) -> Result<ExitStatus> {
    match command {
        EnvironmentCommand::Show => show(session).await,
        EnvironmentCommand::Mark(args) => mark(args, session).await,
    }
}

/// Shows what each source says. A contradiction is shown and then refused.
async fn show(session: &Session) -> Result<ExitStatus> {
    let probes = session.probes().await?;
    let stores = status::stores(&probes, ANSWER_TIME_MAX).await;
    let elsewhere = markers_elsewhere(&probes, &stores).await;
    let (configured, markers) = (session.configured_environment(), known_markers(&stores));
    let environment = identify(&configured, &markers);
    let mut sources = sources(&configured, &markers);
    for (kind, place) in &elsewhere {
        let own = format!("marker in {kind}");
        for (_, said) in sources.iter_mut().filter(|(source, _)| *source == own) {
            *said = format!("with the node at {place}: this one has none and counts as production");
        }
    }
    let commands =
        elsewhere.iter().map(|(_, place)| command_at(place, "environment show", session)).collect();
    Ok(session.printer.report(&Shown { environment, sources, stores, elsewhere, commands }))
}

/// Where the markers are that another server of a cluster keeps, and which it is.
async fn markers_elsewhere(probes: &[Arc<dyn Probe>], stores: &[StoreStatus]) -> Vec<(StoreKind, String)> {
    let mut elsewhere = Vec::new();
    for (probe, _) in probes.iter().zip(stores).filter(|(_, store)| matches!(store.marker, Ok(None))) {
        // What does not answer in time is told as what it is without: a store that has no marker.
        let asked = tokio::time::timeout(ANSWER_TIME_MAX, probe.marker_elsewhere()).await;
        elsewhere.extend(asked.ok().and_then(Result::ok).flatten().map(|place| (probe.kind(), place)));
    }
    elsewhere
}

/// The markers of the stores that could be asked; one that is damaged counts as none.
pub(crate) fn known_markers(stores: &[StoreStatus]) -> Vec<(StoreKind, Option<Marker>)> {
    stores.iter().filter_map(|store| Some((store.kind, counted_marker(&store.marker)?))).collect()
}

struct Shown {
    environment: Result<Environment>,
    /// Every source and what it says.
    sources: Vec<(String, String)>,
    stores: Vec<StoreStatus>,
    /// Which servers of a cluster keep the markers that are not here.
    elsewhere: Vec<(StoreKind, String)>,
    /// What to type to see these.
    commands: Vec<String>,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let markers: Vec<Value> = self
            .stores
            .iter()
            .map(|store| {
                let elsewhere = self.elsewhere.iter().find(|(kind, _)| *kind == store.kind);
                json!({
                    "store": store.kind,
                    "address": store.address,
                    "marker": store.marker.as_ref().ok(),
                    "elsewhere": elsewhere.map(|(_, place)| place),
                    "error": store.marker.as_ref().err().map(ToString::to_string),
                })
            })
            .collect();
        let sources: Vec<Value> =
            self.sources.iter().map(|(source, said)| json!({"source": source, "says": said})).collect();
        Map::from_iter([
            ("environment".to_owned(), json!(self.environment.as_ref().ok())),
            ("sources".to_owned(), json!(sources)),
            ("contradiction".to_owned(), json!(self.environment.as_ref().err().map(ToString::to_string))),
            ("markers".to_owned(), json!(markers)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let mut text = line(&self.environment, look);
        let mut table = Table::new(&["SOURCE", "SAYS"]);
        for (source, said) in &self.sources {
            table.row(vec![source.as_str().into(), said.as_str().into()]);
        }
        for store in &self.stores {
            if let Err(error) = &store.marker {
                let why = if counted_marker(&store.marker).is_some() { "damaged" } else { "not asked" };
                let said = Cell::new(format!("{why}: {error}")).tone(Tone::Bad);
                table.row(vec![format!("marker in {}", store.kind).into(), said]);
            }
        }
        text.push_str(&table.render(look));
        for command in &self.commands {
            text.push_str(&format!("where the marker is: {command}\n"));
        }
        if let Err(error) = &self.environment {
            text.push_str(&format!("{} {error}\n", look.paint(Tone::Bad, "error:")));
            text.push_str(&problem_details(error));
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        match &self.environment {
            Err(error) => error.kind().exit_status(),
            Ok(_) => status::exit_status(&self.stores, None),
        }
    }
}

/// `environment  marketplace-dev (development)`.
pub(crate) fn line(environment: &Result<Environment>, look: &Look) -> String {
    match environment {
        Ok(environment) => {
            let tone =
                if environment.class == EnvironmentClass::Production { Tone::Warn } else { Tone::Plain };
            let class = look.paint(tone, &environment.class.to_string());
            format!("environment {} ({class})\n", look.paint(Tone::Strong, &environment.name))
        }
        Err(error) => {
            format!("environment {}: {}\n", look.paint(Tone::Bad, "CONTRADICTION"), error.message())
        }
    }
}

/// What a marker says, decided.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    name: String,
    class: EnvironmentClass,
}

async fn mark(args: MarkArgs, session: &Session) -> Result<ExitStatus> {
    let parameters = parameters(&args, session)?;
    let probes = match args.store {
        Some(kind) => vec![session.probe(kind).await?],
        None => session.probes().await?,
    };
    if probes.is_empty() {
        return Err(Error::new(
            ErrorKind::Precondition,
            "no store is configured, so there is nothing to mark",
        )
        .with_state("nothing was changed")
        .with_hint("set `url` in [mongo], [postgres] or [redis]"));
    }
    let mut plans = Vec::new();
    for probe in &probes {
        plans.push(plan_mark(probe.as_ref(), &parameters, session).await?);
    }
    if args.dry_run || args.output.is_some() {
        return planned(plans, &args, session);
    }
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let guard = session.guard(&repository);
    let consent = session.consent(None)?;
    let mut marked = Vec::new();
    for (probe, plan) in probes.iter().zip(&plans) {
        let options = format!("--store {} --output plan.json", probe.kind());
        let made = apply_mark(probe.as_ref(), plan, &guard, &consent, session).await;
        marked.push(made.map_err(|refusal| by_plan_file_again(&options, session, refusal))?);
    }
    Ok(session.printer.report(&Marked(marked)))
}

fn parameters(args: &MarkArgs, session: &Session) -> Result<Parameters> {
    let missing = |what: &str| {
        Error::new(ErrorKind::Usage, format!("the environment has no {what}"))
            .with_state("nothing was changed")
            .with_hint(format!("give --{what}, or set `{what}` in [environment] of mainstay.toml"))
    };
    let configured = session.configured_environment();
    let name = args.name.clone().or(configured.name).ok_or_else(|| missing("name"))?;
    let class =
        args.class.map(EnvironmentClass::from).or(configured.class).ok_or_else(|| missing("class"))?;
    let is_plain = |character: char| character.is_alphanumeric() || "-_.".contains(character);
    if name.is_empty() || name.len() > 64 || name == UNKNOWN_ENVIRONMENT || !name.chars().all(is_plain) {
        return Err(Error::new(
            ErrorKind::Usage,
            "the environment's name must be made of at most 64 letters, digits, `-`, `_` and `.`",
        ));
    }
    Ok(Parameters { name, class })
}

/// What stands where a store's marker belongs.
struct Standing {
    marker: Option<Marker>,
    /// Why it is none, where something else stands there.
    damage: Option<String>,
}

impl Standing {
    async fn of(probe: &dyn Probe) -> Result<Self> {
        match probe.marker().await {
            Ok(marker) => Ok(Self { marker, damage: None }),
            // Marking replaces it.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Ok(Self { marker: None, damage: Some(error.message().to_owned()) })
            }
            Err(error) => Err(error.context(format!("read the environment marker of {}", probe.kind()))),
        }
    }
}

/// Decides the marking of one store. The class in force is that of the old marker; a contradiction counts as production, and so does a marker that
/// is damaged, so that it can be mended, but not lightly.
async fn plan_mark(probe: &dyn Probe, parameters: &Parameters, session: &Session) -> Result<Plan> {
    let kind = probe.kind();
    let facts = probe.facts().await.with_context(|| format!("read facts of {kind}"))?;
    let standing = Standing::of(probe).await?;
    if standing.marker.is_none() && standing.damage.is_none() {
        refuse_elsewhere(probe, session).await?;
    }
    let marker = standing.marker.clone();
    let current = identify(&session.configured_environment(), &[(kind, marker.clone())]);
    let class = current.as_ref().map_or(EnvironmentClass::Production, |environment| environment.class);
    let environment = current.map_or_else(|_| parameters.name.clone(), |environment| environment.name);
    let parameters = Parameters { name: parameters.name.clone(), class: parameters.class };
    let what = format!("{} ({})", parameters.name, parameters.class);
    let created_at = session.clock.now();
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: MARK.to_owned(),
        effect: Effect::Disruptive,
        target: Target {
            environment,
            class,
            store: kind,
            fingerprint: facts.fingerprint.clone(),
            address: facts.address.clone(),
        },
        assumptions: assumptions(&facts.fingerprint, &standing),
        steps: vec![PlanStep {
            name: format!("mark {kind}"),
            mark: if marker.is_some() || standing.damage.is_some() { '~' } else { '+' },
            summary: match (&marker, &standing.damage) {
                (Some(old), _) => format!("replace the marker {} ({}) by {what}", old.environment, old.class),
                (None, Some(damage)) => {
                    format!("replace what stands in the marker's place by {what}: {damage}")
                }
                (None, None) => format!("write the marker {what}"),
            },
        }],
        blast_radius: BlastRadius {
            phrase: format!("mark {kind} at {} as {} {}", facts.address, parameters.name, parameters.class),
            items: 0,
            bytes: 0,
        },
        parameters: json!(parameters),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Refuses a server of a cluster whose marker belongs to another one.
async fn refuse_elsewhere(probe: &dyn Probe, session: &Session) -> Result<()> {
    let kind = probe.kind();
    let asked = probe.marker_elsewhere().await;
    let asked = asked.with_context(|| format!("read the environment marker of {kind}"))?;
    let Some(place) = asked else { return Ok(()) };
    let command = command_at(&place, &format!("environment mark --store {kind}"), session);
    Err(Error::new(
        ErrorKind::Precondition,
        format!(
            "{} is a node of a cluster, whose marker is with the node at {place}: this one counts as production in any case",
            probe.address()
        ),
    )
    .with_state("nothing was changed")
    .with_hint(format!("`{command}` marks the node that has the marker's slot")))
}

fn assumptions(fingerprint: &str, standing: &Standing) -> Vec<Assumption> {
    let said = match (&standing.marker, &standing.damage) {
        (Some(marker), _) => format!("{} {}", marker.id, marker.marked_at),
        (None, Some(damage)) => damage.clone(),
        (None, None) => "absent".to_owned(),
    };
    vec![
        Assumption { name: "server".to_owned(), value: fingerprint.to_owned() },
        Assumption { name: "marker".to_owned(), value: said },
    ]
}

fn planned(plans: Vec<Plan>, args: &MarkArgs, session: &Session) -> Result<ExitStatus> {
    if let (Some(file), [plan]) = (&args.output, plans.as_slice()) {
        plan::write(plan, &session.path(file))?;
    }
    let now = session.clock.now();
    let reports = plans
        .into_iter()
        .map(|plan| PlanReport::new(plan, args.output.clone(), now))
        .collect::<Result<Vec<_>>>()?;
    Ok(session.printer.report(&Planned(reports)))
}

struct Planned(Vec<PlanReport>);

impl Report for Planned {
    fn json(&self) -> Map<String, Value> {
        let plans: Vec<Value> = self.0.iter().map(|report| Value::Object(report.json())).collect();
        Map::from_iter([("plans".to_owned(), json!(plans))])
    }

    fn text(&self, look: &Look) -> String {
        self.0.iter().map(|report| report.text(look)).collect()
    }
}

/// Carries out a stored plan to mark a store.
///
/// # Errors
/// `StalePlan` when server or marker have changed; `Refused` by policy; the store's.
pub(crate) async fn apply(plan: &Plan, approve: Option<&str>, session: &Session) -> Result<ExitStatus> {
    let probe = session.probe(plan.target.store).await?;
    let repository = session.repository_or_create().await.context("open the audit log")?;
    let consent = session.consent(approve)?;
    let marked = apply_mark(probe.as_ref(), plan, &session.guard(&repository), &consent, session).await?;
    Ok(session.printer.report(&Marked(vec![marked])))
}

async fn apply_mark(
    probe: &dyn Probe,
    plan: &Plan,
    guard: &Guard,
    consent: &TerminalConsent,
    session: &Session,
) -> Result<(StoreKind, Marker)> {
    let parameters: Parameters = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
        Error::new(ErrorKind::Usage, "the plan's parameters are not those of a marker").with_source(source)
    })?;
    let facts = probe.facts().await?;
    if let Err(stale) = plan.check_assumptions(&assumptions(&facts.fingerprint, &Standing::of(probe).await?))
    {
        return Err(guard.refuse(MARK, Some(&plan.target), Some(plan.hash()?), stale).await);
    }
    let permit = guard.permit(plan, &BackupEvidence::default(), consent).await?;
    let marked_at = session.clock.now();
    let id = plan.hash()?.short();
    let marker = Marker { environment: parameters.name, class: parameters.class, marked_at, id };
    let written = probe.set_marker(&marker, &permit).await;
    let outcome = match &written {
        Ok(()) => Outcome::Done {
            summary: format!("marked {} as {} ({})", probe.kind(), marker.environment, marker.class),
            facts: json!(marker),
        },
        Err(error) => Outcome::of_error(error),
    };
    close(guard, permit, written, outcome).await.map(|()| (probe.kind(), marker))
}

struct Marked(Vec<(StoreKind, Marker)>);

impl Report for Marked {
    fn json(&self) -> Map<String, Value> {
        let marked: Vec<Value> =
            self.0.iter().map(|(kind, marker)| json!({"store": kind, "marker": marker})).collect();
        Map::from_iter([("marked".to_owned(), json!(marked))])
    }

    fn text(&self, _look: &Look) -> String {
        self.0
            .iter()
            .map(|(kind, marker)| format!("{kind} is marked as {} ({})\n", marker.environment, marker.class))
            .collect()
    }
}
