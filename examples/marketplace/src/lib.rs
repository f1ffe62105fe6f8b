//! The sample stack: a marketplace whose data can be generated, deterministic and realistic, at any scale.
//!
//! [`Sample`] makes the bytes of any document and [`keys`] any Redis key, from a seed alone; [`load()`] puts them into a MongoDB and a
//! Redis. The package relies on those two servers and on nothing else of this project, so that what is tested with the sample is not
//! tested with itself. It refuses to load over existing data unless told to drop it.

mod collection;
mod generate;
pub mod keys;
mod load;
mod random;
mod sample;
mod scale;
mod url;
mod words;
mod writer;

pub use collection::{Collection, View};
pub use load::{
    CollectionLoad, LoadError, LoadOptions, LoadReport, LoadTarget, MongoTarget, Phase, Progress, Silent,
    SkippedCollection, Snapshot, load,
};
pub use sample::{ORDER_BYTES, Sample};
pub use scale::{InvalidScale, Scale};
pub use url::carries_password;
