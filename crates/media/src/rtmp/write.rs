//! Chunks, written: what a server says.

use super::amf::Value;

/// Protocol control messages have a chunk stream of their own, as commands have.
const CONTROL: u8 = 2;
const COMMAND: u8 = 3;

/// Writes messages, each with a whole header.
#[derive(Debug)]
pub(super) struct Writer {
    size: usize,
    pub(super) out: Vec<u8>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self {
            size: 128,
            out: Vec::new(),
        }
    }

    /// Announces the size of the chunks from here on.
    pub(super) fn chunk_size(&mut self, size: u32) {
        // The highest bit has to be 0, and there is no chunk without bytes.
        let size = size.clamp(128, 0x00ff_ffff);
        self.control(1, &size.to_be_bytes());
        self.size = size as usize;
    }

    /// How many bytes have come (section 5.4.3).
    pub(super) fn acknowledge(&mut self, received: u64) {
        self.control(3, &(received as u32).to_be_bytes());
    }

    /// How many bytes this side sends before it wants to hear of it, and how many the peer may.
    pub(super) fn windows(&mut self, size: u32) {
        self.control(5, &size.to_be_bytes());
        let [a, b, c, d] = size.to_be_bytes();
        // 2: the limit is dynamic (section 5.4.5).
        self.control(6, &[a, b, c, d, 2]);
    }

    /// An event of user control (section 7.1.7): 0 begins a stream, 7 answers a ping.
    pub(super) fn event(&mut self, event: u16, number: [u8; 4]) {
        let [a, b] = event.to_be_bytes();
        let [c, d, e, f] = number;
        self.control(4, &[a, b, c, d, e, f]);
    }

    /// A command with its transaction.
    pub(super) fn command(&mut self, stream: u32, name: &str, transaction: f64, rest: &[Value]) {
        let mut body = Vec::new();
        Value::text(name).write(&mut body);
        Value::Number(transaction).write(&mut body);
        rest.iter().for_each(|value| value.write(&mut body));
        self.message(COMMAND, 20, stream, &body);
    }

    /// `onStatus`, which tells a client how a stream fares.
    pub(super) fn status(&mut self, stream: u32, level: &str, code: &str, text: &str) {
        let status = [
            ("level", Value::text(level)),
            ("code", Value::text(code)),
            ("description", Value::text(text)),
        ];
        self.command(
            stream,
            "onStatus",
            0.0,
            &[Value::Null, Value::object(status)],
        );
    }

    fn control(&mut self, kind: u8, body: &[u8]) {
        self.message(CONTROL, kind, 0, body);
    }

    fn message(&mut self, chunks: u8, kind: u8, stream: u32, body: &[u8]) {
        // Type 0, at time 0.
        self.out.extend([chunks, 0, 0, 0]);
        let [_, a, b, c] = (body.len() as u32).to_be_bytes();
        self.out.extend([a, b, c, kind]);
        self.out.extend(stream.to_le_bytes());
        for (number, chunk) in body.chunks(self.size).enumerate() {
            if number > 0 {
                self.out.push(0xc0 | chunks);
            }
            self.out.extend(chunk);
        }
    }
}
