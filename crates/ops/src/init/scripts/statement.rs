//! Statements that are understood, and the declaration that says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::Found;

/// Whose image runs the scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Image {
    /// MongoDB's.
    Mongo,
    /// PostgreSQL's.
    Postgres,
}

/// Where a script has a password from. The password itself is never kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Password {
    /// From this variable.
    Variable(String),
    /// It stands in the script.
    Literal,
    /// From elsewhere, or it has none.
    Elsewhere,
}

/// What a script does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Statement {
    /// A user is made.
    User {
        /// In which database.
        database: String,
        /// Its name.
        name: String,
        /// Its roles, as `role` or `role@database`.
        roles: Vec<String>,
        /// Its password.
        password: Password,
    },
    /// A collection is made.
    Collection {
        /// In which database.
        database: String,
        /// Its name.
        name: String,
        /// Its validator, when every value of it is understood.
        validator: Option<String>,
        /// Names of options that are not understood.
        other_options: Vec<String>,
    },
    /// An index is built.
    Index {
        /// In which database.
        database: String,
        /// Of which collection.
        collection: String,
        /// Its fields, `-` before those that descend, `:kind` behind others.
        keys: Vec<String>,
        /// Whether no two documents may have the same.
        unique: bool,
    },
    /// A replica set is initiated.
    Initiate {
        /// Its name, when it is said.
        set: Option<String>,
        /// Its members.
        members: Vec<String>,
    },
    /// A role is made.
    Role {
        /// Its name.
        name: String,
        /// What it is, as keys and values of a declaration.
        attributes: Vec<(String, String)>,
        /// Roles that it is a member of.
        member_of: Vec<String>,
        /// Its password; `None` when none is said.
        password: Option<Password>,
    },
    /// A role becomes a member of others.
    Membership {
        /// Its name.
        name: String,
        /// Whose.
        member_of: Vec<String>,
    },
    /// A database is made.
    Database {
        /// Its name.
        name: String,
        /// Who owns it.
        owner: Option<String>,
    },
    /// An extension is installed.
    Extension {
        /// In which database.
        database: String,
        /// Its name.
        name: String,
    },
    /// A schema is made.
    Schema {
        /// In which database.
        database: String,
        /// Its name.
        name: String,
        /// Who owns it.
        owner: Option<String>,
    },
    /// Rights are given.
    Grant {
        /// In which database.
        database: String,
        /// To whom.
        role: String,
        /// On what, as a declaration says it.
        on: String,
        /// Who will make what it is about.
        by: Option<String>,
        /// Which.
        privileges: Vec<String>,
    },
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { database, name, roles, password } => {
                write!(f, "user {database}.{name} with {}", or_none(roles))?;
                match password {
                    Password::Literal => f.write_str("; its password stands in the script"),
                    Password::Variable(variable) => write!(f, "; its password is in {variable}"),
                    Password::Elsewhere => Ok(()),
                }
            }
            Self::Collection { database, name, other_options, .. } => {
                write!(f, "collection {database}.{name}")?;
                match other_options.as_slice() {
                    [] => Ok(()),
                    others => write!(f, "; not read: {}", others.join(", ")),
                }
            }
            Self::Index { database, collection, keys, unique } => {
                let unique = if *unique { "unique index" } else { "index" };
                write!(f, "{unique} of {database}.{collection} on {}", keys.join(", "))
            }
            Self::Initiate { set, members } => {
                write!(f, "replica set {} of {}", set.as_deref().unwrap_or("rs0"), or_none(members))
            }
            Self::Role { name, member_of, password, .. } => {
                write!(f, "role {name}")?;
                if !member_of.is_empty() {
                    write!(f, ", member of {}", member_of.join(", "))?;
                }
                match password {
                    Some(Password::Literal) => f.write_str("; its password stands in the script"),
                    Some(Password::Variable(variable)) => write!(f, "; its password is in {variable}"),
                    _ => Ok(()),
                }
            }
            Self::Membership { name, member_of } => {
                write!(f, "{name} becomes a member of {}", member_of.join(", "))
            }
            Self::Database { name, owner } => {
                write!(f, "database {name}")?;
                owner.iter().try_for_each(|owner| write!(f, ", owned by {owner}"))
            }
            Self::Extension { database, name } => write!(f, "extension {name} in {database}"),
            Self::Schema { database, name, .. } => write!(f, "schema {name} in {database}"),
            Self::Grant { database, role, on, privileges, .. } => {
                write!(f, "{} on {on} in {database} to {role}", privileges.join(", "))
            }
        }
    }
}

fn or_none(list: &[String]) -> String {
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

/// The declaration of what was found, for mainstay.toml. What has no place there is a remark.
pub(super) fn declaration(image: Image, found: &[Found]) -> String {
    if found.is_empty() {
        return String::new();
    }
    let mut toml = Toml::default();
    match image {
        Image::Mongo => mongo(&mut toml, found),
        Image::Postgres => postgres(&mut toml, found),
    }
    toml.0.trim_start().to_owned()
}

#[derive(Default)]
struct Toml(String);

impl Toml {
    fn section(&mut self, path: &[&str]) {
        let path: Vec<String> = path.iter().map(|part| key(part)).collect();
        self.0.push_str(&format!("\n[{}]\n", path.join(".")));
    }

    fn line(&mut self, name: &str, value: &str) {
        self.0.push_str(&format!("{} = {value}\n", key(name)));
    }

    fn text(&mut self, name: &str, value: &str) {
        self.line(name, &quoted(value));
    }

    fn texts(&mut self, name: &str, values: &[String]) {
        if !values.is_empty() {
            let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
            self.line(name, &format!("[{}]", values.join(", ")));
        }
    }

    fn password(&mut self, account: &str, password: &Password) {
        let variable = match password {
            Password::Variable(variable) => variable.clone(),
            Password::Literal | Password::Elsewhere => {
                let word =
                    |one: char| if one.is_ascii_alphanumeric() { one.to_ascii_uppercase() } else { '_' };
                format!("{}_PASSWORD", account.chars().map(word).collect::<String>())
            }
        };
        self.text("password_variable", &variable);
    }

    /// A line for whoever reads; names in it may hold anything, line breaks too.
    fn remark(&mut self, text: &str) {
        self.0.push_str(&format!("# {}\n", text.replace(char::is_control, " ")));
    }
}

/// A key, bare where it can be.
fn key(name: &str) -> String {
    let is_bare =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if is_bare { name.to_owned() } else { quoted(name) }
}

/// Text between quotes: JSON's escapes are TOML's, too, but for what JSON leaves as it is.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

fn mongo(toml: &mut Toml, found: &[Found]) {
    let statements = || found.iter().map(|found| &found.statement);
    if let Some((set, members)) = statements().find_map(|statement| match statement {
        Statement::Initiate { set, members } => Some((set, members)),
        _ => None,
    }) {
        toml.section(&["init", "mongo"]);
        toml.text("replica_set", set.as_deref().unwrap_or("rs0"));
        toml.texts("members", members);
    }
    let mut seen: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for statement in statements() {
        let (kind, database, name) = match statement {
            Statement::User { database, name, .. } => ("user", database, name),
            Statement::Collection { database, name, .. } => ("collection", database, name),
            _ => continue,
        };
        // A name can be declared once.
        match seen.get(&(kind, name.as_str())) {
            Some(own) if own == database => continue,
            Some(own) => {
                toml.remark(&format!(
                    "not declared: {kind} {database}.{name}, for that name is taken by {own}"
                ));
                continue;
            }
            None => drop(seen.insert((kind, name.as_str()), database)),
        }
        match statement {
            Statement::User { database, name, roles, password } => {
                toml.section(&["init", "mongo", "users", name]);
                toml.text("database", database);
                toml.password(name, password);
                toml.texts("roles", roles);
            }
            Statement::Collection { database, name, validator, other_options } => {
                toml.section(&["init", "mongo", "collections", name]);
                toml.text("database", database);
                validator.iter().for_each(|validator| toml.text("validator", validator));
                if !other_options.is_empty() {
                    toml.remark(&format!("not read: {}", other_options.join(", ")));
                }
            }
            _ => {}
        }
    }
    mongo_indexes(toml, found);
}

/// The database of the first index, which is that of the whole manifest.
pub(super) fn database_of_indexes(found: &[Found]) -> Option<&str> {
    found.iter().find_map(|found| match &found.statement {
        Statement::Index { database, .. } => Some(database.as_str()),
        _ => None,
    })
}

/// The indexes for the manifest, which is that of one database: of the first that has some.
fn mongo_indexes(toml: &mut Toml, found: &[Found]) {
    let Some(own) = database_of_indexes(found) else { return };
    let mut order: Vec<&str> = Vec::new();
    let mut indexes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut declared: BTreeSet<(&str, String)> = BTreeSet::new();
    let mut others: Vec<String> = Vec::new();
    for statement in found.iter().map(|found| &found.statement) {
        let Statement::Index { database, collection, keys, unique } = statement else { continue };
        if own != database {
            others.push(format!("not declared, for it is of another database: {statement}"));
            continue;
        }
        let keys: Vec<String> = keys.iter().map(|key| quoted(key)).collect();
        let unique = if *unique { ", unique = true" } else { "" };
        let one = format!("{{ keys = [{}]{unique} }}", keys.join(", "));
        if !declared.insert((collection.as_str(), one.clone())) {
            continue;
        }
        let list = indexes.entry(collection).or_insert_with(|| {
            order.push(collection);
            Vec::new()
        });
        list.push(one);
    }
    toml.section(&["mongo", "indexes"]);
    toml.remark(&format!("of database {own}, which `database` in [mongo] must name"));
    for collection in order {
        let list = indexes.remove(collection).unwrap_or_default();
        toml.line(collection, &format!("[{}]", list.join(", ")));
    }
    others.iter().for_each(|other| toml.remark(other));
}

/// What is found of a database, in the order of the scripts.
#[derive(Default)]
struct DatabaseFound<'a> {
    owner: Option<&'a str>,
    extensions: Vec<String>,
    schemas: Vec<(&'a str, Option<&'a str>)>,
}

fn postgres(toml: &mut Toml, found: &[Found]) {
    let statements = || found.iter().map(|found| &found.statement);
    let mut granted: BTreeMap<&str, BTreeSet<&String>> = BTreeMap::new();
    for statement in statements() {
        if let Statement::Membership { name, member_of } = statement {
            granted.entry(name).or_default().extend(member_of);
        }
    }
    let mut roles: BTreeSet<&str> = BTreeSet::new();
    for statement in statements() {
        let Statement::Role { name, attributes, member_of, password } = statement else { continue };
        // A name can be declared once; so can extensions and schemas below.
        if !roles.insert(name) {
            toml.remark(&format!("not declared again: role {name}"));
            continue;
        }
        toml.section(&["init", "postgres", "roles", name]);
        attributes.iter().for_each(|(name, value)| toml.line(name, value));
        let granted = granted.get(name.as_str()).into_iter().flatten().copied();
        let all: BTreeSet<&String> = member_of.iter().chain(granted).collect();
        toml.texts("member_of", &all.into_iter().cloned().collect::<Vec<_>>());
        password.iter().for_each(|password| toml.password(name, password));
    }
    postgres_databases(toml, found);
    for statement in statements() {
        let Statement::Grant { database, role, on, by, privileges } = statement else { continue };
        toml.0.push_str("\n[[init.postgres.privileges]]\n");
        toml.text("role", role);
        toml.text("database", database);
        toml.text("on", on);
        by.iter().for_each(|by| toml.text("by", by));
        toml.texts("grant", privileges);
    }
}

fn postgres_databases(toml: &mut Toml, found: &[Found]) {
    let mut order: Vec<&str> = Vec::new();
    let mut databases: BTreeMap<&str, DatabaseFound<'_>> = BTreeMap::new();
    let mut seen: BTreeSet<(&str, &str, &str)> = BTreeSet::new();
    for statement in found.iter().map(|found| &found.statement) {
        let database = match statement {
            Statement::Database { name, .. } => name.as_str(),
            Statement::Extension { database, .. } | Statement::Schema { database, .. } => database.as_str(),
            _ => continue,
        };
        let entry = databases.entry(database).or_insert_with(|| {
            order.push(database);
            DatabaseFound::default()
        });
        match statement {
            Statement::Database { owner, .. } => entry.owner = entry.owner.or(owner.as_deref()),
            Statement::Extension { name, .. } if seen.insert((database, "extension", name.as_str())) => {
                entry.extensions.push(name.clone());
            }
            Statement::Schema { name, owner, .. } if seen.insert((database, "schema", name.as_str())) => {
                entry.schemas.push((name, owner.as_deref()));
            }
            _ => {}
        }
    }
    for database in order {
        let Some(found) = databases.get(database) else { continue };
        toml.section(&["init", "postgres", "databases", database]);
        found.owner.iter().for_each(|owner| toml.text("owner", owner));
        toml.texts("extensions", &found.extensions);
        for (schema, owner) in &found.schemas {
            toml.section(&["init", "postgres", "databases", database, "schemas", *schema]);
            owner.iter().for_each(|owner| toml.text("owner", owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_twice_is_declared_once() {
        let role = || Statement::Role {
            name: "app".to_owned(),
            attributes: vec![],
            member_of: vec![],
            password: None,
        };
        let schema =
            || Statement::Schema { database: "shop".to_owned(), name: "audit".to_owned(), owner: None };
        let index = || Statement::Index {
            database: "shop".to_owned(),
            collection: "orders".to_owned(),
            keys: vec!["a".to_owned()],
            unique: false,
        };
        let declared = |image, statements: Vec<Statement>| {
            let one = |statement| Found { file: "a".to_owned(), line: 1, statement };
            declaration(image, &statements.into_iter().map(one).collect::<Vec<_>>())
        };
        let toml = declared(Image::Postgres, vec![role(), role(), schema(), schema()]);
        assert_eq!(toml.matches("[init.postgres.roles.app]").count(), 1, "{toml}");
        assert_eq!(toml.matches("schemas.audit]").count(), 1, "{toml}");
        let toml = declared(Image::Mongo, vec![index(), index()]);
        assert!(toml.contains("orders = [{ keys = [\"a\"] }]\n"), "{toml}");
    }

    #[test]
    fn what_a_declaration_has_no_place_for_is_a_remark() {
        let user = |database: &str| Statement::User {
            database: database.to_owned(),
            name: "app\n[x]".to_owned(),
            roles: vec![],
            password: Password::Elsewhere,
        };
        let collection = |database: &str| Statement::Collection {
            database: database.to_owned(),
            name: "orders".to_owned(),
            validator: None,
            other_options: vec![],
        };
        let index = |database: &str, key: &str| Statement::Index {
            database: database.to_owned(),
            collection: "orders".to_owned(),
            keys: vec![key.to_owned()],
            unique: false,
        };
        let found: Vec<Found> = [
            user("shop"),
            user("shop"),
            user("audit"),
            collection("shop"),
            collection("audit"),
            index("shop", "a"),
            index("audit", "b"),
            index("shop", "c"),
        ]
        .into_iter()
        .map(|statement| Found { file: "a.js".to_owned(), line: 1, statement })
        .collect();
        let toml = declaration(Image::Mongo, &found);
        let remarks: Vec<&str> = toml.lines().filter(|line| line.starts_with('#')).collect();
        assert_eq!(
            remarks,
            [
                "# not declared: user audit.app [x], for that name is taken by shop",
                "# not declared: collection audit.orders, for that name is taken by shop",
                "# of database shop, which `database` in [mongo] must name",
                "# not declared, for it is of another database: index of audit.orders on b",
            ],
            "{toml}"
        );
        assert!(toml.contains("orders = [{ keys = [\"a\"] }, { keys = [\"c\"] }]\n"), "{toml}");
        assert!(!toml.lines().any(|line| line == "[x]"), "{toml}");
    }
}
