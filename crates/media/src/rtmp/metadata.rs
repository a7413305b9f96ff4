//! What an encoder says of its stream before it sends it (`onMetaData`).

use super::amf::{self, Value};

/// The longest name of an encoder that is kept, in letters.
const ENCODER_MAX: usize = 100;

/// What an encoder says of its stream. None of it is certain: the tracks say what is coded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// Pixels across.
    pub width: Option<u32>,
    /// Pixels down.
    pub height: Option<u32>,
    /// Pictures a second.
    pub frame_rate: Option<f64>,
    /// Thousands of bits a second of video.
    pub video_kbps: Option<f64>,
    /// Thousands of bits a second of audio.
    pub audio_kbps: Option<f64>,
    /// The name of the encoder, in printable letters.
    pub encoder: Option<String>,
    /// Whether video is announced.
    pub video: bool,
    /// Whether audio is announced.
    pub audio: bool,
}

impl Metadata {
    /// Reads the body of a data message; `None` when it is about something else, or says nothing.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let mut values = amf::read(body).into_iter();
        let mut name = values.next()?;
        if name.as_str() == Some("@setDataFrame") {
            name = values.next()?;
        }
        if name.as_str() != Some("onMetaData") {
            return None;
        }
        values
            .next()
            .filter(|it| matches!(it, Value::Object(_)))
            .map(|it| Self::of(&it))
    }

    fn of(object: &Value) -> Self {
        let number = |name| {
            let number = object.get(name).and_then(Value::as_number);
            number.filter(|it| it.is_finite() && *it > 0.0)
        };
        // 65,535 is the most that a sample entry can say.
        let side = |name| {
            number(name)
                .filter(|it| *it <= 65_535.0)
                .map(|it| it as u32)
        };
        let has = |flag, names: [&str; 3]| match object.get(flag) {
            Some(Value::Boolean(says)) => *says,
            _ => names
                .iter()
                .any(|name| object.get(name).is_some_and(|it| *it != Value::Null)),
        };
        Self {
            width: side("width"),
            height: side("height"),
            frame_rate: number("framerate").or_else(|| number("fps")),
            video_kbps: number("videodatarate"),
            audio_kbps: number("audiodatarate"),
            encoder: object
                .get("encoder")
                .and_then(Value::as_str)
                .and_then(printable),
            video: has("hasVideo", ["videocodecid", "width", "videodatarate"]),
            audio: has(
                "hasAudio",
                ["audiocodecid", "audiosamplerate", "audiodatarate"],
            ),
        }
    }
}

/// What can stand in a log line.
fn printable(text: &str) -> Option<String> {
    let letters = text.chars().filter(|letter| !letter.is_control());
    let text: String = letters.take(ENCODER_MAX).collect();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ffmpeg_and_obs_write() {
        let mut body = Vec::new();
        let object = Value::object([
            ("duration", Value::Number(0.0)),
            ("width", Value::Number(1920.0)),
            ("height", Value::Number(1080.0)),
            ("videocodecid", Value::text("avc1")),
            ("videodatarate", Value::Number(2500.0)),
            ("framerate", Value::Number(f64::NAN)),
            ("encoder", Value::text("Lavf\n59.27.100")),
        ]);
        for value in [
            Value::text("@setDataFrame"),
            Value::text("onMetaData"),
            object,
        ] {
            value.write(&mut body);
        }
        let expected = Metadata {
            width: Some(1920),
            height: Some(1080),
            video_kbps: Some(2500.0),
            encoder: Some("Lavf59.27.100".into()),
            video: true,
            ..Metadata::default()
        };
        assert_eq!(Metadata::read(&body), Some(expected.clone()));
        // In a file, without the name before.
        assert_eq!(Metadata::read(&body[16..]), Some(expected));
        // Damaged, it says what it can.
        let cut = Metadata::read(&body[..70]).unwrap();
        assert_eq!((cut.width, cut.height), (Some(1920), None));
        assert_eq!(Metadata::read(&body[..16]), None);
        assert_eq!(Metadata::read(b"\x02\0\x0aonTextData\x05"), None);
    }
}
