//! The steps from what a server has to what is declared, in the order in which no crash loses more than it did before. Pure.

use mainstay_engine::{KeyServerLook, KeyServerSettings};
use mainstay_model::{ByteSize, Error, ErrorKind, Plan, PlanStep, Result};
use serde::{Deserialize, Serialize};

use super::declared::{EVICTION, LIMIT, LOG, SAVE, by_name, shown};
use super::{DeclaredPolicy, Difference, Durability};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "step", deny_unknown_fields)]
pub(super) enum Step {
    /// See that the server can keep settings, by keeping those it has.
    Prove,
    /// Make a snapshot.
    Snapshot,
    /// Change a setting.
    Set {
        /// Its name.
        name: String,
        /// What it is.
        from: String,
        /// What it becomes.
        to: String,
    },
    /// Turn the append-only file on, and wait for its first rewrite.
    LogOn,
    /// Turn it off; and keep that at once, when it is to be kept.
    LogOff {
        /// Whether it is.
        keep: bool,
    },
    /// Keep the settings as they are then.
    Keep,
}

impl Step {
    /// A stable name within the plan.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Prove => "see that settings can be kept".to_owned(),
            Self::Snapshot => "make a snapshot".to_owned(),
            Self::Set { name, .. } => format!("set {name}"),
            Self::LogOn => "turn the append-only file on".to_owned(),
            Self::LogOff { .. } => "turn the append-only file off".to_owned(),
            Self::Keep => "keep the settings".to_owned(),
        }
    }

    /// The setting that it changes, and to what.
    pub(super) fn change(&self) -> Option<(&str, &str)> {
        match self {
            Self::Set { name, to, .. } => Some((name, to)),
            Self::LogOn => Some((LOG, "yes")),
            Self::LogOff { .. } => Some((LOG, "no")),
            Self::Prove | Self::Snapshot | Self::Keep => None,
        }
    }

    /// The step as a plan shows it.
    pub(super) fn shown(&self, look: &KeyServerLook, durability: &Durability) -> PlanStep {
        let file = durability.config_file.as_deref().unwrap_or("its file");
        let (mark, summary) = match self {
            Self::Prove => (' ', format!("the server replaces {file}, with the settings it has now")),
            Self::Snapshot => {
                (' ', "what there is now is on disk then; one that is under way is waited for".to_owned())
            }
            Self::Set { name, from, to } => {
                ('~', format!("{} becomes {}", shown(name, from), shown(name, to)))
            }
            Self::LogOn => (
                '+',
                format!(
                    "in the running server, which writes all it has ({}) once; until that is kept, a restart brings back the snapshot",
                    ByteSize(look.memory.dataset.unwrap_or(look.memory.used))
                ),
            ),
            Self::LogOff { keep: true } => (
                '-',
                "and kept in one step: a crash costs what came after the last snapshot from then on"
                    .to_owned(),
            ),
            Self::LogOff { keep: false } => {
                ('-', "a restart begins from the file as it was then, without what came later".to_owned())
            }
            Self::Keep => ('~', format!("the server replaces {file}; only now a restart has them")),
        };
        PlanStep { name: self.name(), mark, summary }
    }
}

/// The decided parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyParameters {
    pub(super) steps: Vec<Step>,
    /// Whether the settings outlive a restart at the end.
    pub(super) durable: bool,
    /// What is declared, by setting.
    pub(super) declared: KeyServerSettings,
}

impl PolicyParameters {
    /// Those of `plan`.
    ///
    /// # Errors
    /// `Usage` when it is a plan of something else.
    pub(super) fn of(plan: &Plan) -> Result<Self> {
        let refuse =
            || Error::new(ErrorKind::Usage, "the plan's parameters are not those of a change of policy");
        let parameters: Self =
            serde_json::from_value(plan.parameters.clone()).map_err(|source| refuse().with_source(source))?;
        // A plan file is somebody's text: it changes what can be declared, and nothing else.
        let is_declarable = |name: &str| DeclaredPolicy::NAMES.contains(&name);
        let changed = parameters.steps.iter().filter_map(Step::change).map(|(name, _)| name);
        match changed.chain(parameters.declared.keys().map(String::as_str)).all(is_declarable) {
            true => Ok(parameters),
            false => Err(refuse().with_state("nothing was changed")),
        }
    }
}

/// The steps for `differences`, in the order in which no crash loses more than it did before.
pub(super) fn steps(differences: &[Difference], look: &KeyServerLook, keep: bool) -> Vec<Step> {
    let changes = by_name(differences);
    let set = |name: &str| {
        changes.get(name).map(|change| Step::Set {
            name: change.name.clone(),
            from: change.now.clone(),
            to: change.declared.clone(),
        })
    };
    let log = changes.get(LOG).map(|change| change.declared == "yes");
    let raises_limit = changes.get(LIMIT).is_some_and(|change| raises(&change.now, &change.declared));
    let has_keys = look.databases.iter().any(|size| size.keys > 0);

    let mut steps = Vec::new();
    steps.extend(keep.then_some(Step::Prove));
    steps.extend((log.is_some() && has_keys).then_some(Step::Snapshot));
    steps.extend(["appendfsync", "repl-backlog-size"].into_iter().filter_map(set));
    // Snapshots are not given up before the log has taken over.
    steps.extend(set(SAVE).filter(|_| log != Some(true)));
    // What goes is said before less room is made, and more room is made before more may go.
    let of_memory = if raises_limit { [LIMIT, EVICTION] } else { [EVICTION, LIMIT] };
    steps.extend(of_memory.into_iter().filter_map(set));
    match log {
        Some(true) => {
            steps.push(Step::LogOn);
            steps.extend(set(SAVE));
            steps.extend(keep.then_some(Step::Keep));
        }
        Some(false) => {
            steps.push(Step::LogOff { keep });
            steps.extend(has_keys.then_some(Step::Snapshot));
        }
        None => steps.extend(keep.then_some(Step::Keep)),
    }
    steps
}

/// Whether a limit grows; 0 is none at all.
fn raises(now: &str, declared: &str) -> bool {
    let bytes = |text: &str| match text.parse() {
        Ok(0) | Err(_) => u64::MAX,
        Ok(bytes) => bytes,
    };
    bytes(declared) > bytes(now)
}

#[cfg(test)]
mod tests {
    use mainstay_engine::KeyspaceSize;

    use super::*;
    use crate::keyserver::tests::healthy;

    fn difference(name: &str, now: &str, declared: &str) -> Difference {
        Difference { name: name.to_owned(), now: now.to_owned(), declared: declared.to_owned() }
    }

    fn order(differences: &[Difference], keep: bool) -> Vec<String> {
        let mut look = healthy();
        look.databases = vec![KeyspaceSize { database: 0, keys: 1, expiring: 0 }];
        steps(differences, &look, keep).iter().map(Step::name).collect()
    }

    #[test]
    fn steps_come_in_the_order_in_which_no_crash_costs_more() {
        let on = difference(LOG, "no", "yes");
        let off = difference(LOG, "yes", "no");
        let save = difference(SAVE, "3600 1", "");
        let fsync = difference("appendfsync", "always", "everysec");
        assert_eq!(
            order(&[on.clone(), save.clone(), fsync], true),
            [
                "see that settings can be kept",
                "make a snapshot",
                "set appendfsync",
                "turn the append-only file on",
                "set save",
                "keep the settings"
            ]
        );
        assert_eq!(
            order(&[off, save], true),
            [
                "see that settings can be kept",
                "make a snapshot",
                "set save",
                "turn the append-only file off",
                "make a snapshot"
            ]
        );
        assert_eq!(order(&[on], false), ["make a snapshot", "turn the append-only file on"]);
        let eviction = difference(EVICTION, "noeviction", "volatile-lru");
        for (now, declared, expected) in [
            ("0", "100", ["set maxmemory-policy", "set maxmemory"]),
            ("100", "200", ["set maxmemory", "set maxmemory-policy"]),
            ("100", "0", ["set maxmemory", "set maxmemory-policy"]),
            ("200", "100", ["set maxmemory-policy", "set maxmemory"]),
        ] {
            assert_eq!(order(&[difference(LIMIT, now, declared), eviction.clone()], false), expected);
        }
    }
}
