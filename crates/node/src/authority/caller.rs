//! Calls of the operator's services, signed by the rules of Standard Webhooks
//! (standardwebhooks.com): the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`,
//! which is `v1,` and the Base64 of HMAC-SHA256 over `id.timestamp.body`.

use std::error::Error as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use ring::hmac;
use serde_json::Value;

/// How long a service may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A service that cannot be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHook {
    /// The URL.
    #[error("{0:?} is no URL of http or https")]
    Url(String),
    /// The secret.
    #[error("the secret of hooks begins with whsec_ and is no Base64 behind that")]
    Secret,
    /// The client.
    #[error("hooks cannot be called from here: {0}")]
    Client(String),
}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The service does not want it: there is no use in another try.
    #[error("it answers {0}")]
    Refused(u16),
    /// It may be well later.
    #[error("it answers {0}")]
    Status(u16),
    /// No answer came.
    #[error("{0}")]
    Unreachable(String),
}

/// Calls one service.
#[derive(Clone, Debug)]
pub struct Caller {
    client: Client,
    url: Url,
    key: hmac::Key,
}

impl Caller {
    /// A caller of `url` that signs with `secret`: as it is, or as Base64 behind `whsec_`.
    ///
    /// # Errors
    /// See [`BadHook`].
    pub fn new(url: &str, secret: &str) -> Result<Self, BadHook> {
        let bad = || BadHook::Url(url.to_owned());
        let url: Url = url.parse().map_err(|_| bad())?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad());
        }
        let key = match secret.strip_prefix("whsec_") {
            Some(encoded) => BASE64_STANDARD
                .decode(encoded)
                .map_err(|_| BadHook::Secret)?,
            None => secret.as_bytes().to_vec(),
        };
        // The client takes the provider of the process; another one may be there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("lavant/", env!("CARGO_PKG_VERSION")))
            .timeout(ANSWER_MAX)
            // The operator named this host, and no other.
            .redirect(Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| BadHook::Client(error.to_string()))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Ok(Self { client, url, key })
    }

    /// Where it calls, without what may be secret.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Calls once.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn call(&self, body: &Value) -> Result<(), Failed> {
        self.call_as(&fresh_id(), body).await
    }

    /// Calls with an id by which the service knows a second try.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn call_as(&self, id: &str, body: &Value) -> Result<(), Failed> {
        let body = body.to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", now.to_string())
            .header("webhook-signature", signature(&self.key, id, now, &body))
            .body(body);
        let answer = request.send().await.map_err(|error| {
            Failed::Unreachable(match error.is_timeout() {
                true => "it did not answer for 5 seconds".into(),
                false => reason(&error),
            })
        })?;
        match answer.status().as_u16() {
            200..=299 => Ok(()),
            // Too early, too slow and too often pass.
            status @ (408 | 425 | 429) => Err(Failed::Status(status)),
            status @ 400..=499 => Err(Failed::Refused(status)),
            status => Err(Failed::Status(status)),
        }
    }
}

fn signature(key: &hmac::Key, id: &str, time: u64, body: &str) -> String {
    let tag = hmac::sign(key, format!("{id}.{time}.{body}").as_bytes());
    format!("v1,{}", BASE64_STANDARD.encode(tag.as_ref()))
}

/// An id that no call had before.
#[must_use]
pub fn fresh_id() -> String {
    let mut bytes = [0; 16];
    // Without randomness the time is all there is; two calls of one moment then look the same.
    if getrandom::fill(&mut bytes).is_err() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        bytes = now.unwrap_or_default().as_nanos().to_be_bytes();
    }
    let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
    format!("msg_{}", digits.collect::<String>())
}

/// The innermost reason, without the URL.
fn reason(error: &reqwest::Error) -> String {
    let mut innermost = error.source();
    while let Some(next) = innermost.and_then(|error| error.source()) {
        innermost = Some(next);
    }
    innermost.map_or_else(|| "the call failed".into(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_signed_as_the_standard_says() {
        // The example of the specification (standardwebhooks.com, "Signature scheme").
        let secret = BASE64_STANDARD
            .decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
            .unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let body = r#"{"test": 2432232314}"#;
        assert_eq!(
            signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn what_is_no_url_of_the_web_is_refused() {
        for url in ["", "example.org", "file:///etc/passwd", "ftp://example.org"] {
            assert!(
                matches!(Caller::new(url, "secret"), Err(BadHook::Url(_))),
                "{url}"
            );
        }
        let bad = Caller::new("http://example.org", "whsec_?").err();
        assert_eq!(bad, Some(BadHook::Secret));
    }
}
