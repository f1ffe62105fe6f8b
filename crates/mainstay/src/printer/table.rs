//! Tables of aligned columns: a heading, two spaces between columns, no lines to get in the way of `awk`.

use unicode_width::UnicodeWidthStr;

use super::shown::plain;
use super::{Look, Tone};

/// One cell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

impl Cell {
    /// Text on the left side, without what a terminal would act upon: a cell is where foreign text is shown.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: plain(&text.into(), usize::MAX), tone: Tone::Plain, right: false }
    }

    /// Text on the right side, for numbers.
    pub(crate) fn right(text: impl Into<String>) -> Self {
        Self { right: true, ..Self::new(text) }
    }

    /// The same in a tone.
    pub(crate) fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// Rows of cells under a heading.
#[derive(Debug, Default)]
pub(crate) struct Table {
    heading: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table with these column names.
    pub(crate) fn new(heading: &[&'static str]) -> Self {
        Self { heading: heading.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it may be shorter than the heading.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table as text, lines ended, without trailing blanks; nothing when it has no rows.
    pub(crate) fn render(&self, look: &Look) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let heading: Vec<Cell> =
            self.heading.iter().map(|name| Cell::new(*name).tone(Tone::Strong)).collect();
        let heading: Vec<Cell> = heading
            .into_iter()
            .enumerate()
            .map(|(column, cell)| Cell {
                right: self.rows.iter().any(|row| row.get(column).is_some_and(|cell| cell.right)),
                ..cell
            })
            .collect();
        let widths: Vec<usize> = (0..self.heading.len())
            .map(|column| {
                let cells = std::iter::once(&heading).chain(&self.rows).filter_map(|row| row.get(column));
                cells.map(|cell| cell.text.width()).max().unwrap_or(0)
            })
            .collect();
        std::iter::once(&heading).chain(&self.rows).map(|row| line(row, &widths, look)).collect()
    }
}

fn line(row: &[Cell], widths: &[usize], look: &Look) -> String {
    let mut text = String::new();
    let mut gap = 0;
    for (cell, width) in row.iter().zip(widths) {
        let blank = width - cell.text.width().min(*width);
        if cell.right {
            gap += blank;
        }
        if !cell.text.is_empty() {
            text.push_str(&" ".repeat(gap));
            text.push_str(&look.paint(cell.tone, &cell.text));
            gap = 0;
        }
        gap += 2 + if cell.right { 0 } else { blank };
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_width_on_screen() {
        let mut table = Table::new(&["STORE", "SIZE", "ROLE"]);
        table.row(vec!["mongo".into(), Cell::right("48 MB"), "primary".into()]);
        table.row(vec!["日本".into(), Cell::right(""), "x".into()]);
        table.row(vec!["redis".into(), Cell::right("1.2 MB")]);
        let expected = "STORE    SIZE  ROLE\nmongo   48 MB  primary\n日本           x\nredis  1.2 MB\n";
        assert_eq!(table.render(&Look::default()), expected);
        assert_eq!(Table::new(&["A"]).render(&Look::default()), "");
    }

    #[test]
    fn a_cell_cannot_rewrite_its_table() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(vec!["shop.\u{1b}[2K\rusers\n".into(), Cell::right("1")]);
        let colored = Look { color: true, verbose: false };
        let shown = table.render(&colored);
        assert!(shown.ends_with("\nshop.\u{fffd}[2K\u{fffd}users\u{fffd}     1\n"), "{shown:?}");
    }
}
