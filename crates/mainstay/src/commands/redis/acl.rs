//! `redis acl`: users for this program's own work, each with the least that it takes, as rules to read and to give.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mainstay_model::{Error, ErrorKind, ExitStatus, Result, Secret};
use mainstay_redis::{AclRole, AclUser};
use serde_json::{Map, Value, json};

use crate::config::source::read_value_file;
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// Arguments of `redis acl`.
#[derive(Debug, Args)]
pub(crate) struct AclArgs {
    /// What the user is for; may be repeated, all but purge when left out
    #[arg(value_enum, value_name = "ROLE")]
    roles: Vec<Role>,
    /// Which keys a user for purges may remove, or one for undoing bring back; may be repeated
    #[arg(long, value_name = "GLOB")]
    pattern: Vec<String>,
    /// The user's name; `mainstay-ROLE` when left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// File that holds the user's password, of which the rules have the SHA-256; without one the user is off
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Print lines for a file of users (aclfile) instead of commands
    #[arg(long)]
    file: bool,
}

/// A role as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Looking
    Observe,
    /// Copying everything
    Backup,
    /// Removing what matches --pattern
    Purge,
    /// Changing how the server persists and evicts
    Policy,
    /// Writing the environment's marker
    Mark,
    /// Filling the server anew
    Restore,
    /// Bringing keys back
    Undo,
}

impl From<Role> for AclRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Observe => Self::Observe,
            Role::Backup => Self::Backup,
            Role::Purge => Self::Purge,
            Role::Policy => Self::Policy,
            Role::Mark => Self::Mark,
            Role::Restore => Self::Restore,
            Role::Undo => Self::Undo,
        }
    }
}

/// Prints rules. Asks no server.
///
/// # Errors
/// `Usage` when a rule cannot hold what was given, or one name or password is given for several users; `Config` when the password file cannot
/// be read.
pub(super) fn run(args: AclArgs, session: &Session) -> Result<ExitStatus> {
    let roles: Vec<AclRole> = match args.roles.is_empty() {
        true => AclRole::ALL.into_iter().filter(|role| *role != AclRole::Purge).collect(),
        false => args.roles.iter().copied().map(AclRole::from).collect(),
    };
    if roles.len() > 1 && (args.name.is_some() || args.password_file.is_some()) {
        return Err(Error::new(ErrorKind::Usage, "one name or one password is given for several users")
            .with_state("nothing was done")
            .with_hint("name one role: `mainstay redis acl backup --password-file FILE`"));
    }
    let password = match &args.password_file {
        Some(file) => Some(Secret::new(read_value_file(&session.path(file), "--password-file")?)),
        None => None,
    };
    let user = |role: AclRole| AclUser {
        name: args.name.clone().unwrap_or_else(|| format!("mainstay-{}", role.name())),
        role,
        patterns: args.pattern.clone(),
        password: password.clone(),
    };
    let users = roles.into_iter().map(|role| {
        let user = user(role);
        Ok((user.rules()?, user))
    });
    let users: Vec<(Vec<String>, AclUser)> = users.collect::<Result<_>>()?;
    Ok(session.printer.report(&Shown { users, as_file: args.file }))
}

struct Shown {
    users: Vec<(Vec<String>, AclUser)>,
    as_file: bool,
}

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        let one = |(rules, user): &(Vec<String>, AclUser)| {
            json!({"name": user.name, "role": user.role.name(), "for": user.role.purpose(), "rules": rules,
                   "on": user.password.is_some()})
        };
        Map::from_iter([("users".to_owned(), self.users.iter().map(one).collect())])
    }

    fn text(&self, look: &Look) -> String {
        let mut text = String::new();
        for (rules, user) in &self.users {
            let about = format!("# {}: {}", user.role.name(), user.role.purpose());
            // A file of users knows no comments.
            if !self.as_file {
                text.push_str(&format!("{}\n", look.paint(Tone::Faint, &about)));
            }
            match self.as_file {
                // A user of a file begins from nothing.
                true => text.push_str(&format!("user {} {}\n", user.name, rules[1..].join(" "))),
                false => {
                    let quoted: Vec<String> = rules.iter().map(|rule| quoted(rule)).collect();
                    text.push_str(&format!("ACL SETUSER {} {}\n", user.name, quoted.join(" ")));
                }
            }
        }
        if !self.as_file && self.users.iter().any(|(_, user)| user.password.is_none()) {
            text.push_str("# users without a password are off: name one role and `--password-file FILE`\n");
        }
        text
    }
}

/// A rule as one word of a command line: a selector has blanks.
fn quoted(rule: &str) -> String {
    if rule.contains(' ') { format!("\"{rule}\"") } else { rule.to_owned() }
}
