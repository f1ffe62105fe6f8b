//! Consent obtained from the person at the terminal, or given beforehand with `--approve HASH`.
//!
//! Without a terminal nobody is asked and nothing is assumed. Nothing is filled in: a phrase that types itself is no consent.

use std::sync::Arc;

use mainstay_guard::{ApprovedHash, Consent};
use mainstay_model::{Error, ErrorKind, Result};

use super::Printer;
use super::shown::plain;

/// Asks on standard error, reads standard input.
pub(crate) struct TerminalConsent {
    printer: Arc<Printer>,
    approved: Option<ApprovedHash>,
}

impl TerminalConsent {
    /// Consent through `printer`; `approved` is the value of `--approve`.
    ///
    /// # Errors
    /// `Usage` when that is not a hash.
    pub(crate) fn new(printer: Arc<Printer>, approved: Option<&str>) -> Result<Self> {
        let approved = approved.map(str::parse).transpose()?;
        Ok(Self { printer, approved })
    }

    fn ask(&self, question: &str) -> Result<String> {
        self.printer.ask(question).ok_or_else(|| {
            Error::new(ErrorKind::Interrupted, "the question was not answered")
                .with_state("nothing was changed")
        })
    }
}

impl Consent for TerminalConsent {
    fn approved_hash(&self) -> Option<ApprovedHash> {
        self.approved.clone()
    }

    fn interactive(&self) -> bool {
        self.printer.is_interactive()
    }

    fn confirm(&self, question: &str) -> Result<bool> {
        let answer = self.ask(&format!("{question} [y/N] "))?;
        Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    fn type_phrase(&self, question: &str, phrase: &str) -> Result<String> {
        self.ask(&format!("{question}\n\n    {}\n\n> ", plain(phrase, usize::MAX)))
    }
}
