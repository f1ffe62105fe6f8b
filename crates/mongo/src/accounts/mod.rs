//! Users and roles: read from where the server keeps them, and merged without a moment in which anybody is missing.
//!
//! `createUser` wants passwords, which nobody has: the server keeps what SCRAM needs to check one and cannot tell it. So documents travel as
//! the server keeps them, and each comes by the one way that can do no harm:
//!
//! - **Absent ones** through `_mergeAuthzCollections`, which takes them out of two collections that the caller fills; stock tools use it the
//!   same way. It is always asked not to drop, because its drop removes whoever is not in the two collections, also those made a moment
//!   ago. Asked so, it leaves documents of the same name as they are (seen on 6.0.27) and tells no failure, so what it did is read back.
//! - **Users that are otherwise** by an update of the one document in `admin.system.users`. The server sees the write and forgets what it had
//!   cached: the old password logs in at once, the new one no more (seen on 6.0.27).
//! - **Roles that are otherwise** by `updateRole`. Nobody but the server may write `admin.system.roles`.
//!
//! The account that merges, and the roles it holds, stay as they are: a merge in the middle of which it lost its rights could not be repeated.
//!
//! Needs the role `restore` on `admin` to merge, which may do all of this, and `backup` to read. Refuses documents in the form of servers before
//! 4.0, whose credentials no server of today can check, and documents whose `_id` is not their database and name.

mod brought;

use std::collections::{BTreeMap, BTreeSet};

use bson::{Bson, Document, RawArrayBuf, RawBsonRef, RawDocumentBuf, cstr, rawdoc};
use bytes::Bytes;
use mainstay_engine::{AccountKind, AccountMerge, AccountName, Accounts, Namespace};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, Result, ResultExt};

use self::brought::{Brought, RoleForm, brought, damaged};
use crate::create;
use crate::metadata::array;
use crate::raw;
use crate::server::MongoServer;

/// Where the server takes the users to merge from.
const USERS: &str = "tempusers";
/// The same of roles.
const ROLES: &str = "temproles";
/// The version of the form of users' documents since MongoDB 4.0 (SCRAM only).
const AUTH_VERSION: i64 = 5;
/// How many documents are put into one command.
const DOCUMENTS_PER_COMMAND: usize = 100;
/// How many roles are asked for at once: an answer holds what they inherit, too.
const ROLES_PER_QUESTION: usize = 50;
/// How many names an error tells.
const NAMES_TOLD_MAX: usize = 10;

/// All users and roles, or those of one database.
pub(crate) async fn read(server: &MongoServer, database: Option<&str>) -> Result<Accounts> {
    let all = async |collection: &str, filter: RawDocumentBuf| -> Result<Bytes> {
        let found = find(server, collection, filter).await.map_err(needs_a_role("backup"))?;
        Ok(found.iter().flat_map(|document| document.as_bytes().to_vec()).collect())
    };
    Ok(Accounts {
        users: all("system.users", filter(database)).await?,
        roles: all("system.roles", filter(database)).await?,
        version: all("system.version", rawdoc! { "_id": "authSchema" }).await?,
    })
}

/// What [`merge`] would do now.
pub(crate) async fn compare(
    server: &MongoServer,
    accounts: &Accounts,
    database: Option<&str>,
) -> Result<AccountMerge> {
    let brought = Split::of(accounts, database)?;
    let decided = decide(server, &brought, database).await.map_err(needs_a_role("restore"));
    decided.context("compare users and roles").map(Decided::merge)
}

/// Adds users and roles to those that are there, and replaces those of the same name.
pub(crate) async fn merge(
    server: &MongoServer,
    accounts: &Accounts,
    database: Option<&str>,
    permit: &Permit,
) -> Result<AccountMerge> {
    server.authorize_filling(permit).await.context("merge users and roles")?;
    let brought = Split::of(accounts, database)?;
    let merging = async {
        let decided = decide(server, &brought, database).await?;
        if !decided.added.is_empty() {
            add(server, &decided.added).await?;
        }
        replace_roles(server, decided.replaced_of(AccountKind::Role)).await?;
        replace_users(server, &decided.replaced_of(AccountKind::User).collect::<Vec<_>>()).await?;
        check_taken(server, &brought, &decided, database).await?;
        Ok(decided.merge())
    };
    merging.await.map_err(needs_a_role("restore")).context("merge users and roles")
}

/// What is brought, by kind.
struct Split {
    users: Vec<Brought>,
    roles: Vec<Brought>,
}

impl Split {
    /// # Errors
    /// `Unsupported` for another form of users' documents; `Corrupt` for what is no users and roles.
    fn of(accounts: &Accounts, database: Option<&str>) -> Result<Self> {
        // A server that never had a user tells no version.
        if !accounts.users.is_empty() || !accounts.roles.is_empty() {
            check_version(&accounts.version)?;
        }
        Ok(Self {
            users: brought(AccountKind::User, &accounts.users, database)?,
            roles: brought(AccountKind::Role, &accounts.roles, database)?,
        })
    }
}

fn check_version(version: &[u8]) -> Result<()> {
    let found = raw::find(version, "currentVersion").ok().flatten().and_then(|field| field.number());
    if found == Some(AUTH_VERSION) {
        return Ok(());
    }
    let found = found.map_or_else(|| "is not told".to_owned(), |found| format!("is {found}"));
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("the version of the users' form {found}, this server's is {AUTH_VERSION}"),
    )
    .with_state("no user was changed")
    .with_hint("leave `--users-and-roles` out and make the users by hand"))
}

/// What becomes of each.
#[derive(Default)]
struct Decided<'a> {
    added: Vec<&'a Brought>,
    replaced: Vec<&'a Brought>,
    kept: Vec<&'a Brought>,
    unchanged: usize,
}

impl<'a> Decided<'a> {
    fn put(&mut self, brought: &'a Brought, standing: Standing, own: &BTreeSet<AccountName>) {
        match standing {
            Standing::Absent => self.added.push(brought),
            Standing::Equal => self.unchanged += 1,
            Standing::Otherwise if own.contains(&brought.name) => self.kept.push(brought),
            Standing::Otherwise => self.replaced.push(brought),
        }
    }

    fn replaced_of(&self, kind: AccountKind) -> impl Iterator<Item = &'a Brought> {
        self.replaced.iter().copied().filter(move |brought| brought.name.kind == kind)
    }

    fn merge(self) -> AccountMerge {
        let names = |list: Vec<&Brought>| {
            let mut names: Vec<AccountName> = list.into_iter().map(|brought| brought.name.clone()).collect();
            names.sort();
            names
        };
        AccountMerge {
            scratch: if self.added.is_empty() { Vec::new() } else { scratch().into() },
            added: names(self.added),
            replaced: names(self.replaced),
            kept: names(self.kept),
            unchanged: self.unchanged,
        }
    }
}

/// How something brought stands at the server.
enum Standing {
    Absent,
    Equal,
    Otherwise,
}

async fn decide<'a>(server: &MongoServer, brought: &'a Split, database: Option<&str>) -> Result<Decided<'a>> {
    let own = own_accounts(server).await?;
    let users = present_users(server, database).await?;
    let roles = present_roles(server, &brought.roles).await?;
    let mut decided = Decided::default();
    for user in &brought.users {
        decided.put(user, standing_user(user, &users), &own);
    }
    for role in &brought.roles {
        let standing = match roles.get(&role.name) {
            None => Standing::Absent,
            Some(present) if *present == RoleForm::of(&role.document)? => Standing::Equal,
            Some(_) => Standing::Otherwise,
        };
        decided.put(role, standing, &own);
    }
    Ok(decided)
}

fn standing_user(user: &Brought, present: &BTreeMap<AccountName, RawDocumentBuf>) -> Standing {
    match present.get(&user.name) {
        None => Standing::Absent,
        Some(document) if document.as_bytes() == user.document.as_bytes() => Standing::Equal,
        Some(_) => Standing::Otherwise,
    }
}

/// The account that is logged in here, and the roles it holds, inherited ones included.
async fn own_accounts(server: &MongoServer) -> Result<BTreeSet<AccountName>> {
    let status = server.ask("admin", rawdoc! { "connectionStatus": 1 }).await?;
    let names = |list: &str, kind: AccountKind, field: &str| -> Vec<AccountName> {
        let listed = status.get_document("authInfo").and_then(|info| info.get_array(list));
        let listed = listed.map(Vec::as_slice).unwrap_or_default();
        listed.iter().filter_map(Bson::as_document).filter_map(|it| name_in(it, kind, field)).collect()
    };
    let users = names("authenticatedUsers", AccountKind::User, "user");
    let roles = names("authenticatedUserRoles", AccountKind::Role, "role");
    Ok(users.into_iter().chain(roles).collect())
}

fn name_in(document: &Document, kind: AccountKind, field: &str) -> Option<AccountName> {
    let database = document.get_str("db").ok()?.to_owned();
    Some(AccountName { kind, database, name: document.get_str(field).ok()?.to_owned() })
}

async fn present_users(
    server: &MongoServer,
    database: Option<&str>,
) -> Result<BTreeMap<AccountName, RawDocumentBuf>> {
    let found = find(server, "system.users", filter(database)).await?;
    let named = |document: RawDocumentBuf| {
        let text = |field| Some(document.get_str(field).ok()?.to_owned());
        let name = AccountName { kind: AccountKind::User, database: text("db")?, name: text("user")? };
        Some((name, document))
    };
    Ok(found.into_iter().filter_map(named).collect())
}

/// Those of `wanted` that are there. Asked by name, because the role `restore` may see roles but not where they are kept.
async fn present_roles(server: &MongoServer, wanted: &[Brought]) -> Result<BTreeMap<AccountName, RoleForm>> {
    let mut present = BTreeMap::new();
    for some in wanted.chunks(ROLES_PER_QUESTION) {
        let names: Vec<RawDocumentBuf> = some
            .iter()
            .map(|role| rawdoc! { "role": role.name.name.as_str(), "db": role.name.database.as_str() })
            .collect();
        let question = rawdoc! {
            "rolesInfo": array(&names), "showPrivileges": true, "showAuthenticationRestrictions": true,
        };
        let reply = server.ask("admin", question).await?;
        for role in reply.get_array("roles").map(Vec::as_slice).unwrap_or_default() {
            let Some((role, name)) =
                role.as_document().and_then(|role| Some((role, name_in(role, AccountKind::Role, "role")?)))
            else {
                continue;
            };
            let document = RawDocumentBuf::try_from(role).map_err(|_| damaged(AccountKind::Role))?;
            present.insert(name, RoleForm::of(&document)?);
        }
    }
    Ok(present)
}

/// Adds those that are absent, all at once.
async fn add(server: &MongoServer, absent: &[&Brought]) -> Result<()> {
    let of = |kind| absent.iter().filter(move |it| it.name.kind == kind).map(|it| &it.document);
    let adding = async {
        clear(server).await?;
        fill(server, USERS, of(AccountKind::User).collect()).await?;
        fill(server, ROLES, of(AccountKind::Role).collect()).await?;
        let command = rawdoc! {
            "_mergeAuthzCollections": 1,
            "tempUsersCollection": format!("admin.{USERS}"),
            "tempRolesCollection": format!("admin.{ROLES}"),
            "drop": false,
            "db": "",
            "writeConcern": create::majority(),
        };
        server.tell("admin", command).await.map(drop)
    };
    let added: Result<()> = adding.await;
    // Credentials are not to lie about, whatever became of the merge.
    let cleared = clear(server).await;
    added.and(cleared)
}

/// The collections that additions are handed over in.
fn scratch() -> [Namespace; 2] {
    [USERS, ROLES].map(|name| Namespace::new("admin", name))
}

/// Removes them, whoever made them: what a merge that was cut off has left, be it ours or a stock tool's, would be merged, too.
async fn clear(server: &MongoServer) -> Result<()> {
    for name in scratch() {
        create::drop_collection(server, &name).await?;
    }
    Ok(())
}

async fn fill(server: &MongoServer, collection: &str, documents: Vec<&RawDocumentBuf>) -> Result<()> {
    // Made also when it stays empty: the server looks into both.
    server.tell("admin", rawdoc! { "create": collection }).await?;
    for some in documents.chunks(DOCUMENTS_PER_COMMAND) {
        let insert = rawdoc! { "insert": collection, "documents": array(some.iter().copied()) };
        let reply = server.tell("admin", insert).await?;
        if reply.contains_key("writeErrors") {
            return Err(Error::new(
                ErrorKind::Server,
                format!("the server refused documents of admin.{collection}"),
            ));
        }
    }
    Ok(())
}

/// Makes roles that are there what the documents say. A role may inherit from another only while that does not close a ring, so that the order
/// matters: what is refused is tried again as long as others get on.
async fn replace_roles<'a>(server: &MongoServer, roles: impl Iterator<Item = &'a Brought>) -> Result<()> {
    let mut left: Vec<&Brought> = roles.collect();
    while !left.is_empty() {
        let (before, mut refused, mut failure) = (left.len(), Vec::new(), None);
        for role in left {
            let updated = server.tell(&role.name.database, update_role(role)?).await;
            match updated.with_context(|| format!("replace {}", role.name)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Server => {
                    refused.push(role);
                    failure = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match failure {
            Some(failure) if refused.len() == before => return Err(failure),
            _ => left = refused,
        }
    }
    Ok(())
}

/// A role's `updateRole`: what the document does not name is taken away.
fn update_role(role: &Brought) -> Result<RawDocumentBuf> {
    let mut command = rawdoc! { "updateRole": role.name.name.as_str() };
    for field in [cstr!("privileges"), cstr!("roles"), cstr!("authenticationRestrictions")] {
        let list = match role.document.get(field) {
            Ok(Some(RawBsonRef::Array(list))) => list.to_owned(),
            Ok(None) => RawArrayBuf::new(),
            _ => return Err(damaged(AccountKind::Role)),
        };
        command.append(field, list);
    }
    command.append(cstr!("writeConcern"), create::majority());
    Ok(command)
}

/// Puts documents in the place of those of the same name.
async fn replace_users(server: &MongoServer, users: &[&Brought]) -> Result<()> {
    for some in users.chunks(DOCUMENTS_PER_COMMAND) {
        let updates: Vec<RawDocumentBuf> = some
            .iter()
            .map(|user| rawdoc! { "q": { "_id": user.id() }, "u": user.document.clone() })
            .collect();
        let command = rawdoc! {
            "update": "system.users", "updates": array(&updates), "ordered": false, "writeConcern": create::majority(),
        };
        let reply = server.tell("admin", command).await?;
        let refused = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        if !refused.is_empty() {
            let place = |error: &Bson| error.as_document()?.get_i32("index").ok();
            let names = refused.iter().filter_map(|error| some.get(usize::try_from(place(error)?).ok()?));
            return Err(not_taken(&names.map(|user| &user.name).collect::<Vec<_>>()));
        }
    }
    Ok(())
}

/// Reads back what was brought: the server adds what it can and says nothing of the rest. A role is believed to be what the server has accepted.
async fn check_taken(
    server: &MongoServer,
    brought: &Split,
    decided: &Decided<'_>,
    database: Option<&str>,
) -> Result<()> {
    let users = present_users(server, database).await?;
    let roles = present_roles(server, &brought.roles).await?;
    let kept: BTreeSet<&AccountName> = decided.kept.iter().map(|brought| &brought.name).collect();
    let users = { brought.users.iter() }
        .filter(|user| !kept.contains(&user.name) && !matches!(standing_user(user, &users), Standing::Equal));
    let roles = brought.roles.iter().filter(|role| !roles.contains_key(&role.name));
    let missing: Vec<&AccountName> = users.chain(roles).map(|brought| &brought.name).collect();
    if missing.is_empty() { Ok(()) } else { Err(not_taken(&missing)) }
}

fn not_taken(names: &[&AccountName]) -> Error {
    let mut told: Vec<String> = names.iter().take(NAMES_TOLD_MAX).map(ToString::to_string).collect();
    if names.len() > told.len() {
        told.push(format!("{} more", names.len() - told.len()));
    }
    Error::new(ErrorKind::Server, format!("the server did not take {}", told.join(", ")))
        .with_hint("look for the reason in the server's log, and repeat; what it has taken stays")
}

fn filter(database: Option<&str>) -> RawDocumentBuf {
    database.map_or_else(RawDocumentBuf::new, |database| rawdoc! { "db": database })
}

async fn find(server: &MongoServer, collection: &str, filter: RawDocumentBuf) -> Result<Vec<RawDocumentBuf>> {
    let found = server.list("admin", rawdoc! { "find": collection, "filter": filter }).await;
    found.with_context(|| format!("read admin.{collection}"))
}

/// Says which role would do.
fn needs_a_role(role: &'static str) -> impl Fn(Error) -> Error {
    move |error| match error.kind() {
        ErrorKind::Auth => error.with_hint(format!(
            "grant the role `{role}` on `admin` to this user, or leave users and roles out"
        )),
        _ => error,
    }
}
