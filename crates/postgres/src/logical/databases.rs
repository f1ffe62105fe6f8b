//! Databases as wholes: what they are, making, renaming, removing and wiping them.
//!
//! Making and dropping a database cannot be undone by a transaction, so each is preceded by a look at what it is about to change: a database in
//! progress is known by the mark in its comment, one that is wiped by its number and the environment marker inside it. No statement makes a
//! database and its comment, so it is made with a limit of connections that nobody else would choose: who was killed between the two finds
//! it again by that, and takes it for its own while nothing is in it.

use std::collections::BTreeSet;

use mainstay_engine::{DatabaseDefinition, DatabaseFacts, ServerFacts, WorkingDatabase};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{EnvironmentClass, Error, ErrorKind, Result, ResultExt, StoreKind};
use tokio_postgres::SimpleQueryRow;
use tokio_postgres::error::SqlState;

use crate::config::Settings;
use crate::probe::{fingerprint, read_marker, write_marker};
use crate::quote::{literal, name as quoted};
use crate::session::Session;

/// Databases that the server makes for itself.
const OWN: &[&str] = &["postgres", "template0", "template1"];
/// Where to be connected while another database is dropped, in order.
const ELSEWHERE: &[&str] = &["postgres", "template1"];

const DEFINITION: &str = "\
    SELECT d.oid, d.datname, pg_get_userbyid(d.datdba) AS owner, pg_encoding_to_char(d.encoding) AS encoding, \
    to_jsonb(d) ->> 'datlocprovider' AS provider, d.datcollate, d.datctype, \
    coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale, to_jsonb(d) ->> 'daticurules' AS rules, \
    t.spcname FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = ";

/// The databases of a server.
pub(crate) struct Databases<'a> {
    settings: &'a Settings,
}

impl<'a> Databases<'a> {
    pub(crate) fn new(settings: &'a Settings) -> Self {
        Self { settings }
    }

    async fn open(&self) -> Result<Session<'a>> {
        Session::open(self.settings).await.context("connect to PostgreSQL")
    }

    /// The same server's database called `name`.
    pub(crate) fn settings_of(&self, name: &str) -> Settings {
        let mut settings = self.settings.clone();
        settings.driver.dbname(name);
        settings
    }

    /// What the server says of itself.
    pub(crate) async fn server(&self) -> Result<ServerFacts> {
        self.server_of(&self.open().await?).await
    }

    async fn server_of(&self, session: &Session<'_>) -> Result<ServerFacts> {
        let row = session
            .row(
                "SELECT current_setting('server_version') AS version, \
                 CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END AS role",
            )
            .await?;
        let version = session.text(&row, "version")?;
        Ok(ServerFacts {
            version: version.split_whitespace().next().unwrap_or(version).to_owned(),
            topology: session.text(&row, "role")?.to_owned(),
            fingerprint: fingerprint(session).await?,
            address: self.settings.address.clone(),
        })
    }

    /// Refuses a permit for something else than restoring on this server.
    pub(super) async fn check(&self, permit: &Permit) -> Result<()> {
        permit.check("restore.apply", StoreKind::Postgres, &self.server().await?.fingerprint)
    }

    /// The database called `name`, or the configured one.
    pub(crate) async fn facts(&self, name: Option<&str>) -> Result<DatabaseFacts> {
        let settings = match name {
            Some(name) => self.settings_of(name),
            None => self.settings.clone(),
        };
        let session = Session::open(&settings).await.context("connect to PostgreSQL")?;
        self.facts_of(&session).await
    }

    async fn facts_of(&self, session: &Session<'_>) -> Result<DatabaseFacts> {
        let row = session.row(&format!("{DEFINITION} current_database()")).await?;
        let size = session
            .row(
                "SELECT pg_database_size(current_database()) AS bytes, (SELECT coalesce(sum(greatest(c.reltuples, s.n_live_tup, 0)), 0)::bigint \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.relkind = 'r' \
                 AND n.nspname NOT IN ('pg_catalog', 'information_schema')) AS rows",
            )
            .await?;
        Ok(DatabaseFacts {
            server: self.server_of(session).await?,
            oid: session.value(&row, "oid")?.unwrap_or_default(),
            definition: definition(session, &row)?,
            bytes: session.number(&size, "bytes")?,
            rows: session.number(&size, "rows")?,
        })
    }

    /// The names of all roles.
    pub(super) async fn roles(&self) -> Result<BTreeSet<String>> {
        let session = self.open().await?;
        let rows = session.rows("SELECT rolname FROM pg_roles").await?;
        rows.iter().map(|row| session.text(row, "rolname").map(str::to_owned)).collect()
    }

    /// Whether there is a database called `name`.
    pub(super) async fn has(&self, name: &str) -> Result<bool> {
        Ok(mark_of(&self.open().await?, name).await?.is_some())
    }

    /// Makes an empty database that bears its mark.
    pub(crate) async fn create(
        &self,
        working: &WorkingDatabase,
        like: &DatabaseDefinition,
        owner: Option<&str>,
    ) -> Result<()> {
        let session = self.open().await?;
        create(&session, &working.name, like, owner, Some(limit_of(&working.mark))).await?;
        said(session.command(&comment(&working.name, Some(&working.mark))).await?)
    }

    /// Gives a database that bears its mark its name.
    pub(super) async fn place(&self, working: &WorkingDatabase, name: &str) -> Result<()> {
        let session = self.open().await?;
        check_mark(&session, working).await?;
        // One message is one transaction: it gets its name and loses its mark, or neither.
        let (old, new) = (quoted(&working.name), quoted(name));
        let placed = format!(
            "{}; ALTER DATABASE {old} CONNECTION LIMIT -1; ALTER DATABASE {old} RENAME TO {new}",
            comment(&working.name, None)
        );
        said(session.command(&placed).await?)
    }

    /// Removes a database that bears its mark, or was only just made; whether there was one.
    pub(crate) async fn remove(&self, working: &WorkingDatabase) -> Result<bool> {
        self.drop_working(working, "").await
    }

    /// As [`Databases::remove`], also when connections of ours are not quite gone: they are ended.
    pub(crate) async fn discard(&self, working: &WorkingDatabase) -> Result<bool> {
        self.drop_working(working, " WITH (FORCE)").await
    }

    async fn drop_working(&self, working: &WorkingDatabase, how: &str) -> Result<bool> {
        let session = self.open().await?;
        match mark_of(&session, &working.name).await? {
            None => return Ok(false),
            Some(None) if self.is_just_made(&session, working).await? => {}
            Some(_) => check_mark(&session, working).await?,
        }
        let drop = format!("DROP DATABASE IF EXISTS {}{how}", quoted(&working.name));
        said(session.command(&drop).await?)?;
        Ok(true)
    }

    /// Databases whose names begin with `prefix` and that nobody is connected to, with their marks. Dropping one that is used would be waited for.
    pub(crate) async fn unused(&self, prefix: &str) -> Result<Vec<(String, Option<String>)>> {
        let session = self.open().await?;
        let query = format!(
            "SELECT d.datname, shobj_description(d.oid, 'pg_database') AS mark FROM pg_database d \
             WHERE starts_with(d.datname, {}) AND NOT d.datistemplate \
             AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datid = d.oid) ORDER BY d.datname",
            literal(prefix)
        );
        let rows = session.rows(&query).await?;
        rows.iter()
            .map(|row| Ok((session.text(row, "datname")?.to_owned(), session.value(row, "mark")?)))
            .collect()
    }

    /// Whether `working`, which bears no mark, was made for it: it has its limit of connections, and is as the server makes databases.
    async fn is_just_made(&self, session: &Session<'_>, working: &WorkingDatabase) -> Result<bool> {
        let (name, limit) = (literal(&working.name), limit_of(&working.mark));
        let query = format!("SELECT 1 FROM pg_database WHERE datname = {name} AND datconnlimit = {limit}");
        if session.rows(&query).await?.is_empty() {
            return Ok(false);
        }
        let settings = self.settings_of(&working.name);
        let inside = Session::open(&settings).await.context("look into it")?;
        Ok(inside.rows(&anything()).await?.is_empty())
    }

    /// The configured database and the marker in it.
    pub(super) async fn resettable(&self) -> Result<(DatabaseFacts, Option<Marker>)> {
        let session = self.open().await?;
        self.resettable_on(&session).await
    }

    async fn resettable_on(&self, session: &Session<'_>) -> Result<(DatabaseFacts, Option<Marker>)> {
        let facts = self.facts_of(session).await?;
        let name = &facts.definition.name;
        if OWN.contains(&name.as_str()) {
            return Err(Error::new(ErrorKind::Precondition, format!("{name} is the server's own database"))
                .with_state("nothing was changed")
                .with_hint("name the application's database in the PostgreSQL URL"));
        }
        let marker = read_marker(session).await?;
        Ok((facts, marker))
    }

    /// Wipes the configured database.
    pub(super) async fn reset(&self, oid: u32, like: &DatabaseDefinition, marker: &Marker) -> Result<()> {
        let checked = self.check_resettable(oid, marker).await?;
        let elsewhere = self.elsewhere(&like.name).await?;
        let session = Session::open(&elsewhere).await.context("connect to PostgreSQL")?;
        // Behind one address there may be several servers, and a copy of one has the same identifiers.
        if process(&session).await? != checked {
            return Err(Error::new(
                ErrorKind::StalePlan,
                "another server answers than the one whose environment marker was read",
            )
            .with_state("nothing was changed")
            .with_hint("name one server in the PostgreSQL URL, by its own address"));
        }
        // The name may have been given to another database since.
        let rows = session.rows(&format!("{DEFINITION} {}", literal(&like.name))).await?;
        let now = rows.first().map(|row| session.value::<u32>(row, "oid")).transpose()?.flatten();
        if now != Some(oid) {
            return Err(another_database(&like.name));
        }
        let drop = format!("DROP DATABASE {} WITH (FORCE)", quoted(&like.name));
        said(session.command(&drop).await?).map_err(|error| error.with_state("nothing was changed"))?;
        let gone = |error: Error| {
            error.with_state(format!("database {} was dropped and is not there", like.name)).with_hint(
                format!(
                    "make it: `{}`",
                    statement(&like.name, like, Some(&like.owner), Some(&like.tablespace))
                ),
            )
        };
        create(&session, &like.name, like, Some(&like.owner), None).await.map_err(gone)?;
        let unmarked = |error: Error| {
            error
                .with_state(format!("database {} is new and empty, and has no environment marker", like.name))
                .with_hint("type `mainstay environment mark --store postgres`")
        };
        let renewed = self.settings_of(&like.name);
        let session = Session::open(&renewed).await.map_err(unmarked)?;
        write_marker(&session, marker).await.map_err(unmarked)
    }

    /// The last look: the same database, and the marker inside it still says that it may be lost. Gives the process that said so.
    async fn check_resettable(&self, oid: u32, marker: &Marker) -> Result<String> {
        let session = self.open().await?;
        let (facts, found) = self.resettable_on(&session).await?;
        if facts.oid != oid {
            return Err(another_database(&facts.definition.name));
        }
        if found.as_ref() != Some(marker) || marker.class != EnvironmentClass::Development {
            return Err(Error::new(
                ErrorKind::StalePlan,
                format!("the environment marker in database {} is another one by now", facts.definition.name),
            )
            .with_state("nothing was changed")
            .with_hint("`mainstay environment show` tells what it says"));
        }
        process(&session).await
    }

    /// Another database of the server that lets us in.
    async fn elsewhere(&self, than: &str) -> Result<Settings> {
        let mut refused = None;
        for name in ELSEWHERE.iter().filter(|name| **name != than) {
            let settings = self.settings_of(name);
            match Session::open(&settings).await {
                Ok(_) => return Ok(settings),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused
            .unwrap_or_else(|| Error::new(ErrorKind::Internal, "there is no other database"))
            .with_state("nothing was changed"))
    }
}

/// Which process of which server answers: two that run at the same time differ in it, whatever they were copied from.
async fn process(session: &Session<'_>) -> Result<String> {
    const QUESTION: &str = "SELECT pg_postmaster_start_time()::text || ' ' || coalesce(inet_server_addr()::text, '') \
                            || ' ' || coalesce(inet_server_port()::text, '') AS process";
    let rows = session.rows(QUESTION).await?;
    let row =
        rows.first().ok_or_else(|| Error::new(ErrorKind::Server, "the server does not say when it began"))?;
    session.text(row, "process").map(str::to_owned)
}

fn another_database(name: &str) -> Error {
    Error::new(ErrorKind::StalePlan, format!("database {name} is another one than when the plan was made"))
        .with_state("nothing was changed")
        .with_hint("make the plan again and review it")
}

fn definition(session: &Session<'_>, row: &SimpleQueryRow) -> Result<DatabaseDefinition> {
    let text = |column: &str| session.text(row, column).map(str::to_owned);
    Ok(DatabaseDefinition {
        name: text("datname")?,
        owner: text("owner")?,
        encoding: text("encoding")?,
        locale_provider: session.value::<String>(row, "provider")?.map(|letter| match letter.as_str() {
            "i" => "icu".to_owned(),
            "b" => "builtin".to_owned(),
            _ => "libc".to_owned(),
        }),
        collate: text("datcollate")?,
        ctype: text("datctype")?,
        locale: session.value(row, "locale")?,
        icu_rules: session.value(row, "rules")?,
        tablespace: text("spcname")?,
    })
}

async fn create(
    session: &Session<'_>,
    name: &str,
    like: &DatabaseDefinition,
    owner: Option<&str>,
    limit: Option<u32>,
) -> Result<()> {
    let query = format!("SELECT 1 FROM pg_tablespace WHERE spcname = {}", literal(&like.tablespace));
    let tablespace = match session.rows(&query).await?.is_empty() {
        true => None,
        false => Some(like.tablespace.as_str()),
    };
    let limit = limit.map(|limit| format!(" CONNECTION LIMIT {limit}")).unwrap_or_default();
    said(session.command(&(statement(name, like, owner, tablespace) + &limit)).await?)
}

/// The limit of connections that a database with this mark is made with: more than any server bears, and hardly another's.
fn limit_of(mark: &str) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, mark.as_bytes());
    1_000_000_000 + (sum % 1_000_000_000) as u32
}

/// Catalogs of what a database may hold, large objects aside. What the server makes by itself has numbers below those of everything else.
const CATALOGS: &[&str] = &[
    "pg_cast",
    "pg_class",
    "pg_collation",
    "pg_default_acl",
    "pg_event_trigger",
    "pg_extension",
    "pg_foreign_data_wrapper",
    "pg_language",
    "pg_namespace",
    "pg_operator",
    "pg_proc",
    "pg_publication",
    "pg_ts_config",
    "pg_ts_dict",
    "pg_type",
];
/// The first number of what somebody makes (source, `src/include/access/transam.h`).
const FIRST_OID: u32 = 16_384;

/// A query that gives a row when somebody has made something in the database, or chosen something for it.
fn anything() -> String {
    let made = CATALOGS.iter().map(|catalog| format!("SELECT 1 FROM {catalog} WHERE oid >= {FIRST_OID}"));
    // Of large objects the server makes none, and who makes one may choose any number.
    let large = "SELECT 1 FROM pg_largeobject_metadata";
    let chosen = "SELECT 1 FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase \
                  WHERE d.datname = current_database()";
    format!("{} UNION ALL {large} UNION ALL {chosen} LIMIT 1", made.collect::<Vec<_>>().join(" UNION ALL "))
}

/// What makes a database like another one. Only `template0` may be copied into any encoding and locale.
fn statement(name: &str, like: &DatabaseDefinition, owner: Option<&str>, tablespace: Option<&str>) -> String {
    let mut statement = format!("CREATE DATABASE {} TEMPLATE template0", quoted(name));
    let mut add = |option: &str, value: String| statement.push_str(&format!(" {option} {value}"));
    if let Some(owner) = owner {
        add("OWNER", quoted(owner));
    }
    add("ENCODING", literal(&like.encoding));
    add("LC_COLLATE", literal(&like.collate));
    add("LC_CTYPE", literal(&like.ctype));
    if let Some(provider) = &like.locale_provider {
        add("LOCALE_PROVIDER", provider.clone());
    }
    if let Some(locale) = &like.locale {
        let option =
            if like.locale_provider.as_deref() == Some("builtin") { "BUILTIN_LOCALE" } else { "ICU_LOCALE" };
        add(option, literal(locale));
    }
    if let Some(rules) = &like.icu_rules {
        add("ICU_RULES", literal(rules));
    }
    if let Some(tablespace) = tablespace.filter(|tablespace| *tablespace != "pg_default") {
        add("TABLESPACE", quoted(tablespace));
    }
    statement
}

fn comment(name: &str, mark: Option<&str>) -> String {
    format!("COMMENT ON DATABASE {} IS {}", quoted(name), mark.map_or("NULL".to_owned(), literal))
}

/// The mark of a database, if there is one and it bears one.
async fn mark_of(session: &Session<'_>, name: &str) -> Result<Option<Option<String>>> {
    let query = format!(
        "SELECT shobj_description(oid, 'pg_database') AS mark FROM pg_database WHERE datname = {}",
        literal(name)
    );
    let rows = session.rows(&query).await?;
    rows.first().map(|row| session.value(row, "mark")).transpose()
}

async fn check_mark(session: &Session<'_>, working: &WorkingDatabase) -> Result<()> {
    let name = &working.name;
    match mark_of(session, name).await? {
        Some(Some(found)) if found == working.mark => Ok(()),
        Some(_) => Err(Error::new(
            ErrorKind::Conflict,
            format!("database {name} is not the one that this restore made"),
        )
        .with_hint(format!("look what is in it; when nobody needs it: `DROP DATABASE {};`", quoted(name)))),
        None => Err(Error::new(ErrorKind::Conflict, format!("database {name} is gone"))),
    }
}

/// What the server's answer to a statement on a database means.
fn said(answer: Result<(), (SqlState, Error)>) -> Result<()> {
    let Err((code, error)) = answer else { return Ok(()) };
    let told = error.message().to_owned();
    Err(if code == SqlState::DUPLICATE_DATABASE {
        Error::new(ErrorKind::Conflict, told).with_source(error)
    } else if code == SqlState::OBJECT_IN_USE {
        Error::new(ErrorKind::Locked, told)
            .with_source(error)
            .with_hint("`mainstay pg activity --all` shows who is connected to it")
    } else {
        error
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_made_like_another_one() {
        let like = DatabaseDefinition {
            name: "shop".to_owned(),
            owner: "o\"x".to_owned(),
            encoding: "UTF8".to_owned(),
            locale_provider: Some("builtin".to_owned()),
            collate: "C".to_owned(),
            ctype: "C".to_owned(),
            locale: Some("C.UTF-8".to_owned()),
            icu_rules: None,
            tablespace: "fast".to_owned(),
        };
        assert_eq!(
            statement("new", &like, Some(&like.owner), Some(&like.tablespace)),
            "CREATE DATABASE \"new\" TEMPLATE template0 OWNER \"o\"\"x\" ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' \
             LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' TABLESPACE \"fast\""
        );
        let icu = DatabaseDefinition {
            locale_provider: Some("icu".to_owned()),
            icu_rules: Some("&a < b'".to_owned()),
            ..like
        };
        let made = statement("new", &icu, None, None);
        assert!(made.ends_with("LOCALE_PROVIDER icu ICU_LOCALE 'C.UTF-8' ICU_RULES '&a < b'''"), "{made}");
        assert!(!made.contains("OWNER"));
    }
}
