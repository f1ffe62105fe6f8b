//! The only place that prints. Results go to standard output, everything else to standard error.
//!
//! A command hands over a [`Report`]: one value that can say itself as text and as JSON. Under `--json` there is exactly one object on
//! standard output, also when the command fails; a command that streams prints one object a line, the last of which is its result. Whatever is printed passes a filter that hides every secret the configuration knows: the
//! second line of defence behind [`mainstay_model::Secret`], for texts that came from servers and drivers. What a terminal would act upon is
//! taken out of everything that is said in text ([`shown`]): what a person agrees to is what was decided. A closed pipe ends the output quietly
//! and changes nothing else.

pub(crate) mod consent;
mod hide;
pub(crate) mod look;
mod problem;
pub(crate) mod progress;
pub(crate) mod shown;
pub(crate) mod table;

use std::fs::File;
use std::io::{ErrorKind as IoKind, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use mainstay_model::{Error, ErrorKind, ExitStatus, Result, Secret};
use serde_json::{Map, Value, json};

pub(crate) use look::{Look, Tone};
pub(crate) use table::{Cell, Table};

use hide::Hider;
pub(crate) use problem::{details as problem_details, json as problem_json};
pub(crate) use progress::Progress;
use shown::plain_lines;

/// Version of the JSON objects' form; it grows when a field changes its meaning or goes away.
const JSON_VERSION: u32 = 1;

/// What a command found or did.
pub(crate) trait Report {
    /// The fields of the JSON object, besides `version` and `command`.
    fn json(&self) -> Map<String, Value>;

    /// The text, lines ended.
    fn text(&self, look: &Look) -> String;

    /// The status the process ends with.
    fn exit_status(&self) -> ExitStatus {
        ExitStatus::Ok
    }
}

/// How to print.
#[derive(Debug, Clone, Default)]
pub(crate) struct PrinterOptions {
    /// One JSON object instead of text.
    pub(crate) json: bool,
    /// Results and errors only.
    pub(crate) quiet: bool,
    /// More detail.
    pub(crate) verbose: bool,
    /// Colours were declined: `--no-color` or `NO_COLOR`.
    pub(crate) no_color: bool,
    /// The terminal can neither colour nor redraw: `TERM=dumb`.
    pub(crate) dumb: bool,
    /// The command's dotted name.
    pub(crate) command: &'static str,
}

/// Prints.
pub(crate) struct Printer {
    options: PrinterOptions,
    out: Look,
    err: Look,
    err_is_terminal: bool,
    hider: Mutex<Hider>,
    live: Mutex<Option<Arc<Progress>>>,
    prompting: AtomicBool,
    output_lost: AtomicBool,
    /// Standard output belongs to data: results and errors go to standard error, as JSON too.
    data_on_out: AtomicBool,
}

impl Printer {
    /// A printer on the process's own streams.
    pub(crate) fn new(options: PrinterOptions) -> Self {
        let look = |is_terminal: bool| Look {
            color: is_terminal && !options.no_color && !options.dumb,
            verbose: options.verbose,
        };
        let err_is_terminal = std::io::stderr().is_terminal();
        Self {
            out: look(std::io::stdout().is_terminal()),
            err: look(err_is_terminal),
            err_is_terminal,
            hider: Mutex::new(Hider::default()),
            live: Mutex::new(None),
            prompting: AtomicBool::new(false),
            output_lost: AtomicBool::new(false),
            data_on_out: AtomicBool::new(false),
            options,
        }
    }

    /// From now on these never appear in any output. Texts in `public` are never hidden, though a password equals them.
    pub(crate) fn hide(&self, secrets: &[Secret], public: &[String]) {
        self.hider.lock().expect("no holder of this lock can panic").add(secrets, public);
    }

    /// Prints a result and gives back the status it stands for.
    pub(crate) fn report(&self, report: &dyn Report) -> ExitStatus {
        if self.options.json {
            self.write_json(report.json());
        } else {
            self.write_out(&self.out.sift(&report.text(&self.out)));
        }
        report.exit_status()
    }

    /// Prints text that is a file by itself: a completion script, a manual page, a template.
    pub(crate) fn raw(&self, text: &str) {
        self.write(&mut std::io::stdout().lock(), text);
    }

    /// Gives standard output away for data. From now on nothing else is written there; results go to standard error.
    ///
    /// # Errors
    /// `Usage` when it is a terminal.
    pub(crate) fn data_output(&self) -> Result<File> {
        let stream = std::io::stdout();
        if stream.is_terminal() {
            return Err(Error::new(
                ErrorKind::Usage,
                "standard output is a terminal, which cannot take data",
            )
            .with_state("nothing was written")
            .with_hint("send it into a file or another program, or name a file"));
        }
        self.data_on_out.store(true, Ordering::Relaxed);
        own(stream.as_fd())
    }

    /// Standard input, for data.
    ///
    /// # Errors
    /// `Usage` when it is a terminal.
    pub(crate) fn data_input(&self) -> Result<File> {
        let stream = std::io::stdin();
        if stream.is_terminal() {
            return Err(Error::new(ErrorKind::Usage, "standard input is a terminal, which gives no data")
                .with_state("nothing was changed")
                .with_hint("name a file instead of `-`"));
        }
        own(stream.as_fd())
    }

    /// Prints an error and gives back its status: lines on standard error, or the JSON object on standard output.
    pub(crate) fn error(&self, error: &Error) -> ExitStatus {
        self.end_progress();
        let status = error.kind().exit_status();
        if self.options.json {
            self.write_json(Map::from_iter([("error".to_owned(), problem::json(error))]));
        } else {
            self.write_err(&problem::text(error, &self.err));
        }
        status
    }

    /// Prints what the argument parser has to say, on standard error.
    pub(crate) fn complaint(&self, text: &str) {
        self.write_err(text);
    }

    /// Tells something on standard error, unless silence was asked for.
    pub(crate) fn notice(&self, text: &str) {
        if !self.options.quiet {
            self.write_err(&plain_lines(&format!("{text}\n")));
        }
    }

    /// As [`Printer::notice`], for the progress itself, which must not step aside for its own line.
    fn notice_beside_nothing(&self, text: &str) {
        let text = plain_lines(&format!("{text}\n"));
        let text = self.hider.lock().expect("no holder of this lock can panic").hide_text(&text);
        self.write(&mut std::io::stderr().lock(), &text);
    }

    /// Prints one of the events of a command that streams: a JSON object on a line of its own, or a line on standard error, which for a
    /// `detail` is printed only when more detail was asked for.
    pub(crate) fn event(&self, fields: Map<String, Value>, text: &str, detail: bool) {
        if self.options.json {
            self.write_json(fields);
        } else if !detail || self.options.verbose {
            self.notice(text);
        }
    }

    /// Begins to show progress. It is shown until the last holder lets go of it.
    pub(crate) fn progress(self: &Arc<Self>) -> Arc<Progress> {
        let shown = !self.options.quiet;
        let progress =
            Progress::begin(self.clone(), shown, shown && self.err_is_terminal && !self.options.dumb);
        *self.live.lock().expect("no holder of this lock can panic") = Some(progress.clone());
        progress
    }

    /// Ends the progress display, when there is one. What is printed afterwards stands below its last line.
    pub(crate) fn end_progress(&self) {
        let live = self.live.lock().expect("no holder of this lock can panic").take();
        if let Some(progress) = live {
            progress.end();
        }
    }

    /// The status the process ends with: a success whose result could not be written, to a full disk say, is none.
    pub(crate) fn final_status(&self, status: ExitStatus) -> ExitStatus {
        match status {
            ExitStatus::Ok if self.output_lost.load(Ordering::Relaxed) => ExitStatus::Failed,
            status => status,
        }
    }

    /// Whether somebody is being asked right now: then nothing is under way that needs a safe point.
    pub(crate) fn is_prompting(&self) -> bool {
        self.prompting.load(Ordering::Relaxed)
    }

    /// Whether there is a person to ask.
    pub(crate) fn is_interactive(&self) -> bool {
        self.err_is_terminal && std::io::stdin().is_terminal()
    }

    /// Asks on standard error and reads a line; `None` at the end of the input.
    fn ask(&self, question: &str) -> Option<String> {
        self.end_progress();
        self.prompting.store(true, Ordering::Relaxed);
        self.write_err(&plain_lines(question));
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        self.prompting.store(false, Ordering::Relaxed);
        match read {
            Ok(count) if count > 0 => Some(answer.trim().to_owned()),
            _ => None,
        }
    }

    fn write_json(&self, fields: Map<String, Value>) {
        self.end_progress();
        let mut object = Map::new();
        object.insert("version".to_owned(), json!(JSON_VERSION));
        object.insert("command".to_owned(), json!(self.options.command));
        object.extend(fields);
        let mut value = Value::Object(object);
        self.hider.lock().expect("no holder of this lock can panic").hide_value(&mut value);
        self.write_result(&format!("{value}\n"));
    }

    /// Writes to standard output, or to standard error when that belongs to data.
    fn write_result(&self, text: &str) {
        if self.data_on_out.load(Ordering::Relaxed) {
            self.write(&mut std::io::stderr().lock(), text);
        } else {
            self.write(&mut std::io::stdout().lock(), text);
        }
    }

    fn write_out(&self, text: &str) {
        self.end_progress();
        let text = self.hider.lock().expect("no holder of this lock can panic").hide_text(text);
        self.write_result(&text);
    }

    fn write_err(&self, text: &str) {
        let text = self.hider.lock().expect("no holder of this lock can panic").hide_text(text);
        let live = self.live.lock().expect("no holder of this lock can panic").clone();
        let write = || self.write(&mut std::io::stderr().lock(), &text);
        match live {
            Some(progress) => progress.beside(write),
            None => write(),
        }
    }

    fn write(&self, stream: &mut dyn Write, text: &str) {
        match stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
            Ok(()) => {}
            // Whoever read has seen enough.
            Err(error) if error.kind() == IoKind::BrokenPipe => {}
            // There may be nowhere left to say so; the exit status will.
            Err(_) => self.output_lost.store(true, Ordering::Relaxed),
        }
    }
}

/// A stream as a file of its own, so that large pieces pass without a buffer in between.
fn own(stream: BorrowedFd<'_>) -> Result<File> {
    let owned = stream.try_clone_to_owned();
    owned.map(File::from).map_err(|source| {
        Error::new(ErrorKind::Internal, "a standard stream cannot be used for data").with_source(source)
    })
}
