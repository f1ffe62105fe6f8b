//! A base backup over the replication protocol.
//!
//! `BASE_BACKUP` answers with where it begins, with the tablespaces, with one copy that holds every archive and the manifest, and with where
//! it ends. Source: manual (18), "Streaming Replication Protocol". WAL that the files need to be consistent comes at the end of the archive of
//! the data directory; the server waits for no archiver, as nobody needs to find it there. Archives may come packed, where the link is the
//! slowest part: they are unpacked here, and nobody else sees it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mainstay_engine::{
    BackupBeginning, BackupEnding, BackupEvent, BaseBackup, BaseBackupRequest, BaseBackupSource,
    CheckpointPace, EarlierBackup, FileChecksum, LinkChoice, LinkCompression, ServerFacts, Tablespace,
};
use mainstay_model::{ByteSize, Error, ErrorKind, Lsn, Result, ResultExt};
use tokio::time::timeout;

use super::command::{Row, literal};
use super::copy::BackupPiece;
use super::inflate::Inflating;
use super::{Connection, WireError};
use crate::config::{PostgresConfig, Settings};

/// The oldest server that streams archives inside one copy.
const VERSION_MIN: u32 = 15;
/// The oldest server that sends changes alone.
const INCREMENTAL_VERSION_MIN: u32 = 17;
/// The limits that a server sets to `MAX_RATE`, in kilobytes per second.
const RATE_KB: std::ops::RangeInclusive<u64> = 32..=1_048_576;
/// How long a checkpoint may take.
const CHECKPOINT_TIME_MAX: Duration = Duration::from_secs(2 * 60 * 60);
/// How long a server may send nothing: it may sync, or wait for WAL.
const SILENCE_MAX: Duration = Duration::from_secs(10 * 60);
/// From which distance on packing is worth a core of the server: no network of one place takes so long for a question and its answer.
const FAR_TIME_MIN: Duration = Duration::from_millis(5);
/// What a server says that does not know how to pack: its grammar, or what it was built without.
const UNPACKED_CODES: [&str; 2] = ["42601", "0A000"];
/// The archive of the data directory.
const BASE_ARCHIVE: &str = "base.tar";

/// A PostgreSQL whose files can be copied. Each call opens a connection of its own and ends it.
#[derive(Debug)]
pub struct PostgresCluster {
    settings: Settings,
}

impl PostgresCluster {
    /// The cluster behind the server that `config` describes. Does not connect.
    ///
    /// # Errors
    /// `Config` when the URL cannot be used; no part of it that may be secret is shown.
    pub fn new(config: &PostgresConfig) -> Result<Self> {
        Ok(Self { settings: Settings::resolve(config)? })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) async fn open(&self) -> Result<Connection> {
        Connection::open(&self.settings).await.context("open a replication connection to PostgreSQL")
    }

    pub(super) fn explain(&self, error: WireError) -> Error {
        error.into_error(&self.settings)
    }
}

#[async_trait]
impl BaseBackupSource for PostgresCluster {
    async fn server_facts(&self) -> Result<ServerFacts> {
        let mut connection = self.open().await?;
        let (facts, _) = facts(&mut connection, &self.settings).await.map_err(|error| self.explain(error))?;
        connection.end().await;
        Ok(facts)
    }

    async fn begin(
        &self,
        request: &BaseBackupRequest,
        earlier: Option<&EarlierBackup>,
    ) -> Result<Box<dyn BaseBackup>> {
        command(request, earlier.is_some(), LinkCompression::None)?;
        let mut connection = self.open().await?;
        let (server, timeline) =
            facts(&mut connection, &self.settings).await.map_err(|error| self.explain(error))?;
        check_version(&server, VERSION_MIN, "base backups")?;
        let setup = Setup::read(&mut connection).await.map_err(|error| self.explain(error))?;
        if let Some(earlier) = earlier {
            check_version(&server, INCREMENTAL_VERSION_MIN, "incremental backups")?;
            check_same(&server, timeline, earlier)?;
            let told = tell(&mut connection, &earlier.file_list).await.map_err(|error| self.explain(error));
            told.and_then(|summarizes| check_summaries(&server, summarizes))
                .context("tell the server of the earlier backup")?;
        }
        let Begun { at, timeline, places, link, link_refusal } =
            self.begin_packed(&mut connection, request, earlier.is_some(), setup.distance).await?;
        let (tablespaces, estimated_bytes) = places_of(&places).map_err(|error| self.explain(error))?;
        check_places(&tablespaces)?;
        Ok(Box::new(Streaming {
            settings: self.settings.clone(),
            connection,
            seen: BTreeSet::new(),
            stage: Stage::Begun,
            inflating: None,
            beginning: BackupBeginning {
                server,
                at,
                timeline,
                page_checksums: setup.page_checksums,
                wal_segment_bytes: setup.wal_segment_bytes,
                tablespaces,
                estimated_bytes,
                link,
                link_refusal,
            },
        }))
    }
}

/// What a server answered when a backup began.
struct Begun {
    at: Lsn,
    timeline: u32,
    places: Vec<Row>,
    link: LinkCompression,
    link_refusal: Option<String>,
}

impl PostgresCluster {
    /// Begins a backup, packed as it is wanted if the server can.
    async fn begin_packed(
        &self,
        connection: &mut Connection,
        request: &BaseBackupRequest,
        incremental: bool,
        distance: Duration,
    ) -> Result<Begun> {
        let mut refusal = None;
        for link in links(request.link, distance) {
            let command = command(request, incremental, link)?;
            let begun = timeout(CHECKPOINT_TIME_MAX, begin(connection, &command)).await;
            match begun.unwrap_or(Err(WireError::Timeout)) {
                Ok((at, timeline, places)) => {
                    // What nobody insisted on is not missed.
                    let link_refusal = refusal.filter(|_| request.link != LinkChoice::Auto);
                    return Ok(Begun { at, timeline, places, link, link_refusal });
                }
                Err(WireError::Server(error))
                    if link != LinkCompression::None && UNPACKED_CODES.contains(&error.code.as_str()) =>
                {
                    refusal = Some(error.text());
                    connection.ready().await.map_err(|error| self.explain(error))?;
                }
                Err(error) => return Err(self.explain(error)).context("begin a base backup"),
            }
        }
        Err(Error::new(ErrorKind::Internal, "there is no way to send a backup"))
    }
}

/// The ways in which archives may come, the best first; the last is one that every server knows.
fn links(choice: LinkChoice, distance: Duration) -> Vec<LinkCompression> {
    match choice {
        LinkChoice::Always(LinkCompression::None) => vec![LinkCompression::None],
        LinkChoice::Always(link) => vec![link, LinkCompression::None],
        LinkChoice::Auto if distance < FAR_TIME_MIN => vec![LinkCompression::None],
        LinkChoice::Auto => vec![LinkCompression::Zstd, LinkCompression::Gzip, LinkCompression::None],
    }
}

/// Settings of a server that say how its files are to be read.
struct Setup {
    page_checksums: bool,
    wal_segment_bytes: u64,
    /// How long the quickest answer took.
    distance: Duration,
}

impl Setup {
    async fn read(connection: &mut Connection) -> Result<Self, WireError> {
        let mut began = Instant::now();
        let mut distance = Duration::MAX;
        let mut lap = || {
            distance = distance.min(began.elapsed());
            began = Instant::now();
            distance
        };
        let block = connection.show("block_size").await?;
        lap();
        if block != "8192" {
            return Err(WireError::Setup(format!(
                "the server was built with blocks of {block} bytes, not of 8192"
            )));
        }
        let segment = connection.show("wal_segment_size").await?;
        lap();
        let wal_segment_bytes = segment_bytes(&segment)
            .ok_or_else(|| WireError::Protocol(format!("wal_segment_size is `{segment}`")))?;
        let page_checksums = connection.show("data_checksums").await? == "on";
        Ok(Self { page_checksums, wal_segment_bytes, distance: lap() })
    }
}

/// The bytes of a size as `SHOW` writes it: `16MB`, in powers of 1024.
pub(super) fn segment_bytes(shown: &str) -> Option<u64> {
    let digits = shown.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = shown[..digits].parse().ok()?;
    let unit: u64 = match &shown[digits..] {
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// What the server says of itself, and its timeline.
async fn facts(connection: &mut Connection, settings: &Settings) -> Result<(ServerFacts, u32), WireError> {
    let system = connection.identify_system().await?;
    let version = connection.parameter("server_version").unwrap_or_default();
    let standby = connection.parameter("in_hot_standby") == Some("on");
    let facts = ServerFacts {
        // Packagers append their own words: `18.4 (Debian 18.4-1)`.
        version: version.split_whitespace().next().unwrap_or_default().to_owned(),
        topology: if standby { "standby" } else { "primary" }.to_owned(),
        fingerprint: system.identifier,
        address: settings.address.clone(),
        part: None,
    };
    Ok((facts, system.timeline))
}

fn check_version(server: &ServerFacts, least: u32, what: &str) -> Result<()> {
    let digits = server.version.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    match digits.parse::<u32>() {
        Ok(major) if major >= least => Ok(()),
        _ => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} is PostgreSQL {}; {what} need {least} or newer", server.address, server.version),
        )
        .with_state("nothing was changed")),
    }
}

/// Whether the server can know what has changed since the earlier backup: it must be a copy of the same cluster, of the same history.
fn check_same(server: &ServerFacts, timeline: u32, earlier: &EarlierBackup) -> Result<()> {
    let address = &server.address;
    let what = if server.fingerprint != earlier.fingerprint {
        format!(
            "the earlier backup is of cluster {}, {address} is {}",
            earlier.fingerprint, server.fingerprint
        )
    } else if timeline != earlier.timeline {
        format!("the earlier backup is of timeline {}, {address} is on timeline {timeline}", earlier.timeline)
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Precondition, what)
        .with_state("nothing was changed")
        .with_hint("take a whole backup: leave `--incremental` out"))
}

/// Uploads the list of files, if the server keeps account of what changes; whether it does.
async fn tell(connection: &mut Connection, file_list: &[u8]) -> Result<bool, WireError> {
    if connection.show("summarize_wal").await? != "on" {
        return Ok(false);
    }
    connection.upload_manifest(file_list).await?;
    Ok(true)
}

fn check_summaries(server: &ServerFacts, summarizes: bool) -> Result<()> {
    if summarizes {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        format!("{} keeps no account of what changes: summarize_wal is off", server.address),
    )
    .with_state("nothing was changed")
    .with_hint(
        "`ALTER SYSTEM SET summarize_wal = on` and `SELECT pg_reload_conf()`, then a whole backup; later ones can build on that",
    ))
}

/// The command for `request`.
///
/// # Errors
/// `Usage` when no server takes such a rate or label.
fn command(request: &BaseBackupRequest, incremental: bool, link: LinkCompression) -> Result<String> {
    if request.label.len() > 1_000 || request.label.chars().any(char::is_control) {
        return Err(Error::new(
            ErrorKind::Usage,
            "the label is longer than 1000 bytes, or has control characters",
        ));
    }
    let mut options = vec![
        format!("LABEL {}", literal(&request.label)),
        "PROGRESS true".to_owned(),
        format!(
            "CHECKPOINT '{}'",
            match request.checkpoint {
                CheckpointPace::Fast => "fast",
                CheckpointPace::Spread => "spread",
            }
        ),
        "WAL true".to_owned(),
        "WAIT false".to_owned(),
        "MANIFEST 'yes'".to_owned(),
        format!(
            "MANIFEST_CHECKSUMS '{}'",
            match request.checksum {
                FileChecksum::Crc32c => "CRC32C",
                FileChecksum::Sha256 => "SHA256",
            }
        ),
        format!("VERIFY_CHECKSUMS {}", request.check_pages),
    ];
    if incremental {
        options.push("INCREMENTAL true".to_owned());
    }
    if let Some(name) = algorithm(link) {
        options.extend([format!("COMPRESSION '{name}'"), "COMPRESSION_DETAIL 'level=1'".to_owned()]);
    }
    if let Some(rate) = request.rate_max {
        let kilobytes = rate / 1024;
        if !RATE_KB.contains(&kilobytes) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("a server cannot be held to {} per second", ByteSize(rate)),
            )
            .with_state("nothing was changed")
            .with_hint("give a rate from 32KiB to 1GiB"));
        }
        options.push(format!("MAX_RATE {kilobytes}"));
    }
    Ok(format!("BASE_BACKUP ({})", options.join(", ")))
}

/// What the server calls a way of packing.
fn algorithm(link: LinkCompression) -> Option<&'static str> {
    match link {
        LinkCompression::None => None,
        LinkCompression::Gzip => Some("gzip"),
        LinkCompression::Zstd => Some("zstd"),
    }
}

/// What the server appends to the name of an archive that it packs.
fn suffix(link: LinkCompression) -> &'static str {
    match link {
        LinkCompression::None => "",
        LinkCompression::Gzip => ".gz",
        LinkCompression::Zstd => ".zst",
    }
}

/// Sends the command and reads what comes before the copy: position, timeline, places.
async fn begin(connection: &mut Connection, command: &str) -> Result<(Lsn, u32, Vec<Row>), WireError> {
    connection.send_command(command).await?;
    let (at, timeline) = position(&connection.result().await?)?;
    let places = connection.result().await?;
    connection.copy_out().await?;
    Ok((at, timeline, places))
}

fn position(rows: &[Row]) -> Result<(Lsn, u32), WireError> {
    let row = rows.first().ok_or_else(|| WireError::Protocol("no position of a base backup".to_owned()))?;
    Ok((row.parsed("recptr")?, row.parsed("tli")?))
}

/// The places other than the data directory, and the sum of all estimates, which come in kilobytes.
fn places_of(rows: &[Row]) -> Result<(Vec<Tablespace>, u64), WireError> {
    let (mut tablespaces, mut total) = (Vec::new(), 0_u64);
    for row in rows {
        total = total.saturating_add(row.parsed::<u64>("size")?.saturating_mul(1024));
        if row.text("spcoid").is_some() {
            tablespaces.push(Tablespace { oid: row.parsed("spcoid")?, location: row.parsed("spclocation")? });
        }
    }
    tablespaces.sort();
    Ok((tablespaces, total))
}

fn check_places(tablespaces: &[Tablespace]) -> Result<()> {
    match tablespaces.iter().find(|tablespace| !tablespace.location.starts_with('/')) {
        None => Ok(()),
        Some(inside) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("tablespace {} lies inside the data directory (allow_in_place_tablespaces)", inside.oid),
        )
        .with_state("no backup was made")
        .with_hint("such tablespaces are made for tests of the server; move what is in it and drop it")),
    }
}

/// What is expected next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first archive.
    Begun,
    /// Bytes, another archive or the manifest.
    Archive,
    /// Bytes of the manifest.
    Manifest,
    /// Nothing but the ending.
    Copied,
}

struct Streaming {
    settings: Settings,
    connection: Connection,
    beginning: BackupBeginning,
    /// Names of the archives that have begun.
    seen: BTreeSet<String>,
    stage: Stage,
    /// The archive that is being unpacked, when archives come packed.
    inflating: Option<Inflating>,
}

impl Streaming {
    /// The event of a piece, if it is one.
    fn event(&mut self, piece: BackupPiece) -> Result<Option<BackupEvent>, WireError> {
        let out_of_order = |what: &str| Err(WireError::Protocol(format!("{what} came out of its order")));
        match (piece, self.stage) {
            (BackupPiece::Progress(_), _) => Ok(None),
            (BackupPiece::Archive { name, location }, Stage::Begun | Stage::Archive) => {
                let place = self.place(&name, &location)?;
                if !self.seen.insert(name.clone()) {
                    return Err(WireError::Protocol(format!("archive {name} came twice")));
                }
                self.end_inflating()?;
                self.inflating = Inflating::begin(self.beginning.link)?;
                self.stage = Stage::Archive;
                Ok(Some(BackupEvent::Archive(place)))
            }
            (BackupPiece::Archive { .. }, _) => out_of_order("an archive"),
            (BackupPiece::Manifest, Stage::Archive)
                if self.seen.len() == self.beginning.tablespaces.len() + 1 =>
            {
                self.end_inflating()?;
                self.stage = Stage::Manifest;
                Ok(Some(BackupEvent::Manifest))
            }
            (BackupPiece::Manifest, _) => out_of_order("the manifest"),
            (BackupPiece::Data(bytes), Stage::Archive | Stage::Manifest) => match &mut self.inflating {
                None => Ok(Some(BackupEvent::Bytes(bytes))),
                Some(inflating) => {
                    inflating.push(bytes);
                    self.unpacked()
                }
            },
            (BackupPiece::Data(_), _) => out_of_order("a piece of an archive"),
        }
    }

    /// More of the archive that is being unpacked, of what has come.
    fn unpacked(&mut self) -> Result<Option<BackupEvent>, WireError> {
        let portion = self.inflating.as_mut().map_or(Ok(None), Inflating::next)?;
        Ok(portion.map(BackupEvent::Bytes))
    }

    /// Makes sure that the archive before is whole.
    fn end_inflating(&mut self) -> Result<(), WireError> {
        self.inflating.take().map_or(Ok(()), Inflating::end)
    }

    /// Which place the archive called `name` is of. Servers name them; a name that was not announced is refused.
    fn place(&self, name: &str, location: &str) -> Result<Option<Tablespace>, WireError> {
        let plain = name.strip_suffix(suffix(self.beginning.link)).unwrap_or_default();
        if plain == BASE_ARCHIVE && location.is_empty() {
            return Ok(None);
        }
        let announced = self
            .beginning
            .tablespaces
            .iter()
            .find(|place| plain == format!("{}.tar", place.oid) && location == place.location);
        match announced {
            Some(place) => Ok(Some(place.clone())),
            None => Err(WireError::Protocol(format!("archive {name:?} was not announced"))),
        }
    }
}

#[async_trait]
impl BaseBackup for Streaming {
    fn beginning(&self) -> &BackupBeginning {
        &self.beginning
    }

    async fn next(&mut self) -> Result<Option<BackupEvent>> {
        // One piece may be many portions.
        if let Some(event) = self.unpacked().map_err(|error| error.into_error(&self.settings))? {
            return Ok(Some(event));
        }
        while self.stage != Stage::Copied {
            let piece = self.connection.copied(SILENCE_MAX).await.and_then(|piece| match piece {
                Some(piece) => BackupPiece::read(piece).map(Some),
                None => Ok(None),
            });
            let event = piece.and_then(|piece| match (piece, self.stage) {
                (Some(piece), _) => self.event(piece),
                (None, Stage::Manifest) => {
                    self.stage = Stage::Copied;
                    Ok(None)
                }
                (None, _) => Err(WireError::Protocol("the copy ended before its manifest".to_owned())),
            });
            if let Some(event) = event.map_err(|error| error.into_error(&self.settings))? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    async fn end(&mut self) -> Result<BackupEnding> {
        let ending = async {
            if self.stage != Stage::Copied {
                return Err(WireError::Protocol("a base backup was ended before its end".to_owned()));
            }
            let (at, timeline) = position(&self.connection.result().await?)?;
            self.connection.ready().await?;
            Ok(BackupEnding { at, timeline, notices: self.connection.take_notices() })
        };
        let ended = timeout(SILENCE_MAX, ending).await.unwrap_or(Err(WireError::Timeout));
        ended.map_err(|error| error.into_error(&self.settings)).context("end the base backup")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn request() -> BaseBackupRequest {
        BaseBackupRequest {
            label: "it's".to_owned(),
            checkpoint: CheckpointPace::Spread,
            rate_max: Some(1 << 20),
            checksum: FileChecksum::Sha256,
            check_pages: false,
            link: LinkChoice::Auto,
        }
    }

    #[test]
    fn commands_say_what_was_asked_for() {
        assert_eq!(
            command(&request(), false, LinkCompression::None).unwrap(),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS true, CHECKPOINT 'spread', WAL true, WAIT false, MANIFEST 'yes', \
             MANIFEST_CHECKSUMS 'SHA256', VERIFY_CHECKSUMS false, MAX_RATE 1024)"
        );
        for rate in [0, 32 * 1024 - 1, u64::MAX] {
            let error = command(
                &BaseBackupRequest { rate_max: Some(rate), ..request() },
                false,
                LinkCompression::None,
            )
            .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{rate}");
        }
        assert!(
            command(
                &BaseBackupRequest { label: "a\nb".to_owned(), ..request() },
                false,
                LinkCompression::None
            )
            .is_err()
        );
        let packed = command(&request(), true, LinkCompression::Gzip).unwrap();
        assert!(
            packed.contains("INCREMENTAL true, COMPRESSION 'gzip', COMPRESSION_DETAIL 'level=1'"),
            "{packed}"
        );
    }

    #[test]
    fn archives_are_packed_for_a_long_way_or_when_it_is_asked() {
        use LinkCompression::{Gzip, None, Zstd};
        let millis = Duration::from_millis;
        for (choice, distance, ways) in [
            (LinkChoice::Auto, millis(4), vec![None]),
            (LinkChoice::Auto, millis(5), vec![Zstd, Gzip, None]),
            (LinkChoice::Always(None), millis(900), vec![None]),
            (LinkChoice::Always(Gzip), millis(0), vec![Gzip, None]),
            (LinkChoice::Always(Zstd), millis(0), vec![Zstd, None]),
        ] {
            assert_eq!(links(choice, distance), ways, "{choice:?} at {distance:?}");
        }
        for (choice, text) in [(LinkChoice::Auto, "\"auto\""), (LinkChoice::Always(Zstd), "\"zstd\"")] {
            assert_eq!(serde_json::to_string(&choice).unwrap(), text);
            assert_eq!(serde_json::from_str::<LinkChoice>(text).unwrap(), choice);
        }
    }

    #[test]
    fn an_earlier_backup_must_be_of_the_same_history() {
        let server = ServerFacts {
            version: "18.4".to_owned(),
            topology: "primary".to_owned(),
            fingerprint: "7".to_owned(),
            address: "h:1".to_owned(),
            part: None,
        };
        let earlier = |fingerprint: &str| EarlierBackup {
            file_list: bytes::Bytes::new(),
            fingerprint: fingerprint.to_owned(),
            begin: Lsn(1),
            timeline: 3,
        };
        check_same(&server, 3, &earlier("7")).unwrap();
        for (error, text) in [
            (check_same(&server, 3, &earlier("8")).unwrap_err(), "is of cluster 8, h:1 is 7"),
            (check_same(&server, 4, &earlier("7")).unwrap_err(), "is of timeline 3, h:1 is on timeline 4"),
        ] {
            assert_eq!(error.kind(), ErrorKind::Precondition);
            assert!(error.to_string().contains(text), "{error}");
        }
        check_version(&server, INCREMENTAL_VERSION_MIN, "incremental backups").unwrap();
        let old = ServerFacts { version: "16.9".to_owned(), ..server };
        let error = check_version(&old, INCREMENTAL_VERSION_MIN, "incremental backups").unwrap_err();
        assert!(error.to_string().contains("incremental backups need 17 or newer"), "{error}");
    }

    #[test]
    fn sizes_of_segments_are_read() {
        assert_eq!(segment_bytes("16MB"), Some(16 << 20));
        assert_eq!(segment_bytes("1GB"), Some(1 << 30));
        for bad in ["", "16", "MB", "16 MB", "99999999999999999999MB", "18446744073709551615GB"] {
            assert_eq!(segment_bytes(bad), None, "{bad}");
        }
    }
}
