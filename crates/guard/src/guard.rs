//! The guard: judges a plan, obtains consent, records the intent, and only then hands out the permit.
//!
//! Relies on the audit log being durable when an append returns. Refuses to permit what it cannot record, but for what only reads or adds.

use std::sync::Arc;

use mainstay_model::{Blake3, Clock, Effect, Error, ErrorKind, Plan, Result, ResultExt, Target};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::audit::{AuditEvent, AuditLog, AuditOutcome, NewAuditEntry};
use crate::consent::Consent;
use crate::judge::{Ask, BackupEvidence, Case, judge, needs_audit};
use crate::operation::{Operation, operation};
use crate::permit::Permit;
use crate::policy::Policy;

/// Who acts, as far as the program can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The person's or account's name.
    pub name: String,
    /// How the name is known: `os user`, `oidc`.
    pub method: String,
    /// The host the command was given on.
    pub host: String,
}

/// How a permitted operation ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// As planned.
    Done {
        /// One line for people.
        summary: String,
        /// What came of it: hashes, counts.
        facts: Value,
    },
    /// With an error.
    Failed {
        /// Its text.
        error: String,
    },
    /// At a safe point, on request; the same command continues.
    Interrupted {
        /// What the world looks like now.
        state: String,
    },
}

impl Outcome {
    /// The outcome that `error` is: interrupted or failed.
    pub fn of_error(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Interrupted => {
                Self::Interrupted { state: error.state().unwrap_or(error.message()).to_owned() }
            }
            _ => Self::Failed { error: error.to_string() },
        }
    }
}

/// Makes permits and keeps the record.
#[derive(Debug)]
pub struct Guard {
    audit: Option<AuditLog>,
    policy: Policy,
    clock: Arc<dyn Clock>,
    actor: Actor,
}

impl Guard {
    /// A guard that records in `audit`.
    pub fn new(audit: AuditLog, policy: Policy, clock: Arc<dyn Clock>, actor: Actor) -> Self {
        Self { audit: Some(audit), policy, clock, actor }
    }

    /// A guard without an audit log, for when no repository is at hand. It permits nothing above [`Effect::Additive`] and records nothing.
    pub fn without_audit(policy: Policy, clock: Arc<dyn Clock>, actor: Actor) -> Self {
        Self { audit: None, policy, clock, actor }
    }

    /// Judges `plan`, asks for the consent that policy demands, and records the intent; then the plan may be carried out, once.
    /// A refusal is recorded too. Nothing has been changed when this fails.
    ///
    /// An additive or reading operation is permitted even when the log cannot be written; [`Permit::intent`] is `None` then.
    ///
    /// # Errors
    /// `Refused` when policy says no, consent was not given, or the backup that it demands is lacking; `StalePlan` when the plan's time is over;
    /// the log's error when the intent cannot be recorded; whatever `consent` fails with.
    pub async fn permit(
        &self,
        plan: &Plan,
        evidence: &BackupEvidence,
        consent: &dyn Consent,
    ) -> Result<Permit> {
        let plan_hash = plan.hash()?;
        match self.agree(plan, plan_hash, evidence, consent) {
            Ok((registered, how)) => {
                let intent = self.record_intent(plan, plan_hash, registered, evidence, how).await?;
                Ok(Permit::new(registered.name, plan_hash, plan.target.clone(), intent))
            }
            Err(error) => Err(self.refuse(&plan.operation, Some(&plan.target), Some(plan_hash), error).await),
        }
    }

    /// Records how the permitted operation ended. Call it whatever happened: an intent without an outcome reads as a crash.
    ///
    /// # Errors
    /// The log's.
    pub async fn close(&self, permit: Permit, outcome: Outcome) -> Result<()> {
        let (Some(audit), Some(intent)) = (&self.audit, permit.intent()) else { return Ok(()) };
        let (outcome, facts) = match outcome {
            Outcome::Done { summary, facts } => (AuditOutcome::Done { summary }, facts),
            Outcome::Failed { error } => (AuditOutcome::Failed { error }, Value::Null),
            Outcome::Interrupted { state } => (AuditOutcome::Interrupted { state }, Value::Null),
        };
        let effect =
            operation(permit.operation()).expect("a permit is made for a registered operation").effect;
        let event = AuditEvent::Outcome { intent, outcome };
        let subject = Subject { target: Some(permit.target()), plan_hash: Some(permit.plan_hash()) };
        audit.append(self.entry(permit.operation(), effect, subject, event, facts)).await?;
        Ok(())
    }

    /// Records something that needed no permit: a backup set that was committed, a verification's result. Without a log, nothing.
    ///
    /// # Errors
    /// `Internal` when no operation of that name is registered; the log's otherwise.
    pub async fn note(&self, name: &str, target: Option<&Target>, facts: Value) -> Result<()> {
        let registered = operation(name).ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("no operation is registered as {name}"))
        })?;
        let Some(audit) = &self.audit else { return Ok(()) };
        let subject = Subject { target, plan_hash: None };
        audit.append(self.entry(name, registered.effect, subject, AuditEvent::Note, facts)).await?;
        Ok(())
    }

    /// Records that an operation was refused and gives the refusal back, so that the caller returns it. Use it for what is refused outside of
    /// [`Guard::permit`]: a contradictory environment, a world that has moved. When the record fails, the refusal says so and stands.
    pub async fn refuse(
        &self,
        name: &str,
        target: Option<&Target>,
        plan_hash: Option<Blake3>,
        refusal: Error,
    ) -> Error {
        let Some(audit) = &self.audit else { return refusal };
        // What is not registered is recorded as the worst, for nobody knows what it would have done.
        let effect = operation(name).map_or(Effect::Irreversible, |registered| registered.effect);
        let event = AuditEvent::Refusal { reason: refusal.to_string() };
        let subject = Subject { target, plan_hash };
        let facts = json!({"error": refusal.kind().name()});
        match audit.append(self.entry(name, effect, subject, event, facts)).await {
            Ok(_) => refusal,
            Err(unrecorded) => {
                let state = refusal.state().unwrap_or("nothing was changed").to_owned();
                refusal
                    .with_state(format!("{state}; the audit log could not record the refusal: {unrecorded}"))
            }
        }
    }

    fn agree(
        &self,
        plan: &Plan,
        plan_hash: Blake3,
        evidence: &BackupEvidence,
        consent: &dyn Consent,
    ) -> Result<(&'static Operation, &'static str)> {
        let (registered, ask) = judge(&Case {
            plan,
            plan_hash,
            now: self.clock.now(),
            policy: &self.policy,
            evidence,
            approved: consent.approved_hash(),
            interactive: consent.interactive(),
            audited: self.audit.is_some(),
        })?;
        let how = obtain(&ask, plan, consent)?;
        // A person may have thought for long.
        plan.check_fresh(self.clock.now())?;
        Ok((registered, how))
    }

    async fn record_intent(
        &self,
        plan: &Plan,
        plan_hash: Blake3,
        registered: &'static Operation,
        evidence: &BackupEvidence,
        how: &str,
    ) -> Result<Option<u64>> {
        let Some(audit) = &self.audit else { return Ok(None) };
        let backup = evidence.newest_verified.as_ref().map(|(set, _)| set);
        let facts = json!({
            "phrase": plan.blast_radius.phrase,
            "items": plan.blast_radius.items,
            "bytes": plan.blast_radius.bytes,
            "step_count": plan.steps.len(),
            "newest_verified_backup": backup,
            "tool_version": plan.tool_version,
        });
        let event = AuditEvent::Intent { consent: how.to_owned() };
        let subject = Subject { target: Some(&plan.target), plan_hash: Some(plan_hash) };
        match audit.append(self.entry(registered.name, registered.effect, subject, event, facts)).await {
            Ok((number, _)) => Ok(Some(number)),
            Err(_) if !needs_audit(registered) => Ok(None),
            Err(error) => Err(error.with_state("nothing was changed: what cannot be recorded is not done")),
        }
        .with_context(|| format!("record the intent of {}", registered.name))
    }

    fn entry(
        &self,
        name: &str,
        effect: Effect,
        subject: Subject<'_>,
        event: AuditEvent,
        facts: Value,
    ) -> NewAuditEntry {
        NewAuditEntry {
            at: self.clock.now(),
            actor: self.actor.clone(),
            operation: name.to_owned(),
            effect,
            target: subject.target.cloned(),
            plan_hash: subject.plan_hash,
            event,
            facts,
        }
    }
}

/// What an entry is about.
struct Subject<'a> {
    target: Option<&'a Target>,
    plan_hash: Option<Blake3>,
}

/// Asks what is to be asked, and says how consent was given.
fn obtain(ask: &Ask, plan: &Plan, consent: &dyn Consent) -> Result<&'static str> {
    let refused = |why: &str| {
        Error::new(ErrorKind::Refused, format!("{} was not agreed to: {why}", plan.operation))
            .with_state("nothing was changed")
    };
    match ask {
        Ask::Nothing => Ok("not asked"),
        Ask::Approved => Ok("approved by hash"),
        Ask::Confirm { question } => match consent.confirm(question)? {
            true => Ok("confirmed"),
            false => Err(refused("the answer was no")),
        },
        Ask::Type { question, phrase } => {
            match consent.type_phrase(question, phrase)?.trim() == phrase {
                true => Ok("phrase typed"),
                false => Err(refused("the typed phrase differs")
                    .with_hint(format!("type exactly `{phrase}` when asked"))),
            }
        }
    }
}
