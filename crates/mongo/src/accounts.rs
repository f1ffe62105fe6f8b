//! Users and roles: read from where the server keeps them, and merged by the server itself.
//!
//! `createUser` wants passwords, which nobody has: the server keeps what SCRAM needs to check one and cannot tell it. The command
//! `_mergeAuthzCollections` takes users and roles as the server keeps them, out of two collections that the caller fills; stock tools use it
//! the same way. It is always asked not to drop: whoever is not in the two collections stays.
//!
//! Needs the role `restore` on `admin` to merge and `backup` to read, or the same rights one by one. Refuses documents in the form of
//! servers before 4.0, whose credentials no server of today can check.

use bson::{RawDocumentBuf, rawdoc};
use bytes::Bytes;
use mainstay_engine::{Accounts, Namespace, document_frames};
use mainstay_guard::Permit;
use mainstay_model::{Error, ErrorKind, Result, ResultExt};

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
const DOCUMENTS_PER_INSERT: usize = 100;

/// All users and roles, or those of one database.
pub(crate) async fn read(server: &MongoServer, database: Option<&str>) -> Result<Accounts> {
    let filter = database.map_or_else(RawDocumentBuf::new, |database| rawdoc! { "db": database });
    let find = async |collection: &str, filter: RawDocumentBuf| -> Result<Bytes> {
        let found = server.list("admin", rawdoc! { "find": collection, "filter": filter }).await;
        let found =
            found.map_err(needs_a_role("backup")).with_context(|| format!("read admin.{collection}"))?;
        Ok(found.iter().flat_map(|document| document.as_bytes().to_vec()).collect())
    };
    Ok(Accounts {
        users: find("system.users", filter.clone()).await?,
        roles: find("system.roles", filter).await?,
        version: find("system.version", rawdoc! { "_id": "authSchema" }).await?,
    })
}

/// Adds users and roles to those that are there.
pub(crate) async fn merge(
    server: &MongoServer,
    accounts: &Accounts,
    database: Option<&str>,
    permit: &Permit,
) -> Result<()> {
    server.authorize_filling(permit).await.context("merge users and roles")?;
    check_version(&accounts.version)?;
    let merging = async {
        clear(server).await?;
        fill(server, USERS, &accounts.users).await?;
        fill(server, ROLES, &accounts.roles).await?;
        let command = rawdoc! {
            "_mergeAuthzCollections": 1,
            "tempUsersCollection": format!("admin.{USERS}"),
            "tempRolesCollection": format!("admin.{ROLES}"),
            "drop": false,
            "db": database.unwrap_or_default(),
            "writeConcern": create::majority(),
        };
        server.tell("admin", command).await.map(drop)
    };
    let merged: Result<()> = merging.await;
    // Credentials are not to lie about, whatever became of the merge.
    let cleared = clear(server).await;
    merged.and(cleared).map_err(needs_a_role("restore")).context("merge users and roles")
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
    .with_hint("load without `--users-and-roles` and make the users by hand"))
}

async fn clear(server: &MongoServer) -> Result<()> {
    for name in [USERS, ROLES] {
        create::drop_collection(server, &Namespace::new("admin", name)).await?;
    }
    Ok(())
}

async fn fill(server: &MongoServer, collection: &str, documents: &[u8]) -> Result<()> {
    let damaged = || Error::new(ErrorKind::Corrupt, "users or roles are not framed documents");
    let documents: Vec<RawDocumentBuf> = document_frames(documents)
        .map(|frame| {
            RawDocumentBuf::from_bytes(frame.map_err(|_| damaged())?.to_vec()).map_err(|_| damaged())
        })
        .collect::<Result<_>>()?;
    // Made also when it stays empty: the server looks into both.
    server.tell("admin", rawdoc! { "create": collection }).await?;
    for some in documents.chunks(DOCUMENTS_PER_INSERT) {
        let reply = server.tell("admin", rawdoc! { "insert": collection, "documents": array(some) }).await?;
        if reply.contains_key("writeErrors") {
            return Err(Error::new(
                ErrorKind::Server,
                format!("the server refused documents of admin.{collection}"),
            ));
        }
    }
    Ok(())
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
