//! The output filter: replaces every secret that the configuration knows, as it is and percent-encoded.
//!
//! A password that is also a public word (`postgres`, the database's name) is left alone: hiding it would blank the name everywhere and
//! thereby tell what the password is. Such a password is protected by [`mainstay_model::Secret`] alone. So is one of fewer than four characters.

use mainstay_model::Secret;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// What stands in the place of a secret.
const MASK: &str = "[secret]";

/// Words of our own output that are never hidden.
const WORDS: &[&str] = &[
    "admin",
    "config",
    "database",
    "default",
    "error",
    "mainstay",
    "mongo",
    "mongodb",
    "password",
    "postgres",
    "postgresql",
    "redis",
    "repository",
    "root",
    "secret",
    "server",
    "status",
    "test",
    "user",
    "username",
    "version",
];

/// Knows what to hide.
#[derive(Default)]
pub(super) struct Hider {
    texts: Vec<String>,
}

impl Hider {
    /// Hides `secrets` from now on, but never a text of `public`.
    pub(super) fn add(&mut self, secrets: &[Secret], public: &[String]) {
        for secret in secrets {
            let text = secret.expose();
            if text.len() < 4 || WORDS.contains(&text) || public.iter().any(|word| word == text) {
                continue;
            }
            let encoded = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            for form in [text.to_owned(), encoded] {
                if !self.texts.contains(&form) {
                    self.texts.push(form);
                }
            }
        }
        // The longest first, so that a secret inside another does not leave the rest of it behind.
        self.texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    }

    /// `text` with every secret replaced.
    pub(super) fn hide_text(&self, text: &str) -> String {
        self.texts.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), MASK))
    }

    /// Replaces every secret in the texts inside `value`; names of fields are ours and stay.
    pub(super) fn hide_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.hide_text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide_value(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.hide_value(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_vanish_and_names_stay() {
        let mut hider = Hider::default();
        let secrets = ["can\"ary", "can\"ary-long", "postgres", "shop", "abc"].map(Secret::new);
        hider.add(&secrets, &["shop".to_owned()]);
        assert_eq!(hider.hide_text("x can\"ary-long y can%22ary z"), "x [secret] y [secret] z");
        assert_eq!(hider.hide_text("postgres shop abc"), "postgres shop abc");
        let mut value = json!({"error": {"causes": ["login can\"ary failed"], "n": 1}});
        hider.hide_value(&mut value);
        assert_eq!(value, json!({"error": {"causes": ["login [secret] failed"], "n": 1}}));
    }
}
