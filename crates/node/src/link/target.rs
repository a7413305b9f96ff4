//! What an operator may write for a node: `HOST:PORT` or `KEY@HOST:PORT`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use lavant_proto::ids::PublisherKey;

use super::TargetError;

/// Most characters of a host name (RFC 1035 section 2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// A node to dial.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name or an address, in lower case, without brackets.
    pub host: String,
    /// The port, the same for TCP and UDP.
    pub port: u16,
    /// The key it must have; when there is none, the one it has at first is remembered.
    pub key: Option<PublisherKey>,
}

impl Target {
    /// `HOST:PORT`, an IPv6 address in brackets.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.key {
            write!(f, "{key}@")?;
        }
        f.write_str(&self.address())
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let text = text.trim();
        let (key, address) = match text.rsplit_once('@') {
            // The last `@`: no host name holds one.
            Some((key, address)) => {
                let parsed = key.to_ascii_lowercase().parse();
                let key = parsed.map_err(|_| TargetError::Key(shown(key)))?;
                (Some(key), address)
            }
            None => (None, text),
        };
        let (host, port) = host_and_port(address)?;
        let number: u16 = port.parse().unwrap_or(0);
        // `parse` takes a sign before the digits.
        if number == 0 || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(TargetError::Port(shown(port)));
        }
        Ok(Self {
            host,
            port: number,
            key,
        })
    }
}

fn host_and_port(address: &str) -> Result<(String, &str), TargetError> {
    if let Some(rest) = address.strip_prefix('[') {
        let no_port = || TargetError::NoPort(shown(address));
        let (host, port) = rest.split_once(']').ok_or_else(no_port)?;
        let port = port.strip_prefix(':').ok_or_else(no_port)?;
        let parsed: Ipv6Addr = host
            .parse()
            .map_err(|_| TargetError::NotIpv6(shown(host)))?;
        return Ok((parsed.to_string(), port));
    }
    let (host, port) = address
        .rsplit_once(':')
        .ok_or_else(|| TargetError::NoPort(shown(address)))?;
    if host.is_empty() {
        return Err(TargetError::NoHost(shown(address)));
    }
    // `::1:7778` may be an address alone, or one with a port.
    if host.contains(':') {
        return Err(TargetError::Brackets(shown(address)));
    }
    let legal = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    // A name that begins with `-` could pass for an option of a program.
    if host.len() > HOST_BYTES_MAX || !host.chars().all(legal) || host.starts_with('-') {
        return Err(TargetError::Host(shown(host)));
    }
    // One form for each host, as its key is remembered under it.
    Ok((host.to_lowercase(), port))
}

/// Enough of a text for an error.
fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_keys_are_read_and_written() {
        let key = lavant_proto::ids::SigningKey::from_seed(&[7; 32]).publisher();
        for (text, host, port, with_key) in [
            ("node.example:7778", "node.example", 7778, false),
            ("Node.Example:1", "node.example", 1, false),
            ("10.0.0.1:65535", "10.0.0.1", 65535, false),
            ("[::1]:7778", "::1", 7778, false),
            ("[FE80:0::1]:7778", "fe80::1", 7778, false),
            ("KEY@[::1]:7778", "::1", 7778, true),
            ("KEY@node.example:7778", "node.example", 7778, true),
        ] {
            let text = text.replace("KEY", &key.to_string());
            let target: Target = text.parse().unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port), "{text}");
            assert_eq!(target.key, with_key.then_some(key), "{text}");
            assert_eq!(target.to_string().parse(), Ok(target), "{text}");
        }
    }

    #[test]
    fn what_names_no_node_is_refused_with_what_to_write() {
        use TargetError::*;
        let s = str::to_owned;
        for (text, error) in [
            ("", NoPort(s(""))),
            ("node", NoPort(s("node"))),
            ("[::1]", NoPort(s("[::1]"))),
            ("[::1", NoPort(s("[::1"))),
            ("[::1]x:1", NoPort(s("[::1]x:1"))),
            ("::1:7778", Brackets(s("::1:7778"))),
            ("[node]:1", NotIpv6(s("node"))),
            (":7778", NoHost(s(":7778"))),
            ("node:", Port(s(""))),
            ("node:0", Port(s("0"))),
            ("node:+7", Port(s("+7"))),
            ("node:65536", Port(s("65536"))),
            ("a b:1", Host(s("a b"))),
            ("-rf:1", Host(s("-rf"))),
            ("http://node:1", Brackets(s("http://node:1"))),
            ("me@node:1", Key(s("me"))),
            ("@node:1", Key(s(""))),
        ] {
            assert_eq!(text.parse::<Target>(), Err(error), "{text:?}");
        }
    }
}
