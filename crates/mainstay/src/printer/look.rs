//! How text looks: tones that become colours on a terminal and nothing elsewhere. No meaning rests on a tone alone.

use anstyle::{AnsiColor, Style};

/// What a piece of text is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Text.
    #[default]
    Plain,
    /// A heading.
    Strong,
    /// All is well.
    Good,
    /// Look here.
    Warn,
    /// Trouble.
    Bad,
    /// Less important.
    Faint,
}

/// How a stream shows text.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    /// Whether tones become colours.
    pub(crate) color: bool,
    /// Whether more detail is wanted.
    pub(crate) verbose: bool,
}

impl Look {
    /// `text` in a tone.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        let style = match tone {
            _ if !self.color || text.is_empty() => return text.to_owned(),
            Tone::Plain => return text.to_owned(),
            Tone::Strong => Style::new().bold(),
            Tone::Good => Style::new().fg_color(Some(AnsiColor::Green.into())),
            Tone::Warn => Style::new().fg_color(Some(AnsiColor::Yellow.into())),
            Tone::Bad => Style::new().bold().fg_color(Some(AnsiColor::Red.into())),
            Tone::Faint => Style::new().dimmed(),
        };
        format!("{style}{text}{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tones_are_colours_only_where_colours_are_wanted() {
        let plain = Look::default();
        let colored = Look { color: true, verbose: false };
        assert_eq!(plain.paint(Tone::Bad, "down"), "down");
        assert_eq!(colored.paint(Tone::Good, "up"), "\u{1b}[32mup\u{1b}[0m");
        assert_eq!(colored.paint(Tone::Good, ""), "");
    }
}
