//! The server's change log, `local.oplog.rs`: followed as it grows, looked into, and replayed when stored.

mod catalog;
mod diff;
mod entry;
mod lens;
mod replay;
mod survey;
mod tail;
mod transaction;
mod unnamed;
mod views;

pub(crate) use diff::exercise as exercise_diff;
pub use lens::OplogLens;
pub(crate) use replay::MongoReplayer;
pub(crate) use survey::MongoSurvey;
pub(crate) use survey::exercise as exercise_survey;
