//! From arguments to exit status: parse, configure, wire, dispatch, print.
//!
//! Everything that can fail without the network fails before the runtime begins.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory as _, Parser};
use mainstay_model::{Error, ErrorKind, ExitStatus, Result, redact_url};

use crate::args::{Arguments, Command};
use crate::commands;
use crate::commands::wal::{self, WalCommand};
use crate::config::connection::holds_password;
use crate::config::{Configuration, Outside};
use crate::interrupt;
use crate::printer::{Printer, PrinterOptions};
use crate::wiring::Session;

/// Runs the process.
pub(crate) fn run() -> ExitCode {
    let variables = variables();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return not_understood(&error),
    };
    let printer = Arc::new(Printer::new(PrinterOptions {
        json: arguments.global.json,
        quiet: arguments.global.quiet,
        verbose: arguments.global.verbose,
        no_color: arguments.global.no_color
            || variables.get("NO_COLOR").is_some_and(|value| !value.is_empty()),
        dumb: variables.get("TERM").is_some_and(|term| term == "dumb"),
        command: arguments.command.name(),
    }));
    let is_fetch = matches!(arguments.command, Command::Wal(WalCommand::Fetch(_)));
    if is_fetch {
        // A server takes the status of a panic for the end of its log.
        let performed = AssertUnwindSafe(|| perform(arguments, variables, &printer));
        let performed = catch_unwind(performed).unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Internal, "the program broke off while it fetched WAL"))
        });
        return match performed {
            Ok(status) => printer.final_status(status).into(),
            Err(error) => ExitCode::from(wal::trouble(printer.error(&error))),
        };
    }
    match perform(arguments, variables, &printer) {
        Ok(status) => printer.final_status(status).into(),
        Err(error) => printer.error(&error).into(),
    }
}

fn perform(
    arguments: Arguments,
    variables: BTreeMap<String, String>,
    printer: &Arc<Printer>,
) -> Result<ExitStatus> {
    let working_dir = std::env::current_dir().map_err(|source| {
        Error::new(ErrorKind::Usage, "the working directory cannot be read").with_source(source)
    })?;
    let outside = Outside {
        working_dir,
        variables,
        flags: arguments.global.configuration_flags()?,
        config_flag: arguments.global.config.clone(),
    };
    let command = match commands::without_configuration(arguments.command, &outside, printer)? {
        commands::Next::Done(status) => return Ok(status),
        commands::Next::Configured(command) => *command,
    };
    let configuration = Configuration::resolve(&outside)?;
    let session = Session::new(configuration, outside, printer.clone());
    printer.hide(&session.configuration.secrets(), &session.public_words());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|source| {
        Error::new(ErrorKind::Internal, "the asynchronous runtime does not begin").with_source(source)
    })?;
    let status = runtime.block_on(async {
        interrupt::listen(printer.clone(), session.cancel.clone(), has_safe_point(&command));
        commands::run(command, &session).await
    });
    // Connections that hang must not keep the process alive.
    runtime.shutdown_background();
    status
}

/// Whether the command can be asked to stop at a safe point; the others may be cut off anywhere.
fn has_safe_point(command: &Command) -> bool {
    let stoppable = [
        "backup.create",
        "backup.verify",
        "backup.prune",
        "backup.export",
        "capture.mongo",
        "capture.postgres",
        "capture.redis",
        "restore.apply",
        "restore.abandon",
        "environment.mark",
        "init.apply",
        "mongo.profile.set",
        "mongo.profile.reset",
        "mongo.dump",
        "mongo.load",
        "index.import.mongoose",
        "redis.keys",
        "redis.slowlog",
        "redis.policy.plan",
        "redis.policy.apply",
        "restore.plan",
        "redis.purge",
        "index.plan",
        "index.apply",
        "index.retire",
        "index.restore",
        "redis.undo",
        "sql.apply",
        "sql.mark-applied",
        "sql.baseline",
        "sql.repair",
        "sql.rehearse",
        "sql.rehearse.live",
        "sql.drift",
        "sql.verify",
        "pg.reset",
        "wal.import",
        "apply",
    ];
    stoppable.contains(&command.name())
}

fn variables() -> BTreeMap<String, String> {
    // A variable that is not UTF-8 belongs to somebody else: none of ours may be anything but text.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// Prints help, version or the parser's complaint, from which every password that was typed is removed.
fn not_understood(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let printer = Printer::new(PrinterOptions { json, ..PrinterOptions::default() });
    let text = without_passwords(error.to_string(), &arguments);
    if !error.use_stderr() {
        printer.raw(&text);
        return printer.final_status(ExitStatus::Ok).into();
    }
    if json {
        let first = text.lines().next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
        printer.error(&Error::new(ErrorKind::Usage, message).with_hint("`mainstay help` lists the commands"));
    } else {
        printer.complaint(&text);
    }
    // A server whose restore_command is mistyped must not take it for the end of its log.
    match may_be_fetch(&arguments) {
        true => ExitCode::from(wal::trouble(ExitStatus::Usage)),
        false => ExitStatus::Usage.into(),
    }
}

/// Whether what was typed may be meant for `wal fetch`: its first command is `wal`, and it is not to import.
fn may_be_fetch(arguments: &[String]) -> bool {
    let commands = Arguments::command();
    let is_command = |argument: &&String| commands.find_subcommand(argument.as_str()).is_some();
    let is_wal = arguments.iter().find(is_command).is_some_and(|command| command == "wal");
    is_wal && !arguments.iter().any(|argument| argument == "import")
}

fn without_passwords(text: String, arguments: &[String]) -> String {
    let values = arguments
        .iter()
        .flat_map(|argument| [argument.split_once('=').map(|(_, value)| value), Some(argument.as_str())]);
    values.flatten().filter(|value| holds_password(value)).fold(text, |text, value| {
        let redacted = if value.contains("://") { redact_url(value) } else { "***".to_owned() };
        text.replace(value, &redacted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_repeat_no_password() {
        let arguments = ["mongodb://u:canary@h/db", "--x=redis://:canary@h", "u:canary@h"].map(str::to_owned);
        let text = format!("unexpected '{}' '{}' '{}'", arguments[0], arguments[1], arguments[2]);
        let shown = without_passwords(text, &arguments);
        assert_eq!(shown, "unexpected 'mongodb://***@h/db' '--x=redis://***@h' '***'");
    }
}
