//! Times and lengths of time, as people read them; foreign text, as a terminal may have it.
//!
//! Names of collections, messages of servers and the steps of a plan file are foreign: they may hold what moves the cursor, erases a line or
//! turns the direction of text, and so make a screen say something else than was sent.

use mainstay_model::Timestamp;

/// `45 s`, `12 min`, `3 h 20 min`, `2 d 5 h`.
pub(crate) fn duration(seconds: u64) -> String {
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    };
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// `340 ms`, `12.3 s`, `12 min`: lengths of time that are mostly short.
pub(crate) fn millis(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..120_000 => format!("{:.1} s", millis as f64 / 1_000.0),
        _ => duration(millis / 1_000),
    }
}

/// Foreign text without what a terminal would act upon, at most `chars_max` characters of it. One line.
pub(crate) fn plain(text: &str, chars_max: usize) -> String {
    let shown: String = text.chars().take(chars_max).map(shown).collect();
    if text.chars().nth(chars_max).is_some() { format!("{shown}…") } else { shown }
}

/// The same of text that may have several lines: they stay.
pub(crate) fn plain_lines(text: &str) -> String {
    text.chars().map(|one| if one == '\n' { one } else { shown(one) }).collect()
}

/// A character, or what stands for one that a terminal would act upon: controls, and marks that turn the direction of text.
pub(super) fn shown(one: char) -> char {
    let turns = matches!(one, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if one.is_control() || turns { '\u{fffd}' } else { one }
}

/// `3 h 20 min ago`; a time in the future is `now`, for clocks differ.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    match u64::try_from(now.duration_since(at).as_secs()) {
        Ok(0) | Err(_) => "now".to_owned(),
        Ok(seconds) => format!("{} ago", duration(seconds)),
    }
}

/// `2026-11-23 00:55:02 UTC`.
pub(crate) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        let cases = [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (12_000, "3 h 20 min"),
            (7_200, "2 h"),
            (190_800, "2 d 5 h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
        for (given, text) in [(0, "0 ms"), (999, "999 ms"), (1_500, "1.5 s"), (120_000, "2 min")] {
            assert_eq!(millis(given), text);
        }
        assert_eq!(plain("a\u{1b}[31mb", 10), "a\u{fffd}[31mb");
        assert_eq!(plain("abcdef", 3), "abc…");
        assert_eq!(plain("a\nb\u{202e}c\u{9b}2K", usize::MAX), "a\u{fffd}b\u{fffd}c\u{fffd}2K");
        assert_eq!(plain_lines("a\nb\rc"), "a\nb\u{fffd}c");
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(ago(at, at), "now");
        assert_eq!(ago(at, Timestamp::from_second(1_800_000_300).unwrap()), "5 min ago");
        assert_eq!(moment(at), "2027-01-15 08:00:00 UTC");
    }
}
