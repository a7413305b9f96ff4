//! The session of one publisher: from the handshake to the last frame.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

use super::amf::{self, Value};
use super::chunk::{Message, Reader};
use super::handshake::Handshake;
use super::name;
use super::tags::{Given, Tags};
use super::write::Writer;
use super::{Error, Metadata, Notice};
use crate::frame::Item;

/// The most bytes of answers that wait. A peer that asks and does not read is given up.
const OUT_MAX: usize = 1 << 20;
/// The longest command. Real ones have some hundred bytes.
const COMMAND_MAX: usize = 64 << 10;
/// The longest metadata that are read.
const DATA_MAX: usize = 256 << 10;
/// Codecs that are taken, as Enhanced RTMP names them.
const VIDEO: [&str; 4] = ["avc1", "hvc1", "av01", "vp09"];
const AUDIO: [&str; 2] = ["mp4a", "Opus"];
/// Of the capabilities of Enhanced RTMP: modifiers of packets are understood.
const CAPS_MOD_EX: f64 = 4.0;
/// Of the capabilities of a codec: it is forwarded.
const CAN_FORWARD: f64 = 4.0;

/// Limits of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Bytes of the chunks that the session sends. Default: 4096.
    pub chunk_size: u32,
    /// Bytes after which each side says that they came. Default: 2,500,000.
    pub window: u32,
    /// The most bytes of a message, and so of a frame; messages that come by turns may hold twice
    /// as many. Default: 16 MiB.
    pub max_message: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            chunk_size: 4096,
            window: 2_500_000,
            max_message: 16 << 20,
        }
    }
}

/// What a session gives out.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The peer wants to publish: answer with [`Session::accept`] or [`Session::refuse`].
    Publish(Publish),
    /// What the encoder says of its stream.
    Metadata(Metadata),
    /// A track or a frame: video is track 0, audio is track 1.
    Item(Item),
    /// A track is left out.
    Notice(Notice),
    /// The publisher ended its stream on purpose; one whose connection merely ends says nothing.
    Unpublish,
}

/// Who wants to publish, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// The path of the address without its last part, such as `live`; may be empty.
    pub app: String,
    /// The last part of the path: the stream key. Nothing here has checked it.
    pub key: String,
    /// What stands behind `?` in the address, wherever the encoder put it.
    pub query: Option<String>,
    /// The address of the server as the peer sees it, or empty.
    pub url: String,
    /// What the peer says it is, such as `FMLE/3.0 (compatible; FMSc/1.0)`, or empty.
    pub agent: String,
}

/// What `connect` said.
#[derive(Debug)]
struct Connection {
    app: String,
    url: String,
    agent: String,
}

/// A stream that is published, or asks for it.
#[derive(Debug)]
struct Publishing {
    /// Number of its message stream.
    stream: u32,
    waiting: bool,
}

/// The server's side of an RTMP connection.
///
/// After each `push`, call `pop` until it gives `None`, and send what `take_output` gives (also
/// after `accept` and `refuse`). While that cannot be sent, push no more. Memory is bounded by what
/// is pushed at once and by [`Config::max_message`].
///
/// The session has no clock: a peer that says nothing, or never publishes, is the caller's to
/// close.
#[derive(Debug)]
pub struct Session {
    config: Config,
    handshake: Option<Handshake>,
    reader: Reader,
    writer: Writer,
    events: VecDeque<Event>,
    tags: Tags,
    connection: Option<Connection>,
    publishing: Option<Publishing>,
    /// The last message stream that was made.
    streams: u32,
    /// Bytes that came, and those of them that the peer heard of.
    received: u64,
    acknowledged: u64,
    /// Bytes after which the peer wants to hear of them.
    window: u32,
    dropped: u64,
    failed: Option<Error>,
}

impl Session {
    /// A session of a connection that was just made. `nonce` is any random bytes.
    #[must_use]
    pub fn new(config: Config, nonce: [u8; 32]) -> Self {
        Self {
            handshake: Some(Handshake::new(nonce)),
            reader: Reader::new(config.max_message),
            writer: Writer::new(),
            events: VecDeque::new(),
            tags: Tags::default(),
            connection: None,
            publishing: None,
            streams: 0,
            received: 0,
            acknowledged: 0,
            window: config.window,
            dropped: 0,
            failed: None,
            config,
        }
    }

    /// Takes the next bytes, in pieces of any size.
    ///
    /// # Errors
    /// See [`Error`]. The connection cannot go on then; what came before can still be popped.
    pub fn push(&mut self, data: &[u8]) -> Result<(), Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.read(data)
            .inspect_err(|error| self.failed = Some(*error))
    }

    /// The next event, in order.
    pub fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Bytes to send, since the last call.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.writer.out)
    }

    /// Lets the peer publish. Without a [`Event::Publish`] that waits, this does nothing.
    pub fn accept(&mut self) {
        let Some(publishing) = self.publishing.as_mut().filter(|it| it.waiting) else {
            return;
        };
        publishing.waiting = false;
        let stream = publishing.stream;
        self.writer.event(0, stream.to_be_bytes());
        let (code, text) = ("NetStream.Publish.Start", "The stream is taken.");
        self.writer.status(stream, "status", code, text);
    }

    /// Tells the peer why it may not publish; no more input is taken. Send the output, then close
    /// the connection.
    pub fn refuse(&mut self, reason: &str) {
        if let Some(publishing) = self.publishing.take() {
            let code = "NetStream.Publish.BadName";
            self.writer.status(publishing.stream, "error", code, reason);
        }
        self.failed = Some(Error::Refused);
    }

    /// Frames and messages that were left out: before their codec's header or outside of a
    /// publication, empty, damaged, begun and not ended, or of a codec that is not taken.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped + self.tags.dropped() + self.reader.dropped()
    }

    fn read(&mut self, data: &[u8]) -> Result<(), Error> {
        self.received += data.len() as u64;
        let mut input = data;
        if let Some(handshake) = &mut self.handshake {
            if !handshake.push(&mut input, &mut self.writer.out)? {
                return Ok(());
            }
            self.handshake = None;
        }
        while let Some(message) = self.reader.push(&mut input)? {
            self.message(message)?;
            if self.writer.out.len() > OUT_MAX {
                return Err(Error::LimitReached {
                    what: "requests whose answers it does not read",
                });
            }
        }
        if self.connection.is_some() && self.received - self.acknowledged >= self.window.into() {
            self.acknowledged = self.received;
            self.writer.acknowledge(self.received);
        }
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), Error> {
        let Message {
            time,
            kind,
            stream,
            mut body,
        } = message;
        match kind {
            4 => {
                // A ping is answered with its time.
                if let [0, 6, a, b, c, d, ..] = *body {
                    self.writer.event(7, [a, b, c, d]);
                }
            }
            5 => {
                if let Some(size) = body.first_chunk().map(|it| u32::from_be_bytes(*it)) {
                    self.window = if size == 0 { self.config.window } else { size };
                }
            }
            8 | 9 => self.media(kind, time, body),
            // With AMF3 announced, a byte stands before the same AMF0.
            15 | 18 => {
                if body.first() == Some(&0) {
                    body.advance(1);
                }
                self.data(&body);
            }
            17 | 20 => {
                if kind == 17 && body.first() == Some(&0) {
                    body.advance(1);
                }
                self.command(stream, &body)?;
            }
            22 => self.aggregate(time, body),
            // Acknowledgements, limits for this side, shared objects, and what nobody knows.
            _ => {}
        }
        Ok(())
    }

    fn media(&mut self, kind: u8, time: u32, body: Bytes) {
        if self.publishing.is_none() {
            self.dropped += 1;
            return;
        }
        match kind {
            8 => self.tags.audio(time, body),
            _ => self.tags.video(time, body),
        }
        self.pass_on();
    }

    fn pass_on(&mut self) {
        while let Some(given) = self.tags.pop() {
            self.events.push_back(match given {
                Given::Item(item) => Event::Item(item),
                Given::Notice(notice) => Event::Notice(notice),
            });
        }
    }

    fn data(&mut self, body: &[u8]) {
        if self.publishing.is_none() || body.len() > DATA_MAX {
            return;
        }
        if let Some(metadata) = Metadata::read(body) {
            self.tags.metadata(&metadata);
            self.events.push_back(Event::Metadata(metadata));
            self.pass_on();
        }
    }

    /// Messages in one message, written as tags of FLV with times of their own. The first has the
    /// time of the whole (Adobe, "RTMP specification 1.0" section 7.1.6).
    fn aggregate(&mut self, time: u32, mut body: Bytes) {
        let mut shift = None;
        while let Some((kind, own, tag)) = super::flv::split(&mut body) {
            let shift = *shift.get_or_insert(time.wrapping_sub(own));
            match kind {
                8 | 9 => self.media(kind, own.wrapping_add(shift), tag),
                18 => self.data(&tag),
                _ => {}
            }
        }
    }

    fn command(&mut self, stream: u32, body: &[u8]) -> Result<(), Error> {
        if body.len() > COMMAND_MAX {
            return Err(Error::malformed("a command of more than 64 KiB"));
        }
        let values = amf::read(body);
        let [Value::String(name), rest @ ..] = &values[..] else {
            return Err(Error::malformed("a command without a name"));
        };
        let (transaction, args) = match rest {
            [Value::Number(transaction), args @ ..] => (*transaction, args),
            _ => (0.0, rest),
        };
        let text = |at: usize| args.get(at).and_then(Value::as_str).unwrap_or_default();
        match name.as_str() {
            "connect" => self.connect(transaction, args.first().unwrap_or(&Value::Null)),
            "createStream" => {
                self.streams = self.streams.wrapping_add(1);
                let number = Value::Number(self.streams.into());
                self.answer(transaction, number);
            }
            "publish" => self.publish(stream, text(1))?,
            "play" | "play2" => {
                let code = "NetStream.Play.StreamNotFound";
                let text =
                    "This server takes streams by RTMP and does not play them: watch by HLS.";
                self.writer.status(stream, "error", code, text);
            }
            "FCPublish" => {
                self.answer(transaction, Value::Null);
                let status = Value::object([
                    ("code", Value::text("NetStream.Publish.Start")),
                    ("description", Value::text(text(1))),
                ]);
                self.writer
                    .command(0, "onFCPublish", 0.0, &[Value::Null, status]);
            }
            "FCUnpublish" | "closeStream" => {
                self.answer(transaction, Value::Null);
                self.unpublish();
            }
            "deleteStream" => {
                let number = args.get(1).and_then(Value::as_number);
                let own = self.publishing.as_ref().map(|it| f64::from(it.stream));
                if number.is_none() || own == number {
                    self.unpublish();
                }
            }
            // Answers to what was never asked.
            "_result" | "_error" | "onStatus" => {}
            // releaseStream, _checkbw, getStreamLength and others: an error would end some
            // clients, and nothing is missed.
            _ => self.answer(transaction, Value::Null),
        }
        Ok(())
    }

    fn answer(&mut self, transaction: f64, value: Value) {
        // 0 stands for no answer.
        if transaction > 0.0 {
            self.writer
                .command(0, "_result", transaction, &[Value::Null, value]);
        }
    }

    fn connect(&mut self, transaction: f64, object: &Value) {
        let text = |name| {
            object
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        self.connection = Some(Connection {
            app: text("app"),
            url: text("tcUrl"),
            agent: text("flashVer"),
        });
        self.writer.windows(self.config.window);
        self.writer.chunk_size(self.config.chunk_size);
        let codecs = VIDEO
            .iter()
            .chain(&AUDIO)
            .map(|name| Value::text(name))
            .collect();
        let map = |names: &[&str]| {
            let entry = |name: &&str| ((*name).to_owned(), Value::Number(CAN_FORWARD));
            Value::Object(names.iter().map(entry).collect())
        };
        let properties = Value::object([
            ("fmsVer", Value::text("FMS/3,0,1,123")),
            ("capabilities", Value::Number(31.0)),
        ]);
        let status = Value::object([
            ("level", Value::text("status")),
            ("code", Value::text("NetConnection.Connect.Success")),
            ("description", Value::text("Connected.")),
            // What follows is AMF0, also where AMF3 was asked for.
            ("objectEncoding", Value::Number(0.0)),
            ("fourCcList", Value::Array(codecs)),
            ("videoFourCcInfoMap", map(&VIDEO)),
            ("audioFourCcInfoMap", map(&AUDIO)),
            ("capsEx", Value::Number(CAPS_MOD_EX)),
        ]);
        self.writer
            .command(0, "_result", transaction, &[properties, status]);
    }

    fn publish(&mut self, stream: u32, name: &str) -> Result<(), Error> {
        let Some(connection) = &self.connection else {
            return Err(Error::malformed("publish comes before connect"));
        };
        if self.publishing.is_some() {
            let (code, text) = (
                "NetStream.Publish.BadName",
                "This connection publishes already.",
            );
            self.writer.status(stream, "error", code, text);
            return Ok(());
        }
        let name = name::parse(&connection.app, name, &connection.url);
        self.events.push_back(Event::Publish(Publish {
            app: name.app,
            key: name.key,
            query: name.query,
            url: connection.url.clone(),
            agent: connection.agent.clone(),
        }));
        self.publishing = Some(Publishing {
            stream,
            waiting: true,
        });
        Ok(())
    }

    fn unpublish(&mut self) {
        if self.publishing.take().is_some() {
            self.dropped += self.tags.dropped();
            self.tags = Tags::default();
            self.events.push_back(Event::Unpublish);
        }
    }
}
