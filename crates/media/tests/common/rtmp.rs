//! Publishers by RTMP: ffmpeg over a socket, and one that is written by hand.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use lavant_media::rtmp::{Config, Error, Event, Session};

/// What a publisher sent, and what it became.
pub(crate) struct Recorded {
    pub(crate) bytes: Vec<u8>,
    pub(crate) events: Vec<Event>,
    pub(crate) dropped: u64,
}

/// Publishes with ffmpeg to `rtmp://127.0.0.1/PATH`; the arguments before are divided by spaces.
pub(crate) fn record(args: &str, path: &str) -> Recorded {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback is free");
    let address = listener.local_addr().expect("it has an address");
    let url = format!("rtmp://{address}/{path}");
    let args: Vec<String> = args.split_whitespace().map(str::to_owned).collect();
    let ffmpeg = std::thread::spawn(move || {
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin"]).args(args);
        let output = command.args(["-f", "flv"]).arg(url).output();
        // Where it ended without a connection, this one ends the wait for it.
        let _ = TcpStream::connect(address);
        output
    });
    let (socket, _) = listener.accept().expect("a connection comes");
    let recorded = serve(socket);
    let output = ffmpeg.join().expect("the thread ends");
    let output = output.expect("these tests need ffmpeg: install the ffmpeg package");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ffmpeg failed: {errors}");
    recorded
}

/// Drives a session with what comes from a socket, until it ends.
fn serve(mut socket: TcpStream) -> Recorded {
    let patience = Some(Duration::from_secs(60));
    socket.set_read_timeout(patience).expect("a time-out fits");
    let mut session = Session::new(Config::default(), [7; 32]);
    let (mut bytes, mut events) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let len = socket.read(&mut buffer).expect("bytes or the end come");
        if len == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..len]);
        let result = session.push(&buffer[..len]);
        pop(&mut session, &mut events);
        // The publisher may be gone when the last answer goes out.
        let _ = socket.write_all(&session.take_output());
        assert_eq!(result, Ok(()));
    }
    Recorded {
        bytes,
        events,
        dropped: session.dropped(),
    }
}

/// Pops all events, and lets the peer publish.
fn pop(session: &mut Session, events: &mut Vec<Event>) {
    while let Some(event) = session.pop() {
        if matches!(event, Event::Publish(_)) {
            session.accept();
        }
        events.push(event);
    }
}

/// The events of bytes that are pushed in pieces, and how it ended.
pub(crate) fn replay(bytes: &[u8], piece: usize) -> (Vec<Event>, Result<(), Error>) {
    let mut session = Session::new(Config::default(), [7; 32]);
    let mut events = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        let mut result = session.push(piece);
        pop(&mut session, &mut events);
        // What waited for the acceptance may be wrong.
        result = result.and_then(|()| session.push(&[]));
        let _ = session.take_output();
        if result.is_err() {
            return (events, result);
        }
    }
    (events, Ok(()))
}

/// A publisher that is written by hand.
pub(crate) struct Client {
    pub(crate) bytes: Vec<u8>,
}

impl Client {
    /// Shakes hands, connects, and publishes `live/key`.
    pub(crate) fn publishing() -> Self {
        let mut bytes = vec![3];
        bytes.extend([0; 2 * 1536]);
        let mut client = Self { bytes };
        let app = [&b"\x03\0\x03app"[..], &text("live"), b"\0\0\x09"].concat();
        client.command("connect", 1.0, &[&app]);
        client.command("createStream", 2.0, &[&[5]]);
        client.command("publish", 3.0, &[&[5], &text("key"), &text("live")]);
        client
    }

    pub(crate) fn command(&mut self, name: &str, transaction: f64, args: &[&[u8]]) {
        let body = [text(name), number(transaction), args.concat()].concat();
        self.message(20, 0, &body);
    }

    /// Ends the stream.
    pub(crate) fn unpublish(&mut self) {
        self.command("deleteStream", 4.0, &[&[5], &number(1.0)]);
    }

    /// A message in chunks of 128 bytes, with a whole header.
    pub(crate) fn message(&mut self, kind: u8, time: u32, body: &[u8]) {
        let id = 3 + (kind & 7);
        let long = time >= 0x00ff_ffff;
        let [_, t0, t1, t2] = time.min(0x00ff_ffff).to_be_bytes();
        let [_, l0, l1, l2] = (body.len() as u32).to_be_bytes();
        self.bytes.extend([id, t0, t1, t2, l0, l1, l2, kind]);
        self.bytes.extend([1, 0, 0, 0]);
        let extended = if long { &time.to_be_bytes()[..] } else { &[] };
        self.bytes.extend(extended);
        for (number, chunk) in body.chunks(128).enumerate() {
            if number > 0 {
                self.bytes.push(0xc0 | id);
                self.bytes.extend(extended);
            }
            self.bytes.extend(chunk);
        }
    }
}

/// A string of AMF0.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [&[2, 0, text.len() as u8][..], text.as_bytes()].concat()
}

/// A number of AMF0.
pub(crate) fn number(number: f64) -> Vec<u8> {
    [&[0][..], &number.to_be_bytes()].concat()
}
