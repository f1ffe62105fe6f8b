//! SQL migrations as values: folders read, files cut into statements, entries held against the rows of the tracking table.
//!
//! A drop-in for the migrator of Drizzle in both its formats, that believes the watermark of its tracking table never: each entry of the
//! folder is held against each row ([`classify`]), and whatever does not fit has a name, a factual line and a reaction.
//!
//! | module | what it is for |
//! |---|---|
//! | `folder`, `journal` | a tree of files read as migrations, in either format, with what is wrong about it |
//! | `hash`, `collate` | the hash that Drizzle stores; the order in which its 1.0 line sorts names |
//! | `place`, `name` | lines and columns of a file, also from a server's character index; names as the server folds them |
//! | `lexer`, `cut` | SQL as the server's scanner sees it; a file cut into chunks and statements |
//! | `statement`, `execution`, `effect` | a statement; how it must be run; what it does |
//! | `steps` | from statements to transactions and steps that run alone |
//! | `tracking` | the tracking table: its versions, its rows, its watermark |
//! | `classify` | entries against rows: what is applied, edited, skipped …, and what may be applied |
//! | `writes` | the rows that marking, a baseline and a repair would write |
//! | `readiness` | whether Drizzle 1.0 could take the table over |
//! | `lint` | what a reviewer should know of a file: squawk's rules under the runner's transaction, and our own |
//!
//! Relies on files being given whole, with paths relative to the folder and `/` between their parts. Opens nothing, waits for nothing, asks
//! no clock; refuses a folder that Drizzle's own migrator would refuse, and one of which it would make something else than was meant.

mod classify;
mod collate;
mod cut;
mod effect;
mod execution;
mod folder;
pub mod fuzzing;
mod hash;
mod journal;
mod lexer;
mod lint;
mod name;
mod place;
mod readiness;
mod statement;
mod steps;
mod tracking;
mod writes;

pub use classify::{
    ApplyOptions, EntryState, EntryVerdict, Notice, NoticeKind, Reaction, RowState, RowVerdict, Verdict,
    classify,
};
pub use folder::{
    FILE_COUNT_MAX, FILE_SIZE_MAX, Folder, FolderError, FolderNote, Format, MARKER, Migration, is_read,
};
pub use hash::hash;
pub use lint::{LintFinding, LintLevel, LintOptions, LintRule, Runner, lint, rules};
pub use name::ObjectName;
pub use place::Place;
pub use readiness::{Readiness, RowMatch, readiness};
pub use statement::{Alone, Chunk, Control, Execution, ReindexTarget, Statement};
pub use steps::{Step, StepError, steps};
pub use tracking::{NewRow, TableVersion, TrackingError, TrackingRow, TrackingTable, Watermark};
pub use writes::{RepairOptions, RowChange, RowRepair, baseline, mark_applied, repair};
