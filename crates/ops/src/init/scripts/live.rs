//! What of a script's statements a server has: each beside its items in a survey of the declaration that says the same. Pure.
//!
//! Relies on the names of items, which are stable. What a declaration has no place for has no item, and is not compared.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_engine::{DocumentAct, RelationalAct, RelationalGrant};
use mainstay_indexes::{DeclaredIndex, Key};
use serde::Serialize;

use super::{Found, Statement};
use crate::init::{Act, Item, Standing, Survey};

/// Whether what a statement makes is in a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It is there, as the statement says.
    Present,
    /// It is not there.
    Absent,
    /// It is there otherwise.
    Different,
    /// It was not compared.
    Unknown,
}

impl Presence {
    /// Its name: `present`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Absent => "absent",
            Self::Different => "different",
            Self::Unknown => "unknown",
        }
    }
}

/// A statement beside a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Whether what it makes is there.
    pub presence: Presence,
    /// What differs, or was not compared; empty when there is nothing to say.
    pub detail: String,
}

impl Compared {
    fn absent() -> Self {
        Self { presence: Presence::Absent, detail: String::new() }
    }

    fn unknown(detail: &str) -> Self {
        Self { presence: Presence::Unknown, detail: detail.to_owned() }
    }
}

/// Every statement of `found`, in order, beside `survey`, which is one of the declaration that says the same.
pub fn compare(found: &[Found], survey: &Survey) -> Vec<Compared> {
    let mut items: BTreeMap<&str, &Item> = BTreeMap::new();
    for item in &survey.items {
        items.entry(&item.name).or_insert(item);
    }
    let one = |found: &Found| {
        let named = |name: &String| items.get(name.as_str()).copied();
        let names = names(&found.statement);
        // The first is what the statement makes; without it the others are somebody else's.
        let Some(main) = names.first().and_then(named) else {
            return match &found.statement {
                // Of a role that cannot be made nothing else is told.
                Statement::Membership { name, .. }
                    if named(&format!("role {name}")).is_some_and(|role| role.absent) =>
                {
                    Compared::absent()
                }
                _ => Compared::unknown("it has no place in the declaration, or the server does not tell yet"),
            };
        };
        let others: Vec<&Item> = names.iter().skip(1).filter_map(named).collect();
        match part(&found.statement, main) {
            Some(compared) => compared,
            None => judge(main, &others),
        }
    };
    found.iter().map(one).collect()
}

/// The names of the items that say how a statement stands, that of what it makes first.
fn names(statement: &Statement) -> Vec<String> {
    let account = |subject: String| {
        let more = ["password of", "rights of"].map(|what| format!("{what} {subject}"));
        [vec![subject], more.to_vec()].concat()
    };
    match statement {
        Statement::User { database, name, .. } => account(format!("user {database}.{name}")),
        Statement::Collection { database, name, .. } => {
            let subject = format!("collection {database}.{name}");
            vec![subject.clone(), format!("options of {subject}")]
        }
        Statement::Index { database, collection, keys, .. } => {
            let keys: Result<Vec<Key>, _> = keys.iter().map(|key| key.parse::<Key>()).collect();
            let name = keys.map(|keys| DeclaredIndex::new(keys).name());
            name.map_or_else(|_| Vec::new(), |name| vec![format!("index {database}.{collection}.{name}")])
        }
        Statement::Initiate { set, .. } => vec![format!("replica set {}", set.as_deref().unwrap_or("rs0"))],
        Statement::Role { name, member_of, .. } => {
            let subject = format!("role {name}");
            let memberships = (!member_of.is_empty()).then(|| format!("memberships of {subject}"));
            let mut names = account(subject);
            names.extend(memberships);
            names
        }
        Statement::Membership { name, .. } => vec![format!("memberships of role {name}")],
        Statement::Database { name, .. } => vec![format!("database {name}")],
        Statement::Extension { database, name } => vec![format!("extension {name} in {database}")],
        Statement::Schema { database, name, .. } => vec![format!("schema {name} in {database}")],
        Statement::Grant { database, role, on, by, .. } => {
            let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
            vec![match on.as_str() {
                "database" => format!("rights of {role} on database {database}"),
                on => format!("rights of {role} on {on}{by} in database {database}"),
            }]
        }
    }
}

/// How a statement stands that gives a part of what its item is about; `None` for every other.
fn part(statement: &Statement, item: &Item) -> Option<Compared> {
    let (given, lacking): (&[String], &BTreeSet<String>) = match (statement, item.act()) {
        (
            Statement::Membership { member_of, .. },
            Some(Act::Relational(RelationalAct::GrantRoles { member_of: lacking, .. })),
        ) => (member_of.as_slice(), lacking),
        (
            Statement::Grant { privileges, .. },
            Some(Act::Relational(RelationalAct::Grant {
                grant: RelationalGrant { privileges: lacking, .. },
            })),
        ) => (privileges.as_slice(), lacking),
        _ => return None,
    };
    let own: Vec<&str> = given.iter().filter(|one| lacking.contains(*one)).map(String::as_str).collect();
    Some(match own.len() {
        0 => Compared { presence: Presence::Present, detail: String::new() },
        count if count == given.len() => Compared::absent(),
        _ => Compared { presence: Presence::Different, detail: format!("without {}", own.join(", ")) },
    })
}

/// Whether an act makes something that is not there, as far as anybody knows.
fn makes(act: &Act) -> bool {
    matches!(
        act,
        Act::Documents(
            DocumentAct::Initiate { .. }
                | DocumentAct::CreateRole { .. }
                | DocumentAct::CreateUser { .. }
                | DocumentAct::CreateCollection { .. }
                | DocumentAct::CreateIndex { .. }
        ) | Act::Relational(
            RelationalAct::CreateRole { .. }
                | RelationalAct::CreateDatabase { .. }
                | RelationalAct::CreateExtension { .. }
                | RelationalAct::CreateSchema { .. }
        )
    )
}

fn judge(main: &Item, others: &[&Item]) -> Compared {
    if main.absent {
        return Compared::absent();
    }
    if main.act().is_some_and(makes) {
        return Compared::unknown("the server does not tell yet");
    }
    let all = || [main].into_iter().chain(others.iter().copied());
    let is_other =
        |item: &Item| matches!(item.standing, Standing::ToDo(_) | Standing::Change(_) | Standing::Differs);
    let presence = match main.standing {
        _ if all().any(is_other) => Presence::Different,
        Standing::Unknown => Presence::Unknown,
        _ => Presence::Present,
    };
    let told: Vec<String> = all()
        .filter(|item| !item.detail.is_empty())
        .map(|item| match item.name == main.name {
            true => item.detail.clone(),
            // `password of role app` says no more than `password` beside that role.
            false => {
                let what = item.name.strip_suffix(main.name.as_str()).unwrap_or(&item.name);
                format!("{}: {}", what.trim_end().trim_end_matches(" of"), item.detail)
            }
        })
        .collect();
    Compared { presence, detail: told.join("; ") }
}

#[cfg(test)]
mod tests {
    use mainstay_engine::{GrantObject, Principal, ServerIdentity};

    use super::super::Password;
    use super::*;

    fn survey(items: Vec<Item>) -> Survey {
        let identity = ServerIdentity {
            fingerprint: "server-1".to_owned(),
            process: "process-1".to_owned(),
            address: "h:1".to_owned(),
            version: "6.0.27".to_owned(),
            marker: None,
        };
        Survey { identity, items, data: None, advice: Vec::new() }
    }

    fn compared(statement: Statement, items: Vec<Item>) -> (Presence, String) {
        let found = [Found { file: "a".to_owned(), line: 1, statement }];
        let one = compare(&found, &survey(items)).remove(0);
        (one.presence, one.detail)
    }

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_user_is_present_absent_or_otherwise() {
        let user = || Statement::User {
            database: "shop".to_owned(),
            name: "app".to_owned(),
            roles: texts(&["read"]),
            password: Password::Literal,
        };
        let there = || Item::there("user shop.app");
        let grant = DocumentAct::GrantToUser {
            user: Principal { database: "shop".to_owned(), name: "app".to_owned() },
            roles: vec![],
        };
        let lacks = Item::new("user shop.app", Standing::ToDo(Act::Documents(grant)), "give it shop.read");
        let make = || {
            let user = Principal { database: "shop".to_owned(), name: "app".to_owned() };
            let act = DocumentAct::CreateUser { user, roles: vec![] };
            Item::new("user shop.app", Standing::ToDo(Act::Documents(act)), "make it")
        };
        let password = |standing| Item::new("password of user shop.app", standing, "why");
        for (items, presence, detail) in [
            (
                vec![],
                Presence::Unknown,
                "it has no place in the declaration, or the server does not tell yet",
            ),
            (vec![there()], Presence::Present, ""),
            (vec![there(), password(Standing::Unknown)], Presence::Present, "password: why"),
            (vec![there(), password(Standing::Differs)], Presence::Different, "password: why"),
            (vec![lacks], Presence::Different, "give it shop.read"),
            (vec![make().of_absent()], Presence::Absent, ""),
            (vec![make()], Presence::Unknown, "the server does not tell yet"),
            (
                vec![Item::new("user shop.app", Standing::Differs, "no password").of_absent()],
                Presence::Absent,
                "",
            ),
        ] {
            assert_eq!(compared(user(), items), (presence, detail.to_owned()));
        }
    }

    #[test]
    fn of_rights_that_are_declared_together_each_statement_is_told_its_own() {
        let grant = |privileges: &[&str]| Statement::Grant {
            database: "shop".to_owned(),
            role: "app".to_owned(),
            on: "tables in public".to_owned(),
            by: None,
            privileges: texts(privileges),
        };
        let lacking = || {
            let act = RelationalAct::Grant {
                grant: RelationalGrant {
                    role: "app".to_owned(),
                    database: "shop".to_owned(),
                    object: GrantObject::Tables { schema: "public".to_owned() },
                    privileges: ["INSERT", "UPDATE"].map(str::to_owned).into(),
                },
            };
            let name = "rights of app on tables in public in database shop";
            vec![Item::new(name, Standing::ToDo(Act::Relational(act)), "")]
        };
        for (privileges, presence, detail) in [
            (&["SELECT"][..], Presence::Present, ""),
            (&["INSERT", "UPDATE"], Presence::Absent, ""),
            (&["SELECT", "INSERT"], Presence::Different, "without INSERT"),
        ] {
            assert_eq!(compared(grant(privileges), lacking()), (presence, detail.to_owned()));
        }
    }

    #[test]
    fn an_index_has_the_name_that_its_keys_make() {
        let index = |keys: &[&str]| Statement::Index {
            database: "shop".to_owned(),
            collection: "orders".to_owned(),
            keys: texts(keys),
            unique: false,
        };
        let items = || vec![Item::there("index shop.orders.a_1_b_-1")];
        assert_eq!(compared(index(&["a", "-b"]), items()).0, Presence::Present);
        assert_eq!(compared(index(&["a"]), items()).0, Presence::Unknown);
    }
}
