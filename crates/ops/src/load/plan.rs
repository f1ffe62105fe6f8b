//! Deciding which collections of a dump are meant, under which names, and how each comes.

use std::path::PathBuf;

use mainstay_engine::{AccountStore, CollectionKind, DocumentSource, Namespace};
use mainstay_model::progress::Observer;
use mainstay_model::{Assumption, Blake3, Clock, Error, ErrorKind, Plan, Result, Target};

use super::dump::{Dump, Input};
use super::left_out_because;
use super::oplog::{self, Judged, OplogChoice};
use super::patterns::{Pattern, Renaming};
use crate::placement::{Candidate, Mode, Origin, Parameters, Wish, amount, changed, decide};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// Patterns of the collections that are meant; none means all.
    pub include: Vec<String>,
    /// Patterns of those that are not.
    pub exclude: Vec<String>,
    /// Pairs of patterns, the old name and the new.
    pub renames: Vec<(String, String)>,
    /// What may happen to what exists.
    pub mode: Mode,
    /// How many connections load at the same time; at least 1.
    pub load_count_max: usize,
    /// Put collections in place although the server describes them otherwise than the dump: for another server version.
    pub accept_differences: bool,
    /// Whether users and roles are merged.
    pub accounts: bool,
    /// What becomes of the oplog.
    pub oplog: OplogChoice,
}

/// Decides how `dump` comes to the server behind `source`, its users and roles to `accounts`.
///
/// # Errors
/// As [`AccountStore::compare_accounts`] when users and roles are asked for; `Usage` for a pattern that cannot be; `Precondition` when a
/// pattern or the whole selection matches nothing, two collections would have one name, a name is taken, an oplog is asked for that is not
/// there, or it goes on from what the dump does not hold; `Unsupported` for what a pipe does not allow.
pub async fn plan(
    dump: &Dump,
    source: &dyn DocumentSource,
    accounts: &dyn AccountStore,
    target: Target,
    request: &LoadRequest,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<Plan> {
    oplog::check(request.oplog, &dump.oplog)?;
    check_pipe(dump, request)?;
    check_mode(dump, request.mode)?;
    let candidates = select(dump, request, observer)?;
    if dump.accounts.is_some() && !request.accounts {
        observer.notice("users and roles of the dump are left out; `--users-and-roles` merges them");
    }
    let merge = match (request.accounts, dump.brought_accounts(accounts)) {
        (false, _) => None,
        (true, Some(brought)) => Some(brought.compare().await?),
        (true, None) => {
            return Err(Error::new(ErrorKind::Precondition, "the dump holds no users and roles")
                .with_state("nothing was changed")
                .with_hint("leave `--users-and-roles` out"));
        }
    };
    if merge.is_some() && dump.oplog.judged().is_some() {
        observer
            .notice("users and roles come as the dump met them: what the oplog does to them is not replayed");
    }
    let origin = match (&dump.input, dump.stamp) {
        (Input::Archive(path) | Input::Folder(path), Some(stamp)) => {
            let oplog = dump.oplog.judged().map(|oplog| oplog.until);
            Origin::Dump { path: path.clone(), stamp, accounts: request.accounts, oplog }
        }
        _ => Origin::Stream,
    };
    let wish = Wish {
        origin,
        mode: request.mode,
        load_count_max: request.load_count_max,
        accept_differences: request.accept_differences,
        accounts: merge,
        assumptions: dump.stamp.map(stamp_assumption).into_iter().collect(),
    };
    let mut plan = decide(source, target, &candidates, wish, clock).await?;
    plan.steps.splice(0..0, dump.oplog.judged().map(Judged::step));
    Ok(plan)
}

/// The dump is still the one that was planned with.
pub(super) fn stamp_assumption(stamp: Blake3) -> Assumption {
    Assumption { name: "contents of the dump".to_owned(), value: stamp.to_string() }
}

fn check_pipe(dump: &Dump, request: &LoadRequest) -> Result<()> {
    if !matches!(dump.input, Input::Pipe(_) | Input::Spent) {
        return Ok(());
    }
    let refused = match (request.mode, request.accounts) {
        (Mode::Drop | Mode::Merge, _) => "replace or merge collections",
        (_, true) => "merge users and roles",
        (Mode::New, false) => return Ok(()),
    };
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("a dump from standard input cannot {refused}: it cannot be checked before it is loaded"),
    )
    .with_state("nothing was changed")
    .with_hint("write it to a file first and load that"))
}

/// An oplog speaks of the documents of its own beginning, not of those that somebody has now.
fn check_mode(dump: &Dump, mode: Mode) -> Result<()> {
    if mode != Mode::Merge || dump.oplog.judged().is_none() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        "a dump cannot be merged with its oplog: that goes on from the dump's documents, not from those that stand at the server",
    )
    .with_state("nothing was changed")
    .with_hint("load under other names or with `--drop`, or merge the collections as the dump met them: `--without-oplog`"))
}

/// A collection that can be loaded.
struct Offered<'a> {
    namespace: &'a Namespace,
    kind: CollectionKind,
    metadata: &'a str,
    amount: String,
}

/// What the dump holds, or what its oplog makes of that.
fn offered(dump: &Dump) -> Vec<Offered<'_>> {
    let Some(oplog) = dump.oplog.judged() else {
        let offered = dump.found.iter().map(|found| Offered {
            namespace: &found.namespace,
            kind: found.kind,
            metadata: &found.metadata,
            amount: amount(found.digest),
        });
        return offered.collect();
    };
    let offered = oplog.collections().iter().map(|point| {
        let changes = changed(&point.changes);
        let origin = point.origin.as_ref().and_then(|origin| dump.found(origin));
        Offered {
            namespace: &point.namespace,
            kind: point.kind,
            metadata: &point.metadata,
            amount: match origin {
                None => format!("created in the oplog, {changes}"),
                Some(found) if found.namespace != point.namespace => {
                    format!("{}, named {} in the dump, then {changes}", amount(found.digest), found.namespace)
                }
                Some(found) => format!("{}, then {changes}", amount(found.digest)),
            },
        }
    });
    offered.collect()
}

/// The collections that are meant, under the names they get.
fn select(dump: &Dump, request: &LoadRequest, observer: &dyn Observer) -> Result<Vec<Candidate>> {
    let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::of(text)).collect::<Result<Vec<_>>>();
    let (include, exclude) = (patterns(&request.include)?, patterns(&request.exclude)?);
    let renames =
        request.renames.iter().map(|(from, to)| Renaming::of(from, to)).collect::<Result<Vec<_>>>()?;
    for name in dump.found.iter().map(|found| &found.namespace) {
        if let Some(why) = left_out_because(name) {
            observer.notice(&format!("{name} is left out: {why}"));
        }
    }
    let offered = offered(dump);
    let loadable: Vec<&Offered<'_>> =
        offered.iter().filter(|offered| left_out_because(offered.namespace).is_none()).collect();
    let foreign: Vec<String> =
        dump.oplog.judged().into_iter().flat_map(Judged::foreign).map(ToString::to_string).collect();
    let names: Vec<String> = loadable.iter().map(|offered| offered.namespace.to_string()).collect();
    let matches_any = |test: &dyn Fn(&str) -> bool| names.iter().chain(&foreign).any(|name| test(name));
    let lost = { include.iter().chain(&exclude) }
        .filter(|pattern| !matches_any(&|name| pattern.matches(name)))
        .map(Pattern::text)
        .chain(
            { renames.iter() }
                .filter(|renaming| !matches_any(&|name| renaming.renamed(name).is_some()))
                .map(Renaming::text),
        )
        .collect::<Vec<_>>();
    if !lost.is_empty() {
        return Err(nothing_matches(format!("{} matches no collection of the dump", lost.join(", "))));
    }
    let is_meant = |name: &str| {
        (include.is_empty() || include.iter().any(|pattern| pattern.matches(name)))
            && !exclude.iter().any(|pattern| pattern.matches(name))
    };
    check_held(foreign.iter().map(String::as_str).filter(|name| is_meant(name)))?;
    let chosen = loadable.into_iter().filter(|offered| is_meant(&offered.namespace.to_string()));
    let candidates = chosen.map(|offered| candidate(offered, &renames)).collect::<Result<Vec<_>>>()?;
    if candidates.is_empty() && !request.accounts {
        return Err(nothing_matches("the dump holds no collection that is meant".to_owned()));
    }
    Ok(candidates)
}

/// Refuses an oplog that goes on from collections that are not there.
fn check_held<'a>(lost: impl Iterator<Item = &'a str>) -> Result<()> {
    let lost: Vec<&str> = lost.collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Precondition,
        format!("the oplog goes on from {}, which the dump does not hold", lost.join(", ")),
    )
    .with_state("nothing was changed")
    .with_hint("lay the oplog beside the dump that it goes on from, or leave these collections out with `--ns-exclude`"))
}

fn nothing_matches(message: String) -> Error {
    Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(
        "names are matched whole and case-sensitively, as database.collection; `--dry-run` lists what there is",
    )
}

fn candidate(offered: &Offered<'_>, renames: &[Renaming]) -> Result<Candidate> {
    let name = offered.namespace.to_string();
    let target = match renames.iter().rev().find_map(|renaming| renaming.renamed(&name)) {
        None => offered.namespace.clone(),
        Some(renamed) => match renamed.split_once('.') {
            Some((database, collection)) if !database.is_empty() && is_user_collection(collection) => {
                Namespace::new(database, collection)
            }
            _ => {
                return Err(Error::new(ErrorKind::Usage, format!("{name} cannot become `{renamed}`"))
                    .with_state("nothing was changed")
                    .with_hint("a name is database.collection, and no `system.` collection"));
            }
        },
    };
    Ok(Candidate {
        source: offered.namespace.clone(),
        target,
        kind: offered.kind,
        metadata: offered.metadata.to_owned(),
        amount: offered.amount.clone(),
    })
}

fn is_user_collection(name: &str) -> bool {
    !name.is_empty() && !name.contains(['$', '\0']) && (!name.starts_with("system.") || name == "system.js")
}

/// Where the dump of a stored plan is, and what becomes of its oplog.
///
/// # Errors
/// `Usage` when it is not the plan of a load from a file or folder.
pub fn dump_of(plan: &Plan) -> Result<(PathBuf, OplogChoice)> {
    match Parameters::of(plan)?.origin {
        Origin::Dump { path, oplog, .. } => Ok((path, OplogChoice::of_plan(oplog))),
        Origin::Set { .. } | Origin::Stream => {
            Err(Error::new(ErrorKind::Usage, "the plan is not that of a load from a file or folder"))
        }
    }
}
