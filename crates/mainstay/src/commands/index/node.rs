//! A Mongoose project asked for what it declares: the person's own Node runs their own code, with our script loaded before it.
//!
//! The script (`mongoose.cjs`) lets Mongoose connect nowhere, refuses every other connection that Node opens over a network, and writes facts into a
//! folder that lives as long as the question. The program gets the environment that we were given, since the project may need it, and a bounded
//! time; it is ended with all that it began. Refuses to take a part for the whole: a program that ends badly declares nothing.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use mainstay_indexes::mongoose::{Declarations, Project};
use mainstay_model::{Error, ErrorKind, Result};

use crate::wiring::Session;

const SCRIPT: &str = include_str!("mongoose.cjs");

/// How often is looked whether the program has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long is waited for the streams of a program that has ended.
const STREAM_TIME_MAX: Duration = Duration::from_secs(1);
/// How much is kept of what the program says.
const SAID_BYTES_MAX: usize = 64 * 1024;
/// How many lines of that are told when it fails.
const SAID_LINES_MAX: usize = 8;
/// The longest file of facts that is read.
pub(super) const FACTS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is run.
pub(super) enum Program<'a> {
    /// Node with our script, which loads these files and folders.
    Models {
        /// Node.
        node: &'a str,
        /// The files and folders.
        places: &'a [PathBuf],
    },
    /// A command of the person's own that runs Node somehow.
    Command(&'a [OsString]),
}

/// Runs the program and reads what its models declare.
///
/// # Errors
/// `Precondition` when models are named that are not there, and when it cannot be run, fails, takes too long or defines no model; `Interrupted`.
pub(super) fn ask(program: &Program<'_>, time_max: Duration, session: &Session) -> Result<Project> {
    if let Program::Models { places, .. } = program
        && let Some(missing) = places.iter().find(|place| !session.path(place).exists())
    {
        return Err(Error::new(ErrorKind::Precondition, format!("there is no {}", missing.display()))
            .with_state("nothing was changed")
            .with_hint(
                "name the files or folders of the models, or write the command that loads them behind `--`",
            ));
    }
    let room = Room::make(&session.temporary())?;
    let script = room.0.join("mongoose.cjs");
    fs::write(&script, SCRIPT).map_err(|source| storage(&script, source))?;
    let mut command = command_of(program, &script, session);
    command
        .current_dir(&session.outside.working_dir)
        .env("MAINSTAY_IMPORT_DIR", &room.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    own_group(&mut command);
    let shown = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn().map_err(|source| {
        Error::new(ErrorKind::Precondition, format!("{shown} cannot be run"))
            .with_source(source)
            .with_state("nothing was changed")
            .with_hint(
                "install Node, or name it with `--node PROGRAM`, or write the whole command behind `--`",
            )
    })?;
    let (status, said) = wait(child, time_max, session)?;
    match status {
        Some(status) if status.success() => facts(&room.0, &shown, &said),
        Some(status) => Err(failed(&format!("{shown} ended with {status}"), &said)),
        None => Err(failed(&format!("{shown} did not end within {time_max:?}"), &said)),
    }
}

/// What a project declares.
///
/// # Errors
/// `Unsupported` for an index that is not understood, with its model.
pub(super) fn declarations(project: &Project) -> Result<Declarations> {
    project.declarations().map_err(|error| {
        Error::new(ErrorKind::Unsupported, error.to_string())
            .with_hint("write that index into the manifest by hand, and leave its model out of the import")
    })
}

fn command_of(program: &Program<'_>, script: &Path, session: &Session) -> Command {
    match program {
        Program::Models { node, places } => {
            let mut command = Command::new(node);
            command.arg(script).args(places.iter());
            command
        }
        Program::Command(words) => {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            let given = session.outside.variable("NODE_OPTIONS").unwrap_or_default();
            let script = script.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
            command.env("NODE_OPTIONS", format!("{given} --require \"{script}\"").trim_start());
            command
        }
    }
}

/// A folder of this process alone, removed with all that is in it.
struct Room(PathBuf);

impl Room {
    fn make(folder: &Path) -> Result<Self> {
        for number in 0..100 {
            let path = folder.join(format!("mainstay-import-{}-{number}", std::process::id()));
            match make_private(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(storage(&path, source)),
            }
        }
        Err(Error::new(ErrorKind::Storage, format!("no folder can be made in {}", folder.display())))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[cfg(unix)]
fn make_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(not(unix))]
fn make_private(path: &Path) -> std::io::Result<()> {
    fs::create_dir(path)
}

fn storage(path: &Path, source: std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("cannot write {}", path.display()))
        .with_source(source)
        .with_state("nothing was changed")
}

/// Waits for the end, within bounds; everything that the program began is ended with it. `None` when it took too long.
fn wait(mut child: Child, time_max: Duration, session: &Session) -> Result<(Option<ExitStatus>, String)> {
    let (sender, said) = mpsc::channel();
    if let Some(stream) = child.stdout.take() {
        listen(stream, sender.clone());
    }
    if let Some(stream) = child.stderr.take() {
        listen(stream, sender);
    }
    let ended = wait_for(&mut child, Instant::now() + time_max, session);
    end(&mut child);
    let ended = ended?;
    // What left the group may hold a stream open; it is not waited for.
    let mut told = String::new();
    while let Ok(part) = said.recv_timeout(STREAM_TIME_MAX) {
        told.push_str(&part);
    }
    Ok((ended, told))
}

fn wait_for(child: &mut Child, deadline: Instant, session: &Session) -> Result<Option<ExitStatus>> {
    loop {
        let ended = child.try_wait().map_err(|source| {
            Error::new(ErrorKind::Internal, "the program cannot be waited for").with_source(source)
        })?;
        if session.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "the import was stopped")
                .with_state("nothing was changed")
                .with_hint("run the same command again"));
        }
        match ended {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() >= deadline => return Ok(None),
            None => std::thread::sleep(LOOK_EVERY),
        }
    }
}

/// Hands on the end of what a stream gives, when it is at its end.
fn listen(stream: impl std::io::Read + Send + 'static, said: mpsc::Sender<String>) {
    // Nobody may be listening any more.
    std::thread::spawn(move || drop(said.send(tail(stream))));
}

#[cfg(unix)]
fn own_group(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    command.process_group(0);
}

#[cfg(not(unix))]
fn own_group(_command: &mut Command) {}

#[cfg(unix)]
fn end(child: &mut Child) {
    // The group is the program's own; one that has ended already is no failure.
    let group = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    drop(child.wait());
}

#[cfg(not(unix))]
fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// The last of what a stream gives.
fn tail(mut stream: impl std::io::Read) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = [0; 8 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        kept.extend(&buffer[..count]);
        if kept.len() > 2 * SAID_BYTES_MAX {
            kept.drain(..kept.len() - SAID_BYTES_MAX);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

fn failed(what: &str, said: &str) -> Error {
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    // The message of an uncaught error stands above its trace.
    let telling = lines.iter().position(|line| line.contains("Error:"));
    let from = telling.unwrap_or(lines.len().saturating_sub(SAID_LINES_MAX));
    let told: Vec<&str> = lines.into_iter().skip(from).take(SAID_LINES_MAX).collect();
    let error = Error::new(ErrorKind::Precondition, what.to_owned())
        .with_state("nothing was changed")
        .with_hint("see that the project runs by itself; or load its models alone: `mainstay index import mongoose src/models`");
    match told.is_empty() {
        true => error,
        false => error.with_source(std::io::Error::other(told.join("\n"))),
    }
}

/// The facts that the processes of the program have written.
fn facts(folder: &Path, program: &str, said: &str) -> Result<Project> {
    let entries = fs::read_dir(folder).map_err(|source| storage(folder, source))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(std::result::Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let mut project: Option<Project> = None;
    for file in files {
        let mut text = String::new();
        let opened = fs::File::open(&file).map_err(|source| storage(&file, source))?;
        opened.take(FACTS_BYTES_MAX).read_to_string(&mut text).map_err(|source| storage(&file, source))?;
        let found = Project::parse(&text).map_err(|error| {
            Error::new(ErrorKind::Internal, error.to_string()).with_state("nothing was changed")
        })?;
        match &mut project {
            Some(known) => known.models.extend(found.models),
            None => project = Some(found),
        }
    }
    project.ok_or_else(|| {
        failed(&format!("{program} defined no model of Mongoose"), said)
            .with_hint("name the files or folders of the models, or the command that loads them behind `--`; a bundled program hides its copy of Mongoose")
    })
}
