//! `mongo dump`: an archive to a file or standard output, or a folder of files.
//!
//! A file or folder gets its name when it is whole: until then it lies beside it under a name that says so, and a dump that fails takes it
//! away again. One that was killed could not: the next dump to that name does, when no process writes it any more. On standard output there is the dump and nothing else.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use mainstay_archive::gzip;
use mainstay_engine::{CollectionKind, Consistency, Namespace};
use mainstay_model::progress::Work;
use mainstay_model::{ByteSize, Count, Error, ErrorKind, ExitStatus, Result, StoreKind};
use mainstay_ops::backup::SnapshotChoice;
use mainstay_ops::dump::{self, DumpContext, DumpReport, DumpRequest, DumpTarget};
use serde_json::{Map, Value, json};

use crate::commands::backup::create::ConsistencyArgument;
use crate::commands::backup::{moment_of, parse_namespace};
use crate::new_file::partial_of;
use crate::printer::{Cell, Look, Report, Table};
use crate::wiring::Session;

/// Arguments of `mongo dump`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true))]
pub(crate) struct DumpArgs {
    /// Write one archive into this file; `-` is standard output
    #[arg(long, short, value_name = "FILE", group = "target")]
    output: Option<PathBuf>,
    /// Write files into this folder, one for each collection; it must not exist, or be empty
    #[arg(long, value_name = "DIR", group = "target")]
    directory: Option<PathBuf>,
    /// Compress with gzip, on all cores
    #[arg(long)]
    gzip: bool,
    /// How hard to compress, 1 to 12
    #[arg(long, value_name = "LEVEL", requires = "gzip", default_value_t = gzip::LEVEL, value_parser = clap::value_parser!(u8).range(1..=12))]
    gzip_level: u8,
    /// Dump this database; may be repeated [default: the configured one, or all]
    #[arg(long, alias = "database", value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    db: Vec<String>,
    /// Dump this collection, as database.collection; may be repeated
    #[arg(long, value_name = "NAME", value_parser = parse_namespace)]
    collection: Vec<Namespace>,
    /// Dump every database, whatever the configuration names
    #[arg(long, conflicts_with_all = ["db", "collection"])]
    all_databases: bool,
    /// Dump users and roles too, credentials included: all of them, or those of the one database
    #[arg(long)]
    users_and_roles: bool,
    /// Which moment the dump shows
    #[arg(long, value_enum, default_value_t)]
    consistency: ConsistencyArgument,
    /// Most ranges read at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Replace the output file when it exists
    #[arg(long, requires = "output")]
    overwrite: bool,
}

/// Where the dump lies until it is whole.
enum Place {
    Standard,
    /// A file under another name than it gets.
    File {
        partial: PathBuf,
        path: PathBuf,
        overwrite: bool,
    },
    /// The same of a folder.
    Folder {
        partial: PathBuf,
        path: PathBuf,
        /// Open, and locked, as long as it is written.
        _lock: File,
    },
}

/// Dumps.
///
/// # Errors
/// `Precondition` when the output exists; otherwise the operation's.
pub(crate) async fn run(args: DumpArgs, session: &Session) -> Result<ExitStatus> {
    let began = Instant::now();
    let (place, target) = Place::open(&args, session)?;
    let dumped = dump_into(&args, session, target).await;
    let settled = match dumped {
        Ok(report) => place.settle(report.file.as_ref()).map(|()| report),
        Err(error) => Err(error),
    };
    match settled {
        Ok(report) => {
            let output = place.shown();
            Ok(session.printer.report(&Dumped { report, output, elapsed: began.elapsed() }))
        }
        Err(error) => Err(place.remove(error)),
    }
}

async fn dump_into(args: &DumpArgs, session: &Session, target: DumpTarget) -> Result<DumpReport> {
    let documents = session.documents(StoreKind::Mongo).await?;
    let request = DumpRequest {
        selection: session.selection(&args.db, &args.collection, args.all_databases),
        snapshot: SnapshotChoice::from(args.consistency).into(),
        scan_count_max: args.parallel.into(),
        accounts: args.users_and_roles,
        gzip: args.gzip.then_some(args.gzip_level),
    };
    let progress = session.printer.progress();
    let context = DumpContext {
        source: documents.source.as_ref(),
        accounts: documents.accounts.as_ref(),
        observer: progress.as_ref(),
        cancel: &session.cancel,
    };
    dump::dump(&context, &request, target).await
}

impl Place {
    fn open(args: &DumpArgs, session: &Session) -> Result<(Self, DumpTarget)> {
        if let Some(folder) = &args.directory {
            let path = session.path(folder);
            check_free_folder(&path)?;
            let partial = partial_of(&path)?;
            remove_remains(&path, session);
            make_folder(&partial).map_err(|error| cannot("make", &partial, error))?;
            let lock = File::open(&partial).map_err(|error| cannot("open", &partial, error))?;
            mark_living(&lock);
            let place = Self::Folder { partial: partial.clone(), path, _lock: lock };
            return Ok((place, DumpTarget::Directory(partial)));
        }
        let file = args.output.as_deref().unwrap_or(Path::new("-"));
        if file == Path::new("-") {
            return Ok((Self::Standard, DumpTarget::Archive(session.printer.data_output()?)));
        }
        let path = session.path(file);
        check_free_file(&path, args.overwrite)?;
        let partial = partial_of(&path)?;
        remove_remains(&path, session);
        let open = make_file(&partial).map_err(|error| cannot("make", &partial, error))?;
        mark_living(&open);
        Ok((Self::File { partial, path, overwrite: args.overwrite }, DumpTarget::Archive(open)))
    }

    /// Gives the whole dump its name.
    fn settle(&self, file: Option<&File>) -> Result<()> {
        match self {
            Self::Standard => Ok(()),
            Self::File { partial, path, overwrite } => {
                file.map_or(Ok(()), File::sync_all).map_err(|error| cannot("write", partial, error))?;
                check_free_file(path, *overwrite)?;
                name(partial, path).map_err(|error| cannot("name", path, error))
            }
            Self::Folder { partial, path, .. } => {
                check_free_folder(path)?;
                name(partial, path).map_err(|error| cannot("name", path, error))
            }
        }
    }

    /// Takes away what is not whole, and says so.
    fn remove(&self, error: Error) -> Error {
        let (removed, what) = match self {
            Self::Standard => return error,
            Self::File { partial, .. } => (fs::remove_file(partial), partial),
            Self::Folder { partial, .. } => (fs::remove_dir_all(partial), partial),
        };
        match removed {
            Ok(()) => error.with_state("no dump was made"),
            Err(gone) if gone.kind() == std::io::ErrorKind::NotFound && self.is_named() => {
                error.with_state("the dump has its name, which a loss of power could take away again")
            }
            Err(_) => {
                error.with_state(format!("no dump was made; {} is left and can be removed", what.display()))
            }
        }
    }

    /// Whether something bears the name that the dump gets.
    fn is_named(&self) -> bool {
        self.shown().is_some_and(|path| path.exists())
    }

    fn shown(&self) -> Option<PathBuf> {
        match self {
            Self::Standard => None,
            Self::File { path, .. } | Self::Folder { path, .. } => Some(path.clone()),
        }
    }
}

/// A file that nobody else may read: a dump is data, and may hold what passwords are checked with.
fn make_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A folder that nobody else may look into.
fn make_folder(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(0o700).create(path)
}

/// Gives `partial` its name, for good: the folder that holds the name is written out.
fn name(partial: &Path, path: &Path) -> std::io::Result<()> {
    fs::rename(partial, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Locks what a dump writes, for as long as it is open: whoever finds it knows that somebody lives. Where there are no locks, nobody can
/// take one either, and what is found stays.
fn mark_living(partial: &File) {
    let _ = partial.try_lock();
}

/// Removes what dumps to `path` left that were killed, and says so. What cannot be removed is none of this dump's business.
fn remove_remains(path: &Path, session: &Session) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    let prefix = format!("{}.", name.to_string_lossy());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let found = entry.file_name().to_string_lossy().into_owned();
        let process = found.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".partial"));
        let Some(process) = process.and_then(|process| process.parse().ok()) else { continue };
        let remains = entry.path();
        if lives(process) || File::open(&remains).is_ok_and(|open| open.try_lock().is_err()) {
            continue;
        }
        let removed = if remains.is_dir() { fs::remove_dir_all(&remains) } else { fs::remove_file(&remains) };
        if removed.is_ok() {
            session.printer.notice(&format!("removed {found}, which a dump that was killed had left"));
        }
    }
}

/// Whether a process of this number lives here. In another container or on another host it may live all the same: that its file is not
/// locked must be seen, too.
#[cfg(unix)]
fn lives(process: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(process) else { return false };
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

#[cfg(not(unix))]
fn lives(_process: i32) -> bool {
    true
}

/// Refuses a name that is taken. Only a plain file is ever replaced: not a folder, a device, a pipe or a link.
fn check_free_file(path: &Path, overwrite: bool) -> Result<()> {
    let refuse = |what: &str, hint: &str| {
        Err(Error::new(ErrorKind::Precondition, format!("{} {what}", path.display()))
            .with_state("nothing was written")
            .with_hint(hint))
    };
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(there) if !there.is_file() => refuse(
            "is there and no plain file",
            "name another file, or write to the standard output: `--output -`",
        ),
        Ok(_) if overwrite => Ok(()),
        Ok(_) => refuse("exists already", "name another file, or add `--overwrite`"),
    }
}

fn check_free_folder(path: &Path) -> Result<()> {
    let is_empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if path.exists() && !is_empty() {
        return Err(Error::new(
            ErrorKind::Precondition,
            format!("{} exists already and is not empty", path.display()),
        )
        .with_state("nothing was written")
        .with_hint("name another folder, or remove this one"));
    }
    Ok(())
}

fn cannot(verb: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("cannot {verb} {}", path.display())).with_source(error)
}

struct Dumped {
    report: DumpReport,
    output: Option<PathBuf>,
    elapsed: Duration,
}

impl Dumped {
    fn total(&self) -> Work {
        self.report.collections.iter().map(|dumped| dumped.work).sum()
    }
}

impl Report for Dumped {
    fn json(&self) -> Map<String, Value> {
        let collections: Vec<Value> = { self.report.collections.iter() }
            .map(|dumped| {
                json!({
                    "namespace": dumped.namespace.to_string(),
                    "kind": dumped.kind,
                    "consistency": dumped.consistency,
                    "documents": dumped.work.items,
                    "bytes": dumped.work.bytes,
                })
            })
            .collect();
        let total = self.total();
        Map::from_iter([
            ("output".to_owned(), json!(self.output)),
            ("server".to_owned(), json!(self.report.server)),
            ("consistency".to_owned(), json!(self.report.consistency)),
            ("collections".to_owned(), json!(collections)),
            ("users_and_roles".to_owned(), json!(self.report.accounts)),
            ("documents".to_owned(), json!(total.items)),
            ("bytes".to_owned(), json!(total.bytes)),
            ("output_bytes".to_owned(), json!(self.report.output_bytes)),
            ("seconds".to_owned(), json!(self.elapsed.as_secs_f64())),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let mut table = Table::new(&["COLLECTION", "KIND", "DOCUMENTS", "SIZE", "MOMENT"]);
        for dumped in &self.report.collections {
            table.row(vec![
                dumped.namespace.to_string().into(),
                Cell::new(match dumped.kind {
                    CollectionKind::Collection => "collection",
                    CollectionKind::View => "view",
                    CollectionKind::TimeSeries => "time series",
                }),
                Cell::right(Count(dumped.work.items).to_string()),
                Cell::right(ByteSize(dumped.work.bytes).to_string()),
                Cell::new(if dumped.consistency == self.report.consistency {
                    "the dump's".to_owned()
                } else {
                    moment_of(&dumped.consistency)
                }),
            ]);
        }
        let (total, seconds) = (self.total(), self.elapsed.as_secs_f64());
        let rate = ByteSize((total.bytes as f64 / seconds.max(0.001)) as u64);
        let accounts = if self.report.accounts { ", users and roles" } else { "" };
        let moment = match &self.report.consistency {
            Consistency::ClusterTime { at } => format!("cluster time {at}"),
            Consistency::DuringScan { .. } => "no single moment".to_owned(),
        };
        format!(
            "{}dumped {} collections and views{accounts}, {} documents, {}, {moment}; {} written in {seconds:.1} s ({rate}/s)\n",
            table.render(look),
            self.report.collections.len(),
            Count(total.items),
            ByteSize(total.bytes),
            ByteSize(self.report.output_bytes),
        )
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_exists_is_replaced_unasked() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        assert!(check_free_file(&file, false).is_ok());
        File::create(&file).unwrap();
        assert_eq!(check_free_file(&file, false).unwrap_err().kind(), ErrorKind::Precondition);
        assert!(check_free_file(&file, true).is_ok());
        assert!(check_free_file(folder.path(), true).is_err());
        assert!(check_free_file(Path::new("/dev/null"), true).is_err());
        std::os::unix::fs::symlink(&file, folder.path().join("link")).unwrap();
        assert!(check_free_file(&folder.path().join("link"), true).is_err());
        assert!(check_free_folder(folder.path()).is_err());
        assert!(check_free_folder(&folder.path().join("b")).is_ok());
        assert!(partial_of(Path::new("/")).is_err());
    }

    #[test]
    fn a_dump_is_for_nobody_else() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (file, files) = (folder.path().join("a"), folder.path().join("new/b"));
        make_file(&file).unwrap();
        make_folder(&files).unwrap();
        assert_eq!((mode(&file), mode(&files)), (0o600, 0o700));
        assert!(make_file(&file).is_err() && make_folder(&files).is_err());
        name(&files, &folder.path().join("c")).unwrap();
        assert_eq!(mode(&folder.path().join("c")), 0o700);
    }
}
