//! S3 clients: from options to `object_store`'s Amazon S3 backend.
//!
//! Two clients per store. The first repeats by itself what may be repeated; the second never does, because a create-only put whose answer
//! was lost must look at the object before it tries again ([`crate::Store::put_new`] does that).

use mainstay_model::{Error, ErrorKind, Result, Secret, redact_url};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use url::Url;

use crate::{RetryPolicy, S3Options};

/// Longest wait for a connection; never more than half of what a whole try may take in silence, so that the two are told apart.
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

pub(crate) struct Clients {
    pub(crate) repeating: AmazonS3,
    pub(crate) single: AmazonS3,
}

pub(crate) fn connect(bucket: &str, options: &S3Options, retry: &RetryPolicy) -> Result<Clients> {
    check_endpoint(options)?;
    if options.access_key_id.is_some() != options.secret_access_key.is_some() {
        let missing = if options.access_key_id.is_some() { "secret access key" } else { "access key id" };
        return Err(Error::new(ErrorKind::Config, format!("the {missing} of s3://{bucket} is not set"))
            .with_hint("set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
    }
    // The HTTP client asks for the process's TLS provider; another part of the process may have set it already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let build = |max_retries| {
        builder(bucket, options, retry, max_retries).build().map_err(|source| {
            Error::new(
                ErrorKind::Config,
                format!("s3://{bucket} cannot be set up: {}", first_line(&source.to_string())),
            )
            .with_hint("check the s3 settings")
        })
    };
    Ok(Clients { repeating: build(retry.max_retries)?, single: build(0)? })
}

fn builder(bucket: &str, options: &S3Options, retry: &RetryPolicy, max_retries: u32) -> AmazonS3Builder {
    // A bound on a whole request would cut off large objects; what is bounded is the silence.
    let client = ClientOptions::new()
        .with_timeout_disabled()
        .with_read_timeout(retry.request_timeout)
        .with_connect_timeout(CONNECT_TIMEOUT.min(retry.request_timeout / 2));
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: retry.backoff_first,
            max_backoff: retry.backoff_max,
            base: 2.0,
        },
        max_retries: usize::try_from(max_retries).unwrap_or(usize::MAX),
        retry_timeout: retry.timeout,
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_allow_http(options.allow_http)
        .with_virtual_hosted_style_request(options.virtual_hosted)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One object at a time is deleted here, and not every compatible service has the bulk request.
        .with_disable_bulk_delete(true)
        .with_retry(retry);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    let exposed = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    if let Some(id) = exposed(&options.access_key_id) {
        builder = builder.with_access_key_id(id);
    }
    if let Some(key) = exposed(&options.secret_access_key) {
        builder = builder.with_secret_access_key(key);
    }
    if let Some(token) = exposed(&options.session_token) {
        builder = builder.with_token(token);
    }
    builder
}

fn check_endpoint(options: &S3Options) -> Result<()> {
    let Some(text) = &options.endpoint else { return Ok(()) };
    let refuse = |why: &str| {
        Error::new(ErrorKind::Config, format!("s3 endpoint {:?}: {why}", redact_url(text)))
            .with_hint("write it as https://host or https://host:port")
    };
    let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("credentials do not belong into an endpoint"));
    }
    match url.scheme() {
        "https" => {}
        "http" if options.allow_http => {}
        "http" => {
            return Err(
                refuse("plain HTTP is not permitted").with_hint("use https, or set allow_http = true")
            );
        }
        _ => return Err(refuse("only http and https are known")),
    }
    if url.query().is_some() || url.fragment().is_some() || url.host().is_none() {
        return Err(refuse("it is a host with an optional port"));
    }
    Ok(())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn with_endpoint(endpoint: &str) -> S3Options {
        S3Options { endpoint: Some(endpoint.to_owned()), ..S3Options::default() }
    }

    #[test]
    fn endpoints_with_credentials_or_without_tls_are_refused() {
        for (endpoint, secret) in [
            ("https://user:hunter2@host", Some("hunter2")),
            ("http://host:9000", None),
            ("ftp://host", None),
            ("host:9000", None),
            ("user:hunter2@host:9000", Some("hunter2")),
            ("hunter2@host", Some("hunter2")),
            ("s3:user:hunter2@host", Some("hunter2")),
            ("https:/user:hunter2@host", Some("hunter2")),
            ("https://host/?secret=hunter2", Some("hunter2")),
            ("https://host/?a=b", None),
        ] {
            let error = check_endpoint(&with_endpoint(endpoint)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{endpoint}");
            assert!(secret.is_none_or(|secret| !format!("{error:?}").contains(secret)));
        }
        check_endpoint(&with_endpoint("https://host:9000")).unwrap();
        check_endpoint(&S3Options { allow_http: true, ..with_endpoint("http://host:9000") }).unwrap();
    }

    #[test]
    fn half_a_pair_of_keys_is_refused() {
        let options = S3Options { access_key_id: Some(Secret::new("AKIA")), ..S3Options::default() };
        let error = connect("bucket", &options, &RetryPolicy::default()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("secret access key") && !error.to_string().contains("AKIA"));
    }
}
