//! MongoDB's indexes as values: read from a server's list and from a manifest, compared, and told apart by what a change of one takes.
//!
//! [`IndexSpec`] is the canonical form: two of them are equal exactly when the server treats the indexes as the same one. What the server
//! does not compare (versions, `background`, `sparse: false`) is not in it, what it fills in (a collation's defaults, weights of a text
//! index) is written out, and what it inherits (the collection's collation) is resolved before anything is compared. The name is no part
//! of it: the same index under another name is the same index.
//!
//! | module | what it is for |
//! |---|---|
//! | `json`, `ejson` | JSON in order; Extended JSON values, equal when their numbers are equal, whatever the types |
//! | `keys`, `collation`, `filter`, `projection` | the parts of a specification, each with its own equality |
//! | `spec`, `listed` | a specification, and one as a server lists it, also while it is being built |
//! | `declared`, `manifest`, `render` | a declared index, the TOML grammar read and written |
//! | `compare`, `route` | what differs, and what kind of change leads from one to the other |
//! | `redundant` | which index serves all that another serves |
//! | `changes`, `steps` | from what differs to the steps that lead there, and the commands that these are |
//! | `checks` | what is asked of the documents before, as pipelines |
//! | `mongoose` | declarations as a Mongoose project makes them |
//!
//! Relies on values being canonical or relaxed Extended JSON with fields in their order. Opens nothing, waits for nothing, asks no clock;
//! refuses what it does not know: an option that no row of this crate names is kept and compared, never dropped.

pub mod changes;
pub mod checks;
mod collation;
mod compare;
mod declared;
mod ejson;
mod filter;
mod json;
mod keys;
mod listed;
mod manifest;
pub mod mongoose;
mod projection;
mod redundant;
mod render;
mod route;
mod spec;
pub mod steps;

pub use changes::{Blocked, Change, ChangeKind, Check};
pub use collation::Collation;
pub use compare::{Aspect, Comparison, Difference, Standing, compare, differences};
pub use declared::{Allowance, Assertion, DeclaredIndex, Manifest, Policy, Undeclared, is_match};
pub use ejson::Ejson;
pub use filter::Filter;
pub use json::Json;
pub use keys::{Key, KeyKind, ParseKeyError, driver_name};
pub use listed::ListedIndex;
pub use manifest::{ManifestError, is_collection_name, rounded_span, span};
pub use projection::Projection;
pub use redundant::covers;
pub use render::{toml_of, toml_text};
pub use route::{Modification, Route, can_stand_beside, route};
pub use spec::{IndexSpec, SpecError, TTL_NEVER, TextOptions};
pub use steps::Step;
