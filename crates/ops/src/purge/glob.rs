//! Globs as the server understands them: `*`, `?`, `[a-z]`, `[^…]`, and `\` before a byte that stands for itself.
//!
//! The server matches one pattern of a walk by itself; what several patterns have in common, and what is protected, is decided here, so both
//! must mean the same. Source: Redis documentation, command KEYS; compared with a real server in the tests.

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Any,
    Star,
    Class { negated: bool, ranges: Vec<(u8, u8)> },
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(own) => *own == byte,
            Self::Any => true,
            Self::Star => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&byte)) != *negated
            }
        }
    }
}

impl Glob {
    /// What `pattern` means. Every text is a pattern.
    pub fn new(pattern: &str) -> Self {
        let mut tokens = Vec::new();
        let mut rest = pattern.as_bytes();
        while let Some((&first, behind)) = rest.split_first() {
            rest = behind;
            tokens.push(match first {
                b'*' => Token::Star,
                b'?' => Token::Any,
                b'[' => class(&mut rest),
                b'\\' => match rest.split_first() {
                    Some((&escaped, behind)) => {
                        rest = behind;
                        Token::Byte(escaped)
                    }
                    None => Token::Byte(b'\\'),
                },
                byte => Token::Byte(byte),
            });
        }
        tokens.dedup_by(|a, b| *a == Token::Star && *b == Token::Star);
        Self(tokens)
    }

    /// Whether it matches every name.
    pub fn is_everything(&self) -> bool {
        self.0 == [Token::Star]
    }

    /// Whether `name` matches. Takes time with the product of both lengths at most.
    pub fn matches(&self, name: &[u8]) -> bool {
        let (mut at, mut token) = (0, 0);
        // Where the last star stands, and where what it takes ends.
        let mut star: Option<(usize, usize)> = None;
        loop {
            match self.0.get(token) {
                Some(Token::Star) => {
                    star = Some((token, at));
                    token += 1;
                    continue;
                }
                Some(one) if at < name.len() && one.takes(name[at]) => {
                    (at, token) = (at + 1, token + 1);
                    continue;
                }
                None if at == name.len() => return true,
                _ => {}
            }
            match star {
                Some((place, end)) if end < name.len() => {
                    star = Some((place, end + 1));
                    (at, token) = (end + 1, place + 1);
                }
                _ => return false,
            }
        }
    }
}

/// What stands behind `[`, up to the `]` or the end of the pattern.
fn class(rest: &mut &[u8]) -> Token {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        match **rest {
            [] => break,
            [b'\\', escaped, ref behind @ ..] => {
                ranges.push((escaped, escaped));
                *rest = behind;
            }
            [b']', ref behind @ ..] => {
                *rest = behind;
                break;
            }
            [first, b'-', last, ref behind @ ..] => {
                ranges.push((first.min(last), first.max(last)));
                *rest = behind;
            }
            [byte, ref behind @ ..] => {
                ranges.push((byte, byte));
                *rest = behind;
            }
        }
    }
    Token::Class { negated, ranges }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_the_server_says_they_match() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*", "abc", true),
            ("a*c", "abbbc", true),
            ("a*c", "abbbd", false),
            ("a**c", "ac", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("[\\]]", "]", true),
            ("[a", "a", true),
            ("a\\", "a\\", true),
            ("payment:idem:*", "payment:idem:42", true),
            ("payment:idem:*", "payment:idem", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(name.as_bytes()), expected, "{pattern} and {name}");
        }
        assert!(Glob::new("**").is_everything() && !Glob::new("*a").is_everything());
    }

    #[test]
    fn a_pattern_full_of_stars_does_not_take_for_ever() {
        let pattern = Glob::new(&"a*".repeat(500));
        assert!(!pattern.matches(&[b"a".repeat(5000), b"b".to_vec()].concat()[1..][..1]));
        assert!(!Glob::new(&("*a".repeat(200) + "b")).matches(&b"a".repeat(4000)));
    }
}
