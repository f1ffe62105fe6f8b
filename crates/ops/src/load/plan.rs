//! Deciding which collections of a dump are meant, under which names, and how each comes.

use std::path::PathBuf;

use mainstay_engine::{AccountStore, DocumentSource, Namespace};
use mainstay_model::progress::Observer;
use mainstay_model::{Assumption, Blake3, Clock, Error, ErrorKind, Plan, Result, Target};

use super::dump::{Dump, Found, Input};
use super::oplog::{self, OplogChoice};
use super::patterns::{Pattern, Renaming};
use crate::placement::{Candidate, Mode, Origin, Parameters, Wish, amount, decide};

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
/// As [`AccountStore::compare_accounts`] when users and roles are asked for; `Usage` for a pattern that cannot be; `Precondition` when a pattern or the whole selection matches nothing, two collections would have one
/// name, or a name is taken; `Unsupported` for an oplog, and for what a pipe does not allow.
pub async fn plan(
    dump: &Dump,
    source: &dyn DocumentSource,
    accounts: &dyn AccountStore,
    target: Target,
    request: &LoadRequest,
    clock: &dyn Clock,
    observer: &dyn Observer,
) -> Result<Plan> {
    oplog::judge(request.oplog, dump.has_oplog)?;
    check_pipe(dump, request)?;
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
    let origin = match (&dump.input, dump.stamp) {
        (Input::Archive(path) | Input::Folder(path), Some(stamp)) => {
            Origin::Dump { path: path.clone(), stamp, accounts: request.accounts }
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
    decide(source, target, &candidates, wish, clock).await
}

/// The dump is still the one that was planned with.
pub(super) fn stamp_assumption(stamp: Blake3) -> Assumption {
    Assumption { name: "contents of the dump".to_owned(), value: stamp.to_string() }
}

fn check_pipe(dump: &Dump, request: &LoadRequest) -> Result<()> {
    if !matches!(dump.input, Input::Pipe(_)) {
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

/// The collections that are meant, under the names they get.
fn select(dump: &Dump, request: &LoadRequest, observer: &dyn Observer) -> Result<Vec<Candidate>> {
    let patterns = |texts: &[String]| texts.iter().map(|text| Pattern::of(text)).collect::<Result<Vec<_>>>();
    let (include, exclude) = (patterns(&request.include)?, patterns(&request.exclude)?);
    let renames =
        request.renames.iter().map(|(from, to)| Renaming::of(from, to)).collect::<Result<Vec<_>>>()?;
    let mut loadable = Vec::new();
    for found in &dump.found {
        match found.left_out_because() {
            None => loadable.push(found),
            Some(why) => observer.notice(&format!("{} is left out: {why}", found.namespace)),
        }
    }
    let matches_any =
        |test: &dyn Fn(&str) -> bool| loadable.iter().any(|found| test(&found.namespace.to_string()));
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
    let chosen = loadable.into_iter().filter(|found| is_meant(&found.namespace.to_string()));
    let candidates = chosen.map(|found| candidate(found, &renames)).collect::<Result<Vec<_>>>()?;
    if candidates.is_empty() && !request.accounts {
        return Err(nothing_matches("the dump holds no collection that is meant".to_owned()));
    }
    Ok(candidates)
}

fn nothing_matches(message: String) -> Error {
    Error::new(ErrorKind::Precondition, message).with_state("nothing was changed").with_hint(
        "names are matched whole and case-sensitively, as database.collection; `--dry-run` lists what there is",
    )
}

fn candidate(found: &Found, renames: &[Renaming]) -> Result<Candidate> {
    let name = found.namespace.to_string();
    let target = match renames.iter().rev().find_map(|renaming| renaming.renamed(&name)) {
        None => found.namespace.clone(),
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
        source: found.namespace.clone(),
        target,
        kind: found.kind,
        metadata: found.metadata.clone(),
        amount: amount(found.digest),
    })
}

fn is_user_collection(name: &str) -> bool {
    !name.is_empty() && !name.contains(['$', '\0']) && (!name.starts_with("system.") || name == "system.js")
}

/// Where the dump of a stored plan is.
///
/// # Errors
/// `Usage` when it is not the plan of a load from a file or folder.
pub fn dump_of(plan: &Plan) -> Result<PathBuf> {
    match Parameters::of(plan)?.origin {
        Origin::Dump { path, .. } => Ok(path),
        Origin::Set { .. } | Origin::Stream => {
            Err(Error::new(ErrorKind::Usage, "the plan is not that of a load from a file or folder"))
        }
    }
}
