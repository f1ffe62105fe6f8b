//! `pg blockers`: who blocks whom, as trees.

use clap::Args;
use mainstay_model::{ExitStatus, Result, Severity};
use mainstay_ops::relational::blockers::{self, Blocker, BlockerReport};
use serde_json::{Map, Value, json};

use crate::commands::findings;
use crate::commands::mongo::choice::LiteralArgs;
use crate::printer::shown::{millis, plain};
use crate::printer::{Look, Report, Tone};
use crate::wiring::Session;

/// How many of a session's locks are shown without `--verbose`.
const LOCK_COUNT_MAX: usize = 6;
/// How much of a statement is shown without `--verbose`.
const STATEMENT_CHARS_MAX: usize = 200;

/// Arguments of `pg blockers`.
#[derive(Debug, Args)]
pub(crate) struct BlockersArgs {
    #[command(flatten)]
    literals: LiteralArgs,
}

/// Looks and judges.
///
/// # Errors
/// The server's.
pub(super) async fn run(args: &BlockersArgs, session: &Session) -> Result<ExitStatus> {
    let (inspection, address) = session.relational()?;
    let report = blockers::observe(inspection.as_ref(), &address, args.literals.literals()).await?;
    Ok(session.printer.report(&Shown(report)))
}

struct Shown(BlockerReport);

impl Report for Shown {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("trees".to_owned(), json!(self.0.trees)),
            ("waiting".to_owned(), json!(self.0.waiting)),
            ("findings".to_owned(), json!(self.0.findings)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        if self.0.trees.is_empty() {
            return "nobody waits for a lock\n".to_owned();
        }
        let mut text = String::new();
        for tree in &self.0.trees {
            draw(tree, 0, look, &mut text);
        }
        text + &findings::text(&self.0.findings, look)
    }

    fn exit_status(&self) -> ExitStatus {
        Severity::worst_exit_status(&self.0.findings)
    }
}

/// A session and those who wait for it, each two columns further in.
fn draw(blocker: &Blocker, depth: usize, look: &Look, text: &mut String) {
    let indent = "  ".repeat(depth);
    let (tone, role) = match &blocker.wants {
        None => (Tone::Bad, format!("blocks {}", blocker.waiter_count())),
        Some(wants) => {
            (Tone::Warn, format!("waits {} for {} ({})", millis(wants.micros / 1_000), wants.on, wants.mode))
        }
    };
    let line = format!("{} {role}{}", title(blocker), age(blocker));
    text.push_str(&format!("{indent}{}\n", look.paint(tone, &plain(&line, 400))));
    if depth == 0 && !blocker.holds.is_empty() {
        let shown = if look.verbose { usize::MAX } else { LOCK_COUNT_MAX };
        let locks: Vec<String> =
            blocker.holds.iter().take(shown).map(|lock| format!("{} ({})", lock.on, lock.mode)).collect();
        let more = match blocker.holds.len().saturating_sub(shown) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let line = plain(&format!("{}{more}", locks.join(", ")), 1_000);
        text.push_str(&format!("{indent}  {} {line}\n", look.paint(Tone::Faint, "holds:")));
    }
    if let Some(statement) = &blocker.statement {
        let shown = if look.verbose { usize::MAX } else { STATEMENT_CHARS_MAX };
        let word = if blocker.state.as_deref() == Some("active") { "runs:" } else { "ran last:" };
        text.push_str(&format!("{indent}  {} {}\n", look.paint(Tone::Faint, word), plain(statement, shown)));
    }
    for waiter in &blocker.blocks {
        draw(waiter, depth + 1, look, text);
    }
}

fn title(blocker: &Blocker) -> String {
    if blocker.pid == 0 {
        return "a transaction that is prepared and not committed".to_owned();
    }
    let parts = [
        blocker.user.as_deref().unwrap_or(""),
        blocker.app_name.as_str(),
        blocker.client.as_deref().unwrap_or(""),
    ];
    let who: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("process {} ({})", blocker.pid, who.join(", "))
}

fn age(blocker: &Blocker) -> String {
    let state = match (&blocker.state, blocker.state_micros) {
        (Some(state), Some(micros)) => format!(", {state} for {}", millis(micros / 1_000)),
        _ => String::new(),
    };
    let open =
        blocker.transaction_micros.map(|micros| format!(", in a transaction for {}", millis(micros / 1_000)));
    format!("{state}{}", open.unwrap_or_default())
}
