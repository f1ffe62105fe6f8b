//! The order in which Drizzle 1.0 sorts the names of its folders: `localeCompare` of the runtime that it runs in.
//!
//! That is the Unicode collation of whatever language the runtime has. For names of ASCII characters all languages that a developer's machine
//! is likely to have agree with the root collation, which this module has: blanks and signs, then digits, then letters without their case;
//! lower case first where nothing else differs. Other characters stand behind all of these, by their code; a language may put them elsewhere,
//! which can matter only for names that begin with the same second, and these are told ([`crate::FolderNote::SameSecond`]).

use std::cmp::Ordering;

/// The signs in the order of the root collation.
const SIGNS: &[u8] = b"_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$";

/// Compares two names.
pub(crate) fn compare(one: &str, other: &str) -> Ordering {
    let primary = one.chars().map(primary).cmp(other.chars().map(primary));
    let tertiary = || one.chars().map(char::is_uppercase).cmp(other.chars().map(char::is_uppercase));
    primary.then_with(tertiary).then_with(|| one.cmp(other))
}

fn primary(character: char) -> u32 {
    let code = u32::from(character);
    match u8::try_from(code) {
        Ok(byte) if byte.is_ascii_digit() => 100 + code,
        Ok(byte) if byte.is_ascii_alphabetic() => 200 + u32::from(byte.to_ascii_lowercase()),
        Ok(b' ') => 1,
        Ok(byte) if byte.is_ascii() => {
            SIGNS.iter().position(|sign| *sign == byte).map_or(0, |at| 2 + at as u32)
        }
        _ => 1_000 + code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_as_a_javascript_runtime_sorts_them() {
        // `names.sort((a, b) => a.localeCompare(b))` under Node 20, English.
        let sorted = [
            "20250101000000",
            "20250101000000 x",
            "20250101000000_a",
            "20250101000000_A",
            "20250101000000_a_b",
            "20250101000000_a1",
            "20250101000000_a10",
            "20250101000000_a2",
            "20250101000000_ab",
            "20250101000000_b",
            "20250101000000_B",
            "20250101000000_e",
            "20250101000000_f",
            "20250101000000_z",
            "20250101000000-a",
            "20250101000000.x",
            "20250101000000a",
            "20250101000001_a",
        ];
        let mut names = sorted;
        names.reverse();
        names.sort_by(|one, other| compare(one, other));
        assert_eq!(names, sorted);
        let signs: String = String::from_utf8_lossy(SIGNS).into_owned();
        assert_eq!(signs, "_-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$");
        assert_eq!(compare("ab", "aB"), Ordering::Less);
        assert_eq!(compare("aB", "ac"), Ordering::Less);
        assert_eq!(compare("Ab", "aB"), Ordering::Greater);
    }
}
