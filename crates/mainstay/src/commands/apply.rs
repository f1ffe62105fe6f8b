//! `apply FILE`: carries out a stored plan. Which operation that is, the plan says.

use std::path::PathBuf;

use clap::Args;
use mainstay_model::{Error, ErrorKind, ExitStatus, Result};

use super::cluster::ScratchArgs;
use super::{environment, index, init, keyfile, mongo, pg, plan, redis, restore, sql};
use crate::wiring::Session;

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// The plan file
    file: PathBuf,
    /// Approve the plan with this hash beforehand; needed where there is no terminal
    #[arg(long, value_name = "HASH")]
    approve: Option<String>,
}

/// Carries out the plan.
///
/// # Errors
/// `Unsupported` when this version has no such operation; otherwise the operation's.
pub(crate) async fn run(args: ApplyArgs, session: &Session) -> Result<ExitStatus> {
    let plan = plan::read(&session.path(&args.file))?;
    let approve = args.approve.as_deref();
    match plan.operation.as_str() {
        environment::MARK => environment::apply(&plan, approve, session).await,
        mainstay_ops::profiler::OPERATION_SET | mainstay_ops::profiler::OPERATION_RESET => {
            mongo::profile::apply_plan(&plan, approve, session).await
        }
        mainstay_ops::activity::OPERATION_KILL => mongo::ops::apply_plan(&plan, approve, session).await,
        mainstay_ops::relational::sessions::OPERATION_CANCEL
        | mainstay_ops::relational::sessions::OPERATION_TERMINATE => {
            pg::activity::apply_plan(&plan, approve, session).await
        }
        mainstay_ops::keyfile::OPERATION_PLAIN => keyfile::apply_plan(&plan, approve, session).await,
        mainstay_ops::init::OPERATION | mainstay_ops::init::OPERATION_CHANGE => {
            Box::pin(init::apply_plan(&plan, approve, session)).await
        }
        mainstay_ops::reset::OPERATION => pg::reset::apply_plan(&plan, approve, session).await,
        mainstay_ops::restore::OPERATION_ABANDON => restore::abandon_plan(&plan, approve, session).await,
        mainstay_ops::purge::OPERATION => redis::purge::apply_plan(&plan, approve, session).await,
        mainstay_ops::key_policy::OPERATION | mainstay_ops::key_policy::OPERATION_EVICT => {
            redis::policy::apply_plan(&plan, approve, session).await
        }
        mainstay_ops::replication::undo::OPERATION | mainstay_ops::replication::undo::OPERATION_REPLACE => {
            Box::pin(redis::undo::apply_plan(&plan, approve, session)).await
        }
        operation if operation.starts_with(mainstay_ops::index::OPERATION) => {
            Box::pin(index::change::apply_plan(&plan, approve, session)).await
        }
        operation if operation.starts_with(mainstay_ops::sql::OPERATION) => {
            Box::pin(sql::apply_plan(&plan, approve, session)).await
        }
        operation if operation.starts_with("restore.apply.") => {
            restore::apply_plan(&plan, approve, &ScratchArgs::default(), session).await
        }
        operation if operation.starts_with("mongo.load.") => {
            mongo::load::apply_plan(&plan, approve, session).await
        }
        operation => Err(Error::new(
            ErrorKind::Unsupported,
            format!("a plan of {operation} cannot be applied by this version"),
        )
        .with_state("nothing was changed")
        .with_hint("`mainstay plan show FILE` tells which version made it")),
    }
}
