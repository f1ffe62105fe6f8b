//! Users for Mainstay itself, each with the least that its work takes. Pure: rules as text, for an administrator to read and to give.
//!
//! A user reads values of one key alone, the environment's marker, by a selector (Redis 7 and later); everything else is asked about keys, not
//! of them. What cannot be narrowed by rules: whoever may give `CONFIG GET` may read the server's own passwords, and whoever may give `CONFIG
//! SET` may do anything to it. Source: Redis documentation, ACL; each role is tried against a real server with nothing but its rules.

use mainstay_model::{Error, ErrorKind, Result, Secret};
use sha2::{Digest, Sha256};

use crate::probe::MARKER_KEY;

/// What a user is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AclRole {
    /// Looking: `status`, `doctor`, `redis info|memory|slowlog|keys`, `redis policy drift|plan`, the plan of a purge.
    Observe,
    /// Copying everything over the replication link, and following it: `backup create`, `capture redis`.
    Backup,
    /// Removing keys that match a pattern, and no others: `redis purge`.
    Purge,
    /// Changing how the server persists and evicts: `redis policy apply`.
    Policy,
    /// Writing the environment's marker: `environment mark`.
    Mark,
    /// Filling the server anew: `restore apply`.
    Restore,
    /// Bringing keys back, those that match a pattern when there is one: `redis undo`.
    Undo,
}

impl AclRole {
    /// Every role.
    pub const ALL: [Self; 7] =
        [Self::Observe, Self::Backup, Self::Purge, Self::Policy, Self::Mark, Self::Restore, Self::Undo];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Backup => "backup",
            Self::Purge => "purge",
            Self::Policy => "policy",
            Self::Mark => "mark",
            Self::Restore => "restore",
            Self::Undo => "undo",
        }
    }

    /// What it is for, in commands of this program.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Observe => {
                "status, doctor, redis info, memory, slowlog, keys, policy drift and plan, the plan of a purge"
            }
            Self::Backup => "backup create, capture redis",
            Self::Purge => "redis purge of what matches the pattern",
            Self::Policy => "redis policy apply",
            Self::Mark => "environment mark",
            Self::Restore => "restore plan and apply: it replaces every key",
            Self::Undo => "redis undo, of what matches the pattern when there is one",
        }
    }

    /// Commands that it gives.
    fn commands(self) -> Vec<&'static str> {
        // Every connection, and who the server is.
        let mut commands = vec!["+select", "+info", "+type"];
        let scans = [
            "+scan",
            "+pttl",
            "+memory|usage",
            "+object|idletime",
            "+client|no-touch",
            "+client|no-evict",
            "+cluster|nodes",
        ];
        let looks = ["+config|get", "+memory|stats", "+memory|doctor", "+slowlog|get", "+command|info"];
        match self {
            Self::Observe => {
                commands.extend(scans);
                commands.extend(looks);
            }
            Self::Backup => commands.extend(["+ping", "+replconf", "+sync", "+psync", "+cluster|nodes"]),
            Self::Purge => {
                commands.extend(scans);
                commands.push("+unlink");
            }
            Self::Policy => {
                commands.extend(scans);
                commands.extend([
                    "+config|get",
                    "+config|set",
                    "+config|rewrite",
                    "+bgsave",
                    "+multi",
                    "+exec",
                ]);
            }
            Self::Mark => {}
            Self::Restore => commands.extend([
                "+ping",
                "+config|get",
                "+pubsub|numsub",
                "+replicaof",
                "+flushall",
                "+bgsave",
            ]),
            Self::Undo => commands.extend(["+ping", "+restore"]),
        }
        commands
    }
}

/// A user to be made.
#[derive(Debug)]
pub struct AclUser {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: AclRole,
    /// Which keys it may remove or bring back, for [`AclRole::Purge`] and [`AclRole::Undo`], which takes any without one.
    pub patterns: Vec<String>,
    /// Its password; without one the user is off.
    pub password: Option<Secret>,
}

impl AclUser {
    /// Its rules as `ACL SETUSER` and a file of users take them, the name not among them. The password is in them as SHA-256 alone.
    ///
    /// # Errors
    /// `Usage` when the name or a pattern cannot stand in a rule, or a purge has no pattern.
    pub fn rules(&self) -> Result<Vec<String>> {
        check_word("user name", &self.name)?;
        if self.role == AclRole::Purge && self.patterns.is_empty() {
            return Err(usage("a user who purges needs the pattern of what it may remove")
                .with_hint("add `--pattern 'payment:idem:*'`"));
        }
        let mut rules = vec!["reset".to_owned()];
        match &self.password {
            Some(password) => {
                rules.extend(["on".to_owned(), hash_rule(password)]);
            }
            None => rules.push("off".to_owned()),
        }
        if matches!(self.role, AclRole::Observe | AclRole::Policy | AclRole::Purge) {
            rules.push("%R~*".to_owned());
        } else {
            rules.push(format!("%R~{MARKER_KEY}"));
        }
        if matches!(self.role, AclRole::Purge | AclRole::Undo) {
            for pattern in &self.patterns {
                check_word("pattern", pattern)?;
                rules.push(format!("%W~{pattern}"));
            }
            rules.extend(self.patterns.is_empty().then(|| "%W~*".to_owned()));
        }
        rules.extend(self.role.commands().into_iter().map(str::to_owned));
        rules.push(match self.role {
            AclRole::Mark => format!("(~{MARKER_KEY} +hget +hgetall +hset +del)"),
            // What is taken back may have lost its own marker.
            AclRole::Restore => format!("(~{MARKER_KEY} +hget +hgetall +hset)"),
            _ => format!("(%R~{MARKER_KEY} +hget +hgetall)"),
        });
        Ok(rules)
    }
}

/// The rule that gives a user `password`, which is in it as SHA-256 alone.
pub(crate) fn hash_rule(password: &Secret) -> String {
    let digest = Sha256::digest(password.expose().as_bytes());
    let hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("#{hash}")
}

/// A name or pattern that a rule can hold: rules are parted by blanks.
pub(crate) fn check_word(what: &str, word: &str) -> Result<()> {
    let is_sound =
        !word.is_empty() && word.chars().all(|one| one.is_ascii_graphic() && !"()\"'".contains(one));
    match is_sound {
        true => Ok(()),
        false => Err(usage(format!("the {what} {word:?} cannot stand in a rule of access"))
            .with_hint("use letters, digits and `:*?[]-_` without blanks")),
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message).with_state("nothing was changed")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn user(role: AclRole, patterns: &[&str], password: Option<&str>) -> AclUser {
        AclUser {
            name: "mainstay".to_owned(),
            role,
            patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
            password: password.map(Secret::new),
        }
    }

    #[test]
    fn rules_hold_no_password_and_no_more_than_the_role() {
        let rules = user(AclRole::Purge, &["cache:*"], Some("canary")).rules().unwrap().join(" ");
        assert!(!rules.contains("canary"), "{rules}");
        assert!(rules.starts_with("reset on #"), "{rules}");
        assert!(
            rules.contains("%W~cache:*") && rules.contains("+unlink") && !rules.contains("config"),
            "{rules}"
        );
        assert!(user(AclRole::Observe, &[], None).rules().unwrap().contains(&"off".to_owned()));
        for (role, pattern) in
            [(AclRole::Purge, &[][..]), (AclRole::Purge, &["a b"]), (AclRole::Purge, &["a)"])]
        {
            assert_eq!(user(role, pattern, None).rules().unwrap_err().kind(), ErrorKind::Usage);
        }
    }
}
