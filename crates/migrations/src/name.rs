//! Names as the server knows them.

use serde::{Deserialize, Serialize};

/// The most bytes that a name has in the server; what is longer is cut, at a border of characters (`NAMEDATALEN` − 1).
pub(crate) const NAME_BYTES_MAX: usize = 63;

/// The name of a relation, folded as the server folds it: without quotes, in lower case where it had none, and cut to 63 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// The schema, where one was written. `None`: whatever the search path finds.
    pub schema: Option<String>,
    /// The name itself.
    pub name: String,
}

impl ObjectName {
    /// The name, quoted for a statement: `"shop"."users"`.
    #[must_use]
    pub fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&self.name)),
            None => quoted(&self.name),
        }
    }

    /// Whether both may mean the same relation: equal names, and equal schemas as far as both say one.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        let schemas_fit = match (&self.schema, &other.schema) {
            (Some(own), Some(others)) => own == others,
            _ => true,
        };
        schemas_fit && self.name == other.name
    }
}

impl std::fmt::Display for ObjectName {
    /// As people write it: `shop.users`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
