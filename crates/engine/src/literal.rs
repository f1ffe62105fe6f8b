//! Commands as trees: what a client sent, with the type of every value, and with the value itself kept out of sight.
//!
//! An adapter makes these from whatever its server tells of a command; operations walk them to find its shape. A [`Literal`] holds somebody's
//! data, an e-mail address or a password hash: it has no `Serialize`, its `Debug` shows the type alone, and its text must be asked for by
//! name ([`Literal::expose`]).

use std::fmt;

/// A value inside a command. Documents keep the order of their fields, which has a meaning: a sort by `a, b` is not one by `b, a`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandValue {
    /// Fields in their order.
    Document(Vec<(String, CommandValue)>),
    /// Items in their order.
    Array(Vec<CommandValue>),
    /// Anything else.
    Literal(Literal),
}

/// A value that is neither document nor array.
#[derive(Clone, PartialEq, Eq)]
pub struct Literal {
    kind: &'static str,
    text: String,
}

impl Literal {
    /// A value of type `kind`, in the words of the server (`string`, `int`, `objectId`), that reads as `text`.
    pub fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// Its type.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The value itself, without quotation marks. Somebody's data: only for whoever asked to see it.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.kind)
    }
}

impl CommandValue {
    /// A document without fields.
    pub fn empty() -> Self {
        Self::Document(Vec::new())
    }

    /// The fields of a document; none for everything else.
    pub fn fields(&self) -> &[(String, Self)] {
        match self {
            Self::Document(fields) => fields,
            Self::Array(_) | Self::Literal(_) => &[],
        }
    }

    /// The items of an array; none for everything else.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::Array(items) => items,
            Self::Document(_) | Self::Literal(_) => &[],
        }
    }

    /// The first field named `name`.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.fields().iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The literal, if it is one.
    pub fn literal(&self) -> Option<&Literal> {
        match self {
            Self::Literal(literal) => Some(literal),
            Self::Document(_) | Self::Array(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_not_shown_unasked() {
        let tree = CommandValue::Document(vec![(
            "email".to_owned(),
            CommandValue::Literal(Literal::new("string", "canary@example.org")),
        )]);
        assert!(!format!("{tree:?}").contains("canary"), "{tree:?}");
        assert_eq!(
            tree.get("email").and_then(CommandValue::literal).map(Literal::expose),
            Some("canary@example.org")
        );
    }
}
