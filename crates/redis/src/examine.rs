//! Misconfigurations of a running Redis. Observing asks the server; finding is pure. What the daily questions judge (memory, connections,
//! persistence, replication) is theirs alone: a second judgement would have other words for the same.
//!
//! Sources: `redis.conf` of Redis 8 and the documentation of persistence, security and eviction. What the user may not ask becomes one note
//! that names it. The server's password is never asked for: whether the default user has one is read from its ACL flags.

use std::collections::BTreeMap;

use mainstay_model::{Finding, Result, Severity, StoreKind};
use redis::{Value, cmd};

use crate::info::Info;
use crate::probe::read_info;
use crate::session::Session;

/// What was seen. `None` where the user may not look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    info: Info,
    /// `bind`, `protected-mode`.
    settings: Option<BTreeMap<String, String>>,
    /// Whether the default user is enabled and needs no password.
    open_to_all: Option<bool>,
}

pub(crate) async fn observe(session: &mut Session<'_>) -> Result<Observed> {
    let info = read_info(session).await?;
    let settings = session.ask_if_allowed(cmd("CONFIG").arg("GET").arg(&["bind", "protected-mode"])).await?;
    let default_user: Option<Value> =
        session.ask_if_allowed(cmd("ACL").arg("GETUSER").arg("default")).await?;
    Ok(Observed { info, settings, open_to_all: default_user.map(|reply| is_open(&reply)) })
}

/// `ACL GETUSER` replies with names and values in turn; `flags` is a list that has `on` and, without a password, `nopass`.
fn is_open(reply: &Value) -> bool {
    let Value::Array(items) = reply else { return false };
    let flags =
        items.chunks_exact(2).find(|pair| text_of(&pair[0]).as_deref() == Some("flags")).map(|pair| &pair[1]);
    let Some(Value::Array(flags)) = flags else { return false };
    let has = |flag: &str| flags.iter().any(|item| text_of(item).as_deref() == Some(flag));
    has("on") && has("nopass")
}

fn text_of(value: &Value) -> Option<String> {
    redis::from_redis_value_ref(value).ok()
}

/// What is wrong with a server so observed, worst first.
pub(crate) fn findings(observed: &Observed, address: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |id: &str, severity, message: String, remedy: &str| {
        findings.push(Finding {
            id: format!("redis.{id}"),
            severity,
            store: Some(StoreKind::Redis),
            subject: address.to_owned(),
            message,
            remedy: remedy.to_owned(),
        });
    };
    let info = |name: &str| observed.info.get(name);

    network_finding(observed, &mut report);
    let policy = info("maxmemory_policy").unwrap_or("noeviction");
    match observed.info.number("maxmemory") {
        Some(0) => report(
            "maxmemory_unlimited",
            Severity::Note,
            "maxmemory is 0: the server grows until the system ends it".to_owned(),
            "type `CONFIG SET maxmemory 2gb` with what the machine can spare, then `CONFIG REWRITE`",
        ),
        Some(_) if policy != "noeviction" => report(
            "evicts_keys",
            Severity::Note,
            format!("maxmemory-policy is {policy}: sessions and jobs may vanish when memory is short"),
            "keep caches on a server of their own; where sessions live, type `CONFIG SET maxmemory-policy noeviction`",
        ),
        _ => {}
    }
    if info("config_file") == Some("") {
        report(
            "config_not_kept",
            Severity::Note,
            "the server was started without a configuration file: CONFIG REWRITE cannot keep a change"
                .to_owned(),
            "start it with a configuration file, such as `redis-server /etc/redis/redis.conf`",
        );
    }
    let unseen: Vec<_> =
        [("CONFIG GET", observed.settings.is_none()), ("ACL GETUSER", observed.open_to_all.is_none())]
            .into_iter()
            .filter_map(|(command, unseen)| unseen.then_some(command))
            .collect();
    if !unseen.is_empty() {
        report(
            "not_examined",
            Severity::Note,
            format!("the user may not give {}", unseen.join(" and ")),
            "allow it with `ACL SETUSER <user> +config|get +acl|getuser`, or use another user",
        );
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn network_finding(observed: &Observed, report: &mut impl FnMut(&str, Severity, String, &str)) {
    let (Some(settings), Some(true)) = (&observed.settings, observed.open_to_all) else { return };
    let bind = settings.get("bind").map_or("", String::as_str);
    if !reaches_network(bind) {
        return;
    }
    let remedy = "type `ACL SETUSER default resetpass >PASSWORD` or set requirepass, then `CONFIG REWRITE`";
    match settings.get("protected-mode").map(String::as_str) {
        Some("yes") => report(
            "protected_mode_alone",
            Severity::Warning,
            "the default user has no password and the server listens on the network: protected mode alone keeps others out".to_owned(),
            remedy,
        ),
        _ => report(
            "open_to_network",
            Severity::Critical,
            "the default user has no password, protected mode is off and the server listens on the network: anybody may do anything"
                .to_owned(),
            remedy,
        ),
    }
}

/// Whether a `bind` setting reaches beyond this machine. Empty means every address; a leading `-` means "if there is such an address".
fn reaches_network(bind: &str) -> bool {
    let is_loopback = |part: &str| {
        let address = part.trim_start_matches('-');
        address == "localhost"
            || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    bind.split_whitespace().next().is_none() || bind.split_whitespace().any(|part| !is_loopback(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Observed {
        let info = "maxmemory:100\nmaxmemory_policy:noeviction\nconfig_file:/etc/redis.conf\n";
        let settings = [("bind", "* -::*"), ("protected-mode", "no")];
        Observed {
            info: Info::parse(info),
            settings: Some(settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            open_to_all: Some(false),
        }
    }

    fn ids(observed: &Observed) -> Vec<(String, Severity)> {
        findings(observed, "h:6379").into_iter().map(|finding| (finding.id, finding.severity)).collect()
    }

    #[test]
    fn a_healthy_server_gives_no_finding() {
        assert_eq!(ids(&healthy()), []);
    }

    #[test]
    fn each_fault_gives_its_finding() {
        fn set(observed: &mut Observed, name: &str, value: &str) {
            observed.settings.get_or_insert_default().insert(name.to_owned(), value.to_owned());
        }
        type Change = fn(&mut Observed);
        let cases: [(Change, &str, Severity); 7] = [
            (|o| o.open_to_all = Some(true), "open_to_network", Severity::Critical),
            (
                |o| {
                    o.open_to_all = Some(true);
                    set(o, "protected-mode", "yes");
                },
                "protected_mode_alone",
                Severity::Warning,
            ),
            (|o| o.info.set("maxmemory", "0"), "maxmemory_unlimited", Severity::Note),
            (|o| o.info.set("maxmemory_policy", "allkeys-lru"), "evicts_keys", Severity::Note),
            (|o| o.info.set("config_file", ""), "config_not_kept", Severity::Note),
            (|o| o.settings = None, "not_examined", Severity::Note),
            (|o| o.open_to_all = None, "not_examined", Severity::Note),
        ];
        for (change, id, severity) in cases {
            let mut observed = healthy();
            change(&mut observed);
            assert_eq!(ids(&observed), [(format!("redis.{id}"), severity)]);
        }
        let mut local = healthy();
        local.open_to_all = Some(true);
        set(&mut local, "bind", "127.0.0.1 -::1");
        assert_eq!(ids(&local), []);
    }

    #[test]
    fn bind_is_read_as_the_server_reads_it() {
        for (bind, reaches) in [
            ("", true),
            ("* -::*", true),
            ("127.0.0.1 -::1", false),
            ("127.0.0.1 10.0.0.5", true),
            ("localhost", false),
        ] {
            assert_eq!(reaches_network(bind), reaches, "{bind}");
        }
    }
}
