//! Lines and columns of a file.

use serde::{Deserialize, Serialize};

/// Where something stands in a file. Both count from 1; columns count characters, not bytes. A line ends with `\n` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl Place {
    /// The first character of a file.
    pub const START: Self = Self { line: 1, column: 1 };

    /// Where `text` ends that begins here.
    #[must_use]
    pub fn after(self, text: &str) -> Self {
        text.chars().fold(self, Self::next)
    }

    /// Where the character stands that a server calls `position` (characters of the text that was sent, from 1) when the text that was sent
    /// begins here. A position behind the text is its end; 0 is its beginning.
    #[must_use]
    pub fn of_position(self, text: &str, position: u32) -> Self {
        let count = usize::try_from(position).unwrap_or(usize::MAX).saturating_sub(1);
        text.chars().take(count).fold(self, Self::next)
    }

    fn next(self, character: char) -> Self {
        match character {
            '\n' => Self { line: self.line.saturating_add(1), column: 1 },
            _ => Self { line: self.line, column: self.column.saturating_add(1) },
        }
    }
}

impl std::fmt::Display for Place {
    /// `line:column`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_of_the_server_becomes_a_line_and_a_column() {
        let begin = Place { line: 7, column: 3 };
        let text = "sélect\r\n  1/0;\nx";
        for (position, line, column) in
            [(0, 7, 3), (1, 7, 3), (3, 7, 5), (9, 8, 1), (11, 8, 3), (16, 9, 1), (9_999, 9, 2)]
        {
            assert_eq!(begin.of_position(text, position), Place { line, column }, "position {position}");
        }
        assert_eq!(begin.after(text), Place { line: 9, column: 2 });
    }
}
