//! Settings of a store. They are handed in: this crate reads neither files of configuration nor the environment.

use std::path::PathBuf;
use std::time::Duration;

use mainstay_model::{ByteSize, Secret};

/// Everything [`crate::Store::open`] needs besides the location.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// The directory that a relative `file:` location is resolved against; the process's own when empty.
    pub base_dir: PathBuf,
    /// How to reach an S3-compatible service.
    pub s3: S3Options,
    /// How long to try.
    pub retry: RetryPolicy,
    /// The most bytes written per second, over all writers of the store; `None` for no bound.
    pub write_bytes_per_second: Option<ByteSize>,
}

/// How to reach an S3-compatible service.
#[derive(Debug, Clone, Default)]
pub struct S3Options {
    /// The service's address, such as `https://minio.internal:9000`; `None` for Amazon's own.
    pub endpoint: Option<String>,
    /// The region; `None` for `us-east-1`, which most compatible services accept.
    pub region: Option<String>,
    /// The access key id. With neither this nor the secret key, the credentials of the instance's role are asked for (EC2 metadata).
    pub access_key_id: Option<Secret>,
    /// The secret access key.
    pub secret_access_key: Option<Secret>,
    /// The session token of temporary credentials.
    pub session_token: Option<Secret>,
    /// Permits plain HTTP. Objects then travel readable unless they are encrypted.
    pub allow_http: bool,
    /// Puts the bucket into the host name rather than into the path.
    pub virtual_hosted: bool,
}

/// How often and how long a request to a remote store is repeated. Local and memory stores do not repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Repetitions after the first try.
    pub max_retries: u32,
    /// No repetition begins later than this after the first try.
    pub timeout: Duration,
    /// How long one try may go without an answer, or without the next bytes of one.
    pub request_timeout: Duration,
    /// The pause before the first repetition; it grows, with jitter.
    pub backoff_first: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
}

impl Default for RetryPolicy {
    /// Six tries within two minutes, a minute for each, pauses from 100 ms to 10 s.
    fn default() -> Self {
        Self {
            max_retries: 5,
            timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(60),
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
        }
    }
}
