//! Bringing a server to what is declared of it: who may log in, what exists, with which rights. Looking and doing, one thing at a time.
//!
//! Whoever decides looks at the whole of what is declared, gives one act, and looks again. So each act is one that the server takes whole or
//! not at all, and none of them drops, revokes or empties anything. Passwords cross beside the acts, never in them: an act may be stored and
//! shown. A server that is not initiated, or lets nobody in yet, cannot be asked everything: `None` stands for what it does not tell.

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use mainstay_guard::{Marker, Permit};
use mainstay_model::{Result, Secret};
use serde::{Deserialize, Serialize};

use crate::Namespace;

/// Which server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerIdentity {
    /// Its lasting identity, the one that permits name; where it cannot be told yet, `process`.
    pub fingerprint: String,
    /// The process that answers: the same before and after the act that makes the lasting identity known, another after a restart.
    pub process: String,
    /// Where it was reached, without credentials.
    pub address: String,
    /// Its version.
    pub version: String,
    /// The environment marker inside it, where it can be read.
    pub marker: Option<Marker>,
}

impl ServerIdentity {
    /// Whether a plan that was made for `fingerprint` was made for this server.
    pub fn is(&self, fingerprint: &str) -> bool {
        self.fingerprint == fingerprint || self.process == fingerprint
    }

    /// The one of its two names under which the plan was made, for a permit's comparison.
    pub fn as_planned(&self, fingerprint: &str) -> &str {
        if self.process == fingerprint { &self.process } else { &self.fingerprint }
    }
}

/// What a declared password is, compared with the one that the server keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PasswordMatch {
    /// The same.
    Same,
    /// Another one.
    Other,
    /// The account has none.
    None,
    /// Nobody can tell from here.
    Unknown,
}

/// What users have put into a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserData {
    /// What is counted: `collections`, `tables`, `keys`.
    pub what: &'static str,
    /// How many there are.
    pub count: u64,
}

/// How a server of documents takes us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentAccess {
    /// It asks nobody for a password.
    Open,
    /// As this user.
    User(String),
    /// It asks for one and has no users: from its own machine the first one may be made (the localhost exception).
    Exception,
}

/// What a server of documents is among others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// It was started without the name of a set.
    Standalone,
    /// It was started as a member of this set, if it says, and waits to be initiated.
    Awaiting,
    /// It is a member.
    Member {
        /// The set's name.
        set: String,
        /// Its members, sorted.
        members: Vec<String>,
    },
    /// It routes to shards.
    Router,
}

/// A server of documents at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocumentServer {
    /// Which one.
    pub identity: ServerIdentity,
    /// How it takes us.
    pub access: DocumentAccess,
    /// What it is among others.
    pub membership: Membership,
}

/// A user or a role by name: `shop.app`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// The database that it belongs to.
    pub database: String,
    /// Its name there.
    pub name: String,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.name)
    }
}

/// What a role may do to something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Privilege {
    /// The database; empty for every one.
    pub database: String,
    /// The collection; empty for every one.
    pub collection: String,
    /// What it may do, in the server's words.
    pub actions: BTreeSet<String>,
}

/// A user or a role as the server has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenPrincipal {
    /// Its name.
    pub name: Principal,
    /// Roles that it holds.
    pub roles: BTreeSet<Principal>,
    /// Privileges of its own; of a user none.
    pub privileges: Vec<Privilege>,
}

/// A collection as the server has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenCollection {
    /// Its name.
    pub namespace: Namespace,
    /// `collection`, `view`, `timeseries`.
    pub kind: String,
    /// Its options as canonical Extended JSON text.
    pub options: String,
}

/// One thing done to a server of documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "act", deny_unknown_fields)]
pub enum DocumentAct {
    /// Make the set, and wait for its primary.
    Initiate {
        /// Its name.
        set: String,
        /// Its members as `host:port`, one at least.
        members: Vec<String>,
    },
    /// Make a role.
    CreateRole {
        /// Its name.
        role: Principal,
        /// What it may do.
        privileges: Vec<Privilege>,
        /// Roles that it holds.
        roles: Vec<Principal>,
    },
    /// Give a role what it lacks.
    GrantToRole {
        /// Its name.
        role: Principal,
        /// What it may do besides.
        privileges: Vec<Privilege>,
        /// Roles that it holds besides.
        roles: Vec<Principal>,
    },
    /// Make a user, with a password.
    CreateUser {
        /// Its name.
        user: Principal,
        /// Roles that it holds.
        roles: Vec<Principal>,
    },
    /// Give a user the roles that it lacks.
    GrantToUser {
        /// Its name.
        user: Principal,
        /// Roles that it holds besides.
        roles: Vec<Principal>,
    },
    /// Give a user another password.
    SetPassword {
        /// Its name.
        user: Principal,
    },
    /// Make a collection.
    CreateCollection {
        /// Its name.
        namespace: Namespace,
        /// Its options as Extended JSON text.
        options: String,
    },
    /// Change what of a collection can be changed (`collMod`).
    ChangeCollection {
        /// Its name.
        namespace: Namespace,
        /// The options that change, as Extended JSON.
        options: String,
    },
    /// Build an index that is missing.
    CreateIndex {
        /// The collection.
        namespace: Namespace,
        /// The index as `createIndexes` takes it, as Extended JSON.
        index: String,
    },
}

/// Looks at a server of documents for what is declared of it, and does what is missing.
#[async_trait]
pub trait DocumentInit: Send + Sync {
    /// The server at a glance. Works before it is initiated, and before anybody can log in.
    ///
    /// # Errors
    /// `Auth` when it has users and none of the known passwords is right; `Unreachable`.
    async fn look(&self) -> Result<DocumentServer>;

    /// Its users, by name; `None` while it does not tell.
    async fn users(&self) -> Result<Option<Vec<SeenPrincipal>>>;

    /// The roles that users have made, by name; `None` while it does not tell.
    async fn roles(&self) -> Result<Option<Vec<SeenPrincipal>>>;

    /// Whether `password` lets `user` in.
    async fn check_password(&self, user: &Principal, password: &Secret) -> Result<PasswordMatch>;

    /// The collections of `database`, by name; `None` while it does not tell.
    async fn collections(&self, database: &str) -> Result<Option<Vec<SeenCollection>>>;

    /// The indexes of a collection as `listIndexes` describes them, canonical Extended JSON; empty when there is no such collection.
    async fn indexes(&self, namespace: &Namespace) -> Result<Vec<String>>;

    /// Whether a collection that is there holds no document.
    async fn is_empty(&self, namespace: &Namespace) -> Result<bool>;

    /// How many documents `validator` (Extended JSON) would refuse; `None` when they cannot be counted in time.
    async fn violations(&self, namespace: &Namespace, validator: &str) -> Result<Option<u64>>;

    /// Extended JSON as the server would give it back: canonical.
    ///
    /// # Errors
    /// `Config` when `text` is no document.
    fn canonical(&self, text: &str) -> Result<String>;

    /// What users have put in; `None` while it does not tell.
    async fn user_data(&self) -> Result<Option<UserData>>;

    /// Does one thing, whole or not at all. `password` is that of the user who is made or changed.
    ///
    /// # Errors
    /// `Refused` when `permit` is for another server or operation; `Auth` when a right lacks; `Precondition` when a password lacks; the server's.
    async fn act(&self, act: &DocumentAct, password: Option<&Secret>, permit: &Permit) -> Result<()>;

    /// Writes the environment marker.
    ///
    /// # Errors
    /// As [`DocumentInit::act`].
    async fn mark(&self, marker: &Marker, permit: &Permit) -> Result<()>;
}

/// What a relational role may be, beside its name. `None` where nothing is declared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleAttributes {
    /// May log in.
    pub login: Option<bool>,
    /// May make databases.
    pub createdb: Option<bool>,
    /// May make roles.
    pub createrole: Option<bool>,
    /// May replicate.
    pub replication: Option<bool>,
    /// Has the rights of the roles it is a member of without asking.
    pub inherit: Option<bool>,
    /// Sees every row whatever the policies of tables say.
    pub bypassrls: Option<bool>,
    /// How many connections it may have; -1 for any number.
    pub connection_limit: Option<i64>,
}

impl RoleAttributes {
    /// Each attribute that is said, as SQL and as a value: `LOGIN`, `NOLOGIN`, `CONNECTION LIMIT 5`.
    pub fn words(&self) -> Vec<String> {
        let switches = [
            ("LOGIN", self.login),
            ("CREATEDB", self.createdb),
            ("CREATEROLE", self.createrole),
            ("REPLICATION", self.replication),
            ("INHERIT", self.inherit),
            ("BYPASSRLS", self.bypassrls),
        ];
        let word = |(name, on): (&str, Option<bool>)| {
            on.map(|on| if on { name.to_owned() } else { format!("NO{name}") })
        };
        let limit = self.connection_limit.map(|limit| format!("CONNECTION LIMIT {limit}"));
        switches.into_iter().filter_map(word).chain(limit).collect()
    }

    /// Those of `self` that `seen` has otherwise.
    pub fn beyond(&self, seen: &Self) -> Self {
        fn other<T: Copy + PartialEq>(declared: Option<T>, seen: Option<T>) -> Option<T> {
            declared.filter(|value| seen != Some(*value))
        }
        Self {
            login: other(self.login, seen.login),
            createdb: other(self.createdb, seen.createdb),
            createrole: other(self.createrole, seen.createrole),
            replication: other(self.replication, seen.replication),
            inherit: other(self.inherit, seen.inherit),
            bypassrls: other(self.bypassrls, seen.bypassrls),
            connection_limit: other(self.connection_limit, seen.connection_limit),
        }
    }
}

/// A relational role as the server has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenRole {
    /// Its name.
    pub name: String,
    /// What it is.
    pub attributes: RoleAttributes,
    /// Whether it may do everything.
    pub superuser: bool,
    /// Roles it is a direct member of.
    pub member_of: BTreeSet<String>,
}

/// A database as the server has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenDatabase {
    /// Its name.
    pub name: String,
    /// Who owns it.
    pub owner: String,
    /// How text is stored.
    pub encoding: String,
    /// How text is sorted.
    pub locale: String,
}

/// What rights are given on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "on", deny_unknown_fields)]
pub enum GrantObject {
    /// The database.
    Database,
    /// A schema.
    Schema {
        /// Its name.
        schema: String,
    },
    /// A table or view.
    Table {
        /// Its schema.
        schema: String,
        /// Its name.
        table: String,
    },
    /// Every table and view that a schema has now.
    Tables {
        /// Its name.
        schema: String,
    },
    /// Every sequence that a schema has now.
    Sequences {
        /// Its name.
        schema: String,
    },
    /// Every table that `by` makes in a schema from now on.
    FutureTables {
        /// Its name.
        schema: String,
        /// Who will make them.
        by: String,
    },
    /// Every sequence that `by` makes in a schema from now on.
    FutureSequences {
        /// Its name.
        schema: String,
        /// Who will make them.
        by: String,
    },
}

impl fmt::Display for GrantObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database => f.write_str("database"),
            Self::Schema { schema } => write!(f, "schema {schema}"),
            Self::Table { schema, table } => write!(f, "table {schema}.{table}"),
            Self::Tables { schema } => write!(f, "tables in {schema}"),
            Self::Sequences { schema } => write!(f, "sequences in {schema}"),
            Self::FutureTables { schema, by } => write!(f, "future tables in {schema} by {by}"),
            Self::FutureSequences { schema, by } => write!(f, "future sequences in {schema} by {by}"),
        }
    }
}

/// Rights of a role on something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelationalGrant {
    /// Who has them.
    pub role: String,
    /// In which database.
    pub database: String,
    /// On what.
    pub object: GrantObject,
    /// Which, in the server's words: `SELECT`.
    pub privileges: BTreeSet<String>,
}

/// How a role's rights compare with declared ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SeenGrant {
    /// Declared ones that it lacks, somewhere.
    pub missing: BTreeSet<String>,
    /// Ones given to it by name that are not declared.
    pub beyond: BTreeSet<String>,
    /// What is spoken of is not there.
    pub absent: bool,
}

/// One thing done to a relational server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "act", deny_unknown_fields)]
pub enum RelationalAct {
    /// Make a role; with a password when it has one.
    CreateRole {
        /// Its name.
        role: String,
        /// What it is.
        attributes: RoleAttributes,
    },
    /// Change what a role is.
    AlterRole {
        /// Its name.
        role: String,
        /// What becomes otherwise.
        attributes: RoleAttributes,
    },
    /// Give a role another password.
    SetPassword {
        /// Its name.
        role: String,
    },
    /// Make a role a member of others.
    GrantRoles {
        /// Its name.
        role: String,
        /// Whose member it becomes.
        member_of: BTreeSet<String>,
    },
    /// Make a database.
    CreateDatabase {
        /// Its name.
        database: String,
        /// Who owns it.
        owner: Option<String>,
        /// How text is stored.
        encoding: Option<String>,
        /// How text is sorted.
        locale: Option<String>,
    },
    /// Give a database to another owner.
    OwnDatabase {
        /// Its name.
        database: String,
        /// Who owns it.
        owner: String,
    },
    /// Install an extension.
    CreateExtension {
        /// In which database.
        database: String,
        /// Its name.
        extension: String,
    },
    /// Make a schema.
    CreateSchema {
        /// In which database.
        database: String,
        /// Its name.
        schema: String,
        /// Who owns it.
        owner: Option<String>,
    },
    /// Give a schema to another owner.
    OwnSchema {
        /// In which database.
        database: String,
        /// Its name.
        schema: String,
        /// Who owns it.
        owner: String,
    },
    /// Give rights.
    Grant {
        /// Which, to whom, on what.
        grant: RelationalGrant,
    },
}

/// Looks at a relational server for what is declared of it, and does what is missing.
#[async_trait]
pub trait RelationalInit: Send + Sync {
    /// Which server this is; the configured database need not exist yet.
    async fn identity(&self) -> Result<ServerIdentity>;

    /// The database that the configuration names.
    fn database(&self) -> String;

    /// Its roles, but for its own (`pg_*`), by name.
    async fn roles(&self) -> Result<Vec<SeenRole>>;

    /// Whether `password` is that of `role`, by what the server keeps of it.
    async fn check_password(&self, role: &str, password: &Secret) -> Result<PasswordMatch>;

    /// Its databases, by name.
    async fn databases(&self) -> Result<Vec<SeenDatabase>>;

    /// The extensions that `database` has, and those that it could have.
    async fn extensions(&self, database: &str) -> Result<(BTreeSet<String>, BTreeSet<String>)>;

    /// The schemas of `database` with their owners.
    async fn schemas(&self, database: &str) -> Result<Vec<(String, String)>>;

    /// How the rights that are declared compare with those that hold.
    async fn compare_grant(&self, grant: &RelationalGrant) -> Result<SeenGrant>;

    /// What users have put into `database`.
    async fn user_data(&self, database: &str) -> Result<Option<UserData>>;

    /// Does one thing, in one statement or transaction.
    ///
    /// # Errors
    /// As [`DocumentInit::act`].
    async fn act(&self, act: &RelationalAct, password: Option<&Secret>, permit: &Permit) -> Result<()>;

    /// Writes the environment marker into the configured database.
    ///
    /// # Errors
    /// As [`DocumentInit::act`].
    async fn mark(&self, marker: &Marker, permit: &Permit) -> Result<()>;
}

/// Where a server of keys keeps its users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UserKeeping {
    /// In a file of users, which it writes itself (`ACL SAVE`).
    UserFile(String),
    /// In its configuration file, which it writes itself (`CONFIG REWRITE`).
    ConfigFile(String),
    /// Nowhere: they are gone when it ends.
    Nowhere,
}

/// A user of a server of keys, as the server has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenKeyUser {
    /// Its name.
    pub name: String,
    /// Whether it may log in.
    pub on: bool,
    /// Its rules in the server's words, passwords not among them: rules of keys, of channels, of commands, selectors.
    pub rules: String,
}

/// One thing done to a server of keys, and kept where it keeps its users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "act", deny_unknown_fields)]
pub enum KeyServerAct {
    /// Make a user.
    CreateUser {
        /// Its name.
        user: String,
        /// Its rules, without passwords.
        rules: Vec<String>,
    },
    /// Give a user other rules; passwords stay.
    SetRules {
        /// Its name.
        user: String,
        /// Its rules, without passwords.
        rules: Vec<String>,
    },
    /// Give a user another password, in the place of all it had.
    SetPassword {
        /// Its name.
        user: String,
    },
}

/// Looks at a server of keys for what is declared of it, and does what is missing.
#[async_trait]
pub trait KeyServerInit: Send + Sync {
    /// Which server this is.
    async fn identity(&self) -> Result<ServerIdentity>;

    /// Where it keeps its users.
    async fn keeping(&self) -> Result<UserKeeping>;

    /// A user; `None` when there is none of that name.
    async fn user(&self, name: &str) -> Result<Option<SeenKeyUser>>;

    /// Whether `password` is the one of `user`.
    async fn check_password(&self, user: &str, password: &Secret) -> Result<PasswordMatch>;

    /// Rules as the server would give them back, comparable with [`SeenKeyUser::rules`].
    ///
    /// # Errors
    /// `Config` when one of them sets a password or a state, or cannot stand in a rule.
    fn canonical(&self, rules: &[String]) -> Result<String>;

    /// What users have put in.
    async fn user_data(&self) -> Result<Option<UserData>>;

    /// Does one thing and keeps it.
    ///
    /// # Errors
    /// As [`DocumentInit::act`].
    async fn act(&self, act: &KeyServerAct, password: Option<&Secret>, permit: &Permit) -> Result<()>;

    /// Writes the environment marker.
    ///
    /// # Errors
    /// As [`DocumentInit::act`].
    async fn mark(&self, marker: &Marker, permit: &Permit) -> Result<()>;
}
