//! How backfills are told: lists, previews, reports.

use mainstay_engine::{
    BackfillLook, BackfillRemains, BackfillRun, BackfillStatus, BackfillTrial, ImportedChange,
};
use mainstay_model::{Count, ExitStatus, Timestamp};
use mainstay_ops::backfill::{BackfillReport, DeclaredBackfill, UndoReport};
use serde_json::{Map, Value, json};

use crate::printer::shown::{ago, millis, moment, plain};
use crate::printer::{Cell, Look, Report, Table, Tone};

/// How many keys that were left are shown as text.
const LEFT_SHOWN_MAX: usize = 20;
/// The longest value that is shown as text.
const VALUE_CHARS_MAX: usize = 200;

/// The fields of a value that is an object.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// What is declared, and what has run.
pub(super) struct Listed {
    pub(super) declared: Vec<DeclaredBackfill>,
    pub(super) runs: Vec<BackfillRun>,
    pub(super) history: Vec<ImportedChange>,
    pub(super) now: Timestamp,
}

impl Listed {
    fn run_of(&self, declared: &DeclaredBackfill) -> Option<&BackfillRun> {
        let place = declared.backfill.place();
        self.runs.iter().find(|run| run.id == declared.backfill.id && run.place == place)
    }

    /// Runs of what nobody declares any more.
    fn undeclared(&self) -> impl Iterator<Item = &BackfillRun> {
        let is_declared = |run: &&BackfillRun| {
            self.declared.iter().any(|one| one.backfill.id == run.id && one.backfill.place() == run.place)
        };
        self.runs.iter().filter(move |run| !is_declared(run))
    }

    fn state(&self, run: &BackfillRun) -> (String, Tone) {
        let done = format!("{} of {} segments", run.segments_done, run.segments);
        match (run.status, &run.holder) {
            (BackfillStatus::Running, Some(holder)) => (format!("at work: {holder}, {done}"), Tone::Good),
            (BackfillStatus::Running, None) if run.paused => (format!("paused at {done}"), Tone::Warn),
            (BackfillStatus::Running, None) => (format!("interrupted at {done}"), Tone::Warn),
            (BackfillStatus::Undoing, Some(holder)) => (format!("being undone: {holder}"), Tone::Warn),
            (BackfillStatus::Undoing, None) => ("undo interrupted".to_owned(), Tone::Warn),
            (BackfillStatus::Done, _) => ("done".to_owned(), Tone::Good),
            (BackfillStatus::Undone, _) => (format!("undone, {} restored", Count(run.restored)), Tone::Faint),
        }
    }
}

impl Report for Listed {
    fn json(&self) -> Map<String, Value> {
        let declared: Vec<Value> = self
            .declared
            .iter()
            .map(|one| {
                let checksum = one.backfill.checksum().ok();
                let run = self.run_of(one);
                let changed = run.zip(checksum).map(|(run, checksum)| run.checksum != checksum.to_string());
                json!({
                    "id": one.backfill.id, "store": one.store(), "place": one.backfill.place(),
                    "summary": one.summary, "undo": one.backfill.keeps_undo, "checksum": checksum,
                    "run": run, "declared_otherwise_since": changed,
                })
            })
            .collect();
        let undeclared: Vec<&BackfillRun> = self.undeclared().collect();
        Map::from_iter([
            ("declared".to_owned(), json!(declared)),
            ("undeclared_runs".to_owned(), json!(undeclared)),
            ("history".to_owned(), json!(self.history)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        if self.declared.is_empty() && self.runs.is_empty() && self.history.is_empty() {
            return "no backfill is declared, and none has run; docs/backfill.md tells how to declare one\n"
                .to_owned();
        }
        let mut table = Table::new(&["BACKFILL", "PLACE", "CHANGED", "STATE", "BY", "LAST HEARD OF"]);
        let row = |id: &str, place: String, run: Option<&BackfillRun>, note: &str| {
            let mut cells = vec![Cell::new(id), Cell::new(place)];
            match run {
                None => cells.extend([Cell::right(""), Cell::new("not run").tone(Tone::Faint)]),
                Some(run) => {
                    let (state, tone) = self.state(run);
                    cells.push(Cell::right(Count(run.changed).to_string()));
                    cells.push(Cell::new(format!("{state}{note}")).tone(tone));
                    cells.push(Cell::new(format!("{} {}", run.by, run.tool_version)));
                    cells.push(Cell::new(ago(run.beat_at, self.now)));
                }
            }
            cells
        };
        for one in &self.declared {
            let run = self.run_of(one);
            let checksum = one.backfill.checksum().map(|checksum| checksum.to_string()).unwrap_or_default();
            let note = match run.is_some_and(|run| run.checksum != checksum) {
                true => ", declared otherwise since",
                false => "",
            };
            table.row(row(&one.backfill.id, one.backfill.place(), run, note));
        }
        for run in self.undeclared() {
            table.row(row(&run.id, run.place.clone(), Some(run), ", not declared any more"));
        }
        let mut text = table.render(look);
        if !self.history.is_empty() {
            let mut table = Table::new(&["IMPORTED", "OF", "APPLIED"]);
            for one in &self.history {
                let applied = one.applied_at.map_or_else(|| "unknown".to_owned(), moment);
                table.row(vec![Cell::new(one.name.clone()), Cell::new(one.tool.clone()), Cell::new(applied)]);
            }
            text.push_str(&table.render(look));
        }
        text
    }
}

/// What would become of real documents or rows.
pub(super) struct Previewed {
    pub(super) declared: DeclaredBackfill,
    pub(super) look: BackfillLook,
    pub(super) trial: BackfillTrial,
}

impl Report for Previewed {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([
            ("id".to_owned(), json!(self.declared.backfill.id)),
            ("place".to_owned(), json!(self.declared.backfill.place())),
            ("total".to_owned(), json!(self.look.total)),
            ("guarded".to_owned(), json!(self.look.guarded)),
            ("reads_everything".to_owned(), json!(self.look.reads_everything)),
            ("has_transactions".to_owned(), json!(self.look.has_transactions)),
            ("changes".to_owned(), json!(self.trial.changes)),
            ("still_guarded".to_owned(), json!(self.trial.still_guarded)),
        ])
    }

    fn text(&self, look: &Look) -> String {
        let guarded = self
            .look
            .guarded
            .map_or_else(|| "too many to count in time".to_owned(), |n| Count(n).to_string());
        let mut text = format!(
            "{}: the guard means {guarded} of {} in {}\n",
            look.paint(Tone::Strong, &plain(&self.declared.backfill.id, usize::MAX)),
            Count(self.look.total),
            plain(&self.declared.backfill.place(), usize::MAX)
        );
        let shown = |value: &Option<String>| {
            value.as_ref().map_or_else(|| "absent".to_owned(), |value| plain(value, VALUE_CHARS_MAX))
        };
        for change in &self.trial.changes {
            text.push_str(&format!("{}\n", plain(&change.key, VALUE_CHARS_MAX)));
            for field in &change.fields {
                text.push_str(&format!(
                    "  {}: {} -> {}\n",
                    plain(&field.field, VALUE_CHARS_MAX),
                    look.paint(Tone::Bad, &shown(&field.before)),
                    look.paint(Tone::Good, &shown(&field.after))
                ));
            }
        }
        if self.look.reads_everything {
            text.push_str(&format!(
                "{}\n",
                look.paint(
                    Tone::Warn,
                    "no index helps to find what the guard means: counting it reads everything"
                )
            ));
        }
        if !self.trial.still_guarded.is_empty() {
            let line = format!(
                "the guard still means {} of these after the change: it cannot be run like this",
                self.trial.still_guarded.len()
            );
            text.push_str(&format!("{}\n", look.paint(Tone::Bad, &line)));
        }
        text.push_str("nothing was changed\n");
        text
    }

    fn exit_status(&self) -> ExitStatus {
        match self.trial.still_guarded.is_empty() {
            true => ExitStatus::Ok,
            false => ExitStatus::Findings,
        }
    }
}

/// What is left, by backfill.
pub(super) struct Verified(pub(super) Vec<(DeclaredBackfill, BackfillRemains)>);

fn is_whole(remains: &BackfillRemains) -> bool {
    remains.guarded == 0 && remains.wrong.unwrap_or(0) == 0
}

impl Report for Verified {
    fn json(&self) -> Map<String, Value> {
        let verified: Vec<Value> = self
            .0
            .iter()
            .map(|(declared, remains)| {
                json!({"id": declared.backfill.id, "place": declared.backfill.place(), "remains": remains})
            })
            .collect();
        Map::from_iter([("verified".to_owned(), json!(verified))])
    }

    fn text(&self, look: &Look) -> String {
        if self.0.is_empty() {
            return "no backfill is declared; docs/backfill.md tells how to declare one\n".to_owned();
        }
        let mut table = Table::new(&["BACKFILL", "PLACE", "LEFT TO DO", "WRONG"]);
        for (declared, remains) in &self.0 {
            let tone = if is_whole(remains) { Tone::Good } else { Tone::Warn };
            table.row(vec![
                Cell::new(declared.backfill.id.clone()),
                Cell::new(declared.backfill.place()),
                Cell::right(Count(remains.guarded).to_string()).tone(tone),
                Cell::right(
                    remains.wrong.map_or_else(|| "not declared".to_owned(), |n| Count(n).to_string()),
                ),
            ]);
        }
        table.render(look)
    }

    fn exit_status(&self) -> ExitStatus {
        match self.0.iter().all(|(_, remains)| is_whole(remains)) {
            true => ExitStatus::Ok,
            false => ExitStatus::Findings,
        }
    }
}

/// A run at its end.
pub(super) struct Ran(pub(super) BackfillReport);

impl Report for Ran {
    fn json(&self) -> Map<String, Value> {
        object(json!(self.0))
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let (place, id) = (plain(&report.place, usize::MAX), plain(&report.id, usize::MAX));
        let runs = if report.resumed { ", by this run and those before it" } else { "" };
        let mut text = format!(
            "{} {} in {place}{runs}: {} batches, {}\n",
            look.paint(Tone::Good, "changed"),
            Count(report.changed),
            Count(report.batches),
            millis(report.millis)
        );
        let BackfillRemains { guarded, wrong } = report.remains;
        let mut warn = |line: String| text.push_str(&format!("{}\n", look.paint(Tone::Warn, &line)));
        if guarded > 0 {
            warn(format!(
                "{} match the guard by now, written behind the walk: `mainstay backfill run {id}` walks again",
                Count(guarded)
            ));
        }
        if let Some(wrong) = wrong.filter(|wrong| *wrong > 0) {
            warn(format!("{} are wrong by the declared verification", Count(wrong)));
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        match is_whole(&self.0.remains) {
            true => ExitStatus::Ok,
            false => ExitStatus::Findings,
        }
    }
}

/// A backfill that was brought back.
pub(super) struct Undone(pub(super) UndoReport);

impl Report for Undone {
    fn json(&self) -> Map<String, Value> {
        object(json!(self.0))
    }

    fn text(&self, look: &Look) -> String {
        let report = &self.0;
        let mut text = format!(
            "{} {} in {}, in {}\n",
            look.paint(Tone::Good, "brought back"),
            Count(report.restored),
            plain(&report.place, usize::MAX),
            millis(report.millis)
        );
        if !report.left_keys.is_empty() {
            let line = format!(
                "left {}, which somebody has changed or removed since:",
                Count(report.left_keys.len() as u64)
            );
            text.push_str(&format!("{}\n", look.paint(Tone::Warn, &line)));
            for key in report.left_keys.iter().take(LEFT_SHOWN_MAX) {
                text.push_str(&format!("  {}\n", plain(key, VALUE_CHARS_MAX)));
            }
            if report.left_keys.len() > LEFT_SHOWN_MAX {
                text.push_str("  … `--json` lists them all\n");
            }
        }
        text
    }

    fn exit_status(&self) -> ExitStatus {
        match self.0.left_keys.is_empty() {
            true => ExitStatus::Ok,
            false => ExitStatus::Findings,
        }
    }
}

/// Something small that was done.
pub(super) struct Done {
    /// One line.
    pub(super) text: String,
    /// The same as values.
    pub(super) fields: Vec<(&'static str, Value)>,
}

impl Report for Done {
    fn json(&self) -> Map<String, Value> {
        self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn text(&self, _look: &Look) -> String {
        format!("{}\n", plain(&self.text, usize::MAX))
    }
}

/// Nothing is left to do.
pub(super) struct NothingToDo(pub(super) String);

impl Report for NothingToDo {
    fn json(&self) -> Map<String, Value> {
        Map::from_iter([("id".to_owned(), json!(self.0)), ("changed".to_owned(), json!(0))])
    }

    fn text(&self, _look: &Look) -> String {
        format!("{} has nothing to do: its guard means nothing\n", plain(&self.0, usize::MAX))
    }
}
