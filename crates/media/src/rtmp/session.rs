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
/// The longest metadata that are read, and the longest message of a peer that was not accepted.
const DATA_MAX: usize = 256 << 10;
/// The most bytes that wait for [`Session::accept`]. Real encoders wait for it, too.
const WAITING_MAX: usize = 1 << 20;
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
/// after `accept` and `refuse`). While that cannot be sent, push no more; neither between
/// [`Event::Publish`] and `accept`, before which nothing of the stream is read. Memory is bounded
/// by what is pushed at once and by [`Config::max_message`], and before `accept` by 2 MiB.
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
    /// Bytes that came behind the wish to publish, until it is answered.
    waiting: Vec<u8>,
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
            reader: Reader::new(config.max_message.min(DATA_MAX)),
            writer: Writer::new(),
            events: VecDeque::new(),
            tags: Tags::default(),
            connection: None,
            publishing: None,
            waiting: Vec::new(),
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
        self.received += data.len() as u64;
        self.take(data)
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

    /// Lets the peer publish, and reads what came meanwhile: there may be events to pop. Without a
    /// [`Event::Publish`] that waits, this does nothing.
    pub fn accept(&mut self) {
        let Some(publishing) = self.publishing.as_mut().filter(|it| it.waiting) else {
            return;
        };
        publishing.waiting = false;
        let stream = publishing.stream;
        self.writer.event(0, stream.to_be_bytes());
        let (code, text) = ("NetStream.Publish.Start", "The stream is taken.");
        self.writer.status(stream, "status", code, text);
        self.reader.allow(self.config.max_message);
        let data = std::mem::take(&mut self.waiting);
        // What is wrong with it is said by the next `push`.
        self.failed = self.take(&data).err();
    }

    /// Tells the peer why it may not publish; no more input is taken. Send the output, then close
    /// the connection.
    pub fn refuse(&mut self, reason: &str) {
        if let Some(publishing) = self.publishing.take() {
            let code = "NetStream.Publish.BadName";
            self.writer.status(publishing.stream, "error", code, reason);
        }
        self.waiting = Vec::new();
        self.failed = Some(Error::Refused);
    }

    /// Frames and messages that were left out: before their codec's header or outside of a
    /// publication, empty, damaged, begun and not ended, or of a codec that is not taken.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped + self.tags.dropped() + self.reader.dropped()
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Error> {
        let mut input = data;
        if let Some(handshake) = &mut self.handshake {
            if !handshake.push(&mut input, &mut self.writer.out)? {
                return Ok(());
            }
            self.handshake = None;
        }
        while !self.publishing.as_ref().is_some_and(|it| it.waiting) {
            let Some(message) = self.reader.push(&mut input)? else {
                break;
            };
            self.message(message)?;
            if self.writer.out.len() > OUT_MAX {
                return Err(Error::LimitReached {
                    what: "requests whose answers it does not read",
                });
            }
        }
        if !self.waiting.is_empty() && self.waiting.len() + input.len() > WAITING_MAX {
            return Err(Error::LimitReached {
                what: "a stream before it may publish",
            });
        }
        self.waiting.extend_from_slice(input);
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
            // Copied, so that no small one holds the memory of all.
            let tag = Bytes::copy_from_slice(&tag);
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

#[cfg(test)]
mod tests {
    use super::super::amf::Value as Amf;
    use super::*;

    /// The configuration of AAC at 44.1 kHz, and a frame.
    const AAC: [&[u8]; 2] = [&[0xaf, 0, 0x12, 0x10], &[0xaf, 1, 9, 9]];

    /// A session after its handshake, and the peer's side of it.
    struct Pair {
        session: Session,
        peer: Writer,
        answers: Reader,
    }

    impl Pair {
        fn new(config: Config) -> Self {
            let mut session = Session::new(config, [7; 32]);
            session.push(&[3; 1 + 1536]).unwrap();
            session.push(&[0; 1536]).unwrap();
            assert_eq!(session.take_output().len(), 1 + 2 * 1536);
            Self {
                session,
                peer: Writer::new(),
                answers: Reader::new(1 << 20),
            }
        }

        fn connected() -> Self {
            let mut pair = Self::new(Config::default());
            let app = Amf::object([("app", Amf::text("live")), ("flashVer", Amf::text("x"))]);
            pair.peer.command(0, "connect", 1.0, &[app]);
            pair.send().unwrap();
            pair
        }

        fn publishing() -> Self {
            let mut pair = Self::connected();
            pair.publish("key?a=b");
            assert_eq!(pair.events().len(), 1);
            pair.session.accept();
            pair
        }

        fn publish(&mut self, name: &str) {
            let args = [Amf::Null, Amf::text(name), Amf::text("live")];
            self.peer.command(1, "publish", 5.0, &args);
            self.send().unwrap();
        }

        fn message(&mut self, kind: u8, body: &[u8]) {
            // Its chunks go on a stream of their own, without a time.
            let head = [6, 0, 0, 0, 0, (body.len() >> 8) as u8, body.len() as u8];
            self.peer.out.extend(head);
            self.peer.out.extend([kind, 1, 0, 0, 0]);
            for (number, chunk) in body.chunks(128).enumerate() {
                self.peer.out.extend(&[0xc6][..number.min(1)]);
                self.peer.out.extend(chunk);
            }
        }

        fn send(&mut self) -> Result<(), Error> {
            let bytes = std::mem::take(&mut self.peer.out);
            self.session.push(&bytes)
        }

        fn events(&mut self) -> Vec<Event> {
            std::iter::from_fn(|| self.session.pop()).collect()
        }

        fn messages(&mut self) -> Vec<Message> {
            let output = self.session.take_output();
            let mut input = &output[..];
            std::iter::from_fn(|| self.answers.push(&mut input).unwrap()).collect()
        }

        /// Names of the commands that were answered, and the code of each status.
        fn answers(&mut self) -> Vec<(String, String)> {
            let commands = self.messages().into_iter().filter(|it| it.kind == 20);
            let answer = |message: Message| {
                let values = amf::read(&message.body);
                let code = values.iter().find_map(|value| value.get("code"));
                let text = |value: Option<&Amf>| value.and_then(Amf::as_str).unwrap_or("").into();
                (text(values.first()), text(code))
            };
            commands.map(answer).collect()
        }
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec()
    }

    #[test]
    fn an_encoder_is_heard_from_its_connection_to_its_end() {
        let mut pair = Pair::connected();
        let kinds: Vec<u8> = pair.messages().iter().map(|it| it.kind).collect();
        // The size of chunks, 1, is for the reader itself.
        assert_eq!(kinds, [5, 6, 20]);
        for (name, number) in [("releaseStream", 2.0), ("FCPublish", 3.0)] {
            let args = [Amf::Null, Amf::text("key")];
            pair.peer.command(0, name, number, &args);
        }
        pair.peer.command(0, "createStream", 4.0, &[Amf::Null]);
        pair.peer.command(0, "_checkbw", 0.0, &[Amf::Null]);
        pair.send().unwrap();
        let expected = pairs([
            ("_result", ""),
            ("_result", ""),
            ("onFCPublish", "NetStream.Publish.Start"),
            ("_result", ""),
        ]);
        assert_eq!(pair.answers(), expected);
        pair.publish("room/key?token=x");
        let publish = Publish {
            app: "live/room".into(),
            key: "key".into(),
            query: Some("token=x".into()),
            url: String::new(),
            agent: "x".into(),
        };
        assert_eq!(pair.events(), [Event::Publish(publish)]);
        assert_eq!(pair.answers(), []);
        pair.session.accept();
        let start = pairs([("onStatus", "NetStream.Publish.Start")]);
        assert_eq!(pair.answers(), start);
        // Again, it says nothing.
        pair.session.accept();
        assert_eq!(pair.answers(), []);
        AAC.iter().for_each(|body| pair.message(8, body));
        pair.send().unwrap();
        let events = pair.events();
        assert!(matches!(events[0], Event::Item(Item::Track(1, _))));
        assert!(matches!(events[1], Event::Item(Item::Frame(_))));
        // Two ways to end it are one end.
        let args = [Amf::Null, Amf::text("key")];
        pair.peer.command(0, "FCUnpublish", 6.0, &args);
        let args = [Amf::Null, Amf::Number(1.0)];
        pair.peer.command(0, "deleteStream", 7.0, &args);
        pair.message(8, AAC[1]);
        pair.send().unwrap();
        assert_eq!(pair.events(), [Event::Unpublish]);
        assert_eq!(pair.session.dropped(), 1);
        // And another stream may follow.
        pair.publish("other");
        assert!(matches!(&pair.events()[..], [Event::Publish(it)] if it.key == "other"));
    }

    #[test]
    fn nothing_of_a_stream_is_read_before_it_may_publish() {
        let mut pair = Pair::connected();
        let args = [Amf::Null, Amf::text("key"), Amf::text("live")];
        pair.peer.command(1, "publish", 5.0, &args);
        AAC.iter().for_each(|body| pair.message(8, body));
        pair.send().unwrap();
        assert_eq!(pair.events().len(), 1);
        pair.message(8, AAC[1]);
        pair.send().unwrap();
        assert_eq!(pair.events(), []);
        pair.session.accept();
        assert_eq!(pair.events().len(), 3);

        let mut pair = Pair::connected();
        pair.publish("key");
        pair.session.push(&vec![0; WAITING_MAX]).unwrap();
        let error = pair.session.push(&[0]);
        assert!(matches!(error, Err(Error::LimitReached { .. })));
    }

    #[test]
    fn a_large_message_is_taken_from_those_alone_who_may_publish() {
        let length = DATA_MAX + 1;
        let [_, a, b, c] = (length as u32).to_be_bytes();
        let head = [6, 0, 0, 0, a, b, c, 9, 1, 0, 0, 0];
        let mut pair = Pair::connected();
        let error = pair.session.push(&head);
        let max = DATA_MAX;
        assert_eq!(error, Err(Error::MessageTooLarge { length, max }));
        assert_eq!(Pair::publishing().session.push(&head), Ok(()));
    }

    #[test]
    fn who_is_refused_hears_why() {
        let mut pair = Pair::connected();
        pair.publish("key");
        pair.answers();
        pair.session.refuse("This key is not known.");
        let expected = pairs([("onStatus", "NetStream.Publish.BadName")]);
        assert_eq!(pair.answers(), expected);
        assert_eq!(pair.session.push(&[]), Err(Error::Refused));
    }

    #[test]
    fn what_is_out_of_order_is_refused() {
        let mut pair = Pair::new(Config::default());
        let args = [Amf::Null, Amf::text("key")];
        pair.peer.command(1, "publish", 5.0, &args);
        assert!(matches!(pair.send(), Err(Error::Malformed { .. })));

        let mut pair = Pair::publishing();
        pair.answers();
        pair.publish("second");
        pair.peer.command(1, "play", 6.0, &args);
        pair.send().unwrap();
        let expected = pairs([
            ("onStatus", "NetStream.Publish.BadName"),
            ("onStatus", "NetStream.Play.StreamNotFound"),
        ]);
        assert_eq!((pair.answers(), pair.events()), (expected, vec![]));

        pair.message(20, b"\x05");
        assert!(matches!(pair.send(), Err(Error::Malformed { .. })));
        assert!(matches!(
            pair.session.push(&[]),
            Err(Error::Malformed { .. })
        ));
    }

    #[test]
    fn pings_and_windows_are_answered() {
        let mut pair = Pair::connected();
        pair.answers();
        pair.message(4, &[0, 6, 1, 2, 3, 4]);
        // It wants to hear of every 100 bytes; its own window is no matter.
        pair.message(5, &100u32.to_be_bytes());
        pair.message(3, &[0; 4]);
        pair.message(99, &[0; 200]);
        pair.send().unwrap();
        let answers = pair.messages();
        assert_eq!(answers[0].body, &[0, 7, 1, 2, 3, 4][..]);
        let received = pair.session.received as u32;
        assert_eq!((answers[1].kind, answers.len()), (3, 2));
        assert_eq!(answers[1].body, received.to_be_bytes()[..]);
    }

    #[test]
    fn a_peer_that_asks_and_does_not_read_is_given_up() {
        let mut pair = Pair::connected();
        for _ in 0..4000 {
            pair.peer.command(0, "connect", 1.0, &[]);
        }
        assert!(matches!(pair.send(), Err(Error::LimitReached { .. })));
        assert!(pair.session.take_output().len() < OUT_MAX + 4096);
    }

    #[test]
    fn messages_in_a_message_have_times_of_their_own() {
        let mut pair = Pair::publishing();
        let tag = |kind: u8, time: u8, body: &[u8]| {
            let head = [kind, 0, 0, body.len() as u8, 0, 0, time, 0, 0, 0, 0];
            [&head[..], body, &[0, 0, 0, 11 + body.len() as u8]].concat()
        };
        let all = [
            tag(8, 100, AAC[0]),
            tag(8, 100, AAC[1]),
            tag(8, 123, AAC[1]),
        ];
        pair.message(22, &all.concat());
        // One that is cut off is lost.
        pair.message(22, &tag(8, 0, AAC[1])[..12]);
        pair.send().unwrap();
        let times = pair.events().into_iter().filter_map(|event| match event {
            Event::Item(Item::Frame(frame)) => Some(frame.dts),
            _ => None,
        });
        assert_eq!(times.collect::<Vec<_>>(), [0, 23 * 90]);
    }

    #[test]
    fn commands_and_data_may_stand_behind_a_byte_of_amf3() {
        let mut pair = Pair::new(Config::default());
        let mut body = vec![0];
        Amf::text("connect").write(&mut body);
        Amf::Number(1.0).write(&mut body);
        pair.message(17, &body);
        pair.send().unwrap();
        let connected = pairs([("_result", "NetConnection.Connect.Success")]);
        assert_eq!(pair.answers(), connected);

        let mut pair = Pair::publishing();
        let mut body = vec![0];
        Amf::text("onMetaData").write(&mut body);
        Amf::object([("width", Amf::Number(64.0))]).write(&mut body);
        pair.message(15, &body);
        pair.send().unwrap();
        let events = pair.events();
        assert!(matches!(&events[0], Event::Metadata(it) if it.width == Some(64)));
        assert_eq!(events[1], Event::Item(Item::Expected(1)));
    }
}
