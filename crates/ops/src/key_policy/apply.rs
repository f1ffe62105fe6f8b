//! The steps taken, each remembered before it is taken and looked at afterwards.
//!
//! What was begun is in the repository, one record after the other for each server (`redis/settings/<server>/`), with what stood before. A plan
//! that is applied again, because this process or the server was killed, begins at its first step: each looks first whether it is taken
//! already, for a server that was killed has forgotten what was not kept.

use std::time::Duration;

use mainstay_engine::{KeyServerControl, KeyServerLook, KeyServerSettings, PersistenceLook};
use mainstay_guard::Permit;
use mainstay_model::progress::{Observer, Work};
use mainstay_model::{
    Assumption, Blake3, ByteSize, Clock, Error, ErrorKind, Plan, Result, ResultExt, StoreKind, Timestamp,
};
use mainstay_repository::Repository;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::declared::{EVICTION, LIMIT, LOG, shown};
use super::plan::{assumptions, effective, setting_assumption};
use super::steps::{PolicyParameters, Step};
use super::{DeclaredPolicy, OPERATION_EVICT};

/// How often is looked whether the server has come to an end.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a snapshot or a rewrite may take.
const WRITE_TIME_MAX: Duration = Duration::from_secs(6 * 3_600);
/// How long a rewrite is given to begin.
const REWRITE_BEGIN_TIME: Duration = Duration::from_secs(5);
/// How often a snapshot is begun that somebody else's is in the way of.
const SNAPSHOT_TRIES_MAX: u32 = 20;

/// What changing a policy works with.
pub struct PolicyContext<'a> {
    /// The server.
    pub server: &'a dyn KeyServerControl,
    /// Where it is remembered what was begun.
    pub repository: &'a Repository,
    /// Tells the time.
    pub clock: &'a dyn Clock,
    /// Told how far it is.
    pub observer: &'a dyn Observer,
    /// Stops between two looks.
    pub cancel: &'a CancellationToken,
    /// Who acts: `user@host`.
    pub holder: &'a str,
}

/// A step that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyStepDone {
    /// Its name in the plan.
    pub name: String,
    /// It was taken before, and was found to hold.
    pub was_done: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// The steps in order.
    pub steps: Vec<PolicyStepDone>,
    /// What the server has now of what is declared.
    pub settings: KeyServerSettings,
    /// Whether that outlives a restart.
    pub durable: bool,
}

/// One entry of the records about a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
enum Record {
    /// A step is about to be taken.
    #[serde(rename = "policy_step_begun")]
    StepBegun { plan: Blake3, step: String, before: KeyServerSettings, at: Timestamp, by: String },
    /// It was, and was looked at.
    #[serde(rename = "policy_step_done")]
    StepDone { plan: Blake3, step: String, at: Timestamp },
    /// All were.
    #[serde(rename = "policy_applied")]
    Applied { plan: Blake3, at: Timestamp },
}

/// Refuses a plan whose server is not as it was; what an earlier run of the same plan has changed does not count.
///
/// # Errors
/// `StalePlan`, with every difference; `Usage` when the plan is not one of a policy; the server's and the repository's.
pub async fn check(context: &PolicyContext<'_>, plan: &Plan) -> Result<()> {
    let parameters = PolicyParameters::of(plan)?;
    let look = context.server.look().await?;
    let now = context.server.settings(&DeclaredPolicy::NAMES).await?;
    check_eviction(plan, &parameters, &now, look.memory.used)?;
    let begun = begun(context, plan).await?;
    let mut seen = assumptions(&now, &parameters.declared, &look);
    for (name, to) in
        parameters.steps.iter().filter(|step| begun.contains(&step.name())).filter_map(Step::change)
    {
        forgive(&mut seen, &plan.assumptions, &setting_assumption(name), to);
    }
    plan.check_assumptions(&seen)
}

/// Refuses a plan that is to evict nothing at once, where it would by now.
fn check_eviction(
    plan: &Plan,
    parameters: &PolicyParameters,
    now: &KeyServerSettings,
    used: u64,
) -> Result<()> {
    let changes = parameters.steps.iter().filter_map(Step::change);
    let is_about_memory = changes.into_iter().any(|(name, _)| [LIMIT, EVICTION].contains(&name));
    match effective(now, &parameters.declared) {
        Some((_, limit)) if is_about_memory && used > limit && plan.operation != OPERATION_EVICT => {
            Err(Error::new(
                ErrorKind::StalePlan,
                format!("the server uses {} by now, more than the planned limit", ByteSize(used)),
            )
            .with_state("nothing was changed")
            .with_hint("make the plan again: it says what would be evicted"))
        }
        _ => Ok(()),
    }
}

/// Whether a run of this plan has begun and has not ended.
///
/// # Errors
/// The repository's.
pub async fn resumable(context: &PolicyContext<'_>, plan: &Plan) -> Result<bool> {
    let hash = plan.hash()?;
    let entries = records(context.repository, plan).all::<Record>().await.context("read what was begun")?;
    let last = entries.into_iter().rev().find_map(|entry| match entry.body {
        Record::StepBegun { plan, .. } | Record::StepDone { plan, .. } if plan == hash => Some(true),
        Record::Applied { plan, .. } if plan == hash => Some(false),
        _ => None,
    });
    Ok(last.unwrap_or(false))
}

/// What was changed to `to` by this plan itself counts as what it was.
fn forgive(seen: &mut [Assumption], planned: &[Assumption], name: &str, to: &str) {
    let Some(planned) = planned.iter().find(|assumption| assumption.name == name) else { return };
    if let Some(own) = seen.iter_mut().find(|assumption| assumption.name == name && assumption.value == to) {
        own.value.clone_from(&planned.value);
    }
}

/// Names of the steps that earlier runs of this plan have begun.
async fn begun(context: &PolicyContext<'_>, plan: &Plan) -> Result<Vec<String>> {
    let hash = plan.hash()?;
    let entries = records(context.repository, plan).all::<Record>().await.context("read what was begun")?;
    let steps = entries.into_iter().filter_map(|entry| match entry.body {
        Record::StepBegun { plan, step, .. } if plan == hash => Some(step),
        _ => None,
    });
    Ok(steps.collect())
}

fn records(repository: &Repository, plan: &Plan) -> mainstay_journal::Sequence {
    repository.settings_records(StoreKind::Redis, &Blake3::of(plan.target.fingerprint.as_bytes()))
}

/// Takes the steps of `plan`, whose assumptions were [`check`]ed.
///
/// # Errors
/// `Usage` when the plan is not one of a policy; `Precondition` when settings cannot be kept or the disk does not take what is written;
/// `Interrupted` between two looks; the server's and the repository's. The state says what was taken; applying the plan again goes on.
pub async fn apply(context: &PolicyContext<'_>, plan: &Plan, permit: &Permit) -> Result<PolicyReport> {
    permit.covers(plan)?;
    let parameters = PolicyParameters::of(plan)?;
    context.observer.phase("change policy");
    context.observer.expect(Work { items: parameters.steps.len() as u64, bytes: 0 });
    let mut run = Run { context, plan, permit, hash: plan.hash()?, process: None };
    let mut done = Vec::new();
    for step in &parameters.steps {
        let taken = run.take(step).await;
        let was_done = taken.map_err(|error| with_state(error, step, &done))?;
        done.push(PolicyStepDone { name: step.name(), was_done });
        context.observer.advance(Work { items: 1, bytes: 0 });
    }
    let settled = run.settled(&parameters.declared).await;
    let settings = settled.map_err(|error| error.with_state("every step was taken; none was under way"))?;
    run.record(Record::Applied { plan: run.hash, at: context.clock.now() }).await?;
    Ok(PolicyReport { steps: done, settings, durable: parameters.durable })
}

fn with_state(error: Error, step: &Step, done: &[PolicyStepDone]) -> Error {
    let is_kept = done.iter().any(|done| done.name == Step::Keep.name());
    let kept = match is_kept {
        true => "what was set outlives a restart",
        false => {
            "what was set is forgotten when the server ends, which then begins from what it began from before"
        }
    };
    let state = match done.iter().filter(|done| !done.was_done).count() {
        0 => format!("`{}` was the step under way; none before it changed anything", step.name()),
        count => format!("`{}` was the step under way; {count} before it were taken: {kept}", step.name()),
    };
    let error = error.with_state(state);
    match error.hint() {
        Some(_) => error,
        None => error.with_hint("apply the same plan again: it goes on"),
    }
}

/// A plan being applied.
struct Run<'a> {
    context: &'a PolicyContext<'a>,
    plan: &'a Plan,
    permit: &'a Permit,
    hash: Blake3,
    /// The process of the server that was seen first.
    process: Option<String>,
}

impl Run<'_> {
    /// Takes one step; `true` when it had been taken before.
    async fn take(&mut self, step: &Step) -> Result<bool> {
        if self.context.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "the change of policy was stopped on request"));
        }
        self.context.observer.phase(&step.name());
        if self.holds(step).await? {
            return Ok(true);
        }
        let before = self.context.server.settings(&DeclaredPolicy::NAMES).await?;
        let (at, by) = (self.context.clock.now(), self.context.holder.to_owned());
        self.record(Record::StepBegun { plan: self.hash, step: step.name(), before, at, by }).await?;
        match step {
            Step::Prove | Step::Keep => self.keep().await?,
            Step::Snapshot => self.snapshot().await?,
            Step::Set { name, to, .. } => self.set(name, to).await?,
            Step::LogOn => self.log_on().await?,
            Step::LogOff { keep } => self.log_off(*keep).await?,
        }
        let at = self.context.clock.now();
        self.record(Record::StepDone { plan: self.hash, step: step.name(), at }).await?;
        Ok(false)
    }

    /// Whether a step has been taken already. What is kept, and what is on disk, nobody can tell from the outside: that is done again.
    async fn holds(&mut self, step: &Step) -> Result<bool> {
        let look = self.look().await?;
        match step {
            Step::Prove | Step::Keep | Step::Snapshot | Step::LogOff { .. } => Ok(false),
            Step::Set { name, to, .. } => Ok(self.setting(name).await? == *to),
            Step::LogOn => Ok(can_start_from_log(&look) && self.setting(LOG).await? == "yes"),
        }
    }

    /// Looks, and refuses to go on with a server that began anew.
    async fn look(&mut self) -> Result<KeyServerLook> {
        let look = self.context.server.look().await?;
        match &self.process {
            Some(process) if *process != look.run => Err(Error::new(
                ErrorKind::Server,
                "the server ended and began anew meanwhile: it has forgotten what was not kept",
            )),
            _ => {
                self.process = Some(look.run.clone());
                Ok(look)
            }
        }
    }

    async fn setting(&self, name: &str) -> Result<String> {
        Ok(self.context.server.settings(&[name]).await?.remove(name).unwrap_or_default())
    }

    /// Changes a setting and reads it back.
    async fn set(&self, name: &str, to: &str) -> Result<()> {
        let wanted = KeyServerSettings::from([(name.to_owned(), to.to_owned())]);
        self.context.server.set(&wanted, self.permit).await?;
        self.expect_setting(name, to).await
    }

    async fn expect_setting(&self, name: &str, to: &str) -> Result<()> {
        let now = self.setting(name).await?;
        if now == to {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Server,
            format!("{name} is {} after it was set to {}", shown(name, &now), shown(name, to)),
        ))
    }

    /// Looks until `judge` comes to an end.
    async fn wait(&mut self, mut judge: impl FnMut(&KeyServerLook) -> Option<Result<()>>) -> Result<()> {
        let deadline = tokio::time::Instant::now() + WRITE_TIME_MAX;
        loop {
            let look = self.look().await?;
            if let Some(end) = judge(&look) {
                return end;
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::new(ErrorKind::Server, "the server has not ended writing for hours"));
            }
            tokio::select! {
                () = self.context.cancel.cancelled() => {
                    return Err(Error::new(ErrorKind::Interrupted, "the change of policy was stopped on request"));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Keeps the settings; never that there is a log before there is one to start from, for a server that was killed then would begin empty.
    async fn keep(&mut self) -> Result<()> {
        let look = self.look().await?;
        if look.persistence.log_on {
            self.wait_for_log(&look.persistence, can_start_from_log).await?;
        }
        self.context.server.keep(self.permit).await
    }

    /// Waits until there is a log, as `is_there` says; `before` is what the disk was like before it was to be written.
    async fn wait_for_log(
        &mut self,
        before: &PersistenceLook,
        is_there: fn(&KeyServerLook) -> bool,
    ) -> Result<()> {
        let begun = tokio::time::Instant::now();
        let (was_ok, failures) = (before.log_rewrite_ok, before.log_rewrite_failures);
        self.wait(|look| {
            let disk = &look.persistence;
            if is_there(look) {
                return Some(Ok(()));
            }
            // A status may be from before, and what is to begin may take a moment; a rewrite itself may take hours.
            let failed = disk.log_rewrite_failures > failures || (was_ok && !disk.log_rewrite_ok);
            let stands_still = !disk.log_rewriting || !disk.log_write_ok;
            (failed || (stands_still && begun.elapsed() >= REWRITE_BEGIN_TIME))
                .then(|| Err(disk_refuses("the append-only file could not be written")))
        })
        .await
    }

    /// Waits until no child of the server writes.
    async fn wait_for_quiet(&mut self) -> Result<()> {
        self.wait(|look| (!look.persistence.saving && !look.persistence.log_rewriting).then_some(Ok(())))
            .await
    }

    /// A snapshot that begins now and ends well.
    async fn snapshot(&mut self) -> Result<()> {
        let mut tries = 0;
        let begun_at = loop {
            self.wait_for_quiet().await?;
            let seconds = u64::try_from(self.look().await?.seen_micros / 1_000_000).unwrap_or_default();
            match self.context.server.begin_snapshot(self.permit).await {
                Ok(()) => break seconds,
                Err(error) if error.kind() == ErrorKind::Conflict && tries < SNAPSHOT_TRIES_MAX => tries += 1,
                Err(error) => return Err(error),
            }
        };
        self.wait(|look| {
            let disk = &look.persistence;
            match (disk.saving, disk.save_ok, disk.saved_at >= begun_at) {
                (true, _, _) => None,
                (false, true, true) => Some(Ok(())),
                (false, _, _) => Some(Err(disk_refuses("the snapshot could not be written"))),
            }
        })
        .await
    }

    /// Turns the log on and waits for its first rewrite, before which there is nothing to start from.
    async fn log_on(&mut self) -> Result<()> {
        self.wait_for_quiet().await?;
        let before = self.look().await?.persistence;
        let on = KeyServerSettings::from([(LOG.to_owned(), "yes".to_owned())]);
        self.context.server.set(&on, self.permit).await?;
        match self.wait_for_log(&before, has_written_log).await {
            Err(error) if error.kind() == ErrorKind::Precondition => {
                // Nothing is kept yet: as it was.
                let off = KeyServerSettings::from([(LOG.to_owned(), "no".to_owned())]);
                self.context.server.set(&off, self.permit).await?;
                Err(error.context("turn the append-only file on; it is off again"))
            }
            written => written,
        }
    }

    /// Turns the log off. Where that is kept, it is kept in the same moment: the old log would be believed at the next start.
    async fn log_off(&mut self, keep: bool) -> Result<()> {
        self.wait_for_quiet().await?;
        let off = KeyServerSettings::from([(LOG.to_owned(), "no".to_owned())]);
        match keep {
            true => self.context.server.set_and_keep(&off, self.permit).await?,
            false => self.context.server.set(&off, self.permit).await?,
        }
        self.expect_setting(LOG, "no").await
    }

    /// What the server has at the end, which must be what is declared.
    async fn settled(&self, declared: &KeyServerSettings) -> Result<KeyServerSettings> {
        let mut now = self.context.server.settings(&DeclaredPolicy::NAMES).await?;
        now.retain(|name, _| declared.contains_key(name));
        for (name, to) in declared {
            self.expect_setting(name, to).await?;
        }
        Ok(now)
    }

    async fn record(&self, record: Record) -> Result<()> {
        let appended = records(self.context.repository, self.plan).append_next(&record).await;
        appended.context("remember what is about to be changed").map(drop)
    }
}

/// Whether there is a log that the server could start from. One that is on and not written yet is being rewritten, or soon will be; one that is
/// on from the server's beginning has no base of its own.
fn can_start_from_log(look: &KeyServerLook) -> bool {
    let disk = &look.persistence;
    disk.log_on && !disk.log_rewriting && disk.log_write_ok
}

/// Whether a log that was turned on has been written.
fn has_written_log(look: &KeyServerLook) -> bool {
    let disk = &look.persistence;
    // Without keys there is nothing to write where the base is a list of commands.
    let has_base = disk.log_base_bytes.is_some_and(|bytes| bytes > 0);
    let is_empty = look.databases.iter().all(|size| size.keys == 0);
    can_start_from_log(look) && disk.log_rewrite_ok && (has_base || is_empty)
}

fn disk_refuses(what: &str) -> Error {
    Error::new(ErrorKind::Precondition, what).with_hint(
        "look into the server's log, mend its disk or the folder's rights, and apply the same plan again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_plan_itself_changed_does_not_count_as_change() {
        let assumption =
            |value: &str| Assumption { name: "setting save".to_owned(), value: value.to_owned() };
        let planned = [assumption("old")];
        for (seen, expected) in [("new", "old"), ("old", "old"), ("other", "other")] {
            let mut seen = [assumption(seen)];
            forgive(&mut seen, &planned, "setting save", "new");
            assert_eq!(seen[0].value, expected);
        }
    }
}
