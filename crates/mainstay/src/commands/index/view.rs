//! A plan about indexes as a person reads it: by collection and index, with what was found out and what it costs.

use std::path::PathBuf;

use mainstay_indexes::{Change, ChangeKind};
use mainstay_model::{Blake3, ByteSize, Count, ExitStatus, Plan, Result, Timestamp};
use mainstay_ops::index::{Answer, DuplicateGroup, IndexParameters, PlannedChange, PlannedCollection};
use serde_json::{Map, Value, json};

use crate::printer::shown::{millis, moment, plain};
use crate::printer::{Look, Report, Tone};

/// How many groups of duplicates are shown without `--verbose`.
const GROUPS_SHOWN: usize = 3;
/// How many `_id`s of one.
const IDS_SHOWN: usize = 4;

/// A plan about indexes.
pub(super) struct Changes {
    plan: Plan,
    hash: Blake3,
    parameters: IndexParameters,
    command: String,
    file: Option<PathBuf>,
    now: Timestamp,
}

impl Changes {
    /// `plan` with its parameters, made by `command` (`index retire users.email_1`), kept in `file` if it is.
    ///
    /// # Errors
    /// `Internal` when the plan has no hash.
    pub(super) fn new(
        plan: Plan,
        parameters: IndexParameters,
        command: String,
        file: Option<PathBuf>,
        now: Timestamp,
    ) -> Result<Self> {
        let hash = plan.hash()?;
        Ok(Self { plan, hash, parameters, command, file, now })
    }

    fn all(&self) -> impl Iterator<Item = &PlannedChange> {
        self.parameters.collections.iter().flat_map(|collection| &collection.changes)
    }

    fn count(&self, of: impl Fn(&PlannedChange) -> bool) -> usize {
        self.all().filter(|planned| of(planned)).count()
    }

    fn blocked(&self) -> usize {
        self.count(|planned| planned.change.blocked.is_some())
    }

    /// How many are added, changed and taken away.
    fn totals(&self) -> (usize, usize, usize) {
        let done = |kinds: &[ChangeKind]| {
            self.count(|planned| planned.is_done() && kinds.contains(&planned.change.kind))
        };
        (
            done(&[ChangeKind::Build]),
            done(&[ChangeKind::Modify, ChangeKind::Replace, ChangeKind::Rebuild]),
            done(&[ChangeKind::Hide, ChangeKind::Drop]),
        )
    }
}

/// `2 to add, 1 to change`, what there is of it.
pub(super) fn tally(added: usize, changed: usize, retired: usize) -> String {
    let parts = [(added, "added"), (changed, "changed"), (retired, "hidden or dropped")];
    let told: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

impl Report for Changes {
    fn json(&self) -> Map<String, Value> {
        let (added, changed, retired) = self.totals();
        Map::from_iter([
            ("plan_hash".to_owned(), json!(self.hash)),
            ("file".to_owned(), json!(self.file)),
            ("fresh".to_owned(), json!(self.now < self.plan.expires_at)),
            (
                "totals".to_owned(),
                json!({"added": added, "changed": changed, "retired": retired, "blocked": self.blocked()}),
            ),
            ("plan".to_owned(), json!(self.plan)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let target = &self.plan.target;
        let own = |text: &str| plain(text, usize::MAX);
        let title =
            format!("index plan  {} in {} ({})", self.parameters.database, target.environment, target.class);
        let mut text = format!("{}\n", look.paint(Tone::Strong, &own(&title)));
        for collection in &self.parameters.collections {
            text.push_str(&collection_text(collection, look));
        }
        let (added, changed, retired) = self.totals();
        let blocked = self.blocked();
        if added + changed + retired == 0 {
            let line = match (blocked, self.count(|planned| planned.change.steps.is_empty())) {
                (0, 0) => look.paint(Tone::Good, "nothing to do"),
                (0, left) => look.paint(Tone::Good, &format!("nothing to do: {left} left alone")),
                (count, _) => look.paint(Tone::Bad, &format!("nothing can be done: {count} blocked")),
            };
            return format!("{text}{line}\n");
        }
        let rest =
            if blocked > 0 { look.paint(Tone::Bad, &format!("; {blocked} blocked")) } else { String::new() };
        text.push_str(&format!("Plan: {added} to add, {changed} to change, {retired} to retire{rest}.\n"));
        if self.parameters.overdue() > 0 {
            let line = format!("{} documents expire at once.", Count(self.parameters.overdue()));
            text.push_str(&format!("{}\n", look.paint(Tone::Bad, &line)));
        }
        text.push_str(&match &self.file {
            Some(file) => {
                let file = own(&file.display().to_string());
                format!(
                    "hash {} ({}, expires {})\nnext: mainstay apply {file}, or without a terminal: mainstay apply {file} --approve {}\n",
                    self.hash, self.plan.effect, moment(self.plan.expires_at), self.hash
                )
            }
            None => format!("next: mainstay {} --output plan.json\n", own(&self.command)),
        });
        text
    }

    fn exit_status(&self) -> ExitStatus {
        match self.blocked() {
            0 => ExitStatus::Ok,
            _ => ExitStatus::Findings,
        }
    }
}

fn collection_text(collection: &PlannedCollection, look: &Look) -> String {
    let heading = match &collection.uuid {
        Some(_) => format!(
            "{}  {} documents, {}",
            collection.name,
            Count(collection.documents),
            ByteSize(collection.bytes)
        ),
        // A view or a time series, whose indexes are left alone.
        None if collection.changes.iter().all(|planned| planned.change.blocked.is_some()) => {
            collection.name.clone()
        }
        None => format!("{}  not there yet", collection.name),
    };
    let mut text = format!("{}\n", plain(&heading, usize::MAX));
    for planned in &collection.changes {
        text.push_str(&change_text(planned, look));
    }
    text
}

fn change_text(planned: &PlannedChange, look: &Look) -> String {
    let Change { index, kind, what, how, notes, blocked, .. } = &planned.change;
    let own = |text: &str| plain(text, usize::MAX);
    let (mark, tone) = match kind {
        ChangeKind::Build => ("+", Tone::Good),
        ChangeKind::Modify | ChangeKind::Replace => ("~", Tone::Warn),
        ChangeKind::Rebuild => ("-/+", Tone::Bad),
        ChangeKind::Hide | ChangeKind::Drop => ("-", Tone::Bad),
        ChangeKind::Leave => (" ", Tone::Faint),
    };
    let mut text =
        format!("  {} {}  {}\n", look.paint(tone, mark), look.paint(Tone::Strong, &own(index)), own(what));
    let mut line =
        |tone: Tone, line: &str| text.push_str(&format!("      {}\n", look.paint(tone, &own(line))));
    match blocked {
        Some(blocked) => {
            line(Tone::Bad, &format!("BLOCKED: {}", blocked.reason));
            line(Tone::Plain, &format!("hint: {}", blocked.next));
        }
        None => line(Tone::Faint, how),
    }
    if let Some(told) = &planned.estimate {
        let free = told.free.map(|free| format!(" of {} free", ByteSize(free))).unwrap_or_default();
        let gap = if *kind == ChangeKind::Rebuild { ", without the index" } else { "" };
        line(
            Tone::Faint,
            &format!(
                "about {}{gap} ({} documents/s read), about {}{free}",
                millis(told.millis),
                Count(told.documents_per_second),
                ByteSize(told.bytes)
            ),
        );
    }
    for answer in &planned.answers {
        for (tone, told) in answer_lines(answer, look.verbose) {
            line(tone, &told);
        }
    }
    for note in notes {
        line(Tone::Plain, &format!("note: {note}"));
    }
    if look.verbose {
        for command in &planned.commands {
            line(Tone::Faint, &command.to_string());
        }
    }
    text
}

fn answer_lines(answer: &Answer, all: bool) -> Vec<(Tone, String)> {
    match answer {
        Answer::Duplicates { groups: 0, .. } => vec![(Tone::Faint, "no duplicates".to_owned())],
        Answer::Duplicates { groups, documents, first } => {
            let told = format!("duplicates: {} groups, {} documents", Count(*groups), Count(*documents));
            let shown = if all { first.len() } else { GROUPS_SHOWN.min(first.len()) };
            let mut lines = vec![(Tone::Bad, told)];
            lines.extend(first.iter().take(shown).map(|group| (Tone::Plain, group_line(group))));
            let left = groups.saturating_sub(shown as u64);
            if left > 0 {
                let where_to = if all { "" } else { "; `--verbose` or `--json` names more" };
                lines.push((Tone::Faint, format!("and {} more{where_to}", Count(left))));
            }
            lines
        }
        Answer::ExplicitNulls { documents: 0 } => Vec::new(),
        Answer::ExplicitNulls { documents } => {
            vec![(
                Tone::Warn,
                format!("{} documents hold an explicit null, which is indexed", Count(*documents)),
            )]
        }
        Answer::Expiry { overdue, undated, arrays } => {
            let tone = if *overdue > 0 { Tone::Bad } else { Tone::Faint };
            let mut lines = vec![(tone, format!("{} documents expire at once", Count(*overdue)))];
            if *undated > 0 {
                lines.push((
                    Tone::Warn,
                    format!("{} documents hold no date there and never expire", Count(*undated)),
                ));
            }
            if *arrays > 0 {
                let told =
                    format!("{} documents hold an array there: its earliest date decides", Count(*arrays));
                lines.push((Tone::Warn, told));
            }
            lines
        }
        Answer::Unknown { why } => {
            vec![(Tone::Warn, format!("not counted beforehand: {why}; the server refuses duplicates itself"))]
        }
    }
}

fn group_line(group: &DuplicateGroup) -> String {
    let ids: Vec<String> = group.ids.iter().take(IDS_SHOWN).map(ToString::to_string).collect();
    let more = if group.documents > ids.len() as u64 { ", …" } else { "" };
    format!("  {} documents: _id {}{more}", Count(group.documents), ids.join(", "))
}
