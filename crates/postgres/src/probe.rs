//! The probe: a PostgreSQL at a glance, and its environment marker.
//!
//! The marker is the single row of `mainstay.identity`, a table in a schema of its own in the configured database, readable by every role:
//! whoever may act there must be able to learn where he is. Writing it needs a permit for this very server.

use async_trait::async_trait;
use mainstay_engine::{Probe, StoreFacts};
use mainstay_guard::{Marker, Permit};
use mainstay_model::{ByteSize, Error, ErrorKind, Finding, Result, ResultExt, StoreKind};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use crate::config::{PostgresConfig, Settings};
use crate::examine;
use crate::session::Session;

/// The table that holds the marker.
const MARKER_TABLE: &str = "mainstay.identity";

const CREATE_MARKER_TABLE: &str = "\
    CREATE SCHEMA IF NOT EXISTS mainstay;
    CREATE TABLE IF NOT EXISTS mainstay.identity (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        environment text NOT NULL,
        class text NOT NULL,
        marked_at text NOT NULL,
        id text NOT NULL
    );
    COMMENT ON TABLE mainstay.identity IS 'Which environment this database belongs to; written by mainstay environment mark';
    GRANT USAGE ON SCHEMA mainstay TO PUBLIC;
    GRANT SELECT ON mainstay.identity TO PUBLIC";

// The time is text, as in every other store: a timestamptz would round it to microseconds.
const WRITE_MARKER: &str = "\
    INSERT INTO mainstay.identity (environment, class, marked_at, id) VALUES ($1, $2, $3, $4)
    ON CONFLICT (only_row) DO UPDATE SET environment = $1, class = $2, marked_at = $3, id = $4";

/// Looks at a PostgreSQL. Each call opens a connection of its own and ends it.
#[derive(Debug)]
pub struct PostgresProbe {
    settings: Settings,
}

impl PostgresProbe {
    /// A probe of the server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL cannot be used; no part of it that may be secret is shown.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }

    async fn open(&self) -> Result<Session<'_>> {
        Session::open(&self.settings).await.context("connect to PostgreSQL")
    }
}

#[async_trait]
impl Probe for PostgresProbe {
    fn kind(&self) -> StoreKind {
        StoreKind::Postgres
    }

    fn address(&self) -> String {
        self.settings.address.clone()
    }

    /// The fingerprint is the system identifier (`pg_control_system()`), which a physical standby shares with its primary. Connections are
    /// counted from `pg_stat_database`, which every role may read whole.
    async fn facts(&self) -> Result<StoreFacts> {
        let session = self.open().await?;
        read_facts(&session, self.address()).await.context("read facts of PostgreSQL")
    }

    async fn marker(&self) -> Result<Option<Marker>> {
        let session = self.open().await?;
        read_marker(&session).await.context("read environment marker of PostgreSQL")
    }

    async fn set_marker(&self, marker: &Marker, permit: &Permit) -> Result<()> {
        let session = self.open().await?;
        permit.check("environment.mark", StoreKind::Postgres, &fingerprint(&session).await?)?;
        write_marker(&session, marker).await.context("write environment marker of PostgreSQL")
    }

    async fn data_directory(&self) -> Result<Option<String>> {
        let session = self.open().await?;
        let query = "SELECT setting FROM pg_settings WHERE name = 'data_directory'";
        let rows = session.rows(query).await.context("ask PostgreSQL for its data directory")?;
        rows.first().map(|row| session.text(row, "setting").map(str::to_owned)).transpose()
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        let session = self.open().await?;
        let observed = examine::observe(&session).await.context("examine PostgreSQL")?;
        Ok(examine::findings(&observed, &self.address()))
    }
}

async fn read_facts(session: &Session<'_>, address: String) -> Result<StoreFacts> {
    let row = session
        .row(
            "SELECT current_setting('server_version') AS version, \
             CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END AS role, \
             floor(extract(epoch FROM clock_timestamp() - pg_postmaster_start_time()))::bigint AS uptime, \
             (SELECT sum(numbackends) FROM pg_stat_database) AS connections, \
             current_setting('max_connections') AS connections_max",
        )
        .await?;
    let size_row = session
        .rows_unless(
            &[SqlState::INSUFFICIENT_PRIVILEGE],
            "SELECT pg_database_size(current_database()) AS size",
        )
        .await?;
    let size = match size_row.as_deref() {
        Some([row, ..]) => Some(ByteSize(session.number(row, "size")?)),
        _ => None,
    };
    let version = session.text(&row, "version")?;
    Ok(StoreFacts {
        kind: StoreKind::Postgres,
        // Packagers append their own words: `18.4 (Debian 18.4-1)`.
        version: version.split_whitespace().next().unwrap_or(version).to_owned(),
        role: session.text(&row, "role")?.to_owned(),
        size,
        uptime_seconds: session.number(&row, "uptime")?,
        connections: session.number(&row, "connections")?,
        connections_max: Some(session.number(&row, "connections_max")?),
        fingerprint: fingerprint(session).await?,
        address,
    })
}

/// Which server this is: the system identifier.
pub(crate) async fn fingerprint(session: &Session<'_>) -> Result<String> {
    let row = session.row("SELECT system_identifier::text AS identifier FROM pg_control_system()").await?;
    Ok(session.text(&row, "identifier")?.to_owned())
}

/// The environment marker in the session's database.
pub(crate) async fn read_marker(session: &Session<'_>) -> Result<Option<Marker>> {
    let absent = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME];
    let query = "SELECT environment, class, marked_at, id FROM mainstay.identity";
    let rows = session.rows_unless(&absent, query).await?.unwrap_or_default();
    let Some(row) = rows.first() else { return Ok(None) };
    let field = |name: &str| row.try_get(name).ok().flatten().map(str::to_owned);
    Marker::from_fields(field).map(Some).map_err(|fault| {
        Error::new(
            ErrorKind::Corrupt,
            format!("the environment marker in {MARKER_TABLE} is damaged: {fault}"),
        )
        .with_hint(format!(
            "look at it with `SELECT * FROM {MARKER_TABLE}`, then type `mainstay environment mark`"
        ))
    })
}

/// Refuses a schema that is the server's own or Mainstay's, which holds the marker: no data that a project declares goes there.
///
/// # Errors
/// `Refused`.
pub(crate) fn check_user_schema(schema: &str) -> Result<()> {
    if !["mainstay", "information_schema"].contains(&schema) && !schema.starts_with("pg_") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Refused, format!("the schema {schema} is the server's own, or Mainstay's"))
        .with_state("nothing was changed")
        .with_hint("name a table that holds data of the application"))
}

/// Writes the marker into the session's database.
pub(crate) async fn write_marker(session: &Session<'_>, marker: &Marker) -> Result<()> {
    // Two steps, two transactions: a table without a row reads as no marker.
    session.bounded(session.client.batch_execute(CREATE_MARKER_TABLE)).await?;
    let [environment, class, marked_at, id] = marker.fields().map(|(_, text)| text);
    let values: [(&(dyn ToSql + Sync), Type); 4] =
        [(&environment, Type::TEXT), (&class, Type::TEXT), (&marked_at, Type::TEXT), (&id, Type::TEXT)];
    session.bounded(session.client.execute_typed(WRITE_MARKER, &values)).await?;
    Ok(())
}
