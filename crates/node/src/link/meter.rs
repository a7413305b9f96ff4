//! What the transport of a link has measured, for whoever holds the link no longer.

use std::io;
use std::net::SocketAddr;
use std::sync::Weak;
use std::time::Duration;

use iroh::endpoint::WeakConnectionHandle;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use tokio::net::TcpStream;

/// Asks the transport of a link; does not keep the link up.
#[derive(Clone, Debug)]
pub struct LinkMeter(Transport);

#[derive(Clone, Debug)]
enum Transport {
    Tcp(Weak<TcpStream>),
    Quic(WeakConnectionHandle),
}

impl LinkMeter {
    pub(super) const fn tcp(tcp: Weak<TcpStream>) -> Self {
        Self(Transport::Tcp(tcp))
    }

    pub(super) const fn quic(connection: WeakConnectionHandle) -> Self {
        Self(Transport::Quic(connection))
    }

    /// The smoothed round trip, as the transport measures it by what it sends anyway: no queue of
    /// ours is in it. Nothing when the link has ended or the system does not tell. Never waits;
    /// takes some ten microseconds.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        match &self.0 {
            Transport::Tcp(tcp) => {
                let tcp = tcp.upgrade()?;
                tcp_round_trip(tcp.local_addr().ok()?, tcp.peer_addr().ok()?).ok()?
            }
            Transport::Quic(connection) => {
                let connection = connection.upgrade()?;
                let paths = connection.paths();
                let path = paths.iter().find(|path| path.is_selected());
                path.map(|path| path.rtt())
            }
        }
    }
}

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
/// `INET_DIAG_INFO` of `linux/inet_diag.h`: a kind of attribute; bit `kind - 1` asks for it.
const INFO: u16 = 2;
const PROTOCOL_TCP: u8 = 6;
/// Bytes of `nlmsghdr`, `inet_diag_msg`, and a header of an attribute.
const HEADER: usize = 16;
const DIAG: usize = 72;
const ATTRIBUTE: usize = 4;
/// Where `tcp_info` has the smoothed round trip, in microseconds.
const ROUND_TRIP_AT: usize = 68;

/// Asks the kernel by `sock_diag(7)`: `TCP_INFO` itself can only be read by unsafe code. The answer
/// is there when the question has been sent.
fn tcp_round_trip(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Duration>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, kind) = (AddressFamily::NETLINK, SocketType::DGRAM);
    let socket = rustix::net::socket_with(family, kind, flags, Some(netlink::SOCK_DIAG))?;
    let question = question(local, remote);
    rustix::net::send(&socket, &question, SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (filled, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    Ok(round_trip_in(&answer[..filled.min(answer.len())]))
}

/// `nlmsghdr` and `inet_diag_req_v2` for one socket.
fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    // 56 bytes of `inet_diag_req_v2`.
    let mut bytes = Vec::with_capacity(HEADER + 56);
    bytes.extend_from_slice(&(HEADER as u32 + 56).to_ne_bytes());
    bytes.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&REQUEST.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    let family = if local.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    bytes.extend_from_slice(&[family.as_raw() as u8, PROTOCOL_TCP, 1 << (INFO - 1), 0]);
    // Whatever its state.
    bytes.extend_from_slice(&u32::MAX.to_ne_bytes());
    bytes.extend_from_slice(&local.port().to_be_bytes());
    bytes.extend_from_slice(&remote.port().to_be_bytes());
    for address in [local, remote] {
        let mut room = [0; 16];
        match address {
            SocketAddr::V4(address) => room[..4].copy_from_slice(&address.ip().octets()),
            SocketAddr::V6(address) => room = address.ip().octets(),
        }
        bytes.extend_from_slice(&room);
    }
    // On any interface, with any cookie.
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[0xff; 8]);
    bytes
}

/// The round trip in the kernel's answer; nothing when it is none, or none was measured yet.
fn round_trip_in(answer: &[u8]) -> Option<Duration> {
    let (header, rest) = answer.split_first_chunk::<HEADER>()?;
    let length = u32::from_ne_bytes(*header.first_chunk()?) as usize;
    if u16::from_ne_bytes([header[4], header[5]]) != BY_FAMILY {
        return None;
    }
    let mut rest = rest.get(DIAG..length.checked_sub(HEADER)?)?;
    while let Some(&[low, high, kind_low, kind_high]) = rest.first_chunk::<ATTRIBUTE>() {
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let value = rest.get(ATTRIBUTE..length)?;
        if u16::from_ne_bytes([kind_low, kind_high]) == INFO {
            let micros = value.get(ROUND_TRIP_AT..)?.first_chunk()?;
            let micros = u64::from(u32::from_ne_bytes(*micros));
            return (micros > 0).then(|| Duration::from_micros(micros));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_anywhere_is_none() {
        let mut answer = vec![0; HEADER + DIAG + ATTRIBUTE + ROUND_TRIP_AT + 4];
        let length = answer.len() as u32;
        answer[..4].copy_from_slice(&length.to_ne_bytes());
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        let at = HEADER + DIAG;
        let room = (ATTRIBUTE + ROUND_TRIP_AT + 4) as u16;
        answer[at..at + 2].copy_from_slice(&room.to_ne_bytes());
        answer[at + 2..at + 4].copy_from_slice(&INFO.to_ne_bytes());
        let end = answer.len();
        answer[end - 4..].copy_from_slice(&1500u32.to_ne_bytes());
        assert_eq!(round_trip_in(&answer), Some(Duration::from_micros(1500)));
        for cut in 0..end {
            assert_eq!(round_trip_in(&answer[..cut]), None, "{cut}");
        }
        answer[at..at + 2].copy_from_slice(&0u16.to_ne_bytes());
        assert_eq!(
            round_trip_in(&answer),
            None,
            "an attribute without a length"
        );
    }
}
