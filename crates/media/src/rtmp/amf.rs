//! AMF0, in which commands and metadata are written (Adobe, "Action Message Format -- AMF 0").

/// How deep objects may stand in objects. Real ones do so three times at most.
const DEPTH_MAX: usize = 16;
/// The most values of a message, with those in objects: 4096 x some 60 bytes is 240 KiB.
const VALUES_MAX: usize = 4096;

/// One value. Dates are numbers; ECMA arrays and typed objects are objects; what has no value
/// here (undefined, unsupported, references) is `Null`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(f64),
    Boolean(bool),
    String(String),
    Object(Vec<(String, Self)>),
    Array(Vec<Self>),
    Null,
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::String(text.to_owned())
    }

    pub(super) fn object<const N: usize>(properties: [(&str, Self); N]) -> Self {
        let own = |(name, value): (&str, Self)| (name.to_owned(), value);
        Self::Object(properties.into_iter().map(own).collect())
    }

    pub(super) fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// A property of an object; `None` also for other values.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(properties) => {
                let found = properties.iter().find(|(key, _)| key == name);
                found.map(|(_, value)| value)
            }
            _ => None,
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => {
                out.push(0);
                out.extend(number.to_be_bytes());
            }
            Self::Boolean(value) => out.extend([1, u8::from(*value)]),
            Self::String(text) => match u16::try_from(text.len()) {
                Ok(_) => {
                    out.push(2);
                    write_name(out, text);
                }
                Err(_) => {
                    out.push(0x0c);
                    out.extend((text.len() as u32).to_be_bytes());
                    out.extend(text.as_bytes());
                }
            },
            Self::Object(properties) => {
                out.push(3);
                for (name, value) in properties {
                    write_name(out, name);
                    value.write(out);
                }
                out.extend([0, 0, 9]);
            }
            Self::Array(values) => {
                out.push(0x0a);
                out.extend((values.len() as u32).to_be_bytes());
                values.iter().for_each(|value| value.write(out));
            }
            Self::Null => out.push(5),
        }
    }
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    // Names and short strings of this program are far below 64 KiB.
    let bytes = &name.as_bytes()[..name.len().min(0xffff)];
    out.extend((bytes.len() as u16).to_be_bytes());
    out.extend(bytes);
}

/// Reads values up to the end, or to the first byte that makes no sense: encoders write wrong
/// counts and leave end marks out, and what stands before is of use. AMF3 is not read.
pub(super) fn read(bytes: &[u8]) -> Vec<Value> {
    let mut reader = Reader {
        rest: bytes,
        left: VALUES_MAX,
        broken: false,
    };
    let mut values = Vec::new();
    while !reader.rest.is_empty() && !reader.broken {
        match reader.value(0) {
            Some(value) => values.push(value),
            None => break,
        }
    }
    values
}

struct Reader<'a> {
    rest: &'a [u8],
    /// Values that may still come.
    left: usize,
    /// Set where an object was given as far as it could be read.
    broken: bool,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*bytes)
    }

    fn text(&mut self, len: usize) -> Option<String> {
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn short(&mut self) -> Option<String> {
        let len = u16::from_be_bytes(self.take()?);
        self.text(len.into())
    }

    fn number(&mut self) -> Option<f64> {
        Some(f64::from_be_bytes(self.take()?))
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.left = self.left.checked_sub(1)?;
        if depth > DEPTH_MAX {
            return None;
        }
        let [kind] = self.take()?;
        Some(match kind {
            0 => Value::Number(self.number()?),
            1 => Value::Boolean(self.take::<1>()? != [0]),
            2 => Value::String(self.short()?),
            3 => self.object(depth),
            5 | 6 | 0x0d => Value::Null,
            7 => {
                self.take::<2>()?;
                Value::Null
            }
            8 => {
                // The count is often wrong (0, or without the last): the end mark counts.
                self.take::<4>()?;
                self.object(depth)
            }
            0x0a => self.array(depth)?,
            0x0b => {
                let number = self.number()?;
                // The time zone, which is always 0.
                self.take::<2>()?;
                Value::Number(number)
            }
            0x0c | 0x0f => {
                let len = u32::from_be_bytes(self.take()?);
                Value::String(self.text(len as usize)?)
            }
            0x10 => {
                self.short()?;
                self.object(depth)
            }
            _ => return None,
        })
    }

    fn object(&mut self, depth: usize) -> Value {
        let mut properties = Vec::new();
        while !self.rest.is_empty() && !self.broken {
            if let Some(rest) = self.rest.strip_prefix(&[0, 0, 9]) {
                self.rest = rest;
                break;
            }
            match self
                .short()
                .and_then(|name| Some((name, self.value(depth + 1)?)))
            {
                Some(property) => properties.push(property),
                None => self.broken = true,
            }
        }
        Value::Object(properties)
    }

    fn array(&mut self, depth: usize) -> Option<Value> {
        let mut values = Vec::new();
        // A false count ends with the bytes or with the values that may still come.
        for _ in 0..u32::from_be_bytes(self.take()?) {
            values.push(self.value(depth + 1)?);
            if self.broken {
                break;
            }
        }
        Some(Value::Array(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_back() {
        let values = vec![
            Value::text("connect"),
            Value::Number(1.0),
            Value::object([
                ("app", Value::text("live")),
                ("ok", Value::Boolean(true)),
                ("list", Value::Array(vec![Value::Null, Value::text("av01")])),
                ("long", Value::String("x".repeat(70_000))),
            ]),
        ];
        let mut bytes = Vec::new();
        values.iter().for_each(|value| value.write(&mut bytes));
        assert_eq!(read(&bytes), values);
        assert_eq!(values[2].get("app").and_then(Value::as_str), Some("live"));
        assert_eq!(values[1].as_number(), Some(1.0));
    }

    #[test]
    fn an_array_with_a_wrong_count_and_without_an_end_is_read() {
        let mut bytes = b"\x02\0\x0aonMetaData\x08\0\0\0\0\0\x05width".to_vec();
        Value::Number(640.0).write(&mut bytes);
        bytes.extend(b"\0\x06height");
        Value::Number(360.0).write(&mut bytes);
        let values = read(&bytes);
        assert_eq!(values[1].get("height"), Some(&Value::Number(360.0)));
        // Damaged in the middle, what stands before is kept.
        let values = read(&bytes[..bytes.len() - 3]);
        assert_eq!(values[1].get("width"), Some(&Value::Number(640.0)));
        assert_eq!(values[1].get("height"), None);
    }

    #[test]
    fn dates_and_references_and_typed_objects_are_passed() {
        let bytes = b"\x0b\x40\0\0\0\0\0\0\0\0\0\x07\0\x01\x10\0\x01T\0\x01a\x05\0\0\x09\x06\x0d";
        let object = Value::object([("a", Value::Null)]);
        let expected = [
            Value::Number(2.0),
            Value::Null,
            object,
            Value::Null,
            Value::Null,
        ];
        assert_eq!(read(bytes), expected);
        // AMF3 ends it.
        assert_eq!(read(&[5, 0x11, 1, 5]), [Value::Null]);
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let deep = b"\x03\0\x01a".repeat(10_000);
        assert_eq!(read(&deep).len(), 1);
        let many = [5; 10_000];
        assert_eq!(read(&many).len(), VALUES_MAX);
        assert_eq!(read(b"\x0a\xff\xff\xff\xff\x05\x05"), []);
    }
}
