//! `backup list`: the sets, and which moments can be restored.

use clap::Args;
use mainstay_engine::Consistency;
use mainstay_model::{ByteSize, Count, ExitStatus, Result, SetId, Severity, StoreKind, Timestamp};
use mainstay_ops::contents::SetContents;
use mainstay_ops::recoverable::{self, DamagedChain, Recoverable};
use mainstay_ops::replication::ranges::{self as streams, ReplicationRanges};
use mainstay_ops::wal::ranges::{self, WalRanges};
use mainstay_repository::{Repository, Set, SetEntry};
use serde_json::{Map, Value, json};

use super::{log, set_json, wal};
use crate::commands::redis::elsewhere::part_short;
use crate::commands::{append_only, cluster, keyfile, logical, replication};
use crate::printer::shown::ago;
use crate::printer::{Cell, Look, Report, Table, Tone};
use crate::wiring::Session;

/// Arguments of `backup list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Sets of this store only
    #[arg(long)]
    store: Option<StoreKind>,
}

/// Lists.
///
/// # Errors
/// The repository's. What is damaged is part of the report.
pub(super) async fn run(args: &ListArgs, session: &Session) -> Result<ExitStatus> {
    let repository = session.repository().await?;
    let mut rows = Vec::new();
    for entry in repository.sets(args.store).await? {
        rows.push(row(&repository, entry).await?);
    }
    let wants = |wanted| args.store.is_none_or(|store| store == wanted);
    let logs = match wants(StoreKind::Mongo) {
        true => recoverable::recoverable(&repository).await?,
        false => Recoverable::default(),
    };
    let wal = match wants(StoreKind::Postgres) {
        true => ranges::ranges(&repository).await?,
        false => WalRanges::default(),
    };
    let streams = match wants(StoreKind::Redis) {
        true => streams::ranges(&repository).await?,
        false => ReplicationRanges::default(),
    };
    let mut unsound = Vec::new();
    for store in StoreKind::ALL.into_iter().filter(|store| wants(*store)) {
        unsound.extend(recoverable::known_damage(&repository, store).await?);
    }
    Ok(session.printer.report(&Listed { rows, logs, wal, streams, unsound, now: session.clock.now() }))
}

async fn row(repository: &Repository, entry: SetEntry) -> Result<Row> {
    let (id, kind) = (entry.id().clone(), entry.kind());
    let read = entry.into_set().and_then(|set| SetContents::of(&set).map(|contents| (set, contents)));
    let last = repository.last_verification(kind, &id).await?;
    let verified = last.map(|record| (record.at, record.is_sound()));
    Ok(Row { id, kind, read, verified })
}

struct Row {
    id: SetId,
    kind: StoreKind,
    read: Result<(Set, SetContents)>,
    /// When it was last read back, and whether it was sound.
    verified: Option<(Timestamp, bool)>,
}

struct Listed {
    rows: Vec<Row>,
    logs: Recoverable,
    wal: WalRanges,
    streams: ReplicationRanges,
    /// Chains with slices that a verification found damaged.
    unsound: Vec<DamagedChain>,
    now: Timestamp,
}

impl Report for Listed {
    fn json(&self) -> Map<String, Value> {
        let sets = self.rows.iter().map(|row| {
            let mut value = match &row.read {
                Ok((set, SetContents::Documents(contents))) => set_json(set, contents),
                Ok((set, SetContents::Cluster(contents))) => cluster::set_json(set, contents),
                Ok((set, SetContents::KeyFile(contents))) => keyfile::set_json(set, contents),
                Ok((set, SetContents::AppendOnly(contents))) => append_only::set_json(set, contents),
                Ok((set, SetContents::Logical(contents))) => logical::set_json(set, contents),
                Err(error) => json!({"id": row.id, "store": row.kind, "damaged": error.to_string()}),
            };
            value["verified_at"] = json!(row.verified.map(|(at, _)| at));
            value["sound"] = json!(row.verified.map(|(_, sound)| sound));
            value
        });
        Map::from_iter([
            ("sets".to_owned(), sets.collect()),
            ("log".to_owned(), log::ranges_json(&self.logs.servers, self.now)),
            ("wal".to_owned(), json!(self.wal.servers)),
            ("streams".to_owned(), json!(self.streams.servers)),
            ("damaged_chains".to_owned(), self.damaged().map(|chain| json!(chain)).collect()),
        ])
    }

    fn text(&self, look: &Look) -> String {
        if self.rows.is_empty() {
            return "the repository holds no backup sets; `mainstay backup create` makes one\n".to_owned()
                + &self.logs_text(look);
        }
        let mut table = Table::new(&[
            "SET",
            "STORE",
            "TAKEN",
            "COLLECTIONS",
            "DOCUMENTS",
            "SIZE",
            "STORED",
            "MOMENT",
            "VERIFIED",
        ]);
        for row in &self.rows {
            table.row(row.cells(self.now));
        }
        table.render(look) + &self.logs_text(look)
    }

    fn exit_status(&self) -> ExitStatus {
        let damaged = |row: &Row| row.read.is_err() || row.verified.is_some_and(|(_, sound)| !sound);
        if self.rows.iter().any(damaged) || self.damaged().next().is_some() || self.has_lost_slices() {
            Severity::Critical.exit_status()
        } else {
            ExitStatus::Ok
        }
    }
}

impl Listed {
    /// Chains of any store that cannot be read, as a whole or in parts.
    fn damaged(&self) -> impl Iterator<Item = &DamagedChain> {
        self.logs.damaged.iter().chain(&self.wal.damaged).chain(&self.streams.damaged).chain(&self.unsound)
    }

    /// Whether a log of any store has a hole that it had not when it was captured.
    fn has_lost_slices(&self) -> bool {
        let timelines = self.wal.servers.iter().flat_map(|server| &server.timelines);
        self.logs.servers.iter().flat_map(|server| &server.gaps).any(|gap| gap.is_lost)
            || timelines.flat_map(|timeline| &timeline.gaps).any(|gap| gap.is_lost)
            || self.streams.servers.iter().flat_map(|server| &server.gaps).any(|gap| gap.is_lost)
    }

    fn logs_text(&self, look: &Look) -> String {
        log::ranges_text(&self.logs, self.now, look)
            + &wal::ranges_text(&self.wal, self.now, look)
            + &replication::ranges_text(&self.streams, self.now, look)
            + &log::damaged_text(&self.unsound, look)
    }
}

impl Row {
    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let mut cells = vec![self.id.as_str().into(), self.kind.name().into()];
        match &self.read {
            Err(error) => cells.push(Cell::new(format!("DAMAGED: {error}")).tone(Tone::Bad)),
            Ok((set, contents)) => {
                let (collections, items, bytes, moment) = match contents {
                    SetContents::Documents(contents) => {
                        let digest = contents.digest();
                        let moment = match contents.consistency {
                            Consistency::ClusterTime { .. } => "one".to_owned(),
                            Consistency::DuringScan { .. } => "per scan".to_owned(),
                        };
                        let documents = Count(digest.documents).to_string();
                        (contents.collections.len().to_string(), documents, digest.bytes, moment)
                    }
                    SetContents::Cluster(contents) => {
                        let files = format!("{} files", Count(contents.files()));
                        let since = match contents.chain.last() {
                            None => String::new(),
                            Some(earlier) => format!(", changes since {}", earlier.set),
                        };
                        ("-".to_owned(), files, contents.bytes(), format!("LSN {}{since}", contents.end))
                    }
                    SetContents::KeyFile(contents) => {
                        let part = part_short(&contents.server);
                        let keys = format!("{} keys{part}", Count(contents.keys()));
                        let moment = { contents.replication.as_ref() }
                            .map_or_else(|| "fork".to_owned(), |point| format!("offset {}", point.offset));
                        ("-".to_owned(), keys, contents.bytes, moment)
                    }
                    SetContents::AppendOnly(contents) => {
                        let (keys, commands) = (Count(contents.base_keys()), Count(contents.commands()));
                        let moment = "end of append-only file".to_owned();
                        (
                            "-".to_owned(),
                            format!("{keys} keys, {commands} commands"),
                            contents.bytes(),
                            moment,
                        )
                    }
                    SetContents::Logical(contents) => {
                        let tables = format!("{} tables", Count(contents.logical.tables.len() as u64));
                        let moment = format!("dump of {}", contents.database.name);
                        ("-".to_owned(), tables, contents.logical.bytes, moment)
                    }
                };
                cells.extend([
                    Cell::new(ago(set.manifest().completed_at, now)),
                    Cell::right(collections),
                    Cell::right(items),
                    Cell::right(ByteSize(bytes).to_string()),
                    Cell::right(ByteSize(set.manifest().stored_bytes()).to_string()),
                    Cell::new(moment),
                    match self.verified {
                        None => Cell::new("never").tone(Tone::Warn),
                        Some((at, true)) => Cell::new(ago(at, now)).tone(Tone::Good),
                        Some((at, false)) => Cell::new(format!("DAMAGED, {}", ago(at, now))).tone(Tone::Bad),
                    },
                ]);
            }
        }
        cells
    }
}
