//! What a backfill would do, proven on real data that is left as it is.

use std::time::Duration;

use mainstay_engine::{
    Backfill, BackfillBody, BackfillLook, BackfillRun, BackfillStatus, BackfillStore, BackfillTrial,
    FieldChange, TrialWay,
};
use mainstay_guard::operation;
use mainstay_model::progress::Observer;
use mainstay_model::{
    Assumption, BlastRadius, Clock, Count, Error, ErrorKind, PLAN_FORMAT, Plan, PlanStep, Result, Target,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::declared::{DeclaredBackfill, lies_under};
use super::{OPERATION, OPERATION_IMPORT, OPERATION_PAUSE, OPERATION_UNDO};

/// On how many documents the guard is proven, and the time of a change is measured.
const TRIAL_COUNT: u32 = 200;
/// How long counting what the guard means may take while planning.
const COUNT_TIME_MAX: Duration = Duration::from_secs(60);
/// How much more a batch does than change documents, where what was there is kept.
const KEEPING_FACTOR: u64 = 2;

/// The decided parameters of running and of bringing back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillParameters {
    /// What is declared.
    pub declared: DeclaredBackfill,
    /// How long a batch is to take at most, in milliseconds.
    pub latency_budget_ms: u64,
    /// How far the slowest replica may lag behind, in milliseconds.
    pub lag_max_ms: u64,
    /// How many batches run at a time.
    pub workers: u32,
    /// The run goes on though somebody asked it to stop.
    pub resumes: bool,
}

impl BackfillParameters {
    /// The most batches that run at a time.
    pub const WORKERS_MAX: u32 = 8;

    /// Those of a plan.
    ///
    /// # Errors
    /// `Usage` when it is a plan of something else, or what it declares cannot be.
    pub fn of(plan: &Plan) -> Result<Self> {
        let parameters: Self = serde_json::from_value(plan.parameters.clone()).map_err(|source| {
            Error::new(ErrorKind::Usage, "the plan's parameters are not those of a backfill")
                .with_source(source)
        })?;
        parameters.check()?;
        Ok(parameters)
    }

    fn check(&self) -> Result<()> {
        let too_many = (self.workers > Self::WORKERS_MAX)
            .then(|| format!("at most {} batches run at a time", Self::WORKERS_MAX));
        match self.declared.faults().into_iter().next().or(too_many) {
            None => Ok(()),
            Some(fault) => Err(Error::new(
                ErrorKind::Usage,
                format!("the backfill {} cannot be run: {fault}", self.declared.backfill.id),
            )
            .with_state("nothing was changed")),
        }
    }
}

/// What planning works with.
pub struct BackfillPlanning<'a> {
    /// The store.
    pub store: &'a dyn BackfillStore,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told what is looked at.
    pub observer: &'a dyn Observer,
}

/// Decides to run what is declared; `None` when nothing is left to do.
///
/// # Errors
/// `Usage` for a declaration that cannot be carried out; `Precondition` when the guard still means what was changed, when the update changes more than it
/// names, or when the server cannot keep what is to be kept; `NotFound` when there is nothing to resume; the store's.
pub async fn plan(
    planning: &BackfillPlanning<'_>,
    target: Target,
    parameters: &BackfillParameters,
) -> Result<Option<Plan>> {
    parameters.check()?;
    let declared = &parameters.declared;
    let begun = run_of(planning.store, declared).await?;
    let is_open = begun.as_ref().is_some_and(|run| run.status == BackfillStatus::Running && run.segments > 0);
    if parameters.resumes && !is_open {
        return Err(nothing_to_resume(declared, begun.as_ref()));
    }
    planning.observer.phase("look");
    let look = planning.store.look(&declared.backfill, COUNT_TIME_MAX).await?;
    if look.guarded == Some(0) && !is_open {
        return Ok(None);
    }
    check_server(declared, &look)?;
    planning.observer.phase("try out");
    let trial = planning.store.try_out(&declared.backfill, TRIAL_COUNT, TrialWay::Measured).await?;
    check_trial(declared, &trial)?;
    let steps = steps(parameters, &look, &trial, begun.as_ref().filter(|_| is_open));
    let items = look.guarded.unwrap_or(look.total);
    let phrase = format!(
        "backfill {} {items} {} on {}@{}",
        declared.backfill.id,
        noun(declared),
        target.store,
        target.environment
    );
    made(planning.clock, target, OPERATION, parameters, Shown { steps, phrase, items }).map(Some)
}

/// Decides to bring back what was there before a backfill.
///
/// # Errors
/// `NotFound` when it was never run; `Precondition` when nothing was kept or all is brought back; the store's.
pub async fn plan_undo(
    planning: &BackfillPlanning<'_>,
    target: Target,
    parameters: &BackfillParameters,
) -> Result<Plan> {
    parameters.check()?;
    let declared = &parameters.declared;
    let id = &declared.backfill.id;
    let Some(run) = run_of(planning.store, declared).await? else {
        return Err(Error::new(ErrorKind::NotFound, format!("the backfill {id} was never run here"))
            .with_state("nothing was changed")
            .with_hint("`mainstay backfill list` tells what has run"));
    };
    let refused = |message: String, hint: &str| {
        Err(Error::new(ErrorKind::Precondition, message)
            .with_state("nothing was changed")
            .with_hint(hint.to_owned()))
    };
    if !run.keeps_undo {
        return refused(
            format!("nothing was kept by the backfill {id}: it was run with `undo = false`"),
            "bring the data back from a backup: `mainstay backup list`",
        );
    }
    let parts = planning.store.undo_parts(&declared.backfill).await?;
    let kept: u64 = parts.iter().map(|part| part.entries).sum();
    if kept == 0 && run.status != BackfillStatus::Undoing {
        return refused(
            format!("nothing is left of the backfill {id} that could be brought back"),
            "`mainstay backfill list` tells what has run",
        );
    }
    let nouns = noun(declared);
    let steps = vec![
        PlanStep {
            name: format!("bring {} back", declared.backfill.place()),
            mark: '~',
            summary: format!(
                "what was there before in up to {} {nouns}, in {} batches",
                Count(kept),
                parts.len()
            ),
        },
        PlanStep {
            name: "leave".to_owned(),
            mark: ' ',
            summary: format!("{nouns} whose fields somebody has changed since, which are listed"),
        },
    ];
    let phrase = format!("undo {id} {kept} {nouns} on {}@{}", target.store, target.environment);
    made(planning.clock, target, OPERATION_UNDO, parameters, Shown { steps, phrase, items: kept })
}

/// Decides to ask whoever runs a backfill to stop.
///
/// # Errors
/// `Internal` when the plan has no form.
pub fn plan_pause(clock: &dyn Clock, target: Target, backfill: &Backfill) -> Result<Plan> {
    let id = &backfill.id;
    let step = PlanStep {
        name: format!("pause {id}"),
        mark: '~',
        summary:
            "whoever runs it stops after the batch under way, and nobody goes on but by `backfill resume`"
                .to_owned(),
    };
    let phrase = format!("pause {id} on {}@{}", target.store, target.environment);
    made(
        clock,
        target,
        OPERATION_PAUSE,
        &json!({ "backfill": backfill }),
        Shown { steps: vec![step], phrase, items: 0 },
    )
}

/// Decides to take over what another tool has written down.
///
/// # Errors
/// `Internal` when the plan has no form.
pub fn plan_import(clock: &dyn Clock, target: Target, source: &str) -> Result<Plan> {
    let step = PlanStep {
        name: format!("import {source}"),
        mark: '+',
        summary: "what migrate-mongo says it has run becomes history; nothing of it is run".to_owned(),
    };
    let phrase = format!("import {source} on {}@{}", target.store, target.environment);
    let parameters = json!({ "source": source });
    made(clock, target, OPERATION_IMPORT, &parameters, Shown { steps: vec![step], phrase, items: 0 })
}

/// What a plan shows.
struct Shown {
    steps: Vec<PlanStep>,
    phrase: String,
    items: u64,
}

fn made(
    clock: &dyn Clock,
    target: Target,
    name: &str,
    parameters: &impl Serialize,
    shown: Shown,
) -> Result<Plan> {
    let created_at = clock.now();
    let parameters: Value = serde_json::to_value(parameters).map_err(|source| {
        Error::new(ErrorKind::Internal, "the plan's parameters have no JSON form").with_source(source)
    })?;
    let assumptions = vec![Assumption { name: "server".to_owned(), value: target.fingerprint.clone() }];
    Ok(Plan {
        format: PLAN_FORMAT,
        operation: name.to_owned(),
        effect: operation(name).expect("what a backfill does is registered").effect,
        assumptions,
        steps: shown.steps,
        blast_radius: BlastRadius { phrase: shown.phrase, items: shown.items, bytes: 0 },
        target,
        parameters,
        created_at,
        expires_at: created_at + Plan::LIFETIME,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// The run of what is declared, if there was one.
async fn run_of(store: &dyn BackfillStore, declared: &DeclaredBackfill) -> Result<Option<BackfillRun>> {
    let (id, place) = (&declared.backfill.id, declared.backfill.place());
    Ok(store.runs().await?.into_iter().find(|run| run.id == *id && run.place == place))
}

fn nothing_to_resume(declared: &DeclaredBackfill, run: Option<&BackfillRun>) -> Error {
    let id = &declared.backfill.id;
    let message = match run {
        None => format!("the backfill {id} was never run here"),
        Some(run) => format!("the backfill {id} is {}: there is nothing to resume", run.status.name()),
    };
    let hint = match run.map(|run| run.status) {
        Some(BackfillStatus::Undoing) => format!("`mainstay backfill undo {id}` goes on with that"),
        _ => format!("`mainstay backfill run {id}` begins it"),
    };
    Error::new(ErrorKind::NotFound, message).with_state("nothing was changed").with_hint(hint)
}

/// Refuses to promise what the server cannot keep.
fn check_server(declared: &DeclaredBackfill, look: &BackfillLook) -> Result<()> {
    if look.has_transactions || !declared.backfill.keeps_undo {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        "a standalone server has no transactions, so what was there before cannot be kept together with the change",
    )
    .with_state("nothing was changed")
    .with_hint("make it a replica set of one (`mainstay init plan`), or say `undo = false` and take a backup first"))
}

/// Refuses what would be done twice, and what changes more than it says.
fn check_trial(declared: &DeclaredBackfill, trial: &BackfillTrial) -> Result<()> {
    let refused = |message: String, hint: String| {
        Err(Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(hint))
    };
    let nouns = noun(declared);
    if let Some(key) = trial.still_guarded.first() {
        return refused(
            format!(
                "the guard still means {} of {} {nouns} after the change, such as {key}: a run that is stopped would change them twice",
                trial.still_guarded.len(),
                trial.changes.len()
            ),
            "write a guard that the changed ones do not match, such as a field that the update sets"
                .to_owned(),
        );
    }
    if let BackfillBody::Documents { fields, .. } = &declared.backfill.body {
        let keeps_undo = declared.backfill.keeps_undo;
        let is_named = |change: &FieldChange| {
            fields.iter().any(|field| lies_under(&change.field, field) || is_whole(change, field, keeps_undo))
        };
        for change in &trial.changes {
            if let Some(stray) = change.fields.iter().find(|change| !is_named(change)) {
                return refused(
                    format!("the update changes {}, which `fields` does not name", stray.field),
                    format!("add \"{}\" to `fields`, so that it can be brought back", stray.field),
                );
            }
        }
    }
    Ok(())
}

/// Whether what changed is a whole that came into being around a `field` that is named: `wallet`, where only `wallet.points` is. A document
/// that was there before and went took more with it than the field; through an array nothing is kept.
fn is_whole(change: &FieldChange, field: &str, keeps_undo: bool) -> bool {
    // A value in its canonical form is an object, too, whose first key begins with a dollar sign.
    let was_more = |before: &str| {
        let is_document = before.starts_with('{') && !before.starts_with("{\"$");
        is_document || (keeps_undo && before.starts_with('['))
    };
    !change.before.as_deref().is_some_and(was_more) && lies_under(field, &change.field)
}

fn noun(declared: &DeclaredBackfill) -> &'static str {
    match declared.backfill.body {
        BackfillBody::Documents { .. } => "documents",
        BackfillBody::Rows { .. } => "rows",
    }
}

/// Which are changed and to what, on one line each, for whoever approves the plan.
fn told(body: &BackfillBody) -> (String, String) {
    let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    match body {
        BackfillBody::Documents { guard, update, .. } => (line(guard), line(update)),
        BackfillBody::Rows { guard, set, .. } => {
            let set: Vec<String> =
                set.iter().map(|(column, expression)| format!("{column} = {}", line(expression))).collect();
            (line(guard), set.join(", "))
        }
    }
}

fn steps(
    parameters: &BackfillParameters,
    look: &BackfillLook,
    trial: &BackfillTrial,
    open: Option<&BackfillRun>,
) -> Vec<PlanStep> {
    let declared = &parameters.declared;
    let (nouns, place) = (noun(declared), declared.backfill.place());
    let mut steps = Vec::new();
    let mut step = |name: String, mark: char, summary: String| steps.push(PlanStep { name, mark, summary });
    let count = match look.guarded {
        Some(guarded) => format!("{} of {} {nouns}", Count(guarded), Count(look.total)),
        None => {
            format!("{nouns} that nobody could count within {COUNT_TIME_MAX:?}, of {}", Count(look.total))
        }
    };
    let time = estimate(parameters, look, trial).map_or_else(String::new, |seconds| {
        format!("; about {seconds} s by what {} took", Count(trial.changes.len() as u64))
    });
    step(format!("change {place}"), '~', format!("{count}, in batches of at most {}{time}", declared.batch));
    let (guard, becomes) = told(&declared.backfill.body);
    step("guard".to_owned(), ' ', guard);
    step("become".to_owned(), ' ', becomes);
    match (declared.backfill.keeps_undo, look.has_transactions) {
        (true, _) => step(
            "keep".to_owned(),
            '+',
            format!("what was there before, so that `mainstay backfill undo {}` brings it back", declared.backfill.id),
        ),
        (false, true) => step("keep".to_owned(), ' ', "nothing: only a backup brings it back".to_owned()),
        (false, false) => step(
            "keep".to_owned(),
            ' ',
            "nothing, and a batch is no transaction here: that nothing is done twice rests on the guard alone, and what a kill cuts off is not in the count"
                .to_owned(),
        ),
    }
    if let Some(open) = open {
        step(
            "go on".to_owned(),
            ' ',
            format!(
                "where {} was: {} of {} segments are at their end, {} {nouns} changed",
                open.by,
                open.segments_done,
                open.segments,
                Count(open.changed)
            ),
        );
    }
    if look.reads_everything {
        step(
            "no index".to_owned(),
            ' ',
            "helps to find what the guard means: counting reads everything, before the run and after it"
                .to_owned(),
        );
    }
    step(
        "spare".to_owned(),
        ' ',
        format!(
            "{} batches at a time, each of at most about {} ms; waits while a replica lags by more than {} ms",
            parameters.workers, parameters.latency_budget_ms, parameters.lag_max_ms
        ),
    );
    steps
}

/// Seconds that the run may take: what the guard means, by what changing one took.
fn estimate(parameters: &BackfillParameters, look: &BackfillLook, trial: &BackfillTrial) -> Option<u64> {
    let took = u64::try_from(trial.took?.as_micros()).ok()?;
    let tried = u64::try_from(trial.changes.len()).ok().filter(|tried| *tried > 0)?;
    let factor = if parameters.declared.backfill.keeps_undo { KEEPING_FACTOR } else { 1 };
    let micros = look.guarded?.saturating_mul(took).saturating_mul(factor) / tried;
    Some((micros / u64::from(parameters.workers.max(1)) / 1_000_000).max(1))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use mainstay_engine::{Backfill, BackfillChange, Namespace};

    use super::super::BackupWish;
    use super::*;

    fn declared(fields: &[&str]) -> DeclaredBackfill {
        DeclaredBackfill {
            backfill: Backfill {
                id: "points".to_owned(),
                body: BackfillBody::Documents {
                    namespace: Namespace::new("shop", "users"),
                    guard: r#"{"points": {"$exists": false}}"#.to_owned(),
                    update: r#"[{"$set": {"points": 1}}]"#.to_owned(),
                    fields: fields.iter().map(|field| (*field).to_owned()).collect(),
                    verify: None,
                },
                keeps_undo: true,
            },
            summary: None,
            batch: 1_000,
            pause_ms: 0,
            backup: BackupWish::Policy,
        }
    }

    fn trial(fields: &[&str], still: &[&str]) -> BackfillTrial {
        let field = |field: &&str| FieldChange {
            field: (*field).to_owned(),
            before: None,
            after: Some("1".to_owned()),
        };
        BackfillTrial {
            changes: vec![BackfillChange { key: "1".to_owned(), fields: fields.iter().map(field).collect() }],
            still_guarded: still.iter().map(|key| (*key).to_owned()).collect(),
            took: Some(Duration::from_millis(1)),
        }
    }

    #[test]
    fn a_guard_that_goes_on_matching_is_refused_and_so_is_a_change_that_is_not_named() {
        for (named, changed, still, refused) in [
            (&["points"][..], &["points"][..], &[][..], None),
            (&["points"][..], &["points"][..], &["1"][..], Some("twice")),
            (&["points"][..], &["points", "old"][..], &[][..], Some("changes old")),
            (&["wallet"][..], &["wallet.points"][..], &[][..], None),
            // The document had no wallet before.
            (&["wallet.points"][..], &["wallet"][..], &[][..], None),
            (&["wallet"][..], &["wallets"][..], &[][..], Some("changes wallets")),
        ] {
            let checked = check_trial(&declared(named), &trial(changed, still));
            match refused {
                None => assert!(checked.is_ok(), "{changed:?}: {checked:?}"),
                Some(text) => {
                    let error = checked.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Precondition);
                    assert!(error.to_string().contains(text), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_document_that_goes_is_no_change_of_a_field_in_it() {
        for (before, refused) in [
            (None, false),
            (Some(r#"{"$numberInt":"5"}"#), false),
            (Some(r#"{"points":{"$numberInt":"5"},"other":true}"#), true),
            (Some("{}"), true),
            (Some(r#"[{"points":{"$numberInt":"5"}}]"#), true),
        ] {
            let mut trial = trial(&["wallet"], &[]);
            trial.changes[0].fields[0].before = before.map(str::to_owned);
            let checked = check_trial(&declared(&["wallet.points"]), &trial);
            assert_eq!(checked.is_err(), refused, "{before:?}: {checked:?}");
        }
    }

    #[test]
    fn what_a_standalone_server_cannot_promise_is_not_promised() {
        let look = |has_transactions| BackfillLook {
            total: 10,
            guarded: Some(5),
            reads_everything: false,
            has_transactions,
        };
        let mut declared = declared(&["points"]);
        assert!(check_server(&declared, &look(true)).is_ok());
        assert_eq!(check_server(&declared, &look(false)).unwrap_err().kind(), ErrorKind::Precondition);
        declared.backfill.keeps_undo = false;
        assert!(check_server(&declared, &look(false)).is_ok());
    }

    #[test]
    fn estimates_come_from_what_was_measured() {
        let parameters = BackfillParameters {
            declared: declared(&["points"]),
            latency_budget_ms: 100,
            lag_max_ms: 10_000,
            workers: 2,
            resumes: false,
        };
        let look = BackfillLook {
            total: 6_000_000,
            guarded: Some(5_000_000),
            reads_everything: true,
            has_transactions: true,
        };
        // One millisecond each, twice that for keeping, two at a time.
        assert_eq!(estimate(&parameters, &look, &trial(&["points"], &[])), Some(5_000));
        let uncounted = BackfillLook { guarded: None, ..look };
        assert_eq!(estimate(&parameters, &uncounted, &trial(&["points"], &[])), None);
        let shown = steps(&parameters, &uncounted, &trial(&["points"], &[]), None);
        assert!(shown.iter().any(|step| step.name == "no index"), "{shown:?}");
    }
}
