//! Errors, shown: what happened, why we think so, what the world looks like now, what to type next.

use mainstay_model::Error;
use serde_json::{Value, json};

use super::shown::plain_lines;
use super::{Look, Tone};

/// The error as lines.
pub(super) fn text(error: &Error, look: &Look) -> String {
    let said = plain_lines(&error.to_string());
    let mut text = format!("{} {said}\n", look.paint(Tone::Bad, "error:"));
    text.push_str(&details(error));
    text
}

/// What stands below the error's own line: causes that say something new, the state of the world, the hint.
pub(crate) fn details(error: &Error) -> String {
    let mut text = String::new();
    let mut shown = error.to_string();
    for cause in error.causes() {
        // Drivers repeat the inner text in the outer one.
        if !shown.contains(&cause) {
            text.push_str(&format!("  cause: {cause}\n"));
            shown.push_str(&cause);
        }
    }
    if let Some(state) = error.state() {
        text.push_str(&format!("  state: {state}\n"));
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("  hint: {hint}\n"));
    }
    plain_lines(&text)
}

/// The error as a value.
pub(crate) fn json(error: &Error) -> Value {
    let contexts: Vec<&String> = error.contexts().iter().rev().collect();
    json!({
        "kind": error.kind().name(),
        "message": error.message(),
        "contexts": contexts,
        "causes": error.causes(),
        "state": error.state(),
        "hint": error.hint(),
        "exit_status": error.kind().exit_status() as u8,
    })
}

#[cfg(test)]
mod tests {
    use mainstay_model::ErrorKind;

    use super::*;

    #[test]
    fn an_error_tells_cause_state_and_hint() {
        let error = Error::new(ErrorKind::Unreachable, "127.0.0.1:1 refused the connection")
            .context("read status")
            .with_source("os error 111")
            .with_state("nothing was changed")
            .with_hint("start the server");
        let expected = "error: read status: 127.0.0.1:1 refused the connection\n  cause: os error 111\n  state: nothing was changed\n  hint: start the server\n";
        assert_eq!(text(&error, &Look::default()), expected);
        let value = json(&error);
        assert_eq!(value["kind"], "unreachable");
        assert_eq!(value["contexts"], json!(["read status"]));
        assert_eq!(value["exit_status"], 6);
        let hostile = Error::new(ErrorKind::NotFound, "no shop.\u{1b}[2K").with_hint("\rname\nanother");
        let expected = "error: no shop.\u{fffd}[2K\n  hint: \u{fffd}name\nanother\n";
        assert_eq!(text(&hostile, &Look::default()), expected);
    }
}
