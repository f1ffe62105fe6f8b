//! Finding passwords in connection strings, to refuse them where others can read them and to keep them out of messages.

/// Whether a MongoDB or Redis URL holds a password, in its user information or its options.
pub fn carries_password(url: &str) -> bool {
    let in_user_information = user_information(url)
        .is_some_and(|(user, _)| user.split_once(':').is_some_and(|(_, p)| !p.is_empty()));
    let in_options = url.split_once('?').is_some_and(|(_, options)| {
        options.split(['&', ';']).any(|option| {
            let name = option.split('=').next().unwrap_or_default().to_ascii_lowercase();
            name.contains("password") || name == "authmechanismproperties"
        })
    });
    in_user_information || in_options
}

/// The text with the user information and the options of `url` taken out of it.
pub(crate) fn without_secrets(text: &str, url: &str) -> String {
    let mut text = text.replace(url, "…");
    if let Some((user, _)) = user_information(url) {
        for part in std::iter::once(user).chain(user.split_once(':').map(|(_, password)| password)) {
            if !part.is_empty() {
                text = text.replace(part, "…");
            }
        }
    }
    text
}

/// What stands before the last `@` that precedes the options, and the rest. A password with an unescaped `/` is met too.
fn user_information(url: &str) -> Option<(&str, &str)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let options = rest.find('?').unwrap_or(rest.len());
    let (user, _) = rest[..options].rsplit_once('@').or_else(|| rest.rsplit_once('@'))?;
    Some((user, &rest[user.len() + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_seen_wherever_they_stand() {
        for (url, expected) in [
            ("mongodb://127.0.0.1:27017/?replicaSet=rs0", false),
            ("mongodb://app@db:27017/", false),
            ("mongodb://app:@db:27017/", false),
            ("mongodb://app:secret@db:27017/", true),
            ("mongodb://app:se/c?ret@db:27017/", true),
            ("mongodb+srv://app:secret@db/?w=1", true),
            ("mongodb://db/?tlsCertificateKeyFilePassword=x", true),
            ("redis://127.0.0.1:6379/2", false),
            ("redis://:secret@127.0.0.1", true),
        ] {
            assert_eq!(carries_password(url), expected, "{url}");
        }
    }

    #[test]
    fn messages_lose_their_secrets() {
        let url = "redis://:s3cret@db:6379";
        assert_eq!(
            without_secrets("cannot reach redis://:s3cret@db:6379 with s3cret", url),
            "cannot reach … with …"
        );
    }
}
