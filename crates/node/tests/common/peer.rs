//! A node in this process, and a peer of it that says what a test wants said.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lavant_node::delivery::{self, Peer as Known, Running, Settings};
use lavant_node::health::{Failure, Health};
use lavant_node::link::{
    Frame, LinkConfig, LinkError, LinkKind, LinkReceiver, LinkSender, Links, Target, Urgency,
};
use lavant_node::store::{AsyncStore, NewSegment, Settings as StoreSettings, Shown, Store};
use lavant_proto::contact::hello::{Hello, Interest};
use lavant_proto::contact::message::ContactMessage;
use lavant_proto::content::{
    Kind, Manifest, MimeType, Priority, Proof, RenditionInfo, SegmentRecord, merkle_root,
};
use lavant_proto::delivery::Config;
use lavant_proto::ids::{ContentId, ContentKey, Rendition, Signature, SigningKey};
use lavant_proto::message::Message;
use lavant_proto::numbers::{ContentNo, RemoteNo, RequestNo, TrackNo};
use lavant_proto::piece::message::PieceMessage;
use lavant_proto::relay::message::{RelayMessage, Row, Summary, TrackName};
use lavant_proto::relay::reconcile;
use lavant_proto::runs::{GroupRun, SequenceRun, SequenceRuns};
use lavant_proto::time::Time;
use lavant_proto::verify::{FRAME_BYTES_MAX, FrameWriter, seal};

/// Far beyond what anything here takes, so that a hang becomes a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const DAY: Duration = Duration::from_secs(86_400);

/// Waits for what is to happen.
async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it happens in time")
}

fn link_config(key: SigningKey) -> LinkConfig {
    LinkConfig {
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        choice: Some(LinkKind::Tcp),
        ..LinkConfig::new(key)
    }
}

/// Most bytes that the system takes in for a connection that nobody reads from.
pub(crate) fn socket_bytes_max() -> u64 {
    let most = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok();
        let last = text.and_then(|text| text.split_whitespace().last()?.parse::<u64>().ok());
        last.unwrap_or(8 << 20)
    };
    most("tcp_rmem") + most("tcp_wmem")
}

pub(crate) fn payload(number: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Damages a data frame.
pub(crate) fn spoil(frame: &mut Frame) {
    if let Frame::Data { bytes, .. } = frame {
        let mut spoilt = bytes.to_vec();
        *spoilt.last_mut().unwrap() ^= 1;
        *bytes = spoilt.into();
    }
}

/// A node with a store of its own.
pub(crate) struct Node {
    pub(crate) store: Store,
    running: Option<Running>,
    health: Health,
    _folder: tempfile::TempDir,
}

impl Node {
    pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(|_| {}, change, Vec::new()).await
    }

    /// One whose store is set up otherwise, and that dials others.
    pub(crate) async fn start_with(
        set: impl FnOnce(&mut StoreSettings),
        change: impl FnOnce(&mut Config),
        peers: Vec<Target>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = StoreSettings {
            min_free: 0,
            ..StoreSettings::new(&folder.path().join("store"))
        };
        set(&mut settings);
        // A key of its own for each: its folder is named at random.
        let seed = *blake3::hash(folder.path().as_os_str().as_encoded_bytes()).as_bytes();
        let store = Store::open(settings, SigningKey::from_seed(&seed)).unwrap();
        let mut config = Config::new(store.publisher());
        change(&mut config);
        let health = Health::default();
        let running = Some(run(&store, config, peers, &health).await);
        Self {
            store,
            running,
            health,
            _folder: folder,
        }
    }

    pub(crate) async fn restart(&mut self) {
        self.running.take().unwrap().stop().await;
        let config = Config::new(self.store.publisher());
        self.running = Some(run(&self.store, config, Vec::new(), &self.health).await);
    }

    /// Where it can be met.
    pub(crate) fn target(&self) -> Target {
        Target {
            host: "127.0.0.1".to_owned(),
            port: self.running().handle().port(),
            key: Some(self.store.publisher()),
        }
    }

    /// How many segments of a content are here.
    pub(crate) fn segments(&self, id: &str) -> u64 {
        let catalog = self.store.catalog();
        let mut of_id = catalog.all().filter(|it| it.key.content_id.as_str() == id);
        of_id.next().map_or(0, |content| content.segment_count())
    }

    pub(crate) fn is_well(&self) -> bool {
        self.failures().is_empty()
    }

    pub(crate) fn failures(&self) -> Vec<Failure> {
        self.health.failures()
    }

    /// Steps of the driver's task that kept a processor busy for too long.
    pub(crate) fn busy_steps(&self) -> u64 {
        self.running().handle().pulse().busy()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.store.catalog().is_empty() && self.store.stats().segments == 0
    }

    /// Whether all of a film is stored.
    pub(crate) fn has(&self, film: &Film) -> bool {
        let catalog = self.store.catalog();
        let found = catalog.find(Some(&film.publisher.publisher()), &film.id, None);
        found.is_some_and(|content| content.segment_count() == film.count)
    }

    pub(crate) fn append(&self, id: &str, count: u64, length: usize) {
        for sequence in 0..count {
            let new = NewSegment {
                version: None,
                ttl: None,
                content_id: ContentId::new(id).unwrap(),
                title: id.to_owned(),
                priority: Priority::Vod,
                target_duration: Some(2),
                rendition: Rendition::main(),
                kind: Kind::Media,
                sequence,
                duration: 180_000,
                discontinuity: false,
                independent: true,
                init: None,
                mime: MimeType::TransportStream,
                shown: Shown::default(),
                payload: payload(sequence, length),
            };
            tokio::task::block_in_place(|| self.store.append(new)).unwrap();
        }
    }

    pub(crate) fn publish(&self, id: &str, count: u64, length: usize) {
        self.append(id, count, length);
        let id = ContentId::new(id).unwrap();
        tokio::task::block_in_place(|| self.store.finish(&id)).unwrap();
    }

    pub(crate) fn remove(&self, id: &str) {
        let catalog = self.store.catalog();
        let content = catalog
            .all()
            .find(|content| content.key.content_id.as_str() == id);
        tokio::task::block_in_place(|| self.store.remove(content.unwrap())).unwrap();
    }

    /// The only peer that has spoken to it.
    pub(crate) async fn peer(&self) -> Known {
        let mut peers = self.running().handle().peers().await;
        assert_eq!(peers.len(), 1, "{peers:?}");
        peers.remove(0)
    }

    /// What the operator sees of why a contact ended.
    pub(crate) async fn why_left(&self, is: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let peers = self.running().handle().peers().await;
            let mut errors = peers.into_iter().filter_map(|peer| peer.error);
            if let Some(error) = errors.find(|error| is(error)) {
                return error;
            }
            assert!(begun.elapsed() < PATIENCE, "nothing is seen of it");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn run(store: &Store, relay: Config, peers: Vec<Target>, health: &Health) -> Running {
    let settings = Settings {
        relay,
        peers,
        discovery: false,
        profiles: Vec::new(),
    };
    let links = link_config(store.signing_key().clone());
    let part = health.part("relay");
    delivery::start(links, settings, AsyncStore::new(store.clone()), part)
        .await
        .unwrap()
}

/// A content of a publisher.
pub(crate) struct Film {
    pub(crate) publisher: SigningKey,
    pub(crate) id: ContentId,
    pub(crate) count: u64,
    pub(crate) length: usize,
    pub(crate) created: Time,
}

impl Film {
    /// One that the peer publishes itself.
    pub(crate) fn of(peer: &Peer, id: &str, count: u64, length: usize) -> Self {
        let now = lavant_node::store::Clock::system().now();
        Self {
            publisher: peer.key.clone(),
            id: ContentId::new(id).unwrap(),
            count,
            length,
            created: Time::from_seconds(now.0 / 1_000_000),
        }
    }

    fn key(&self) -> ContentKey {
        ContentKey {
            publisher: self.publisher.publisher(),
            content_id: self.id.clone(),
            version: 1,
        }
    }

    fn payload(&self, sequence: u64) -> Bytes {
        payload(sequence, self.length)
    }

    fn record(&self, sequence: u64) -> SegmentRecord {
        SegmentRecord {
            content: self.key(),
            title: "A film".into(),
            target_duration: 2,
            rendition: Rendition::main(),
            kind: Kind::Media,
            sequence,
            duration: 180_000,
            discontinuity: false,
            independent: true,
            init: None,
            mime: MimeType::TransportStream,
            priority: Priority::Vod,
            created: self.created,
            ttl: DAY,
            length: self.length as u64,
            root: seal(&self.payload(sequence)).root,
        }
    }

    /// Its records as its publisher signs them.
    pub(crate) fn records(&self, run: SequenceRun) -> Vec<(Vec<u8>, Signature)> {
        let sign = |sequence| {
            let (record, proof) = self.record(sequence).sign(&self.publisher).unwrap();
            let Proof::Signature(signature) = proof else {
                unreachable!()
            };
            (record.encode(), signature)
        };
        (run.start..run.end.min(self.count)).map(sign).collect()
    }

    pub(crate) fn manifest(&self, no: u32) -> RelayMessage {
        let leaves: Vec<_> = (0..self.count).map(|at| self.record(at).leaf()).collect();
        let manifest = Manifest {
            content: self.key(),
            title: "A film".into(),
            priority: Priority::Vod,
            created: self.created,
            ttl: DAY,
            target_duration: 2,
            to: Vec::new(),
            renditions: vec![RenditionInfo {
                name: Rendition::main(),
                mime: MimeType::TransportStream,
                bandwidth: 1_000_000,
                average_bandwidth: 1_000_000,
                codecs: String::new(),
                width: 0,
                height: 0,
                frame_rate_milli: 0,
                inits: 0,
                first: 0,
                segments: self.count,
                duration: 180_000 * self.count,
                bytes: self.length as u64 * self.count,
            }],
            records_root: merkle_root(&leaves),
        };
        let signature = manifest.sign(&self.publisher).unwrap();
        RelayMessage::Manifest(RemoteNo(no), manifest.encode(), signature)
    }

    pub(crate) fn rows(&self, no: u32) -> RelayMessage {
        let rows = (0..self.count).map(|at| Row::of(&self.record(at)));
        RelayMessage::Rows(RemoteNo(no), 0, rows.collect(), Vec::new())
    }

    /// The answer to a request for chunk groups.
    pub(crate) fn frames(&self, request: RequestNo, sequence: u64, groups: GroupRun) -> Vec<Frame> {
        let payload = self.payload(sequence);
        let sealed = seal(&payload);
        let mut writer = FrameWriter::new(payload.len() as u64, groups);
        let mut frames = Vec::new();
        while !writer.is_done() {
            let mut bytes = vec![0; FRAME_BYTES_MAX];
            let parts = writer.next(&sealed.outboard, &mut bytes).unwrap().unwrap();
            bytes.truncate(parts.proof);
            bytes.extend_from_slice(&payload[parts.leaf.start as usize..parts.leaf.end as usize]);
            let (last, bytes) = (writer.is_done(), bytes.into());
            frames.push(Frame::Data {
                request: request.0,
                last,
                bytes,
            });
        }
        frames
    }
}

/// One side of a contact with a node.
pub(crate) struct Peer {
    pub(crate) key: SigningKey,
    _links: Links,
    sender: Box<dyn LinkSender>,
    receiver: Box<dyn LinkReceiver>,
    frames: std::collections::VecDeque<Frame>,
}

impl Peer {
    /// A link to a node, on which nothing has been said.
    pub(crate) async fn dial(node: &Node, seed: u8) -> Self {
        Self::dial_as(node, SigningKey::from_seed(&[seed; 32])).await
    }

    async fn dial_as(node: &Node, key: SigningKey) -> Self {
        let links = Links::bind(link_config(key.clone())).await.unwrap();
        let link = in_time(links.dial(&node.target())).await.unwrap();
        let (sender, receiver) = link.split();
        Self {
            key,
            _links: links,
            sender,
            receiver,
            frames: Default::default(),
        }
    }

    /// A contact on which both have said hello.
    pub(crate) async fn meet(node: &Node, seed: u8) -> Self {
        let mut peer = Self::dial(node, seed).await;
        let hello = Hello::new("hostile".to_owned(), Interest::everything(), None);
        peer.say(ContactMessage::Hello(hello)).await;
        let is_hello =
            |m: &Message| matches!(m, Message::Contact(ContactMessage::Hello(_))).then_some(());
        let heard = peer.hear_a(is_hello).await;
        assert!(heard.is_some());
        peer
    }

    pub(crate) async fn send(&mut self, mut frames: Vec<Frame>) {
        in_time(self.sender.send(&mut frames, Urgency::Bulk))
            .await
            .unwrap();
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.send(vec![Frame::Control(Bytes::copy_from_slice(bytes))])
            .await;
    }

    pub(crate) async fn say(&mut self, message: impl Into<Message>) {
        self.raw(&message.into().encode()).await;
    }

    /// Answers with records of content 1, or says them unasked.
    pub(crate) async fn tell(&mut self, run: SequenceRun, records: Vec<(Vec<u8>, Signature)>) {
        let (content, track) = (RemoteNo(1), TrackNo(0));
        self.say(RelayMessage::Records(content, track, run, records))
            .await;
    }

    /// Says many things; fails when the link has ended.
    pub(crate) async fn try_say(&mut self, messages: &[Message]) -> Result<(), LinkError> {
        let frame = |message: &Message| Frame::Control(message.encode().into());
        let mut frames = messages.iter().map(frame).collect();
        in_time(self.sender.send(&mut frames, Urgency::Bulk)).await
    }

    async fn frame(&mut self) -> Result<Frame, LinkError> {
        while self.frames.is_empty() {
            let mut frames = Vec::new();
            let ended = in_time(self.receiver.receive(&mut frames)).await;
            self.frames.extend(frames);
            if self.frames.is_empty() {
                ended?;
            }
        }
        Ok(self.frames.pop_front().unwrap())
    }

    /// The next message, or why the node ended the contact. Signs of life are given.
    pub(crate) async fn hear(&mut self) -> Result<Message, LinkError> {
        loop {
            let Frame::Control(bytes) = self.frame().await? else {
                continue;
            };
            match Message::decode(&bytes).unwrap() {
                Message::Contact(ContactMessage::Ping(stamp)) => {
                    let pong = ContactMessage::Pong(stamp);
                    let _ = self.try_say(&[pong.into()]).await;
                }
                other => return Ok(other),
            }
        }
    }

    /// What is looked for in the messages that come; none when the contact ended before.
    pub(crate) async fn hear_a<T>(&mut self, is: impl Fn(&Message) -> Option<T>) -> Option<T> {
        while let Ok(message) = self.hear().await {
            if let Some(found) = is(&message) {
                return Some(found);
            }
        }
        None
    }

    /// The same in what is said of contents.
    pub(crate) async fn hear_of<T>(
        &mut self,
        is: impl Fn(&RelayMessage) -> Option<T>,
    ) -> Option<T> {
        self.hear_a(|message| match message {
            Message::Relay(message) => is(message),
            _ => None,
        })
        .await
    }

    /// Whether the node says that what was asked for with a request is gone.
    pub(crate) async fn hears_gone(&mut self, request: u32) -> bool {
        let gone = Message::Piece(PieceMessage::Gone(RequestNo(request)));
        self.hear_a(|m| (*m == gone).then_some(())).await.is_some()
    }

    /// Waits until the node asks for the manifest of a content.
    pub(crate) async fn asked_for_manifest(&mut self, no: u32) {
        let asked = RelayMessage::GetManifest(ContentNo(no));
        let heard = self.hear_of(|m| (*m == asked).then_some(())).await;
        assert!(heard.is_some(), "it asks for the manifest");
    }

    /// Whether bytes come for a request.
    pub(crate) async fn hear_data(&mut self, wanted: u32) -> bool {
        while let Ok(frame) = self.frame().await {
            if matches!(frame, Frame::Data { request, .. } if request == wanted) {
                return true;
            }
        }
        false
    }

    /// Whether the contact is up: everything said before has been worked through then.
    pub(crate) async fn is_up(&mut self) -> bool {
        self.hears_until_pong(|_| false).await == Some(false)
    }

    /// Whether the contact is up and neither tells of contents nor asks for any.
    pub(crate) async fn hears_nothing_of_contents(&mut self) -> bool {
        let of_contents = |message: &Message| {
            !matches!(
                message,
                Message::Piece(_)
                    | Message::Relay(
                        RelayMessage::Records(..)
                            | RelayMessage::Lost(..)
                            | RelayMessage::Removed(_)
                            | RelayMessage::Damaged(..)
                    )
            )
        };
        self.hears_until_pong(of_contents).await == Some(false)
    }

    async fn hears_until_pong(&mut self, is: impl Fn(&Message) -> bool) -> Option<bool> {
        let ping = ContactMessage::Ping(4711);
        self.try_say(&[ping.into()]).await.ok()?;
        let mut heard = false;
        loop {
            match self.hear().await.ok()? {
                Message::Contact(ContactMessage::Pong(4711)) => return Some(heard),
                other => heard |= is(&other),
            }
        }
    }

    /// Begins to reconcile, as one who has nothing.
    pub(crate) async fn reconcile(&mut self) {
        self.say(RelayMessage::Ranges(reconcile::begin(&[]))).await;
    }

    /// Asks for what the node has, and gives the number of the first content.
    pub(crate) async fn told_of_one(&mut self) -> u32 {
        self.reconcile().await;
        loop {
            match self.hear().await.expect("it is told") {
                Message::Relay(RelayMessage::Summaries(summaries)) => return summaries[0].no.0,
                Message::Relay(RelayMessage::Ranges(ranges)) => {
                    let (answers, found) = reconcile::answer(&[], &ranges);
                    for answer in answers {
                        self.say(RelayMessage::Ranges(answer)).await;
                    }
                    let names = found
                        .theirs
                        .iter()
                        .map(|point| *point.name.first_chunk().unwrap());
                    self.say(RelayMessage::Lacking(names.collect())).await;
                }
                _ => {}
            }
        }
    }

    async fn summary(&mut self, summary: Summary) {
        self.say(RelayMessage::Summaries(vec![summary])).await;
    }

    /// Says that it has all of a film, of which it knows signed records.
    pub(crate) async fn offer(&mut self, no: u32, film: &Film) {
        self.summary(summary(no, film, None)).await;
    }

    /// Says that it has all of a finished film.
    pub(crate) async fn offer_finished(&mut self, no: u32, film: &Film) {
        let RelayMessage::Manifest(_, bytes, signature) = film.manifest(no) else {
            unreachable!()
        };
        let hash = blake3::hash(&[&bytes[..], &signature.0].concat());
        let hint = hash.as_bytes().first_chunk().copied();
        self.summary(summary(no, film, hint)).await;
    }

    /// Says that it knows of renditions of which it has nothing.
    pub(crate) async fn offer_renditions(
        &mut self,
        no: u32,
        film: &Film,
        names: impl Iterator<Item = String>,
        priority: Priority,
    ) {
        let track = |name: String| {
            let rendition = Rendition::new(&name).unwrap();
            (
                TrackName {
                    rendition,
                    kind: Kind::Media,
                },
                SequenceRuns::of(0, 3),
            )
        };
        let tracks = names.map(track).collect();
        self.summary(Summary {
            tracks,
            priority,
            ..summary(no, film, None)
        })
        .await;
    }

    pub(crate) async fn asked_for_records(&mut self, no: u32) -> SequenceRun {
        let asked = self.hear_of(|message| match message {
            RelayMessage::GetRecords(at, TrackNo(0), run) if at.0 == no => Some(*run),
            _ => None,
        });
        asked.await.expect("it asks for records")
    }

    /// Request, sequence and chunk groups.
    pub(crate) async fn asked_for_groups(&mut self, no: u32) -> (RequestNo, u64, GroupRun) {
        let asked = self.hear_of(|message| match message {
            RelayMessage::Get {
                request,
                content,
                sequence,
                groups,
                ..
            } if content.0 == no => Some((*request, *sequence, *groups)),
            _ => None,
        });
        asked.await.expect("it asks for chunk groups")
    }

    /// Answers a question about a film as an honest node would.
    async fn answer(&mut self, no: u32, film: &Film, question: Message) {
        let Message::Relay(question) = question else {
            return;
        };
        match question {
            RelayMessage::GetRecords(at, track, run) if at.0 == no => {
                let records = film.records(run);
                self.say(RelayMessage::Records(RemoteNo(no), track, run, records))
                    .await;
            }
            RelayMessage::GetManifest(at) if at.0 == no => self.say(film.manifest(no)).await,
            RelayMessage::GetRows(at, _) if at.0 == no => self.say(film.rows(no)).await,
            RelayMessage::Get {
                request,
                content,
                sequence,
                groups,
                ..
            } if content.0 == no => {
                self.send(film.frames(request, sequence, groups)).await;
            }
            _ => {}
        }
    }

    /// Gives a film to a node that was offered it.
    pub(crate) async fn give(&mut self, node: &Node, no: u32, film: &Film) {
        let begun = Instant::now();
        while !node.has(film) {
            assert!(begun.elapsed() < PATIENCE, "it does not take the film");
            // Only reads from a link may be given up without loss, so each is waited for alone.
            let soon = Duration::from_millis(20);
            if let Ok(Ok(question)) = tokio::time::timeout(soon, self.hear()).await {
                self.answer(no, film, question).await;
            }
        }
    }

    /// Answers everything until the node asks nothing more.
    pub(crate) async fn answers_questions(&mut self, no: u32, film: &Film) {
        let soon = Duration::from_millis(300);
        while let Ok(Ok(question)) = tokio::time::timeout(soon, self.hear()).await {
            self.answer(no, film, question).await;
        }
    }

    async fn ended(&mut self) -> String {
        loop {
            match self.hear().await {
                Ok(_) => {}
                Err(LinkError::Closed(why)) => return why,
                Err(other) => panic!("the contact ended without a word: {other}"),
            }
        }
    }

    /// The node ends the contact; both sides see why.
    pub(crate) async fn is_closed(&mut self, node: &Node, is: impl Fn(&str) -> bool) {
        let why = self.ended().await;
        assert!(is(&why), "{why}");
        assert_eq!(node.why_left(&is).await, why);
    }

    /// The node ends the contact and keeps away from this peer.
    pub(crate) async fn is_left_with(&mut self, node: &Node, is: impl Fn(&str) -> bool) {
        self.is_closed(node, &is).await;
        let mut again = Self::dial_as(node, self.key.clone()).await;
        let why = again.ended().await;
        let rest = why.strip_prefix("this node is left alone for a while: ");
        assert!(rest.is_some_and(is), "{why}");
    }

    pub(crate) async fn is_left(&mut self, node: &Node, why: &str) {
        self.is_left_with(node, |said| said == why).await;
    }
}

fn summary(no: u32, film: &Film, manifest: Option<[u8; 8]>) -> Summary {
    let track = TrackName {
        rendition: Rendition::main(),
        kind: Kind::Media,
    };
    Summary {
        no: RemoteNo(no),
        key: film.key(),
        priority: Priority::Vod,
        expires: Time::MAX,
        manifest,
        hops: 0,
        copies: 0,
        to: Vec::new(),
        tracks: vec![(track, SequenceRuns::of(0, film.count))],
        partials: Vec::new(),
        receipts: Vec::new(),
        said: Vec::new(),
    }
}
