//! What is to be done to a server, as a plan: the due acts in order, and everything else for whoever approves.

use mainstay_guard::{ConfiguredEnvironment, identify, operation};
use mainstay_model::{
    Assumption, BlastRadius, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, Target,
};
use serde::{Deserialize, Serialize};

use super::{Act, InitStore, OPERATION, OPERATION_CHANGE, Standing, Survey};

/// An act of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlannedAct {
    /// The item that it is due for.
    pub(super) item: String,
    /// What is done.
    pub(super) act: Act,
}

/// The decided parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InitParameters {
    pub(super) acts: Vec<PlannedAct>,
    /// Accounts whose password may be set again.
    pub(super) rotate: Vec<String>,
}

impl InitParameters {
    /// Those of `plan`.
    ///
    /// # Errors
    /// `Usage` when it is a plan of something else, or shows other steps than it takes.
    pub(super) fn of(plan: &Plan) -> Result<Self> {
        let refuse = || {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of an initiation")
                .with_state("nothing was changed")
        };
        if ![OPERATION, OPERATION_CHANGE].contains(&plan.operation.as_str()) {
            return Err(refuse());
        }
        let parameters: Self =
            serde_json::from_value(plan.parameters.clone()).map_err(|source| refuse().with_source(source))?;
        let shown = plan.steps.iter().filter(|step| step.mark != ' ').map(|step| &step.name);
        if !shown.eq(parameters.acts.iter().map(|planned| &planned.item)) {
            return Err(Error::new(
                ErrorKind::Usage,
                "the plan is refused: its steps are not what it shows to whoever approves it",
            )
            .with_state("nothing was changed")
            .with_hint("make the plan again with `mainstay init plan --output FILE`"));
        }
        Ok(parameters)
    }
}

/// The accounts whose password a plan may set again: whoever applies it hands them in with what is declared.
///
/// # Errors
/// `Usage` when it is a plan of something else.
pub fn rotated(plan: &Plan) -> Result<Vec<String>> {
    InitParameters::of(plan).map(|parameters| parameters.rotate)
}

/// How many declared things stand how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ItemCounts {
    /// There, as declared.
    pub there: usize,
    /// Not there; they are made.
    pub to_do: usize,
    /// There otherwise; they are changed.
    pub to_change: usize,
    /// Otherwise, and left so.
    pub differing: usize,
    /// Nobody can tell.
    pub unknown: usize,
}

impl ItemCounts {
    /// Those of a survey.
    pub fn of(survey: &Survey) -> Self {
        let mut counts = Self::default();
        for item in &survey.items {
            *match item.standing {
                Standing::There => &mut counts.there,
                Standing::ToDo(_) => &mut counts.to_do,
                Standing::Change(_) => &mut counts.to_change,
                Standing::Differs => &mut counts.differing,
                Standing::Unknown => &mut counts.unknown,
            } += 1;
        }
        counts
    }

    /// Whether something is not as declared, or may not be, and stays so.
    pub fn leaves_some(&self) -> bool {
        self.differing + self.unknown > 0
    }
}

/// A plan with what it was decided from.
#[derive(Debug, Clone, PartialEq)]
pub struct InitPlan {
    /// The plan; its steps tell every declared thing.
    pub plan: Plan,
    /// What was seen.
    pub survey: Survey,
    /// How many things stand how.
    pub counts: ItemCounts,
}

/// Looks at the server and decides.
///
/// # Errors
/// `Refused` when configuration and marker contradict each other; those of the survey.
pub async fn plan(
    store: &dyn InitStore,
    configured: &ConfiguredEnvironment,
    clock: &dyn Clock,
) -> Result<InitPlan> {
    let survey = store.survey().await?;
    let environment = identify(configured, &[(store.kind(), survey.identity.marker.clone())])?;
    let counts = ItemCounts::of(&survey);
    let due = || survey.items.iter().filter_map(|item| item.act().map(|act| (item, act)));
    let acts = due().map(|(item, act)| PlannedAct { item: item.name.clone(), act: act.clone() }).collect();
    let name = if counts.to_change > 0 { OPERATION_CHANGE } else { OPERATION };
    let created_at = clock.now();
    let target = Target {
        environment: environment.name.clone(),
        class: environment.class,
        store: store.kind(),
        fingerprint: survey.identity.fingerprint.clone(),
        address: survey.identity.address.clone(),
    };
    let plan = Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("an initiation is registered").effect,
        // Each act is decided anew before it is done: that is what must still be so.
        assumptions: vec![Assumption { name: "server".to_owned(), value: target.fingerprint.clone() }],
        steps: steps(&survey),
        blast_radius: BlastRadius {
            phrase: format!("init {} of {}", target.store, target.environment),
            items: counts.to_change as u64,
            bytes: 0,
        },
        target,
        parameters: serde_json::to_value(InitParameters { acts, rotate: store.rotate().to_vec() })
            .expect("parameters have a JSON form"),
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(InitPlan { plan, survey, counts })
}

fn steps(survey: &Survey) -> Vec<PlanStep> {
    let mut steps = Vec::new();
    let note = |name: &str, summary: String| PlanStep { name: name.to_owned(), mark: ' ', summary };
    steps.push(match &survey.data {
        Some(data) if data.count == 0 => note("server", "fresh: it holds no user data".to_owned()),
        Some(data) => note("server", format!("in use: it holds {} {}", Count(data.count), data.what)),
        None => note("server", "it does not tell yet whether it holds user data".to_owned()),
    });
    for item in &survey.items {
        let (mark, summary) = match &item.standing {
            Standing::There if item.detail.is_empty() => (' ', "is there already".to_owned()),
            Standing::There => (' ', format!("is there already: {}", item.detail)),
            Standing::ToDo(_) => ('+', item.detail.clone()),
            Standing::Change(_) => ('~', item.detail.clone()),
            Standing::Differs => (' ', format!("differs, and is left: {}", item.detail)),
            Standing::Unknown => (' ', format!("cannot be compared: {}", item.detail)),
        };
        steps.push(PlanStep { name: item.name.clone(), mark, summary });
    }
    steps.extend(survey.advice.iter().map(|advice| note("advice", advice.clone())));
    steps
}
