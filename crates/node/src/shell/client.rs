//! Talking to a node over its HTTP API, for the shell.

use std::io::{BufRead, BufReader, Read, Write};

use lavant_media::hls::{MediaPlaylist, Playlist};
use serde::de::DeserializeOwned;
use ureq::{Agent, AsSendBody, SendBody, http};

use super::agent::agent;

/// Longest JSON answer or playlist that is read: the list of 200,000 segments of an upload.
const ANSWER_MAX: u64 = 64 << 20;

/// Longest line of an answer that has lines.
const LINE_MAX: u64 = 64 * 1024;

/// Longest refusal that is read.
const REFUSAL_MAX: u64 = 64 * 1024;

/// Why a call to a node failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// What was given is no address.
    #[error("{0} is no address of a node: it begins with http://, as in http://127.0.0.1:7777")]
    Address(String),
    /// Nobody answers.
    #[error(
        "no node answers at {url} ({reason}); start one with 'lavant serve', or name another with \
         --daemon"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// The reason given.
        reason: String,
    },
    /// What is asked for makes no path.
    #[error("this cannot be asked of a node: {0}; shorten what was given, or check --daemon")]
    Path(String),
    /// The node refused.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The node's sentence.
        message: String,
    },
    /// The answer is not what a node says.
    #[error("{url} does not answer like a lavant node: {reason}")]
    Strange {
        /// Where.
        url: String,
        /// What is odd.
        reason: String,
    },
    /// A segment is not what its root says.
    #[error("segment {0} does not match its BLAKE3 root; the node or the way to it is broken")]
    Damaged(String),
    /// A part is missing.
    #[error("segment {0} is not on the node (a gap); give --gaps to leave it out")]
    Gap(String),
    /// A stream that was watched is not published any more.
    #[error(
        "nobody publishes {0} any more, and nothing of it came for long; what there is of it is \
         fetched with 'lavant get {0}'"
    )]
    Silent(String),
    /// What is published cannot be read.
    #[error("the source cannot be read: {0}")]
    Source(std::io::Error),
    /// The output failed.
    #[error("the output could not be written: {0}")]
    Output(std::io::Error),
}

/// A node, as seen from outside.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    base: String,
    token: Option<String>,
}

impl Client {
    /// The node at `base`, such as `http://127.0.0.1:7777`.
    pub fn new(base: &str, token: Option<String>) -> Result<Self, ClientError> {
        let base = base.trim().trim_end_matches('/');
        let base = if base.contains("://") {
            base.to_owned()
        } else {
            format!("http://{base}")
        };
        // This client has no TLS: it would fail with a sentence that helps nobody.
        if !base.starts_with("http://") {
            return Err(ClientError::Address(base));
        }
        Ok(Self {
            agent: agent(),
            base,
            token,
        })
    }

    /// The absolute URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The node's address.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// `GET` of a JSON answer.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call("GET", path)
    }

    /// A call without a body whose answer is JSON.
    pub fn call<T: DeserializeOwned>(&self, method: &str, path: &str) -> Result<T, ClientError> {
        let text = self.text(method, path)?;
        serde_json::from_str(&text).map_err(|error| self.strange(error.to_string()))
    }

    /// Lets the node know that somebody is about to watch a content from its start, whether that is
    /// here or still has to come: it then comes in order.
    pub fn watches(&self, reference: &str) {
        // Whether the segment is here does not matter.
        let _ = self.send("HEAD", &format!("/segment/{}/0", encode(reference)));
    }

    /// A call with a JSON body whose answer is JSON.
    pub fn call_with<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, ClientError> {
        let json = Some("application/json");
        self.answer(self.run(method, path, json, body.to_string())?)
    }

    /// A call with a body of that type whose answer is JSON.
    pub(super) fn call_with_bytes<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        (mime, body): (&str, &[u8]),
    ) -> Result<T, ClientError> {
        self.answer(self.run(method, path, Some(mime), body)?)
    }

    /// The JSON of an answer; what the node refuses is an error with its sentence.
    pub(super) fn answer<T: DeserializeOwned>(
        &self,
        answer: http::Response<ureq::Body>,
    ) -> Result<T, ClientError> {
        let text = self.read_text(self.checked(answer)?)?;
        serde_json::from_str(&text).map_err(|error| self.strange(error.to_string()))
    }

    pub(super) fn text(&self, method: &str, path: &str) -> Result<String, ClientError> {
        let answer = self.send(method, path)?;
        self.read_text(answer)
    }

    fn read_text(&self, mut answer: http::Response<ureq::Body>) -> Result<String, ClientError> {
        answer
            .body_mut()
            .with_config()
            .limit(ANSWER_MAX)
            .read_to_string()
            .map_err(|error| self.strange(error.to_string()))
    }

    /// Sends what a reader gives as the body of a `PUT`, as long as it gives something.
    pub(super) fn upload(&self, path: &str, source: &mut dyn Read) -> Result<(), ClientError> {
        let body = SendBody::from_reader(source);
        // What is refused is refused before anything is sent: an answer in the midst of a body is
        // lost when the connection ends with it.
        let request = self.request("PUT", path).header("expect", "100-continue");
        self.checked(self.ask(request, body)?).map(drop)
    }

    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
    ) -> Result<http::Response<ureq::Body>, ClientError> {
        self.checked(self.run(method, path, None, ())?)
    }

    /// A call with a body, of that type if there is one; its answer, also when it is a refusal.
    pub(super) fn run(
        &self,
        method: &str,
        path: &str,
        mime: Option<&str>,
        body: impl AsSendBody,
    ) -> Result<http::Response<ureq::Body>, ClientError> {
        let request = self.request(method, path);
        let request = match mime {
            Some(mime) => request.header("content-type", mime),
            None => request,
        };
        self.ask(request, body)
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let request = http::Request::builder().method(method).uri(self.url(path));
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn ask(
        &self,
        request: http::request::Builder,
        body: impl AsSendBody,
    ) -> Result<http::Response<ureq::Body>, ClientError> {
        let request = request.body(body);
        let request = request.map_err(|error| ClientError::Path(error.to_string()))?;
        self.agent.run(request).map_err(|error| self.failed(error))
    }

    /// What a library's error says of the node.
    fn failed(&self, error: ureq::Error) -> ClientError {
        use ureq::Error as E;
        let reason = match error {
            E::Io(error) => error.to_string(),
            E::Timeout(which) => format!("time-out: {which}"),
            E::HostNotFound => "there is no such host".to_owned(),
            E::ConnectionFailed => "the connection failed".to_owned(),
            other => return self.strange(other.to_string()),
        };
        ClientError::Unreachable {
            url: self.base.clone(),
            reason,
        }
    }

    /// What the node refuses is an error with its sentence.
    fn checked(
        &self,
        mut answer: http::Response<ureq::Body>,
    ) -> Result<http::Response<ureq::Body>, ClientError> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refusal(&mut answer).0)
    }

    /// What a refusal says: its sentence, and all of it if it is JSON.
    pub(super) fn refusal(
        &self,
        answer: &mut http::Response<ureq::Body>,
    ) -> (ClientError, serde_json::Value) {
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(REFUSAL_MAX);
        let json = body.read_json::<serde_json::Value>().unwrap_or_default();
        // Whatever else listens at that port answers without such a sentence.
        let said = json.get("error").and_then(|error| error.as_str());
        let message = match said {
            Some(said) => said.to_owned(),
            None => format!("{} answered {status}", self.base),
        };
        let status = status.as_u16();
        (ClientError::Refused { status, message }, json)
    }

    pub(super) fn strange(&self, reason: String) -> ClientError {
        ClientError::Strange {
            url: self.base.clone(),
            reason,
        }
    }

    /// Fetches a content's segments in order and writes them to `output`, each checked against its
    /// root. `progress` is told how many of how many segments, and how many bytes, are done. Gives
    /// the bytes, and whether it is over: what still grows is written as far as it has come.
    pub fn download(
        &self,
        reference: &str,
        rendition: Option<&str>,
        skip_gaps: bool,
        output: &mut dyn Write,
        progress: &mut dyn FnMut(usize, usize, u64),
    ) -> Result<(u64, bool), ClientError> {
        let playlist = self.playlist(reference, rendition)?;
        let total = playlist.segments.len();
        let mut init = None;
        let mut bytes = 0;
        for (done, segment) in playlist.segments.iter().enumerate() {
            progress(done, total, bytes);
            if segment.gap {
                if skip_gaps {
                    continue;
                }
                return Err(ClientError::Gap(segment.uri.clone()));
            }
            // Written once before the segments that need it, as a player of the file expects.
            if segment.init != init {
                init.clone_from(&segment.init);
                if let Some(uri) = &init {
                    bytes += self.copy(uri, output)?;
                }
            }
            bytes += self.copy(&segment.uri, output)?;
        }
        progress(total, total, bytes);
        output.flush().map_err(ClientError::Output)?;
        Ok((bytes, playlist.end))
    }

    /// The media playlist of a rendition; of the one with the highest bandwidth when none is named.
    fn playlist(
        &self,
        reference: &str,
        rendition: Option<&str>,
    ) -> Result<MediaPlaylist, ClientError> {
        let reference = encode(reference);
        let first = match rendition {
            Some(name) => format!("/play/{reference}/{}.m3u8", encode(name)),
            None => format!("/play/{reference}/index.m3u8"),
        };
        // Of a stream that runs all that is kept, and not only its newest part.
        let first = first + "?window=all";
        match self.parse(&first)? {
            Playlist::Media(playlist) => Ok(playlist),
            Playlist::Master(master) => {
                let best = master
                    .variants
                    .iter()
                    .max_by_key(|variant| variant.bandwidth);
                let best = best.ok_or_else(|| self.strange("a master playlist is empty".into()))?;
                match self.parse(&best.uri)? {
                    Playlist::Media(playlist) => Ok(playlist),
                    Playlist::Master(_) => Err(self.strange("a playlist names another".into())),
                }
            }
        }
    }

    fn parse(&self, path: &str) -> Result<Playlist, ClientError> {
        Playlist::parse(&self.text("GET", path)?).map_err(|error| self.strange(error.to_string()))
    }

    fn copy(&self, uri: &str, output: &mut dyn Write) -> Result<u64, ClientError> {
        let mut answer = self.send("GET", uri)?;
        let etag = answer
            .headers()
            .get("etag")
            .and_then(|tag| tag.to_str().ok());
        // The entity tag of a segment is its root, so nothing else has to be asked.
        let root = etag.unwrap_or_default().trim_matches('"').to_owned();
        let limit = lavant_proto::limits::SEGMENT_BYTES_MAX;
        let mut bytes = Vec::new();
        let mut reader = answer.body_mut().with_config().limit(limit).reader();
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| self.strange(error.to_string()))?;
        // Before a byte goes out: whatever reads the output plays only what is verified.
        if blake3::hash(&bytes).to_hex().as_str() != root {
            return Err(ClientError::Damaged(uri.to_owned()));
        }
        output.write_all(&bytes).map_err(ClientError::Output)?;
        Ok(bytes.len() as u64)
    }
}

/// An answer that comes line by line, each of JSON, until this is dropped.
pub struct Lines {
    client: Client,
    reader: Box<dyn BufRead>,
}

impl Lines {
    /// Waits for the next line.
    pub fn next_line<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let mut text = Vec::new();
        let mut bounded = self.reader.by_ref().take(LINE_MAX);
        let read = bounded.read_until(b'\n', &mut text);
        read.map_err(|error| self.client.strange(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| self.client.strange(error.to_string()))
    }
}

impl Client {
    /// A call without a body whose answer comes line by line.
    pub fn lines(&self, method: &str, path: &str) -> Result<Lines, ClientError> {
        let answer = self.send(method, path)?;
        let reader = Box::new(BufReader::new(answer.into_body().into_reader()));
        let client = self.clone();
        Ok(Lines { client, reader })
    }
}

/// A reference as it stands in a URL path: every byte that is not plain is percent-encoded.
#[must_use]
pub fn encode(reference: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    let mut url = String::new();
    for byte in reference.bytes() {
        if plain(byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
    url
}

/// The first player program that is installed.
#[must_use]
pub fn find_player() -> Option<&'static str> {
    let folders = std::env::var_os("PATH")?;
    ["mpv", "vlc", "ffplay"]
        .into_iter()
        .find(|name| std::env::split_paths(&folders).any(|folder| folder.join(name).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_put_in_order() {
        let url = |text| Client::new(text, None).map(|client| client.url("/status"));
        assert_eq!(
            url("127.0.0.1:7777/").unwrap(),
            "http://127.0.0.1:7777/status"
        );
        assert_eq!(url(" http://h:1 ").unwrap(), "http://h:1/status");
        let refused = url("https://h:1").unwrap_err().to_string();
        assert!(
            refused.starts_with("https://h:1 is no address of a node"),
            "{refused}"
        );
    }

    #[test]
    fn an_absent_node_is_told() {
        // Port 9 of the loopback address: nobody listens there.
        let client = Client::new("http://127.0.0.1:9", None).unwrap();
        let error = client.get::<serde_json::Value>("/status").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("no node answers at http://127.0.0.1:9 ("),
            "{text}"
        );
        assert!(
            text.contains("lavant serve") && text.ends_with("--daemon"),
            "{text}"
        );
    }
}
