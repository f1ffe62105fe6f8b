//! The guard: what it asks, what it records, what it refuses.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use mainstay_guard::{
    Actor, ApprovedHash, AuditEvent, AuditLog, AuditOutcome, BackupEvidence, Consent, Guard, NoConsent,
    Outcome, Policy,
};
use mainstay_model::{
    BlastRadius, Clock, Effect, EnvironmentClass, Error, ErrorKind, ManualClock, PLAN_FORMAT, Plan, Result,
    SetId, StoreKind, Target, Timestamp,
};
use mainstay_store::Store;
use serde_json::json;

/// Answers as told and remembers what was asked.
#[derive(Default)]
struct Person {
    approved: Option<ApprovedHash>,
    yes: bool,
    types: String,
    asked: Mutex<Vec<String>>,
}

impl Consent for Person {
    fn approved_hash(&self) -> Option<ApprovedHash> {
        self.approved.clone()
    }

    fn interactive(&self) -> bool {
        true
    }

    fn confirm(&self, question: &str) -> Result<bool> {
        self.asked.lock().unwrap().push(question.to_owned());
        Ok(self.yes)
    }

    fn type_phrase(&self, question: &str, phrase: &str) -> Result<String> {
        self.asked.lock().unwrap().push(format!("{question} [{phrase}]"));
        Ok(self.types.clone())
    }
}

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(now()))
}

fn actor() -> Actor {
    Actor { name: "ann".to_owned(), method: "os user".to_owned(), host: "h1".to_owned() }
}

fn guard(store: &Store) -> Guard {
    Guard::new(AuditLog::new(store.clone()), Policy::default(), clock(), actor())
}

fn plan(operation: &str, effect: Effect, class: EnvironmentClass) -> Plan {
    Plan {
        format: PLAN_FORMAT,
        operation: operation.to_owned(),
        effect,
        target: Target {
            environment: "shop".to_owned(),
            class,
            store: StoreKind::Mongo,
            fingerprint: "rs0/65".to_owned(),
            address: "127.0.0.1:27017".to_owned(),
        },
        assumptions: vec![],
        steps: vec![],
        blast_radius: BlastRadius {
            phrase: "restore shop 48,211 documents".to_owned(),
            items: 48_211,
            bytes: 9,
        },
        parameters: json!({}),
        created_at: now(),
        expires_at: now() + Plan::LIFETIME,
        tool_version: "0.1.0".to_owned(),
    }
}

fn drop_plan(class: EnvironmentClass) -> Plan {
    plan("restore.apply.drop", Effect::Destructive, class)
}

fn no_backup() -> BackupEvidence {
    BackupEvidence::default()
}

#[tokio::test]
async fn intent_stands_before_the_permit_and_the_outcome_refers_to_it() {
    let store = Store::memory();
    let (guard, log) = (guard(&store), AuditLog::new(store));
    let plan = drop_plan(EnvironmentClass::Staging);
    let person = Person { types: "restore shop 48,211 documents\n".to_owned(), ..Person::default() };

    let permit = guard.permit(&plan, &no_backup(), &person).await.unwrap();
    assert_eq!((permit.operation(), permit.plan_hash()), ("restore.apply.drop", plan.hash().unwrap()));
    assert_eq!((permit.target(), permit.intent()), (&plan.target, Some(1)));
    let intent = log.entries().await.unwrap().remove(0);
    assert_eq!(intent.event, AuditEvent::Intent { consent: "phrase typed".to_owned() });
    assert_eq!((intent.plan_hash, intent.target), (Some(plan.hash().unwrap()), Some(plan.target)));
    assert_eq!((intent.at, intent.actor), (now(), actor()));

    let facts = json!({"documents": 48_211, "mb_per_second": 91.5});
    guard.close(permit, Outcome::Done { summary: "restored".to_owned(), facts }).await.unwrap();
    let outcome = log.entries().await.unwrap().remove(1);
    let done = AuditOutcome::Done { summary: "restored".to_owned() };
    assert_eq!(outcome.event, AuditEvent::Outcome { intent: 1, outcome: done });
    assert_eq!(outcome.facts, json!({"documents": 48_211, "mb_per_second": "91.5"}));
    assert_eq!(log.verify().await.unwrap(), []);
}

#[tokio::test]
async fn refusals_are_recorded_and_give_no_permit() {
    let store = Store::memory();
    let (guard, log) = (guard(&store), AuditLog::new(store));
    let wrong_hash = Person { approved: Some("0123456789ab".parse().unwrap()), ..Person::default() };
    let staging = drop_plan(EnvironmentClass::Staging);
    let cases: [(&Plan, &dyn Consent, &str); 4] = [
        (&staging, &NoConsent, "no terminal"),
        (&staging, &Person { types: "yes".to_owned(), ..Person::default() }, "typed phrase differs"),
        (&staging, &wrong_hash, "approved was 0123456789ab"),
        (&drop_plan(EnvironmentClass::Development), &Person::default(), "the answer was no"),
    ];
    for (number, (plan, consent, why)) in cases.into_iter().enumerate() {
        let error = guard.permit(plan, &no_backup(), consent).await.unwrap_err();
        assert_eq!((error.kind(), error.state()), (ErrorKind::Refused, Some("nothing was changed")), "{why}");
        assert!(error.to_string().contains(why), "{error}");
        let entries = log.entries().await.unwrap();
        assert_eq!(entries.len(), number + 1);
        assert_eq!(entries[number].event, AuditEvent::Refusal { reason: error.to_string() });
        assert_eq!(entries[number].plan_hash, Some(plan.hash().unwrap()));
    }
}

#[tokio::test]
async fn an_approved_hash_is_consent_but_no_backup() {
    let store = Store::memory();
    let guard = guard(&store);
    let plan = drop_plan(EnvironmentClass::Production);
    let prefix = plan.hash().unwrap().to_string()[..12].to_owned();
    let person = Person { approved: Some(prefix.parse().unwrap()), ..Person::default() };

    let error = guard.permit(&plan, &no_backup(), &person).await.unwrap_err();
    assert!(error.to_string().contains("needs a verified backup"), "{error}");

    let set = SetId::new(now() - jiff::SignedDuration::from_hours(3), 1);
    let evidence = BackupEvidence {
        newest_verified: Some((set, now())),
        fingerprint: Some("rs0/65".to_owned()),
        with_accounts: false,
    };
    let permit = guard.permit(&plan, &evidence, &person).await.unwrap();
    assert!(person.asked.lock().unwrap().is_empty());
    guard.close(permit, Outcome::of_error(&Error::new(ErrorKind::Server, "it broke"))).await.unwrap();
    let entries = AuditLog::new(store).entries().await.unwrap();
    assert_eq!(entries[1].event, AuditEvent::Intent { consent: "approved by hash".to_owned() });
    let failed = AuditOutcome::Failed { error: "it broke".to_owned() };
    assert_eq!(entries[2].event, AuditEvent::Outcome { intent: 2, outcome: failed });
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done_unless_it_only_adds() {
    let sealed_off = Store::memory().read_only();
    let guards = [guard(&sealed_off), Guard::without_audit(Policy::default(), clock(), actor())];
    let willing = Person { yes: true, ..Person::default() };
    for guard in &guards {
        let marking = plan("environment.mark", Effect::Disruptive, EnvironmentClass::Development);
        let error = guard.permit(&marking, &no_backup(), &willing).await.unwrap_err();
        assert!(error.state().unwrap().contains("nothing was changed"), "{error:?}");
        let destroying = drop_plan(EnvironmentClass::Development);
        assert!(guard.permit(&destroying, &no_backup(), &willing).await.is_err());
        let adding = plan("restore.apply.new", Effect::Additive, EnvironmentClass::Production);
        let permit = guard.permit(&adding, &no_backup(), &willing).await.unwrap();
        assert_eq!(permit.intent(), None);
        guard.close(permit, Outcome::Interrupted { state: "half".to_owned() }).await.unwrap();
    }
    let refusal =
        guards[0].permit(&drop_plan(EnvironmentClass::Development), &no_backup(), &Person::default()).await;
    assert!(refusal.unwrap_err().state().unwrap().contains("could not record the refusal"));
}

#[tokio::test]
async fn a_plan_that_expires_while_the_person_thinks_is_stale() {
    struct Slow(Arc<ManualClock>);
    impl Consent for Slow {
        fn approved_hash(&self) -> Option<ApprovedHash> {
            None
        }
        fn interactive(&self) -> bool {
            true
        }
        fn confirm(&self, _question: &str) -> Result<bool> {
            self.0.advance(Plan::LIFETIME);
            Ok(true)
        }
        fn type_phrase(&self, _question: &str, phrase: &str) -> Result<String> {
            Ok(phrase.to_owned())
        }
    }
    let clock = clock();
    let shared: Arc<dyn Clock> = clock.clone();
    let guard = Guard::new(AuditLog::new(Store::memory()), Policy::default(), shared, actor());
    let plan = drop_plan(EnvironmentClass::Development);
    let error = guard.permit(&plan, &no_backup(), &Slow(clock)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StalePlan);
}

#[tokio::test]
async fn notes_are_for_registered_operations_and_hold_no_secret() {
    let store = Store::memory();
    let guard = guard(&store);
    let facts = json!({"set": "s1", "source": "mongodb://root:hunter2@h/db", "password": "hunter2"});
    guard.note("backup.create", None, facts).await.unwrap();
    assert_eq!(guard.note("backup.steal", None, json!({})).await.unwrap_err().kind(), ErrorKind::Internal);
    let refusal = Error::new(ErrorKind::Refused, "cannot reach redis://:hunter2@h:6379/0 there");
    guard.refuse("restore.plan", None, None, refusal).await;
    let entries = AuditLog::new(store).entries().await.unwrap();
    assert_eq!(entries.len(), 2);
    let text = serde_json::to_string(&entries).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("redis://***@h:6379/0 there"), "{text}");
}
