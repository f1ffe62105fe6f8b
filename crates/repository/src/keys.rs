//! Encryption keys: age X25519 recipients to write to, identities to read with.
//!
//! Refuses other kinds of age keys (SSH keys, plugins, passphrases): each of them would need a person or a helper program at restore.

use age::x25519::{Identity, Recipient};
use mainstay_model::{Error, ErrorKind, Result, Secret};

/// The identities a repository was opened with.
#[derive(Clone, Default)]
pub(crate) struct Identities(Vec<Identity>);

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} identities", self.0.len())
    }
}

impl Identities {
    /// Reads identity files' contents: one `AGE-SECRET-KEY-1…` per line, empty lines and `#` comments aside.
    pub(crate) fn parse(files: &[Secret]) -> Result<Self> {
        let mut identities = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let before = identities.len();
            for (number, line) in file.expose().lines().map(str::trim).enumerate() {
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                identities.push(line.parse().map_err(|_| {
                    identity_error(format!(
                        "line {} of age identity {} is no X25519 identity",
                        number + 1,
                        index + 1
                    ))
                })?);
            }
            if identities.len() == before {
                return Err(identity_error(format!("age identity {} holds no key", index + 1)));
            }
        }
        Ok(Self(identities))
    }

    /// Finds out before anything is read whether what is encrypted to `recipients` can be read. `what` names it in the error.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] without any identity; [`ErrorKind::Auth`] when none of them fits.
    pub(crate) fn check(&self, recipients: &[String], what: &str) -> Result<()> {
        let wanted = recipients.join(", ");
        let hint = format!(
            "set `repository.identity_file` to a file with the age identity of one of these recipients: {wanted}"
        );
        if self.0.is_empty() {
            return Err(Error::new(
                ErrorKind::Precondition,
                format!("{what} is encrypted and no age identity was given"),
            )
            .with_state("nothing was read")
            .with_hint(hint));
        }
        if self.0.iter().any(|identity| recipients.contains(&identity.to_public().to_string())) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Auth,
            format!("{what} is encrypted to {wanted}, and none of the given age identities fits"),
        )
        .with_state("nothing was read")
        .with_hint(hint))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|identity| identity as &dyn age::Identity)
    }
}

fn identity_error(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
        .with_hint("`repository.identity_file` names a file with lines AGE-SECRET-KEY-1…, as `age-keygen -o FILE` writes it")
}

/// Reads recipients; the result is sorted and free of repetition.
pub(crate) fn parse_recipients(texts: &[String]) -> Result<Vec<Recipient>> {
    let mut texts: Vec<_> = texts.iter().map(|text| text.trim()).collect();
    texts.sort_unstable();
    texts.dedup();
    texts.into_iter().map(parse_recipient).collect()
}

fn parse_recipient(text: &str) -> Result<Recipient> {
    text.parse().map_err(|why: &str| {
        // A secret key given by mistake must not be shown.
        let shown =
            if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY") { "a secret key" } else { text };
        Error::new(ErrorKind::Config, format!("{shown} is no age recipient: {why}")).with_hint(
            "`repository.recipients` lists public keys age1…, as `age-keygen -y IDENTITY_FILE` prints them",
        )
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use age::secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn identity_files_have_comments_and_errors_do_not_show_them() {
        let identity = Identity::generate();
        let secret = identity.to_string().expose_secret().to_owned();
        let file = Secret::new(format!("# created: today\n\n{secret}\n"));
        let identities = Identities::parse(&[file]).unwrap();
        let public = identity.to_public().to_string();
        identities.check(std::slice::from_ref(&public), "set").unwrap();
        let other = Identity::generate().to_public().to_string();
        let error = identities.check(std::slice::from_ref(&other), "set").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Auth);
        assert!(error.to_string().contains(&other));

        for bad in ["", "# only a comment", "AGE-SECRET-KEY-1NOTAKEY"] {
            let error = Identities::parse(&[Secret::new(bad)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(!format!("{error:?}").contains("NOTAKEY"));
        }
        let error = parse_recipients(std::slice::from_ref(&secret)).unwrap_err();
        assert!(!format!("{error:?}").contains(&secret));
    }

    #[test]
    fn recipients_are_sorted_once_each_and_refused_by_name() {
        let (one, two) =
            (Identity::generate().to_public().to_string(), Identity::generate().to_public().to_string());
        let parsed = parse_recipients(&[format!(" {two}"), one.clone(), two.clone()]).unwrap();
        assert_eq!(parsed.len(), 2);
        let error = parse_recipients(&["age1nope".to_owned()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("age1nope"));
    }
}
