//! The reply of `INFO`: lines `name:value` under `# Section` headings (Redis documentation, command INFO).

use std::collections::BTreeMap;

use mainstay_model::{Error, ErrorKind, Result};

/// The fields of an `INFO` reply, all sections together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Info(BTreeMap<String, String>);

impl Info {
    pub(crate) fn parse(reply: &str) -> Self {
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            (!line.starts_with('#')).then(|| (name.to_owned(), value.to_owned()))
        };
        Self(reply.lines().filter_map(field).collect())
    }

    /// A field's text, when the server sends it.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All fields, by name.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A field's number, when the server sends it and it is one.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// A field that every server sends.
    pub(crate) fn required(&self, name: &str) -> Result<&str> {
        self.get(name)
            .ok_or_else(|| Error::new(ErrorKind::Server, format!("the reply to INFO has no {name}")))
    }

    #[cfg(test)]
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_all_sections_are_read() {
        let info = Info::parse(
            "# Server\r\nredis_version:8.0.2\r\nconfig_file:\r\n\r\n# Clients\r\nmaxclients:10000\r\nodd:a:b\r\n",
        );
        assert_eq!(info.get("redis_version"), Some("8.0.2"));
        assert_eq!(info.get("config_file"), Some(""));
        assert_eq!(info.get("odd"), Some("a:b"));
        assert_eq!((info.number("maxclients"), info.number("redis_version")), (Some(10_000), None));
        assert!(info.required("role").is_err());
    }
}
