//! Where a server is not as declared, and whether it will be after a restart.

use mainstay_engine::{KeyServerInspection, KeyServerSettings};
use mainstay_model::{Finding, Result, Severity, StoreKind};
use serde::Serialize;

use super::declared::{EVICTION, LIMIT, shown};
use super::{DeclaredPolicy, Difference, Durability, StartCommand};
use crate::classes::{KeyClass, KeyClasses};

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriftReport {
    /// What is declared, as the server writes it.
    pub declared: KeyServerSettings,
    /// What the server has of that.
    pub now: KeyServerSettings,
    /// Where the two differ.
    pub differences: Vec<Difference>,
    /// Whether a change outlives a restart.
    pub durability: Durability,
    /// Each difference and each obstacle, and what eviction may take that it must not.
    pub findings: Vec<Finding>,
}

/// Compares. `start` is how a compose file starts the server, when there is one.
///
/// # Errors
/// `Config` when nothing is declared, or nonsense; `Auth` when the user may not know the settings; the server's.
pub async fn drift(
    server: &dyn KeyServerInspection,
    declared: &DeclaredPolicy,
    classes: &KeyClasses,
    start: Option<&StartCommand>,
) -> Result<DriftReport> {
    let settings = declared.settings()?;
    let look = server.look().await?;
    let mut now = server.settings(&DeclaredPolicy::NAMES).await?;
    let differences = declared.differences(&now)?;
    let durability = Durability::of(look.config_file.as_deref(), &settings, start);
    let findings = judge(&differences, &durability, &now, classes, &server.address());
    now.retain(|name, _| settings.contains_key(name));
    Ok(DriftReport { declared: settings, now, differences, durability, findings })
}

fn judge(
    differences: &[Difference],
    durability: &Durability,
    now: &KeyServerSettings,
    classes: &KeyClasses,
    address: &str,
) -> Vec<Finding> {
    let finding = |id: &str, subject: &str, message: String, remedy: String| Finding {
        id: format!("redis.policy.{id}"),
        severity: Severity::Warning,
        store: Some(StoreKind::Redis),
        subject: subject.to_owned(),
        message,
        remedy,
    };
    let drifted = |Difference { name, now, declared }: &Difference| {
        finding(
            "drift",
            name,
            format!("{name} is {}, declared is {}", shown(name, now), shown(name, declared)),
            "`mainstay redis policy plan` decides how to change it".to_owned(),
        )
    };
    let mut findings: Vec<Finding> = differences.iter().map(drifted).collect();
    if !durability.is_given() {
        let place = durability.place.as_deref().unwrap_or("the command that starts the server");
        let options = durability.command_line.as_deref().unwrap_or_default();
        findings.push(finding(
            "not_durable",
            address,
            format!("a restart brings other settings: {}", durability.obstacles.join("; ")),
            format!("put into {place}: {options}"),
        ));
    }
    let setting = |name: &str| now.get(name).map(String::as_str).unwrap_or_default();
    let protected: Vec<&str> = classes.protected().map(KeyClass::name).collect();
    if setting(EVICTION).starts_with("allkeys-") && setting(LIMIT) != "0" && !protected.is_empty() {
        findings.push(finding(
            "protected_may_go",
            address,
            format!("{} may evict keys of class {}", setting(EVICTION), protected.join(", ")),
            "declare `maxmemory_policy = \"volatile-lru\"` in [redis.policy] and give caches alone an expiry"
                .to_owned(),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_obstacles_and_dangers_are_told() {
        let difference =
            Difference { name: LIMIT.to_owned(), now: "0".to_owned(), declared: "1000".to_owned() };
        let durable = Durability::of(Some("f"), &KeyServerSettings::new(), None);
        let forgetful = Durability::of(None, &[("save".to_owned(), String::new())].into(), None);
        let now = [(EVICTION, "allkeys-lru"), (LIMIT, "5")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let classes = KeyClasses::new([(KeyClass::Session, vec!["a:*".to_owned()])]);
        let findings = judge(&[difference], &forgetful, &now, &classes, "h:1");
        let ids: Vec<&str> = findings.iter().map(|finding| finding.id.as_str()).collect();
        assert_eq!(ids, ["redis.policy.drift", "redis.policy.not_durable", "redis.policy.protected_may_go"]);
        assert_eq!(findings[0].message, "maxmemory is no limit, declared is 1.0 kB");
        assert!(judge(&[], &durable, &now, &KeyClasses::default(), "h:1").is_empty());
    }
}
