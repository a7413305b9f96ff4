//! HTTP/1.1 as it is on the wire, so that tests see exactly what a node sends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// Asserts the status.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Asserts 200.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.is(200)
    }

    /// A header, by its lower-case name; empty when there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// The sentence of an error; asserts that it is one.
    #[track_caller]
    pub(crate) fn sentence(&self) -> String {
        assert!(self.status >= 400, "no error but {}", self.status);
        assert_eq!(self.header("content-type"), "application/json");
        let json = self.json();
        let sentence = json["error"].as_str().expect("an error has a sentence");
        super::assert_sentence(sentence);
        sentence.to_owned()
    }
}

/// A connection that stays open.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
    host: String,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a node listens");
        // Long enough for the node's own time limits to show.
        let limit = Some(PATIENCE * 2);
        stream.set_read_timeout(limit).expect("it can be set");
        stream.set_write_timeout(limit).expect("it can be set");
        stream.set_nodelay(true).expect("it can be set");
        Self {
            reader: BufReader::new(stream),
            host: address.to_string(),
        }
    }

    /// Sends bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Sends a request without waiting for its answer.
    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<()> {
        let named = |name| headers.iter().any(|(key, _)| *key == name);
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !named("host") {
            head.push_str(&format!("host: {}\r\n", self.host));
        }
        if !named("transfer-encoding") && (!body.is_empty() || method != "GET") {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.raw(&[head.as_bytes(), body].concat())
    }

    /// Sends a request and reads the answer.
    #[track_caller]
    pub(crate) fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        // A node that refuses a body may answer before all of it is sent.
        let sent = self.send(method, path, headers, body);
        match self.read(method) {
            Ok(reply) => reply,
            Err(error) => panic!("no answer to {method} {path}: {error} (sent: {sent:?})"),
        }
    }

    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.call("GET", path, &[], &[])
    }

    /// Reads the answer to a request of a method.
    pub(crate) fn read(&mut self, method: &str) -> std::io::Result<Reply> {
        let mut reply = self.head()?;
        if method == "HEAD" || matches!(reply.status, 204 | 304) {
            return Ok(reply);
        }
        if reply.header("transfer-encoding") == "chunked" {
            while let Some(chunk) = self.chunk()? {
                reply.body.extend(chunk);
            }
            return Ok(reply);
        }
        let length: usize = reply.header("content-length").parse().map_err(odd)?;
        reply.body.resize(length, 0);
        self.reader.read_exact(&mut reply.body)?;
        Ok(reply)
    }

    /// Reads the head of an answer.
    pub(crate) fn head(&mut self) -> std::io::Result<Reply> {
        let first = self.line()?;
        let status = first.split(' ').nth(1).unwrap_or_default();
        let mut reply = Reply {
            status: status.parse().map_err(odd)?,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                return Ok(reply);
            };
            let value = value.trim().to_owned();
            reply.headers.push((name.to_ascii_lowercase(), value));
        }
    }

    /// Reads a chunk of a body; none at its end.
    pub(crate) fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let length = usize::from_str_radix(&self.line()?, 16).map_err(odd)?;
        let mut chunk = vec![0; length];
        self.reader.read_exact(&mut chunk)?;
        self.line()?;
        Ok((length > 0).then_some(chunk))
    }

    /// Reads what is left until the other side closes.
    pub(crate) fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        line.truncate(line.trim_end().len());
        Ok(line)
    }
}

fn odd(error: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::other(format!("not HTTP: {error}"))
}

/// Base64 as cosmosd's clients send it (RFC 4648 section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            if digit <= group.len() {
                text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
            } else {
                text.push('=');
            }
        }
    }
    text
}
