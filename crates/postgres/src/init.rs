//! A PostgreSQL brought to what is declared of it: roles, databases, schemas, extensions, rights.
//!
//! Each act is one statement, which the server takes whole or not at all; none of them drops or revokes. A password never crosses: the client
//! makes the SCRAM verifier (RFC 5803) that the server would, and because even that is nobody's business, the server is asked not to log the
//! statement where our role may ask so. Whether a password is right is reckoned from the verifier in `pg_authid`, which superusers may read; for
//! others it is not known, because a server that trusts everybody lets in with any password. The configured database need not exist: the
//! server is then asked from `postgres`.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use mainstay_engine::{
    GrantObject, PasswordMatch, RelationalAct, RelationalGrant, RelationalInit, RoleAttributes, SeenDatabase,
    SeenGrant, SeenRole, ServerIdentity, UserData,
};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{Error, ErrorKind, Result, ResultExt, Secret, StoreKind};
use postgres_protocol::password::scram_sha_256;
use sha2::{Digest as _, Sha256};
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use crate::config::{PostgresConfig, Settings};
use crate::probe::{fingerprint, read_marker, write_marker};
use crate::quote::{literal, name as quoted};
use crate::session::Session;

/// What a permit must be for.
const OPERATION: &str = "init.apply";
/// Where to be connected while the configured database does not exist, in order.
const ELSEWHERE: [&str; 2] = ["postgres", "template1"];
/// The most rounds of a stored verifier that are reckoned; a server makes 4,096 unless it is told otherwise.
const ROUNDS_MAX: u32 = 1_000_000;
/// What would write a statement with a verifier into the server's log. Only who may set them needs to: the others' verifiers are logged.
const QUIET: [&str; 3] = [
    "SET log_statement = 'none'",
    "SET log_min_duration_statement = -1",
    "SET log_min_error_statement = 'panic'",
];

/// A PostgreSQL that is being initiated. Each call opens a connection of its own and ends it.
#[derive(Debug)]
pub struct PostgresInit {
    settings: Settings,
}

impl PostgresInit {
    /// The server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL or the CA file cannot be used.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }

    fn settings_of(&self, database: &str) -> Settings {
        let mut settings = self.settings.clone();
        settings.driver.dbname(database);
        settings
    }

    /// Settings of a database that is there, for questions to the whole server.
    async fn anywhere(&self) -> Result<Settings> {
        let configured = self.settings.clone();
        let Err(error) = Session::open(&configured).await else { return Ok(configured) };
        if error.kind() != ErrorKind::NotFound {
            return Err(error.context("connect to PostgreSQL"));
        }
        for name in ELSEWHERE {
            let settings = self.settings_of(name);
            if Session::open(&settings).await.is_ok() {
                return Ok(settings);
            }
        }
        Err(error.context("connect to PostgreSQL"))
    }
}

fn required(session: &Session<'_>, row: &SimpleQueryRow, column: &str) -> Result<String> {
    session.text(row, column).map(str::to_owned)
}

#[async_trait]
impl RelationalInit for PostgresInit {
    async fn identity(&self) -> Result<ServerIdentity> {
        let settings = self.anywhere().await?;
        let session = Session::open(&settings).await.context("connect to PostgreSQL")?;
        let row = session.row("SELECT current_setting('server_version') AS version").await?;
        let fingerprint = fingerprint(&session).await.context("read facts of PostgreSQL")?;
        let is_configured = settings.database() == self.settings.database();
        let marker = match is_configured {
            true => read_marker(&session).await.context("read environment marker of PostgreSQL")?,
            false => None,
        };
        Ok(ServerIdentity {
            process: fingerprint.clone(),
            fingerprint,
            address: self.settings.address.clone(),
            version: required(&session, &row, "version")?,
            marker,
        })
    }

    fn database(&self) -> String {
        self.settings.database().to_owned()
    }

    async fn roles(&self) -> Result<Vec<SeenRole>> {
        let settings = self.anywhere().await?;
        let session = Session::open(&settings).await.context("connect to PostgreSQL")?;
        let members = session
            .rows(
                "SELECT m.rolname AS member, g.rolname AS role FROM pg_auth_members a \
                 JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid",
            )
            .await
            .context("list roles")?;
        let mut member_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in &members {
            let member = required(&session, row, "member")?;
            member_of.entry(member).or_default().insert(required(&session, row, "role")?);
        }
        let rows = session
            .rows(
                "SELECT rolname, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolinherit, \
                 rolbypassrls, rolconnlimit FROM pg_roles WHERE rolname NOT LIKE 'pg\\_%' ORDER BY rolname",
            )
            .await
            .context("list roles")?;
        rows.iter()
            .map(|row| {
                let truth = |column: &str| Some(session.truth(row, column));
                let name = required(&session, row, "rolname")?;
                Ok(SeenRole {
                    attributes: RoleAttributes {
                        login: truth("rolcanlogin"),
                        createdb: truth("rolcreatedb"),
                        createrole: truth("rolcreaterole"),
                        replication: truth("rolreplication"),
                        inherit: truth("rolinherit"),
                        bypassrls: truth("rolbypassrls"),
                        connection_limit: session.value(row, "rolconnlimit")?,
                    },
                    superuser: session.truth(row, "rolsuper"),
                    member_of: member_of.remove(&name).unwrap_or_default(),
                    name,
                })
            })
            .collect()
    }

    async fn check_password(&self, role: &str, password: &Secret) -> Result<PasswordMatch> {
        let settings = self.anywhere().await?;
        let session = Session::open(&settings).await.context("connect to PostgreSQL")?;
        let query = format!("SELECT rolpassword FROM pg_authid WHERE rolname = {}", literal(role));
        let Some(rows) = session.rows_unless(&[SqlState::INSUFFICIENT_PRIVILEGE], &query).await? else {
            return Ok(PasswordMatch::Unknown);
        };
        let kept = rows.first().and_then(|row| row.try_get("rolpassword").ok().flatten());
        Ok(kept.map_or(PasswordMatch::None, |kept| is_verified_by(password, kept)))
    }

    async fn databases(&self) -> Result<Vec<SeenDatabase>> {
        let settings = self.anywhere().await?;
        let session = Session::open(&settings).await.context("connect to PostgreSQL")?;
        let rows = session
            .rows(
                "SELECT datname, pg_get_userbyid(datdba) AS owner, pg_encoding_to_char(encoding) AS encoding, datcollate \
                 FROM pg_database WHERE NOT datistemplate ORDER BY datname",
            )
            .await
            .context("list databases")?;
        rows.iter()
            .map(|row| {
                Ok(SeenDatabase {
                    name: required(&session, row, "datname")?,
                    owner: required(&session, row, "owner")?,
                    encoding: required(&session, row, "encoding")?,
                    locale: required(&session, row, "datcollate")?,
                })
            })
            .collect()
    }

    async fn extensions(&self, database: &str) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        let settings = self.settings_of(database);
        let session = Session::open(&settings).await.context("connect to PostgreSQL")?;
        let rows = session
            .rows("SELECT name, installed_version IS NOT NULL AS installed FROM pg_available_extensions")
            .await
            .with_context(|| format!("list extensions of {database}"))?;
        let (mut installed, mut available) = (BTreeSet::new(), BTreeSet::new());
        for row in &rows {
            let list = if session.truth(row, "installed") { &mut installed } else { &mut available };
            list.insert(required(&session, row, "name")?);
        }
        Ok((installed, available))
    }

    async fn schemas(&self, database: &str) -> Result<Vec<(String, String)>> {
        let settings = self.settings_of(database);
        let session = Session::open(&settings).await.context("connect to PostgreSQL")?;
        let rows = session
            .rows("SELECT nspname, pg_get_userbyid(nspowner) AS owner FROM pg_namespace ORDER BY nspname")
            .await
            .with_context(|| format!("list schemas of {database}"))?;
        rows.iter()
            .map(|row| Ok((required(&session, row, "nspname")?, required(&session, row, "owner")?)))
            .collect()
    }

    async fn compare_grant(&self, grant: &RelationalGrant) -> Result<SeenGrant> {
        let settings = self.settings_of(&grant.database);
        let session = Session::open(&settings).await.context("connect to PostgreSQL")?;
        let doing = || format!("compare the rights of {} on {}", grant.role, grant.object);
        if let Some(present) = presence_query(&grant.object)
            && session.rows(&present).await.with_context(doing)?.is_empty()
        {
            return Ok(SeenGrant { absent: true, missing: grant.privileges.clone(), ..SeenGrant::default() });
        }
        let mut seen = SeenGrant::default();
        for row in session.rows(&held_query(grant)).await.with_context(doing)? {
            if !session.truth(&row, "held") {
                seen.missing.insert(required(&session, &row, "privilege")?);
            }
        }
        for row in session.rows(&given_query(grant)).await.with_context(doing)? {
            seen.beyond.insert(required(&session, &row, "privilege")?);
        }
        seen.beyond.retain(|given| !grant.privileges.contains(given));
        Ok(seen)
    }

    async fn user_data(&self, database: &str) -> Result<Option<UserData>> {
        let settings = self.settings_of(database);
        let session = Session::open(&settings).await.context("connect to PostgreSQL")?;
        let query = "SELECT count(*) AS tables FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                     WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'mainstay') \
                     AND n.nspname NOT LIKE 'pg\\_temp\\_%' AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')";
        let row = session.row(query).await.with_context(|| format!("count the tables of {database}"))?;
        Ok(Some(UserData { what: "tables", count: session.number(&row, "tables")? }))
    }

    async fn act(&self, act: &RelationalAct, password: Option<&Secret>, permit: &Permit) -> Result<()> {
        let settings = match database_of(act) {
            Some(database) => self.settings_of(database),
            None => self.anywhere().await?,
        };
        let session = Session::open(&settings).await.context("connect to PostgreSQL")?;
        permit.check(OPERATION, StoreKind::Postgres, &fingerprint(&session).await?)?;
        let statement = statement_of(act, password)?;
        if statement.holds_verifier {
            for quiet in QUIET {
                session.rows_unless(&[SqlState::INSUFFICIENT_PRIVILEGE], quiet).await?;
            }
        }
        session.command(&statement.text).await?.map_err(|(_, error)| error)
    }

    async fn mark(&self, marker: &Marker, permit: &Permit) -> Result<()> {
        let session = Session::open(&self.settings).await.context("connect to PostgreSQL")?;
        permit.check(OPERATION, StoreKind::Postgres, &fingerprint(&session).await?)?;
        write_marker(&session, marker).await.context("write environment marker of PostgreSQL")
    }
}

/// The database in which an act must be done; `None` for those to the whole server.
fn database_of(act: &RelationalAct) -> Option<&str> {
    match act {
        RelationalAct::CreateExtension { database, .. }
        | RelationalAct::CreateSchema { database, .. }
        | RelationalAct::OwnSchema { database, .. } => Some(database),
        RelationalAct::Grant { grant } => Some(&grant.database),
        RelationalAct::CreateRole { .. }
        | RelationalAct::AlterRole { .. }
        | RelationalAct::SetPassword { .. }
        | RelationalAct::GrantRoles { .. }
        | RelationalAct::CreateDatabase { .. }
        | RelationalAct::OwnDatabase { .. } => None,
    }
}

struct Statement {
    text: String,
    holds_verifier: bool,
}

fn statement_of(act: &RelationalAct, password: Option<&Secret>) -> Result<Statement> {
    let verifier = || {
        password
            .map(|password| format!(" PASSWORD {}", literal(&scram_sha_256(password.expose().as_bytes()))))
    };
    let mut holds_verifier = false;
    let text = match act {
        RelationalAct::CreateRole { role, attributes } => {
            let password = verifier();
            holds_verifier = password.is_some();
            let words = attributes.words().join(" ");
            format!("CREATE ROLE {} {words}{}", quoted(role), password.unwrap_or_default())
        }
        RelationalAct::AlterRole { role, attributes } => {
            format!("ALTER ROLE {} {}", quoted(role), attributes.words().join(" "))
        }
        RelationalAct::SetPassword { role } => {
            holds_verifier = true;
            let password = verifier().ok_or_else(|| {
                Error::new(ErrorKind::Precondition, format!("no password is given for role {role}"))
                    .with_state("nothing was changed")
            })?;
            format!("ALTER ROLE {}{password}", quoted(role))
        }
        RelationalAct::GrantRoles { role, member_of } => {
            format!("GRANT {} TO {}", list(member_of.iter().map(|name| quoted(name))), quoted(role))
        }
        RelationalAct::CreateDatabase { database, owner, encoding, locale } => {
            let mut text = format!("CREATE DATABASE {}", quoted(database));
            if let Some(owner) = owner {
                text.push_str(&format!(" OWNER {}", quoted(owner)));
            }
            if encoding.is_some() || locale.is_some() {
                text.push_str(" TEMPLATE template0");
            }
            if let Some(encoding) = encoding {
                text.push_str(&format!(" ENCODING {}", literal(encoding)));
            }
            if let Some(locale) = locale {
                text.push_str(&format!(" LOCALE {}", literal(locale)));
            }
            text
        }
        RelationalAct::OwnDatabase { database, owner } => {
            format!("ALTER DATABASE {} OWNER TO {}", quoted(database), quoted(owner))
        }
        RelationalAct::CreateExtension { extension, .. } => {
            format!("CREATE EXTENSION IF NOT EXISTS {}", quoted(extension))
        }
        RelationalAct::CreateSchema { schema, owner, .. } => {
            let owner = owner.as_ref().map(|owner| format!(" AUTHORIZATION {}", quoted(owner)));
            format!("CREATE SCHEMA {}{}", quoted(schema), owner.unwrap_or_default())
        }
        RelationalAct::OwnSchema { schema, owner, .. } => {
            format!("ALTER SCHEMA {} OWNER TO {}", quoted(schema), quoted(owner))
        }
        RelationalAct::Grant { grant } => grant_statement(grant)?,
    };
    Ok(Statement { text, holds_verifier })
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn grant_statement(grant: &RelationalGrant) -> Result<String> {
    let is_word = |word: &String| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase());
    if !grant.privileges.iter().all(is_word) {
        return Err(Error::new(ErrorKind::Usage, "a privilege must be one word in capitals")
            .with_state("nothing was changed"));
    }
    let privileges = list(grant.privileges.iter().cloned());
    let to = quoted(&grant.role);
    Ok(match &grant.object {
        GrantObject::Database => {
            format!("GRANT {privileges} ON DATABASE {} TO {to}", quoted(&grant.database))
        }
        GrantObject::Schema { schema } => format!("GRANT {privileges} ON SCHEMA {} TO {to}", quoted(schema)),
        GrantObject::Table { schema, table } => {
            format!("GRANT {privileges} ON TABLE {}.{} TO {to}", quoted(schema), quoted(table))
        }
        GrantObject::Tables { schema } => {
            format!("GRANT {privileges} ON ALL TABLES IN SCHEMA {} TO {to}", quoted(schema))
        }
        GrantObject::Sequences { schema } => {
            format!("GRANT {privileges} ON ALL SEQUENCES IN SCHEMA {} TO {to}", quoted(schema))
        }
        GrantObject::FutureTables { schema, by } => future(by, schema, &privileges, "TABLES", &to),
        GrantObject::FutureSequences { schema, by } => future(by, schema, &privileges, "SEQUENCES", &to),
    })
}

fn future(by: &str, schema: &str, privileges: &str, what: &str, to: &str) -> String {
    format!(
        "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} GRANT {privileges} ON {what} TO {to}",
        quoted(by),
        quoted(schema)
    )
}

/// A query that gives a row when what rights are given on is there.
fn presence_query(object: &GrantObject) -> Option<String> {
    let schema = match object {
        GrantObject::Database => return None,
        GrantObject::Table { schema, table } => {
            return Some(format!(
                "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
                literal(schema),
                literal(table)
            ));
        }
        GrantObject::Schema { schema }
        | GrantObject::Tables { schema }
        | GrantObject::Sequences { schema }
        | GrantObject::FutureTables { schema, .. }
        | GrantObject::FutureSequences { schema, .. } => schema,
    };
    Some(format!("SELECT 1 FROM pg_namespace WHERE nspname = {}", literal(schema)))
}

/// Rows of `privilege`, `held`: whether the role has it on all that is spoken of, however it came by it.
fn held_query(grant: &RelationalGrant) -> String {
    let role = literal(&grant.role);
    let words = list(grant.privileges.iter().map(|word| literal(word)));
    let wanted = format!("unnest(ARRAY[{words}]::text[]) AS p(privilege)");
    match &grant.object {
        GrantObject::Database => format!(
            "SELECT privilege, has_database_privilege({role}, {}, privilege) AS held FROM {wanted}",
            literal(&grant.database)
        ),
        GrantObject::Schema { schema } => format!(
            "SELECT privilege, has_schema_privilege({role}, {}, privilege) AS held FROM {wanted}",
            literal(schema)
        ),
        GrantObject::Table { .. } | GrantObject::Tables { .. } => format!(
            "SELECT privilege, bool_and(has_table_privilege({role}, c.oid, privilege)) AS held FROM {wanted}, {} GROUP BY privilege",
            relations(&grant.object)
        ),
        GrantObject::Sequences { .. } => format!(
            "SELECT privilege, bool_and(has_sequence_privilege({role}, c.oid, privilege)) AS held FROM {wanted}, {} GROUP BY privilege",
            relations(&grant.object)
        ),
        GrantObject::FutureTables { .. } | GrantObject::FutureSequences { .. } => format!(
            "SELECT privilege, privilege IN (SELECT given.privilege FROM ({}) AS given) AS held FROM {wanted}",
            given_query(grant)
        ),
    }
}

/// The relations that `object` speaks of, as `c`.
fn relations(object: &GrantObject) -> String {
    let (schema, more) = match object {
        GrantObject::Table { schema, table } => (schema, format!("AND c.relname = {}", literal(table))),
        GrantObject::Sequences { schema } => (schema, "AND c.relkind = 'S'".to_owned()),
        GrantObject::Tables { schema }
        | GrantObject::Schema { schema }
        | GrantObject::FutureTables { schema, .. }
        | GrantObject::FutureSequences { schema, .. } => {
            (schema, "AND c.relkind IN ('r', 'p', 'v', 'm', 'f')".to_owned())
        }
        GrantObject::Database => return "pg_class c".to_owned(),
    };
    format!(
        "(SELECT c.oid, c.relacl, c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} {more}) AS c",
        literal(schema)
    )
}

/// Rows of `privilege`: what was given to the role by name. What an owner has of itself is not given.
fn given_query(grant: &RelationalGrant) -> String {
    let grantee = format!("(SELECT oid FROM pg_roles WHERE rolname = {})", literal(&grant.role));
    let given = |from: &str, acl: &str, owner: &str, filter: &str| {
        format!(
            "SELECT DISTINCT a.privilege_type AS privilege FROM {from}, LATERAL aclexplode({acl}) a \
             WHERE a.grantee = {grantee} AND a.grantee <> {owner} {filter}"
        )
    };
    match &grant.object {
        GrantObject::Database => given(
            "pg_database d",
            "d.datacl",
            "d.datdba",
            &format!("AND d.datname = {}", literal(&grant.database)),
        ),
        GrantObject::Schema { schema } => {
            given("pg_namespace n", "n.nspacl", "n.nspowner", &format!("AND n.nspname = {}", literal(schema)))
        }
        GrantObject::Table { .. } | GrantObject::Tables { .. } | GrantObject::Sequences { .. } => {
            given(&relations(&grant.object), "c.relacl", "c.relowner", "")
        }
        GrantObject::FutureTables { schema, by } => future_given(&given, schema, by, 'r'),
        GrantObject::FutureSequences { schema, by } => future_given(&given, schema, by, 'S'),
    }
}

fn future_given(
    given: &dyn Fn(&str, &str, &str, &str) -> String,
    schema: &str,
    by: &str,
    kind: char,
) -> String {
    let filter = format!(
        "AND f.defaclobjtype = '{kind}' AND f.defaclnamespace = (SELECT oid FROM pg_namespace WHERE nspname = {}) \
         AND f.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = {})",
        literal(schema),
        literal(by)
    );
    given("pg_default_acl f", "f.defaclacl", "f.defaclrole", &filter)
}

/// Whether `kept`, a SCRAM verifier, is one of `password`.
fn is_verified_by(password: &Secret, kept: &str) -> PasswordMatch {
    let Some(verifier) = Verifier::parse(kept) else { return PasswordMatch::Unknown };
    let prepared = stringprep::saslprep(password.expose());
    let prepared = prepared.as_ref().map_or(password.expose(), AsRef::as_ref);
    let salted =
        pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(prepared.as_bytes(), &verifier.salt, verifier.rounds);
    let mut sign = Hmac::<Sha256>::new_from_slice(&salted).expect("HMAC takes keys of any length");
    sign.update(b"Client Key");
    match Sha256::digest(sign.finalize().into_bytes())[..] == verifier.stored_key[..] {
        true => PasswordMatch::Same,
        false => PasswordMatch::Other,
    }
}

/// `SCRAM-SHA-256$<rounds>:<salt>$<stored key>:<server key>`.
struct Verifier {
    rounds: u32,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
}

impl Verifier {
    fn parse(text: &str) -> Option<Self> {
        let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (rounds, salt) = head.split_once(':')?;
        let rounds = rounds.parse().ok().filter(|rounds| (1..=ROUNDS_MAX).contains(rounds))?;
        let stored_key = BASE64.decode(keys.split_once(':')?.0).ok()?;
        Some(Self { rounds, salt: BASE64.decode(salt).ok()?, stored_key })
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_knows_its_password() {
        let secret = Secret::new("pl\u{e4}in 'pass' $word");
        let kept = scram_sha_256(secret.expose().as_bytes());
        assert_eq!(is_verified_by(&secret, &kept), PasswordMatch::Same);
        assert_eq!(is_verified_by(&Secret::new("other"), &kept), PasswordMatch::Other);
        for unknown in [
            "md5d41d8cd98f00b204e9800998ecf8427e",
            "",
            "SCRAM-SHA-256$9999999:eA==$eA==:eA==",
            "SCRAM-SHA-256$4096:é$",
        ] {
            assert_eq!(is_verified_by(&secret, unknown), PasswordMatch::Unknown, "{unknown}");
        }
    }

    #[test]
    fn statements_hold_verifiers_and_never_passwords() {
        let act = RelationalAct::CreateRole {
            role: "o'\"brien".to_owned(),
            attributes: RoleAttributes { login: Some(true), ..RoleAttributes::default() },
        };
        let statement = statement_of(&act, Some(&Secret::new("canary"))).unwrap();
        assert!(statement.holds_verifier);
        assert!(
            statement.text.starts_with("CREATE ROLE \"o'\"\"brien\" LOGIN PASSWORD 'SCRAM-SHA-256$4096:")
        );
        assert!(!statement.text.contains("canary"));
        let set = RelationalAct::SetPassword { role: "app".to_owned() };
        assert_eq!(statement_of(&set, None).err().unwrap().kind(), ErrorKind::Precondition);
    }

    #[test]
    fn rights_are_given_on_what_is_named_and_by_words_alone() {
        let grant = |object, words: &[&str]| RelationalGrant {
            role: "app".to_owned(),
            database: "shop".to_owned(),
            object,
            privileges: words.iter().map(|word| (*word).to_owned()).collect(),
        };
        let schema = || "a\"b".to_owned();
        for (object, expected) in [
            (GrantObject::Database, "GRANT CONNECT ON DATABASE \"shop\" TO \"app\""),
            (GrantObject::Schema { schema: schema() }, "GRANT CONNECT ON SCHEMA \"a\"\"b\" TO \"app\""),
            (
                GrantObject::FutureTables { schema: schema(), by: "own".to_owned() },
                "ALTER DEFAULT PRIVILEGES FOR ROLE \"own\" IN SCHEMA \"a\"\"b\" GRANT CONNECT ON TABLES TO \"app\"",
            ),
        ] {
            assert_eq!(grant_statement(&grant(object, &["CONNECT"])).unwrap(), expected);
        }
        let hostile = grant(GrantObject::Database, &["ALL; DROP DATABASE shop"]);
        assert_eq!(grant_statement(&hostile).unwrap_err().kind(), ErrorKind::Usage);
    }
}
