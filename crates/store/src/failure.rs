//! From the trouble of a backend to the house's errors.
//!
//! Texts of the `object_store` crate name addresses, upload ids and whole answers of the service, and an S3 answer may repeat the access
//! key and the string that was signed. Nothing of that is passed on: what is kept is the HTTP status, the service's error code, the
//! number of tries, and the operating system's words for a broken connection or a full disk.
//!
//! The state of an error claims that nothing was written only where that is certain. A time-out, a broken connection, an answer of the
//! service's failing parts, and any of these before a later refusal leave the outcome open, and then the state says so
//! ([`outcome_is_open`]).

use std::error::Error as StdError;
use std::path::{Path, PathBuf};

use mainstay_model::{Error, ErrorKind, ErrorStatus};
use object_store::client::{HttpError, HttpErrorKind};

use crate::{Key, Verb};

/// Where a store is, for messages.
#[derive(Debug)]
pub(crate) enum Site {
    Memory,
    Directory(PathBuf),
    S3 { bucket: String, described: String },
}

impl Site {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Memory => "memory:".to_owned(),
            Self::Directory(path) => format!("file:{}", path.display()),
            Self::S3 { described, .. } => described.clone(),
        }
    }
}

/// What went wrong, told from a backend's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There is an object under that key.
    Exists,
    /// S3: another conditional write of that key was under way (409); whether one won is open.
    Contended,
    /// There is no object under that key.
    Absent,
    /// S3: there is no such bucket.
    NoBucket,
    /// S3: 401, 403 or an expired token.
    Denied(String),
    /// S3: the service cannot now (5xx, 408, 429).
    Busy(String),
    /// S3: no answer in time.
    TimedOut,
    /// S3: no connection was made, so nothing was asked.
    Unreachable(String),
    /// S3: the connection broke.
    Disconnected(String),
    /// S3: the request itself is wrong (4xx, redirect): region, endpoint, what the service supports.
    Rejected(String),
    /// The operating system refused.
    Disk(std::io::ErrorKind, String),
    /// None of the above.
    Other(String),
}

/// [`Trouble`] and how often the backend itself had repeated the request before it gave up.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    pub(crate) trouble: Trouble,
    pub(crate) retries: u32,
}

impl Trouble {
    /// True when the same request may succeed in a moment.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Contended | Self::Busy(_) | Self::TimedOut | Self::Unreachable(_) | Self::Disconnected(_)
        )
    }

    /// True when the store may have done what was asked although it did not say so.
    pub(crate) fn leaves_open(&self) -> bool {
        use std::io::ErrorKind as Io;
        match self {
            Self::Busy(_) | Self::TimedOut | Self::Disconnected(_) | Self::Other(_) => true,
            // These stop a write before its object appears. Others, such as a failing sync of the folder, may come after.
            Self::Disk(kind, _) => !matches!(
                kind,
                Io::StorageFull
                    | Io::QuotaExceeded
                    | Io::FileTooLarge
                    | Io::ReadOnlyFilesystem
                    | Io::PermissionDenied
                    | Io::NotADirectory
                    | Io::IsADirectory
                    | Io::InvalidFilename
                    | Io::InvalidInput
            ),
            _ => false,
        }
    }
}

impl Diagnosis {
    /// True when this try, or one before it that the backend repeated by itself, may have been done.
    pub(crate) fn leaves_open(&self) -> bool {
        self.retries > 0 || self.trouble.leaves_open()
    }
}

/// Marks an error after which nobody knows whether the store did what was asked.
#[derive(Debug)]
struct OutcomeOpen;

impl std::fmt::Display for OutcomeOpen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no answer tells whether it was done")
    }
}

impl StdError for OutcomeOpen {}

/// True when the operation that ended in `error` may have taken effect all the same, or may still: its state says so, too.
pub fn outcome_is_open(error: &Error) -> bool {
    error.source().is_some_and(|source| source.is::<OutcomeOpen>())
}

/// Says of a change that failed what became of it; an `open` outcome is marked for [`outcome_is_open`].
pub(crate) fn with_outcome(error: Error, open: bool, verb: Verb, key: &Key) -> Error {
    match verb {
        Verb::Delete if open => {
            error.with_state(format!("whether {key} was deleted is not known")).with_source(OutcomeOpen)
        }
        Verb::Delete => error.with_state(format!("{key} was not deleted")),
        Verb::PutNew | Verb::Put | Verb::Finish if open => {
            error.with_state(format!("whether {key} was written is not known")).with_source(OutcomeOpen)
        }
        // What a stream has sent is invisible until it is finished.
        Verb::PutNew | Verb::Put | Verb::Finish | Verb::Writer | Verb::Write => {
            error.with_state(format!("{key} was not written; what was stored before is untouched"))
        }
        Verb::Get | Verb::Read | Verb::List | Verb::Folders => error,
    }
}

/// Tells what a backend's error means.
pub(crate) fn diagnose(error: &object_store::Error) -> Diagnosis {
    let text = error.to_string();
    let retries = number_between(&text, "after ", " retries").unwrap_or(0);
    Diagnosis { trouble: trouble_of(error, &text), retries }
}

fn trouble_of(error: &object_store::Error, text: &str) -> Trouble {
    let status = number_between(text, "non-2xx status code: ", "");
    let code = code_in(text);
    let answer = || match (status, &code) {
        (Some(status), Some(code)) => format!("{status} {code}"),
        (Some(status), None) => status.to_string(),
        (None, Some(code)) => code.clone(),
        (None, None) => "an answer without a status".to_owned(),
    };
    match error {
        object_store::Error::AlreadyExists { .. } if status == Some(409) => return Trouble::Contended,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            return Trouble::Exists;
        }
        object_store::Error::NotFound { .. } if code.as_deref() == Some("NoSuchBucket") => {
            return Trouble::NoBucket;
        }
        object_store::Error::NotFound { .. } => return Trouble::Absent,
        _ => {}
    }
    if code.as_deref() == Some("NoSuchBucket") {
        return Trouble::NoBucket;
    }
    if let Some("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") = code.as_deref() {
        return Trouble::Denied(answer());
    }
    match status {
        Some(401 | 403) => return Trouble::Denied(answer()),
        // 501 is lasting: the service lacks the feature.
        Some(501) => return Trouble::Rejected(answer()),
        Some(408 | 429 | 500..) => return Trouble::Busy(answer()),
        Some(_) => return Trouble::Rejected(answer()),
        None if text.contains("Server returned error response") => return Trouble::Busy(answer()),
        None if text.contains("redirect") => {
            return Trouble::Rejected("a redirect, as for another region".to_owned());
        }
        None => {}
    }
    // A connection that nobody answers is a time-out to the HTTP client; here it is the same as one that is refused.
    if find::<reqwest::Error>(error).is_some_and(reqwest::Error::is_connect) {
        return Trouble::Unreachable(deepest(error));
    }
    if let Some(http) = find::<HttpError>(error) {
        return match http.kind() {
            HttpErrorKind::Timeout => Trouble::TimedOut,
            HttpErrorKind::Connect => Trouble::Unreachable(deepest(error)),
            HttpErrorKind::Request | HttpErrorKind::Interrupted => Trouble::Disconnected(deepest(error)),
            _ => Trouble::Other(deepest(error)),
        };
    }
    match find::<std::io::Error>(error) {
        Some(io) => Trouble::Disk(io.kind(), io.to_string()),
        None => Trouble::Other(deepest(error)),
    }
}

/// The house's error for `verb` on `key` of the store at `site`; its line names the key. `open` says that a change may have been made.
pub(crate) fn report(diagnosis: &Diagnosis, open: bool, verb: Verb, key: &Key, site: &Site) -> Error {
    let action = verb.name();
    let place = site.describe();
    let trouble = &diagnosis.trouble;
    let tries = match diagnosis.retries {
        0 => String::new(),
        retries => format!(" after {} attempts", u64::from(retries) + 1),
    };
    let error = match trouble {
        Trouble::Exists => Error::new(ErrorKind::Conflict, format!("{key} already exists in {place}")),
        Trouble::Contended => {
            Error::new(ErrorKind::Conflict, format!("{key} is being written by somebody else in {place}{tries}"))
        }
        Trouble::Absent => Error::new(ErrorKind::NotFound, format!("{key} does not exist in {place}")),
        Trouble::NoBucket => {
            let hint = match site {
                Site::S3 { bucket, .. } => format!("create it (aws s3 mb s3://{bucket}) or correct the location"),
                _ => "correct the location".to_owned(),
            };
            Error::new(ErrorKind::Storage, format!("cannot {action} {key}: the bucket of {place} does not exist"))
                .with_hint(hint)
        }
        Trouble::Denied(answer) => {
            Error::new(ErrorKind::Auth, format!("cannot {action} {key}: {place} refused access ({answer})")).with_hint(
                "check the access key, its rights (s3:GetObject, PutObject, DeleteObject, ListBucket, AbortMultipartUpload) and \
                 this machine's clock",
            )
        }
        Trouble::Busy(answer) => {
            Error::new(ErrorKind::Storage, format!("cannot {action} {key}: {place} answered {answer}{tries}"))
                .with_status(ErrorStatus::Persistent)
                .with_hint("try again later; the service's own status tells more")
        }
        Trouble::TimedOut => {
            Error::new(ErrorKind::Storage, format!("cannot {action} {key}: {place} did not answer in time{tries}"))
                .with_status(ErrorStatus::Persistent)
                .with_hint("try again later, or check the network between this machine and the service")
        }
        Trouble::Unreachable(why) | Trouble::Disconnected(why) => {
            Error::new(ErrorKind::Unreachable, format!("cannot {action} {key}: {place} cannot be reached{tries} ({why})"))
                .with_status(ErrorStatus::Persistent)
                .with_hint("check the endpoint, and that the service runs and can be reached from this machine")
        }
        Trouble::Rejected(answer) => {
            Error::new(ErrorKind::Config, format!("cannot {action} {key}: {place} rejected the request ({answer})"))
                .with_hint("check the endpoint, the region and what the service supports")
        }
        Trouble::Disk(kind, why) => report_disk(*kind, why, action, &key.to_string(), site),
        Trouble::Other(why) => Error::new(ErrorKind::Storage, format!("cannot {action} {key} in {place}: {why}")),
    };
    match trouble {
        Trouble::Exists | Trouble::Contended | Trouble::Absent if !open => error,
        _ => with_outcome(error, open, verb, key),
    }
}

/// The error for an operating system's refusal. `subject` is a key or a name below the store's folder.
pub(crate) fn report_disk(
    kind: std::io::ErrorKind,
    why: &str,
    action: &str,
    subject: &str,
    site: &Site,
) -> Error {
    use std::io::ErrorKind as Io;
    let directory = match site {
        Site::Directory(path) => path.as_path(),
        _ => Path::new("the store"),
    };
    let at = directory.display();
    let cannot =
        |reason: String| Error::new(ErrorKind::Storage, format!("cannot {action} {subject}: {reason}"));
    match kind {
        Io::StorageFull => cannot(format!("the disk of {at} is full")).with_hint(format!(
            "free space (df -h {at}) or use another location, then run the command again"
        )),
        Io::QuotaExceeded => cannot(format!("the disk quota of {at} is used up"))
            .with_hint("raise the quota or use another location, then run the command again"),
        Io::FileTooLarge => {
            cannot(format!("the file would be larger than the file system or a limit of {at} permits"))
                .with_hint("raise the limit (ulimit -f) or use another location")
        }
        Io::ReadOnlyFilesystem => cannot(format!("the file system of {at} is read-only"))
            .with_hint("remount it for writing or use another location"),
        Io::PermissionDenied => cannot(format!("this user has no right to it in {at}")).with_hint(format!(
            "give the user that runs mainstay the folder (ls -ld {at}) or use another location"
        )),
        _ => cannot(format!("{why} in {at}")),
    }
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(this) = next {
        if let Some(found) = this.downcast_ref::<T>() {
            return Some(found);
        }
        next = this.source();
    }
    None
}

fn deepest(error: &(dyn StdError + 'static)) -> String {
    let mut this = error;
    while let Some(source) = this.source() {
        this = source;
    }
    this.to_string()
}

/// The number that stands right after `before` and, when that is not empty, right before `after`.
fn number_between(text: &str, before: &str, after: &str) -> Option<u32> {
    let rest = text.split(before).nth(1)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    if !rest[end..].starts_with(after) {
        return None;
    }
    rest[..end].parse().ok()
}

/// The error code of an S3 answer: letters only, so that nothing else of the answer can come along.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
fn code_in(text: &str) -> Option<String> {
    let code = text.split("<Code>").nth(1)?.split("</Code>").next()?;
    (code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'))
        .then(|| code.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn answers_become_troubles() {
        let status = |status: &str, code: &str| {
            format!(
                "Error performing PUT http://127.0.0.1/b/k in 1s, after 2 retries, max_retries: 2, retry_timeout: 3s  - Server returned \
                 non-2xx status code: {status}: <Error><Code>{code}</Code><AWSAccessKeyId>AKIA</AWSAccessKeyId></Error>"
            )
        };
        let cases = [
            (status("503 Service Unavailable", "SlowDown"), Trouble::Busy("503 SlowDown".to_owned())),
            (status("403 Forbidden", "AccessDenied"), Trouble::Denied("403 AccessDenied".to_owned())),
            (status("400 Bad Request", "ExpiredToken"), Trouble::Denied("400 ExpiredToken".to_owned())),
            (
                status("501 Not Implemented", "NotImplemented"),
                Trouble::Rejected("501 NotImplemented".to_owned()),
            ),
            (status("404 Not Found", "NoSuchBucket"), Trouble::NoBucket),
            (status("500 Internal", "<x>"), Trouble::Busy("500".to_owned())),
        ];
        for (text, expected) in cases {
            let diagnosis = diagnose(&generic(&text));
            assert_eq!(diagnosis.trouble, expected);
            assert_eq!(diagnosis.retries, 2);
        }
    }

    #[test]
    fn no_part_of_an_answer_but_its_code_is_shown() {
        let answer = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code>\
                      <StringToSign>AWS4 AKIASECRET</StringToSign></Error>";
        let site = Site::S3 { bucket: "b".to_owned(), described: "s3://b".to_owned() };
        let key = Key::new("a").expect("a plain key");
        let error = report(&diagnose(&generic(answer)), false, Verb::Put, &key, &site);
        let shown = format!("{error:?}");
        assert!(shown.contains("SignatureDoesNotMatch") && !shown.contains("AKIASECRET"), "{shown}");
        assert_eq!(error.kind(), ErrorKind::Auth);
    }

    #[test]
    fn states_claim_only_what_is_certain() {
        use std::io::ErrorKind as Io;
        let site = Site::S3 { bucket: "b".to_owned(), described: "s3://b".to_owned() };
        let key = Key::new("a").expect("a plain key");
        let certain = [
            Trouble::NoBucket,
            Trouble::Denied(String::new()),
            Trouble::Unreachable(String::new()),
            Trouble::Rejected(String::new()),
            Trouble::Disk(Io::StorageFull, String::new()),
            Trouble::Disk(Io::PermissionDenied, String::new()),
        ];
        let open = [
            Trouble::Busy(String::new()),
            Trouble::TimedOut,
            Trouble::Disconnected(String::new()),
            Trouble::Other(String::new()),
            Trouble::Disk(Io::Other, String::new()),
        ];
        let cases = certain.into_iter().map(|trouble| (trouble, false));
        for (trouble, expected) in cases.chain(open.into_iter().map(|trouble| (trouble, true))) {
            for retries in [0, 2] {
                let diagnosis = Diagnosis { trouble: trouble.clone(), retries };
                let expected = expected || retries > 0;
                assert_eq!(diagnosis.leaves_open(), expected, "{diagnosis:?}");
                for verb in [Verb::Put, Verb::PutNew, Verb::Finish, Verb::Delete] {
                    let error = report(&diagnosis, diagnosis.leaves_open(), verb, &key, &site);
                    let state = error.state().expect("every failed change has one");
                    assert_eq!(state.contains("not known"), expected, "{verb:?} {diagnosis:?}: {state}");
                    assert_eq!(outcome_is_open(&error), expected);
                }
                // A stream's parts are invisible, whatever became of them.
                let error = report(&diagnosis, diagnosis.leaves_open(), Verb::Write, &key, &site);
                assert!(error.state().expect("a state").contains("was not written"), "{error:?}");
                assert!(!outcome_is_open(&error));
                let error = report(&diagnosis, diagnosis.leaves_open(), Verb::Get, &key, &site);
                assert_eq!(error.state(), None);
            }
        }
    }
}
