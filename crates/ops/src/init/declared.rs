//! What is declared of the servers, as values. Reading it from a file is the binary's; what it means for a server is decided beside.
//!
//! A password is declared by the place that holds it, and read before: where the place is empty there is none, and an account that is to be made
//! says so.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use mainstay_engine::{Namespace, Principal, Privilege, RelationalGrant, RoleAttributes};
use mainstay_indexes::DeclaredIndex;
use mainstay_model::{EnvironmentClass, Secret};

/// What holds a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordPlace {
    /// A variable of the environment, or the file that its twin with `_FILE` names.
    Variable(String),
    /// A file.
    File(PathBuf),
}

impl fmt::Display for PasswordPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// A password and where it comes from.
#[derive(Debug, Clone)]
pub struct DeclaredPassword {
    /// Where.
    pub place: PasswordPlace,
    /// The password, when the place holds one.
    pub secret: Option<Secret>,
}

/// The environment's marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The environment's name.
    pub name: String,
    /// How protected it is.
    pub class: EnvironmentClass,
}

/// A replica set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredSet {
    /// Its name.
    pub name: String,
    /// Its members as `host:port`; empty for the server alone, as it is addressed.
    pub members: Vec<String>,
}

/// A role of a server of documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredDocumentRole {
    /// Its name.
    pub role: Principal,
    /// What it may do.
    pub privileges: Vec<Privilege>,
    /// Roles that it holds.
    pub roles: BTreeSet<Principal>,
}

/// A user of a server of documents.
#[derive(Debug, Clone)]
pub struct DeclaredDocumentUser {
    /// Its name.
    pub user: Principal,
    /// Its password.
    pub password: DeclaredPassword,
    /// Roles that it holds.
    pub roles: BTreeSet<Principal>,
}

/// Roles of `admin` that let a user make others.
const ADMINISTRATORS: [&str; 2] = ["root", "userAdminAnyDatabase"];

impl DeclaredDocumentUser {
    /// Whether it may make other users, everywhere.
    pub fn is_administrator(&self) -> bool {
        let administers =
            |role: &Principal| role.database == "admin" && ADMINISTRATORS.contains(&role.name.as_str());
        self.user.database == "admin" && self.roles.iter().any(administers)
    }
}

/// A collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredCollection {
    /// Its name.
    pub namespace: Namespace,
    /// Options that can be changed afterwards: Extended JSON with `validator`, `validationLevel`, `validationAction`, `expireAfterSeconds`.
    pub changeable: String,
    /// Options that it is made with, for good: Extended JSON with `capped`, `size`, `max`, `collation`, `timeseries`.
    pub fixed: String,
}

/// What is declared of a server of documents.
#[derive(Debug, Clone, Default)]
pub struct DeclaredDocuments {
    /// The replica set that it is a member of.
    pub set: Option<DeclaredSet>,
    /// Roles, in any order: each is made behind those that it holds.
    pub roles: Vec<DeclaredDocumentRole>,
    /// Users; those who may make others come first.
    pub users: Vec<DeclaredDocumentUser>,
    /// Collections.
    pub collections: Vec<DeclaredCollection>,
    /// The indexes of the manifest, by collection.
    pub indexes: Vec<(Namespace, Vec<DeclaredIndex>)>,
    /// The marker.
    pub mark: Option<Mark>,
}

/// A role of a relational server.
#[derive(Debug, Clone)]
pub struct DeclaredRole {
    /// Its name.
    pub name: String,
    /// What it is.
    pub attributes: RoleAttributes,
    /// Roles that it is a member of.
    pub member_of: BTreeSet<String>,
    /// Its password, when it has one.
    pub password: Option<DeclaredPassword>,
}

/// A database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeclaredDatabase {
    /// Its name.
    pub name: String,
    /// Who owns it.
    pub owner: Option<String>,
    /// How text is stored.
    pub encoding: Option<String>,
    /// How text is sorted.
    pub locale: Option<String>,
    /// Extensions in it.
    pub extensions: Vec<String>,
    /// Schemas in it, with their owners.
    pub schemas: Vec<(String, Option<String>)>,
}

/// What is declared of a relational server.
#[derive(Debug, Clone, Default)]
pub struct DeclaredRelational {
    /// Roles, in any order: memberships come when all are there.
    pub roles: Vec<DeclaredRole>,
    /// Databases.
    pub databases: Vec<DeclaredDatabase>,
    /// Rights.
    pub grants: Vec<RelationalGrant>,
    /// The marker.
    pub mark: Option<Mark>,
}

/// A user of a server of keys.
#[derive(Debug, Clone)]
pub struct DeclaredKeyUser {
    /// Its name.
    pub name: String,
    /// Its rules, without passwords.
    pub rules: Vec<String>,
    /// Its password; without one it is made and stays off.
    pub password: Option<DeclaredPassword>,
}

/// What is declared of a server of keys.
#[derive(Debug, Clone, Default)]
pub struct DeclaredKeys {
    /// Its users.
    pub users: Vec<DeclaredKeyUser>,
    /// The marker.
    pub mark: Option<Mark>,
}
