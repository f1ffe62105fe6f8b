//! From which value on something is worth saying, and from which it is dangerous.

use mainstay_model::Severity;

/// Two bounds, both inclusive.
pub(crate) struct Bounds {
    /// From here on it is a warning.
    pub(crate) warning: f64,
    /// From here on it is critical.
    pub(crate) critical: f64,
}

impl Bounds {
    /// How bad `value` is, if it is.
    pub(crate) fn severity(&self, value: f64) -> Option<Severity> {
        if value >= self.critical {
            Some(Severity::Critical)
        } else {
            (value >= self.warning).then_some(Severity::Warning)
        }
    }
}
