//! A Redis brought to what is declared of its users, and where it keeps them.
//!
//! Passwords go to the server as SHA-256, as it keeps them itself, so that neither a monitor nor its log sees one. Each act makes or changes one
//! user and lets the server keep its users, sent in one piece: in its file of users (`ACL SAVE`), else in its configuration file (`CONFIG
//! REWRITE`), which is tried alone before; a server with neither forgets them at its end, which whoever decides has been told. Rules are compared in the server's own form
//! (Redis documentation, ACL GETUSER, from 7 on): keys and channels as sets, rules of commands in their order, since the later one wins.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use mainstay_engine::{
    KeyServerAct, KeyServerInit, PasswordMatch, SeenKeyUser, ServerIdentity, UserData, UserKeeping,
};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, Secret, StoreKind};
use redis::{Pipeline, Value, cmd};

use crate::acl::{check_word, hash_rule};
use crate::config::{RedisConfig, Settings};
use crate::probe::{MARKER_KEY, fingerprint, read_info, read_marker, write_marker};
use crate::session::Session;

/// What a permit must be for.
const OPERATION: &str = "init.apply";
/// How deep answers are followed.
const DEPTH_MAX: usize = 4;

/// A Redis that is being initiated. Each call opens a connection of its own and ends it.
#[derive(Debug)]
pub struct RedisInit {
    settings: Settings,
}

impl RedisInit {
    /// The server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }

    async fn open(&self) -> Result<Session<'_>> {
        Session::open(&self.settings).await.context("connect to Redis")
    }

    /// A connection to the server that `permit` is for.
    async fn permitted(&self, permit: &Permit) -> Result<Session<'_>> {
        let mut session = self.open().await?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let fingerprint = fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        // The first marker keeps the process's name as the lasting one.
        let run = info.required("run_id")?;
        let own = if permit.target().fingerprint == run { run } else { &fingerprint };
        permit.check(OPERATION, StoreKind::Redis, own)?;
        Ok(session)
    }

    async fn described(&self, session: &mut Session<'_>, name: &str) -> Result<Option<Described>> {
        let answer: Value = session
            .ask(cmd("ACL").arg("GETUSER").arg(name))
            .await
            .with_context(|| format!("ask for user {name}"))?;
        Ok(Described::of(&answer))
    }
}

#[async_trait]
impl KeyServerInit for RedisInit {
    async fn identity(&self) -> Result<ServerIdentity> {
        let mut session = self.open().await?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        Ok(ServerIdentity {
            fingerprint: fingerprint(&mut session, &info).await.context("read facts of Redis")?,
            process: info.required("run_id")?.to_owned(),
            address: self.settings.address(),
            version: info.required("redis_version")?.to_owned(),
            marker: read_marker(&mut session).await.context("read environment marker of Redis")?,
        })
    }

    async fn keeping(&self) -> Result<UserKeeping> {
        let mut session = self.open().await?;
        let named: Option<BTreeMap<String, String>> =
            session.ask_if_allowed(cmd("CONFIG").arg("GET").arg("aclfile")).await?;
        if let Some(file) =
            named.and_then(|mut named| named.remove("aclfile")).filter(|file| !file.is_empty())
        {
            return Ok(UserKeeping::UserFile(file));
        }
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        Ok(match info.get("config_file").filter(|file| !file.is_empty()) {
            Some(file) => UserKeeping::ConfigFile(file.to_owned()),
            None => UserKeeping::Nowhere,
        })
    }

    async fn user(&self, name: &str) -> Result<Option<SeenKeyUser>> {
        check_word("user name", name)?;
        let mut session = self.open().await?;
        Ok(self.described(&mut session, name).await?.map(|user| SeenKeyUser {
            name: name.to_owned(),
            on: user.flags.contains("on"),
            rules: user.rules.to_text(),
        }))
    }

    async fn check_password(&self, user: &str, password: &Secret) -> Result<PasswordMatch> {
        let mut session = self.open().await?;
        let Some(described) = self.described(&mut session, user).await? else {
            return Ok(PasswordMatch::None);
        };
        if described.flags.contains("nopass") {
            return Ok(PasswordMatch::Other);
        }
        let own = hash_rule(password);
        Ok(match described.passwords.contains(own.trim_start_matches('#')) {
            true => PasswordMatch::Same,
            false if described.passwords.is_empty() => PasswordMatch::None,
            false => PasswordMatch::Other,
        })
    }

    fn canonical(&self, rules: &[String]) -> Result<String> {
        Ok(Rules::declared(rules)?.to_text())
    }

    async fn user_data(&self) -> Result<Option<UserData>> {
        let mut session = self.open().await?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let keys =
            |field: &str| -> Option<u64> { field.split(',').next()?.strip_prefix("keys=")?.parse().ok() };
        let count: u64 = info
            .fields()
            .filter(|(name, _)| name.starts_with("db"))
            .filter_map(|(_, field)| keys(field))
            .sum();
        // The environment's marker is no user data.
        let marker: Option<u64> = session.ask_if_here(cmd("EXISTS").arg(MARKER_KEY)).await?;
        Ok(Some(UserData { what: "keys", count: count.saturating_sub(marker.unwrap_or(0)) }))
    }

    async fn act(&self, act: &KeyServerAct, password: Option<&Secret>, permit: &Permit) -> Result<()> {
        let words = words_of(act, password)?;
        let keeping = self.keeping().await?;
        let mut session = self.permitted(permit).await?;
        let keep = match keeping {
            UserKeeping::UserFile(_) => Some(["ACL", "SAVE"]),
            UserKeeping::ConfigFile(_) => Some(["CONFIG", "REWRITE"]),
            UserKeeping::Nowhere => None,
        };
        if let Some([name, argument]) = keep {
            // A server that cannot keep its users would take the change and forget it.
            session.ask::<()>(cmd(name).arg(argument)).await.map_err(|error| {
                error
                    .context("let the server keep its users before one is changed")
                    .with_state("nothing was changed")
            })?;
        }
        let mut pipeline = Pipeline::new();
        // Sent at once: whoever is killed has sent both or none.
        pipeline.cmd("ACL").arg("SETUSER").arg(&words);
        if let Some([name, argument]) = keep {
            pipeline.cmd(name).arg(argument);
        }
        session.ask_all(&pipeline).await.map(drop).map_err(|error| match (error.kind(), words.first()) {
            (ErrorKind::Server, Some(user)) if error.message().contains("SETUSER modifier") => error
                .with_hint(format!(
                    "correct the rules of [init.redis.users.{user}], then `mainstay init plan` again"
                )),
            _ => error,
        })
    }

    async fn mark(&self, marker: &Marker, permit: &Permit) -> Result<()> {
        let mut session = self.permitted(permit).await?;
        let info = read_info(&mut session).await.context("read facts of Redis")?;
        let fingerprint = fingerprint(&mut session, &info).await.context("read facts of Redis")?;
        write_marker(&mut session, marker, &fingerprint).await.context("write environment marker of Redis")
    }
}

/// What `ACL SETUSER` is given for an act: the user, then rules.
fn words_of(act: &KeyServerAct, password: Option<&Secret>) -> Result<Vec<String>> {
    let (user, rules) = match act {
        KeyServerAct::CreateUser { user, rules } => {
            Rules::declared(rules)?;
            let state = match password {
                Some(password) => vec!["on".to_owned(), hash_rule(password)],
                None => vec!["off".to_owned()],
            };
            (user, [vec!["reset".to_owned()], state, rules.clone()].concat())
        }
        KeyServerAct::SetRules { user, rules } => {
            Rules::declared(rules)?;
            let cleared = ["resetkeys", "resetchannels", "clearselectors", "nocommands"].map(str::to_owned);
            (user, [cleared.to_vec(), rules.clone()].concat())
        }
        KeyServerAct::SetPassword { user } => {
            let password = password.ok_or_else(|| {
                Error::new(ErrorKind::Precondition, format!("no password is given for user {user}"))
                    .with_state("nothing was changed")
            })?;
            (user, vec!["resetpass".to_owned(), hash_rule(password), "on".to_owned()])
        }
    };
    check_word("user name", user)?;
    Ok([vec![user.clone()], rules].concat())
}

/// A user as `ACL GETUSER` describes it.
struct Described {
    flags: BTreeSet<String>,
    passwords: BTreeSet<String>,
    rules: Rules,
}

impl Described {
    /// `None` when the answer describes nobody.
    fn of(answer: &Value) -> Option<Self> {
        let fields = fields(answer)?;
        let texts = |name: &str| -> BTreeSet<String> {
            match fields.get(name) {
                Some(Value::Array(items) | Value::Set(items)) => items.iter().filter_map(text).collect(),
                _ => BTreeSet::new(),
            }
        };
        Some(Self { flags: texts("flags"), passwords: texts("passwords"), rules: Rules::seen(answer, 0)? })
    }
}

/// The named parts of an answer, whichever of its two forms it has.
fn fields(answer: &Value) -> Option<BTreeMap<String, &Value>> {
    match answer {
        Value::Map(pairs) => {
            Some(pairs.iter().filter_map(|(name, value)| Some((text(name)?, value))).collect())
        }
        Value::Array(items) => {
            Some(items.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, &pair[1]))).collect())
        }
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}

/// Rules in a form in which equal ones are equal.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Rules {
    keys: BTreeSet<String>,
    channels: BTreeSet<String>,
    /// In the order in which they count.
    commands: Vec<String>,
    selectors: Vec<Rules>,
}

impl Rules {
    fn declared(rules: &[String]) -> Result<Self> {
        let mut own = Self::default();
        let (mut all_keys, mut all_channels) = (false, false);
        for rule in rules {
            match rule.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
                Some(inner) => {
                    let inner: Vec<String> = inner.split_ascii_whitespace().map(str::to_owned).collect();
                    if inner.iter().any(|rule| rule.starts_with('(')) {
                        return Err(refuse(rule, "has a selector inside a selector"));
                    }
                    own.selectors.push(Self::declared(&inner)?);
                }
                None => {
                    let is_lost =
                        all_keys && rule.starts_with(['~', '%']) || all_channels && rule.starts_with('&');
                    all_keys |= matches!(rule.as_str(), "~*" | "allkeys");
                    all_channels |= matches!(rule.as_str(), "&*" | "allchannels");
                    if is_lost && !matches!(rule.as_str(), "~*" | "&*") {
                        return Err(refuse(
                            rule,
                            "adds nothing to all of them, and the server takes none behind that",
                        ));
                    }
                    own.add(rule)?;
                }
            }
        }
        own.settle();
        Ok(own)
    }

    fn add(&mut self, rule: &str) -> Result<()> {
        if rule.is_empty() || !rule.chars().all(|one| one.is_ascii_graphic() && !"()\"'".contains(one)) {
            return Err(refuse(
                rule,
                "cannot stand in a rule: use letters, digits and `:*?[]-_` without blanks",
            ));
        }
        match rule {
            // Everything takes the place of what was named before.
            "allkeys" | "~*" => self.keys = BTreeSet::from(["~*".to_owned()]),
            "allchannels" | "&*" => self.channels = BTreeSet::from(["&*".to_owned()]),
            "allcommands" => self.commands.push("+@all".to_owned()),
            "nocommands" => self.commands.push("-@all".to_owned()),
            _ if rule.starts_with(['~', '%']) => drop(self.keys.insert(key_rule(rule))),
            _ if rule.starts_with('&') => drop(self.channels.insert(rule.to_owned())),
            _ if rule.starts_with(['+', '-']) => self.commands.push(rule.to_ascii_lowercase()),
            _ => return Err(refuse(rule, "is none of keys (`~`), channels (`&`) or commands (`+`, `-`)")),
        }
        Ok(())
    }

    /// What the server keeps of the rules (seen with 8.0): of one pattern one rule, with all that is allowed of it; of commands those from the
    /// last one that speaks of all of them, before any there are none, and of those of the same command the last, which takes the place of its
    /// subcommands', too.
    fn settle(&mut self) {
        let mut allowed: BTreeMap<String, (bool, bool)> = BTreeMap::new();
        for rule in &self.keys {
            let (reads, writes, pattern) = match (rule.strip_prefix("%R~"), rule.strip_prefix("%W~")) {
                (Some(pattern), _) => (true, false, pattern),
                (_, Some(pattern)) => (false, true, pattern),
                _ => (true, true, rule.strip_prefix('~').unwrap_or(rule)),
            };
            let both = allowed.entry(pattern.to_owned()).or_default();
            *both = (both.0 || reads, both.1 || writes);
        }
        let rule = |(pattern, allowed): (String, (bool, bool))| match allowed {
            (true, false) => format!("%R~{pattern}"),
            (false, true) => format!("%W~{pattern}"),
            _ => format!("~{pattern}"),
        };
        self.keys = allowed.into_iter().map(rule).collect();
        let of_all = |rule: &String| rule == "+@all" || rule == "-@all";
        match self.commands.iter().rposition(of_all) {
            Some(last) => drop(self.commands.drain(..last)),
            None => self.commands.insert(0, "-@all".to_owned()),
        }
        let mut kept: Vec<String> = Vec::new();
        for rule in std::mem::take(&mut self.commands) {
            let own = command_of(&rule);
            kept.retain(|earlier| {
                let rest = command_of(earlier).strip_prefix(own);
                rest.is_none_or(|rest| !rest.is_empty() && !rest.starts_with('|'))
            });
            kept.push(rule);
        }
        self.commands = kept;
        self.selectors.sort();
    }

    fn seen(answer: &Value, depth: usize) -> Option<Self> {
        let fields = fields(answer)?;
        // Redis 6 gives lists where later ones give one text.
        let words = |name: &str| -> Vec<String> {
            match fields.get(name) {
                Some(Value::Array(items)) => items.iter().filter_map(text).collect(),
                Some(value) => {
                    text(value).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
                }
                None => Vec::new(),
            }
        };
        let mut own = Self {
            keys: words("keys").iter().map(|rule| key_rule(rule)).collect(),
            channels: words("channels").into_iter().collect(),
            commands: words("commands").into_iter().map(|rule| rule.to_ascii_lowercase()).collect(),
            selectors: Vec::new(),
        };
        if let Some(Value::Array(selectors)) = fields.get("selectors").filter(|_| depth < DEPTH_MAX) {
            own.selectors.extend(selectors.iter().filter_map(|selector| Self::seen(selector, depth + 1)));
        }
        own.settle();
        Some(own)
    }

    fn to_text(&self) -> String {
        let selectors = self.selectors.iter().map(|selector| format!("({})", selector.to_text()));
        let words = self.keys.iter().chain(&self.channels).chain(&self.commands).cloned();
        words.chain(selectors).collect::<Vec<_>>().join(" ")
    }
}

/// Reading and writing is what a pattern without more means.
fn key_rule(rule: &str) -> String {
    let Some((allowed, pattern)) = rule.strip_prefix('%').and_then(|rule| rule.split_once('~')) else {
        return rule.to_owned();
    };
    match allowed.to_ascii_uppercase().as_str() {
        "RW" | "WR" => format!("~{pattern}"),
        one => format!("%{one}~{pattern}"),
    }
}

/// The command or category that a rule is about: `config|get`, `@read`.
fn command_of(rule: &str) -> &str {
    rule.strip_prefix(['+', '-']).unwrap_or(rule)
}

/// The rule itself may hold a password.
fn refuse(rule: &str, why: &str) -> Error {
    let shown = match rule.starts_with(['>', '<', '#', '!']) {
        true => "a rule that sets a password".to_owned(),
        false => format!("the rule {rule:?}"),
    };
    Error::new(ErrorKind::Config, format!("{shown} {why}"))
        .with_hint("passwords and `on` come from `password_variable` or `password_file`; rules are of keys, channels and commands")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::acl::{AclRole, AclUser};

    fn rules(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn what_the_server_tells_equals_what_was_declared() {
        let selector =
            Value::Array(["commands", "-@all +hget", "keys", "%R~m", "channels", ""].map(bulk).to_vec());
        let answer = Value::Array(vec![
            bulk("flags"),
            Value::Array(vec![bulk("on")]),
            bulk("passwords"),
            Value::Array(vec![bulk("ab12")]),
            bulk("commands"),
            bulk("-@all +@read +Ping"),
            bulk("keys"),
            bulk("~b:* ~a:*"),
            bulk("channels"),
            bulk("&x"),
            bulk("selectors"),
            Value::Array(vec![selector]),
        ]);
        let seen = Described::of(&answer).unwrap();
        let declared = ["~a:*", "%RW~b:*", "&x", "+@read", "+ping", "(%R~m +hget)"];
        assert_eq!(seen.rules, Rules::declared(&rules(&declared)).unwrap());
        assert!(seen.flags.contains("on") && seen.passwords.contains("ab12"));
        assert_ne!(seen.rules, Rules::declared(&rules(&["~a:*", "+@read"])).unwrap());
    }

    #[test]
    fn the_order_of_commands_counts_and_all_of_them_begin_anew() {
        let text = |words: &[&str]| Rules::declared(&rules(words)).unwrap().to_text();
        assert_eq!(text(&["+get", "allcommands", "-flushall"]), "+@all -flushall");
        assert_eq!(text(&["+get", "-get"]), "-@all -get");
        assert_ne!(text(&["+get", "-get"]), text(&["-get", "+get"]));
        assert_eq!(text(&["%R~*", "%W~*", "%W~a"]), "%W~a ~* -@all");
    }

    /// Each as 8.0 gives it back.
    #[test]
    fn of_one_pattern_and_one_command_one_rule_is_kept() {
        let text = |words: &[&str]| Rules::declared(&rules(words)).unwrap().to_text();
        for (declared, kept) in [
            (&["~p", "%R~p"][..], "~p -@all"),
            (&["%rw~p", "%w~q"], "%W~q ~p -@all"),
            (&["~a", "~*"], "~* -@all"),
            (&["~a", "allkeys", "&a", "allchannels"], "~* &* -@all"),
            (&["+config|get", "+config"], "-@all +config"),
            (&["+config", "-config|set"], "-@all +config -config|set"),
            (&["+config|get", "+config|set", "+config|get"], "-@all +config|set +config|get"),
            (&["+@read", "+get", "+@read"], "-@all +get +@read"),
            (&["+@all", "-@admin", "+@admin"], "+@all +@admin"),
            (&["+get", "+GET", "+getex"], "-@all +get +getex"),
            (&["+getex", "+get"], "-@all +getex +get"),
        ] {
            assert_eq!(text(declared), kept, "{declared:?}");
        }
    }

    #[test]
    fn every_role_of_our_own_can_be_declared() {
        for role in AclRole::ALL {
            let user = AclUser {
                name: "mainstay".to_owned(),
                role,
                patterns: vec!["cache:*".to_owned()],
                password: None,
            };
            let own = user.rules().unwrap().split_off(2);
            let text = Rules::declared(&own).unwrap().to_text();
            assert!(text.contains(MARKER_KEY) && text.contains("+hgetall"), "{role:?}: {text}");
        }
    }

    #[test]
    fn what_stands_behind_everything_is_refused_as_the_server_does() {
        for words in [&["~*", "~a"][..], &["allkeys", "%R~a"], &["&*", "&a"], &["+get", "(~* ~a)"]] {
            let error = Rules::declared(&rules(words)).unwrap_err();
            assert!(error.message().contains("adds nothing"), "{words:?}: {error}");
        }
        for words in [&["~*", "allkeys", "~*"][..], &["%RW~*", "~a"], &["~*", "&a", "(~a)"]] {
            Rules::declared(&rules(words)).unwrap();
        }
    }

    #[test]
    fn passwords_and_states_are_no_rules() {
        for rule in [">canary", "#canary", "<canary", "!canary", "on", "nopass", "reset", "a b", "", "((~x))"]
        {
            let error = Rules::declared(&rules(&[rule])).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{rule}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
        let act = KeyServerAct::CreateUser { user: "app".to_owned(), rules: rules(&["~a:*"]) };
        let words = words_of(&act, Some(&Secret::new("canary"))).unwrap();
        assert_eq!(words[..3], ["app", "reset", "on"]);
        assert!(words[3].starts_with('#') && !words.join(" ").contains("canary"));
    }
}
