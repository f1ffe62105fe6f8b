//! How text looks: tones that become colours on a terminal and nothing elsewhere. No meaning rests on a tone alone.

use anstyle::{AnsiColor, Style};

use super::shown::shown;

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
        match tone.style() {
            Some(style) if self.color && !text.is_empty() => format!("{style}{text}{style:#}"),
            _ => text.to_owned(),
        }
    }

    /// `text` without what a terminal would act upon, but for ends of lines and the colours of [`Look::paint`]. The second line of defence:
    /// where foreign text is put in, [`plain`](super::shown::plain) is the first.
    pub(super) fn sift(&self, text: &str) -> String {
        let colours: Vec<String> = match self.color {
            true => Tone::ALL.iter().filter_map(|tone| tone.style()).flat_map(codes).collect(),
            false => Vec::new(),
        };
        let mut sifted = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(one) = rest.chars().next() {
            // One may be the beginning of another.
            let fits = colours.iter().filter(|colour| rest.starts_with(colour.as_str()));
            let colour = fits.max_by_key(|colour| colour.len());
            let length = colour.map_or(one.len_utf8(), String::len);
            match colour {
                Some(colour) => sifted.push_str(colour),
                None => sifted.push(if one == '\n' { one } else { shown(one) }),
            }
            rest = &rest[length..];
        }
        sifted
    }
}

/// What begins a style, and what ends it.
fn codes(style: Style) -> [String; 2] {
    [style.to_string(), format!("{style:#}")]
}

impl Tone {
    const ALL: [Self; 6] = [Self::Plain, Self::Strong, Self::Good, Self::Warn, Self::Bad, Self::Faint];

    fn style(self) -> Option<Style> {
        Some(match self {
            Self::Plain => return None,
            Self::Strong => Style::new().bold(),
            Self::Good => Style::new().fg_color(Some(AnsiColor::Green.into())),
            Self::Warn => Style::new().fg_color(Some(AnsiColor::Yellow.into())),
            Self::Bad => Style::new().bold().fg_color(Some(AnsiColor::Red.into())),
            Self::Faint => Style::new().dimmed(),
        })
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

    #[test]
    fn nothing_passes_but_lines_and_our_own_colours() {
        let (plain, colored) = (Look::default(), Look { color: true, verbose: false });
        for tone in Tone::ALL {
            let painted = colored.paint(tone, "é");
            assert_eq!(colored.sift(&painted), painted);
        }
        assert_eq!(colored.sift("a\u{1b}[8mb\u{1b}[2K\rc\n"), "a\u{fffd}[8mb\u{fffd}[2K\u{fffd}c\n");
        assert_eq!(plain.sift("\u{1b}[32mup"), "\u{fffd}[32mup");
    }
}
