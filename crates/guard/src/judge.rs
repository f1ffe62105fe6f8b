//! The decision whether a plan may be carried out, and what must still be asked. Pure: no clock, no store, no terminal.

use jiff::SignedDuration;
use mainstay_model::{
    Blake3, ByteSize, Count, Effect, EnvironmentClass, Error, ErrorKind, Plan, Result, SetId, Timestamp,
};

use crate::consent::ApprovedHash;
use crate::operation::{Operation, Reach, operation};
use crate::policy::{ConsentLevel, Policy};

/// What the repository knows of backups of the plan's target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupEvidence {
    /// The newest backup set whose last verification found every byte in place, and when that was.
    pub newest_verified: Option<(SetId, Timestamp)>,
    /// Which server that set was taken of, from its manifest: comparable with [`Target::fingerprint`](mainstay_model::Target).
    pub fingerprint: Option<String>,
    /// Whether only sets with users and roles were looked at, because the plan touches these.
    pub with_accounts: bool,
}

/// The circumstances of a decision.
pub(crate) struct Case<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) plan_hash: Blake3,
    pub(crate) now: Timestamp,
    pub(crate) policy: &'a Policy,
    pub(crate) evidence: &'a BackupEvidence,
    pub(crate) approved: Option<ApprovedHash>,
    pub(crate) interactive: bool,
    pub(crate) audited: bool,
}

/// What must be asked before the plan may be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Nothing: policy asks for nothing.
    Nothing,
    /// Nothing: the plan's hash was approved beforehand.
    Approved,
    /// Yes or no.
    Confirm { question: String },
    /// The phrase.
    Type { question: String, phrase: String },
}

/// Decides. The order of the checks is the order of their weight: what can never be is told before what is merely missing.
pub(crate) fn judge(case: &Case<'_>) -> Result<(&'static Operation, Ask)> {
    let registered = check_operation(case.plan)?;
    case.plan.check_fresh(case.now)?;
    let requirement = case.policy.requirement(case.plan.target.class, registered.effect);
    if let Some(reason) = requirement.refused {
        return Err(refused(format!("{} is refused: {reason}", case.plan.operation)));
    }
    check_audit(case, registered)?;
    let approved = check_approval(case)?;
    if let Some(age_max) = requirement.verified_backup_age_max {
        check_backup(case, age_max)?;
    }
    let consent = match registered.reach {
        Reach::Repository if registered.effect <= Effect::Additive => ConsentLevel::None,
        _ => requirement.consent,
    };
    Ok((registered, what_to_ask(case, consent, approved)?))
}

fn refused(message: String) -> Error {
    Error::new(ErrorKind::Refused, message).with_state("nothing was changed")
}

fn check_operation(plan: &Plan) -> Result<&'static Operation> {
    let name = &plan.operation;
    let registered = operation(name)
        .ok_or_else(|| refused(format!("{name} is refused: no operation is registered under this name")))?;
    if registered.effect != plan.effect {
        return Err(refused(format!(
            "{name} is refused: the plan calls it {}, it is registered as {}",
            plan.effect, registered.effect
        ))
        .with_hint("make the plan again with this version"));
    }
    Ok(registered)
}

fn check_audit(case: &Case<'_>, registered: &Operation) -> Result<()> {
    if case.audited || !needs_audit(registered) {
        return Ok(());
    }
    Err(refused(format!(
        "{} is refused: it is {} and there is no audit log to record it in",
        registered.name, registered.effect
    ))
    .with_hint("name a repository in [repository] of mainstay.toml"))
}

/// Whether the operation may only be done when its intent has been recorded.
pub(crate) fn needs_audit(registered: &Operation) -> bool {
    registered.effect > Effect::Additive
}

/// True when the plan was approved beforehand.
fn check_approval(case: &Case<'_>) -> Result<bool> {
    match &case.approved {
        None => Ok(false),
        Some(approved) if approved.names(&case.plan_hash) => Ok(true),
        Some(approved) => Err(refused(format!(
            "{} is refused: the plan's hash is {}, approved was {approved}",
            case.plan.operation, case.plan_hash
        ))
        .with_hint("review this plan and approve its own hash")),
    }
}

fn check_backup(case: &Case<'_>, age_max: SignedDuration) -> Result<()> {
    let target = &case.plan.target;
    let needed = format!(
        "{} in {} environment {} needs a verified backup of the same server younger than {age_max:#}",
        case.plan.effect, target.class, target.environment
    );
    let (what, option) = match case.evidence.with_accounts {
        true => (" with users and roles", " --users-and-roles"),
        false => ("", ""),
    };
    let lacking = |why: String| {
        refused(format!("{} is refused: {needed}; {why}", case.plan.operation)).with_hint(format!(
            "type `mainstay backup create --store {0}{option}` and `mainstay backup verify --store {0}`",
            target.store
        ))
    };
    let Some((set, verified_at)) = &case.evidence.newest_verified else {
        return Err(lacking(format!("there is none{what}")));
    };
    if case.evidence.fingerprint.as_deref() != Some(target.fingerprint.as_str()) {
        let of = case.evidence.fingerprint.as_deref().unwrap_or("a server it does not name");
        return Err(lacking(format!("set {set} is of {of}, the plan's server is {}", target.fingerprint)));
    }
    let Some(begun_at) = set_begun_at(set) else {
        return Err(lacking(format!("set {set} does not tell when it was taken")));
    };
    if *verified_at > case.now || begun_at > case.now {
        return Err(lacking(format!("set {set} lies in the future; check this machine's clock")));
    }
    // Verifying does not make an old backup new: what counts is how much the backup lacks.
    let age = case.now.duration_since(begun_at);
    if age >= age_max {
        return Err(lacking(format!("set {set} was begun {:#} ago", whole_minutes(age))));
    }
    Ok(())
}

/// A set's birth, which its id tells.
fn set_begun_at(set: &SetId) -> Option<Timestamp> {
    let (time, _) = set.as_str().split_once('-')?;
    jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", time)
        .ok()?
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|at| at.timestamp())
}

fn whole_minutes(age: SignedDuration) -> SignedDuration {
    SignedDuration::from_mins(age.as_mins())
}

fn what_to_ask(case: &Case<'_>, level: ConsentLevel, approved: bool) -> Result<Ask> {
    if level == ConsentLevel::None {
        return Ok(Ask::Nothing);
    }
    if approved {
        return Ok(Ask::Approved);
    }
    if !case.interactive {
        return Err(refused(format!(
            "{} in {} environment {} needs consent and there is no terminal to ask at",
            case.plan.operation, case.plan.target.class, case.plan.target.environment
        ))
        .with_hint(format!("review the plan, then repeat the command with `--approve {}`", case.plan_hash)));
    }
    let question = question(case.plan);
    Ok(match level {
        ConsentLevel::Typed => Ask::Type { question, phrase: case.plan.blast_radius.phrase.clone() },
        _ => Ask::Confirm { question },
    })
}

fn question(plan: &Plan) -> String {
    let target = &plan.target;
    let class = match target.class {
        EnvironmentClass::Production => "PRODUCTION",
        other => other.name(),
    };
    let stake = match (plan.blast_radius.items, plan.effect) {
        (0, effect) if effect < Effect::Destructive => "nothing that exists now is lost".to_owned(),
        // A view, an empty collection and somebody's rights are no items that could be counted.
        (0, _) => {
            "definitions, users or roles that exist now may be replaced; the plan names them".to_owned()
        }
        (items, _) => format!(
            "{} items ({}) that exist now will be gone or replaced",
            Count(items),
            ByteSize(plan.blast_radius.bytes)
        ),
    };
    format!(
        "{} ({}) on {} {} at {} ({class}): {stake}",
        plan.operation, plan.effect, target.environment, target.store, target.address
    )
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod tests {
    use EnvironmentClass::{Development, Production, Staging};
    use mainstay_model::{BlastRadius, StoreKind, Target};
    use serde_json::json;

    use super::*;

    pub(crate) fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    pub(crate) fn plan(operation: &str, effect: Effect, class: EnvironmentClass) -> Plan {
        Plan {
            format: mainstay_model::PLAN_FORMAT,
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

    pub(crate) fn fresh_backup() -> BackupEvidence {
        backup(SignedDuration::from_hours(2), "rs0/65")
    }

    fn backup(age: SignedDuration, fingerprint: &str) -> BackupEvidence {
        let set = SetId::new(now() - age, 7);
        BackupEvidence {
            newest_verified: Some((set, now())),
            fingerprint: Some(fingerprint.to_owned()),
            with_accounts: false,
        }
    }

    struct Setting {
        evidence: BackupEvidence,
        approved: Option<String>,
        interactive: bool,
        audited: bool,
        now: Timestamp,
    }

    impl Default for Setting {
        fn default() -> Self {
            let evidence = BackupEvidence::default();
            Self { evidence, approved: None, interactive: true, audited: true, now: now() }
        }
    }

    fn decide(plan: &Plan, setting: &Setting) -> Result<Ask> {
        judge(&Case {
            plan,
            plan_hash: plan.hash().unwrap(),
            now: setting.now,
            policy: &Policy::default(),
            evidence: &setting.evidence,
            approved: setting.approved.as_ref().map(|text| text.parse().unwrap()),
            interactive: setting.interactive,
            audited: setting.audited,
        })
        .map(|(_, ask)| ask)
    }

    #[test]
    fn what_only_adds_to_the_repository_asks_nobody() {
        let nobody = Setting { interactive: false, ..Setting::default() };
        for class in [Development, Staging, Production] {
            assert_eq!(
                decide(&plan("backup.create", Effect::Additive, class), &nobody).unwrap(),
                Ask::Nothing
            );
        }
        let into_a_store = plan("restore.apply.new", Effect::Additive, Production);
        assert_eq!(decide(&into_a_store, &nobody).unwrap_err().kind(), ErrorKind::Refused);
    }

    fn refusal(plan: &Plan, setting: &Setting) -> String {
        let error = decide(plan, setting).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
        assert_eq!(error.state(), Some("nothing was changed"));
        format!("{error:?}")
    }

    #[test]
    fn each_class_is_asked_what_its_row_says() {
        let at_terminal = Setting { evidence: fresh_backup(), ..Setting::default() };
        let cases = [
            ("status", Effect::Read, Production, 0),
            ("restore.apply.new", Effect::Additive, Staging, 0),
            ("restore.apply.new", Effect::Additive, Production, 1),
            ("environment.mark", Effect::Disruptive, Development, 0),
            ("environment.mark", Effect::Disruptive, Staging, 1),
            ("environment.mark", Effect::Disruptive, Production, 2),
            ("restore.apply.drop", Effect::Destructive, Development, 1),
            ("restore.apply.drop", Effect::Destructive, Staging, 2),
            ("restore.apply.drop", Effect::Destructive, Production, 2),
        ];
        for (name, effect, class, level) in cases {
            let plan = plan(name, effect, class);
            let asked = match decide(&plan, &at_terminal).unwrap() {
                Ask::Nothing => 0,
                Ask::Confirm { .. } => 1,
                Ask::Type { phrase, .. } if phrase == "restore shop 48,211 documents" => 2,
                other => panic!("{other:?}"),
            };
            assert_eq!(asked, level, "{name} in {class}");

            let hash = plan.hash().unwrap().to_string();
            let alone = Setting { interactive: false, evidence: fresh_backup(), ..Setting::default() };
            if level == 0 {
                assert_eq!(decide(&plan, &alone).unwrap(), Ask::Nothing);
            } else {
                assert!(refusal(&plan, &alone).contains(&format!("--approve {hash}")), "{name} in {class}");
                for approved in [hash.clone(), hash[..12].to_owned()] {
                    let setting = Setting {
                        approved: Some(approved),
                        interactive: false,
                        evidence: fresh_backup(),
                        ..Setting::default()
                    };
                    assert_eq!(decide(&plan, &setting).unwrap(), Ask::Approved, "{name} in {class}");
                }
            }
        }
    }

    #[test]
    fn the_question_never_belittles_what_may_be_lost() {
        for (name, effect, items, said) in [
            ("restore.apply.new", Effect::Additive, 0, "nothing that exists now is lost"),
            ("restore.abandon", Effect::Disruptive, 0, "nothing that exists now is lost"),
            ("restore.apply.merge", Effect::Destructive, 0, "users or roles that exist now may be replaced"),
            ("restore.apply.drop", Effect::Destructive, 0, "definitions, users or roles"),
            ("restore.apply.drop", Effect::Destructive, 7, "7 items (9 B) that exist now will be gone"),
        ] {
            let mut plan = plan(name, effect, Production);
            plan.blast_radius.items = items;
            assert!(question(&plan).contains(said), "{name}: {}", question(&plan));
        }
    }

    #[test]
    fn an_approval_of_another_plan_is_refused_showing_both() {
        let approved = "0123456789abcdef".to_owned();
        for class in [Development, Staging, Production] {
            let plan = plan("status", Effect::Read, class);
            let text = refusal(&plan, &Setting { approved: Some(approved.clone()), ..Setting::default() });
            assert!(text.contains(&approved) && text.contains(&plan.hash().unwrap().to_string()), "{text}");
        }
    }

    #[test]
    fn destroying_in_production_needs_a_fresh_backup_of_the_same_server_whatever_was_approved() {
        let plan = plan("restore.apply.drop", Effect::Destructive, Production);
        let hours = SignedDuration::from_hours;
        let nameless = BackupEvidence { fingerprint: None, ..fresh_backup() };
        let cases = [
            (BackupEvidence::default(), Some("there is none")),
            (BackupEvidence { with_accounts: true, ..BackupEvidence::default() }, Some("none with users")),
            (backup(hours(24), "rs0/65"), Some("was begun 24h ago")),
            (backup(hours(1), "rs1/70"), Some("is of rs1/70, the plan's server is rs0/65")),
            (nameless, Some("a server it does not name")),
            (backup(hours(-1), "rs0/65"), Some("lies in the future")),
            (backup(hours(23), "rs0/65"), None),
            (backup(hours(0), "rs0/65"), None),
        ];
        for (evidence, why) in cases {
            for approved in [None, Some(plan.hash().unwrap().to_string())] {
                let setting = Setting { evidence: evidence.clone(), approved, ..Setting::default() };
                match why {
                    None => assert!(decide(&plan, &setting).is_ok(), "{evidence:?}"),
                    Some(why) => {
                        let text = refusal(&plan, &setting);
                        assert!(text.contains(why), "{text}");
                        assert!(text.contains("mainstay backup create --store mongo"), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_unregistered_misdeclared_stale_or_unrecordable_is_refused() {
        let unknown = plan("restore.everything", Effect::Destructive, Development);
        assert!(refusal(&unknown, &Setting::default()).contains("no operation is registered"));
        let misdeclared = plan("restore.apply.drop", Effect::Additive, Development);
        let text = refusal(&misdeclared, &Setting::default());
        assert!(text.contains("calls it additive") && text.contains("registered as destructive"), "{text}");

        let good = plan("restore.apply.drop", Effect::Destructive, Development);
        let late = Setting { now: good.expires_at, ..Setting::default() };
        assert_eq!(decide(&good, &late).unwrap_err().kind(), ErrorKind::StalePlan);

        let unrecorded = Setting { audited: false, ..Setting::default() };
        assert!(refusal(&good, &unrecorded).contains("no audit log"));
        assert!(
            refusal(&plan("environment.mark", Effect::Disruptive, Development), &unrecorded)
                .contains("no audit log")
        );
        assert!(decide(&plan("restore.apply.new", Effect::Additive, Development), &unrecorded).is_ok());
        assert!(decide(&plan("status", Effect::Read, Production), &unrecorded).is_ok());
    }

    #[test]
    fn the_question_carries_what_is_at_stake() {
        let text = question(&plan("restore.apply.drop", Effect::Destructive, Production));
        for part in ["PRODUCTION", "48,211 items", "shop", "127.0.0.1:27017", "destructive"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
