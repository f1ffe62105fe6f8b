//! Rehearsals: statements run in a shadow database, or in the live one and taken back, and what each of them did measured.
//!
//! Locks are read from `pg_locks`, from within the transaction that holds them, so that nothing is missed and nobody's but its own are told. A table
//! whose file (`pg_relation_filenode`) is another one than before was written anew; one whose count of sequential scans has grown
//! (`pg_stat_get_xact_numscans`) was read whole, were it empty: both are so whatever a table holds, which is why a shadow without rows tells the truth
//! about everything but time. What a statement wrote to catalogs of the whole server is seen by its locks on them.
//!
//! | module | what it is for |
//! |---|---|
//! | `shadow` | making, filling and removing databases of our own |
//! | `stage` | statements in transactions |
//! | `look` | what is locked, and what files and scans tables have |
//! | `alone` | statements that no transaction may hold, watched from beside |
//! | `catalog` | what is in a database, as texts |

mod alone;
mod catalog;
mod look;
mod shadow;
mod stage;

use async_trait::async_trait;
use mainstay_engine::{
    CatalogObject, CatalogScope, DatabaseFacts, LiveBounds, RehearsalHost, RehearsalStage, ServerFacts,
    ShadowContents, TableHolder, TableLock, TableName, Told,
};
use mainstay_guard::Permit;
use mainstay_model::{Result, ResultExt, StoreKind};

use crate::config::{PostgresConfig, Settings};
use crate::logical::ProgramPlaces;
use crate::logical::databases::Databases;
use crate::session::Session;

use self::stage::Stage;

/// What permits must be for: `sql.rehearse`, `sql.drift`, `sql.verify`.
const OPERATIONS: &str = "sql";
/// What a permit for the live database must be for.
const LIVE_OPERATION: &str = "sql.rehearse.live";

/// Who holds locks on tables; a prepared transaction has no process.
const HOLDERS: &str = "\
    SELECT n.nspname, c.relname, l.mode, l.pid, coalesce(a.application_name, '') AS app, a.usename AS \"user\", \
    floor(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)))::bigint AS seconds \
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
    LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND l.virtualtransaction = '-1/' || p.transaction::text \
    WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() \
    AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) \
    AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

/// A live database and the server that shadows of it are made on.
#[derive(Debug)]
pub struct PostgresRehearsal {
    live: Settings,
    shadows: Settings,
    places: ProgramPlaces,
}

impl PostgresRehearsal {
    /// The database that `live` describes, with shadows on the server of `shadows`, or on its own. Does not connect.
    ///
    /// # Errors
    /// `Config` when a URL cannot be used; no part of it that may be secret is shown.
    pub fn new(
        live: &PostgresConfig,
        shadows: Option<&PostgresConfig>,
        places: ProgramPlaces,
    ) -> Result<Self> {
        let live = Settings::resolve(live)?;
        let shadows = shadows.map(Settings::resolve).transpose()?.unwrap_or_else(|| live.clone());
        Ok(Self { live, shadows, places })
    }
}

#[async_trait]
impl RehearsalHost for PostgresRehearsal {
    async fn live(&self) -> Result<DatabaseFacts> {
        Databases::new(&self.live).facts(None).await.context("look at the database")
    }

    async fn shadow_server(&self) -> Result<ServerFacts> {
        Databases::new(&self.shadows).server().await.context("look at the server of shadows")
    }

    async fn lock_holders(&self) -> Result<Vec<TableHolder>> {
        let session = Session::open(&self.live).await.context("connect to PostgreSQL")?;
        lock_holders(&session).await.context("read who holds locks")
    }

    async fn live_catalog(&self, scope: &CatalogScope) -> Result<Vec<CatalogObject>> {
        catalog::read(&self.live, scope).await.context("read the catalogue of the database")
    }

    async fn shadow(&self, told: &Told<'_>, permit: &Permit) -> Result<Box<dyn RehearsalStage>> {
        let databases = Databases::new(&self.shadows);
        permit.check(OPERATIONS, StoreKind::Postgres, &databases.server().await?.fingerprint)?;
        let like = self.live().await?;
        let (working, session) =
            shadow::create(&self.shadows, &like, told).await.context("make a shadow database")?;
        Ok(Box::new(Stage::shadow(self.shadows.clone(), working, session)))
    }

    async fn fill(
        &self,
        stage: &dyn RehearsalStage,
        contents: ShadowContents,
        permit: &Permit,
    ) -> Result<()> {
        let databases = Databases::new(&self.shadows);
        permit.check(OPERATIONS, StoreKind::Postgres, &databases.server().await?.fingerprint)?;
        let filled = shadow::fill(&self.live, &self.shadows, stage.database(), contents, &self.places).await;
        filled.context("fill the shadow database")
    }

    async fn on_live(&self, bounds: LiveBounds, permit: &Permit) -> Result<Box<dyn RehearsalStage>> {
        let server = Databases::new(&self.live).server().await?;
        permit.check(LIVE_OPERATION, StoreKind::Postgres, &server.fingerprint)?;
        let session = Session::open_for_long(&self.live).await.context("connect to PostgreSQL")?;
        let stage = Stage::live(self.live.clone(), session, bounds, &server.version).await;
        Ok(Box::new(stage.context("begin a rehearsal in the live database")?))
    }
}

async fn lock_holders(session: &Session<'_>) -> Result<Vec<TableHolder>> {
    let mut holders: Vec<TableHolder> = Vec::new();
    for row in session.rows(HOLDERS).await? {
        let Some(mode) = TableLock::of_server(session.text(&row, "mode")?) else { continue };
        let table = TableName {
            schema: session.text(&row, "nspname")?.to_owned(),
            name: session.text(&row, "relname")?.to_owned(),
        };
        let pid: Option<i32> = session.value(&row, "pid")?;
        let same = |one: &&mut TableHolder| one.pid == pid && pid.is_some() && one.table == table;
        if let Some(known) = holders.iter_mut().find(same) {
            known.mode = known.mode.max(mode);
            continue;
        }
        let seconds = session.value::<i64>(&row, "seconds")?.unwrap_or_default();
        holders.push(TableHolder {
            table,
            mode,
            pid,
            app_name: session.value(&row, "app")?.unwrap_or_default(),
            user: session.value(&row, "user")?,
            transaction_seconds: u64::try_from(seconds).unwrap_or(0),
        });
    }
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.transaction_seconds));
    Ok(holders)
}
