//! Which addresses this machine can use now: those of interfaces that are up and joined to
//! something.
//!
//! The kernel tells of each change by `rtnetlink(7)`. The libraries that watch addresses do not
//! look at whether there is a carrier, and wait a while for changes to settle; but a contact may
//! be short, and each of its seconds counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// Groups of `linux/rtnetlink.h`: changes of interfaces, IPv4 addresses and IPv6 addresses.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// Messages of `linux/rtnetlink.h` and `linux/netlink.h`.
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const DEL_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const DEL_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
/// A request for all there is: `NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH`.
const ALL: u16 = 0x301;
/// `IFF_UP` and `IFF_RUNNING` of `linux/if.h`: switched on, and with a carrier.
const UP_AND_RUNNING: u32 = 0x1 | 0x40;
/// `IFA_F_TENTATIVE` of `linux/if_addr.h`: nobody may use it yet.
const TENTATIVE: u8 = 0x40;
/// Attributes with an address: `IFA_ADDRESS` and, where that is the other end's, `IFA_LOCAL`.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
/// Bytes of `nlmsghdr`, `ifinfomsg`, `ifaddrmsg`, and a header of an attribute.
const HEADER: usize = 16;
const INTERFACE: usize = 16;
const ADDRESS_OF: usize = 8;
const ATTRIBUTE: usize = 4;
/// Bytes of one read: the kernel puts at most 32 KiB into a datagram of a list.
const DATAGRAM: usize = 32 * 1024;

/// What the kernel has told.
#[derive(Debug, Default)]
struct Table {
    /// Whether an interface is up and has a carrier, by its number.
    running: BTreeMap<u32, bool>,
    addresses: BTreeSet<(u32, IpAddr)>,
}

/// A change of the addresses that can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NetworkChange {
    /// They can be used now.
    pub(super) came: BTreeSet<IpAddr>,
    /// They cannot be used any more.
    pub(super) gone: BTreeSet<IpAddr>,
}

/// Watches the addresses of this machine.
pub(super) struct Network {
    // A socket of datagrams like any other: what is special about it is said by rustix. tokio can
    // wait for a file descriptor of no known kind by unsafe code alone.
    socket: UnixDatagram,
    table: Table,
    usable: BTreeSet<IpAddr>,
}

impl Network {
    /// Begins, with what there is now. Needs a tokio runtime.
    pub(super) async fn watch() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let socket = rustix::net::socket_with(family, kind, flags, None)?;
        // Before the list, so that no change between the two is missed.
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        let mut network = Self {
            socket: UnixDatagram::from_std(socket.into())?,
            table: Table::default(),
            usable: BTreeSet::new(),
        };
        network.list().await?;
        network.usable = network.table.usable();
        Ok(network)
    }

    /// The next change. May be dropped early without loss.
    pub(super) async fn changed(&mut self) -> io::Result<NetworkChange> {
        loop {
            // By comparison: many messages change nothing that matters, and several may cancel out.
            let now = self.table.usable();
            if now != self.usable {
                let change = NetworkChange {
                    came: now.difference(&self.usable).copied().collect(),
                    gone: self.usable.difference(&now).copied().collect(),
                };
                self.usable = now;
                return Ok(change);
            }
            match self.receive().await {
                Ok(_) => {}
                // Some changes were lost.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    self.list().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks for all there is.
    async fn list(&mut self) -> io::Result<()> {
        // Anew: what was lost may have been that something is gone.
        self.table = Table::default();
        // One after the other, as the kernel makes one list at a time for a socket.
        for what in [GET_LINK, GET_ADDRESS] {
            let mut request = Vec::with_capacity(HEADER + INTERFACE);
            request.extend_from_slice(&((HEADER + INTERFACE) as u32).to_ne_bytes());
            request.extend_from_slice(&what.to_ne_bytes());
            request.extend_from_slice(&ALL.to_ne_bytes());
            request.extend_from_slice(&[0; 8 + INTERFACE]);
            rustix::net::send(&self.socket, &request, SendFlags::empty())?;
            while !self.receive().await? {}
        }
        Ok(())
    }

    /// Takes one datagram; true at the end of a list.
    async fn receive(&mut self) -> io::Result<bool> {
        let mut datagram = vec![0; DATAGRAM];
        let read = self.socket.async_io(Interest::READABLE, || {
            Ok(rustix::net::recv(&self.socket, &mut datagram, RecvFlags::empty())?.0)
        });
        // A datagram that was cut says its full length.
        let length = read.await?.min(DATAGRAM);
        Ok(self.table.take(&datagram[..length]))
    }
}

impl Table {
    fn usable(&self) -> BTreeSet<IpAddr> {
        let running = |interface| self.running.get(interface) == Some(&true);
        let addresses = self.addresses.iter();
        addresses
            .filter(|(interface, _)| running(interface))
            .map(|(_, address)| *address)
            .collect()
    }

    /// Takes the messages of a datagram; true when a list ends with them.
    fn take(&mut self, mut datagram: &[u8]) -> bool {
        while let Some((header, _)) = datagram.split_first_chunk::<HEADER>() {
            let length = number(header) as usize;
            // Also for a length below the header's, which would never lead on.
            let Some(body) = datagram.get(HEADER..length) else {
                break;
            };
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            match kind {
                DONE => return true,
                NEW_LINK | DEL_LINK => self.interface(kind == NEW_LINK, body),
                NEW_ADDRESS | DEL_ADDRESS => self.address(kind == NEW_ADDRESS, body),
                _ => {}
            }
            // Messages begin at multiples of four bytes, and so do attributes.
            datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        false
    }

    fn interface(&mut self, there: bool, body: &[u8]) {
        let Some(fixed) = body.first_chunk::<INTERFACE>() else {
            return;
        };
        let (interface, flags) = (number(&fixed[4..]), number(&fixed[8..]));
        if there {
            let running = flags & UP_AND_RUNNING == UP_AND_RUNNING;
            self.running.insert(interface, running);
        } else {
            self.running.remove(&interface);
        }
    }

    fn address(&mut self, there: bool, body: &[u8]) {
        let Some((fixed, mut rest)) = body.split_first_chunk::<ADDRESS_OF>() else {
            return;
        };
        let (flags, interface) = (fixed[2], number(&fixed[4..]));
        let mut found = None;
        while let Some(&[low, high, kind_low, kind_high]) = rest.first_chunk::<ATTRIBUTE>() {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let Some(value) = rest.get(ATTRIBUTE..length) else {
                break;
            };
            let kind = u16::from_ne_bytes([kind_low, kind_high]);
            // The own address counts, in whichever order the two come.
            if kind == LOCAL || (kind == ADDRESS && found.is_none()) {
                found = ip(value).or(found);
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        let Some(ip) = found else { return };
        if there && flags & TENTATIVE == 0 {
            self.addresses.insert((interface, ip));
        } else {
            self.addresses.remove(&(interface, ip));
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .map_or(0, |four| u32::from_ne_bytes(*four))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|four| IpAddr::from(*four)),
        16 => bytes.first_chunk::<16>().map(|all| IpAddr::from(*all)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(body);
        bytes
    }

    fn link(interface: u32, flags: u32) -> Vec<u8> {
        let numbers = [0, interface, flags, 0];
        let body: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        message(NEW_LINK, &body)
    }

    fn address(kind: u16, interface: u32, flags: u8, ip: [u8; 4]) -> Vec<u8> {
        let mut body = vec![2, 24, flags, 0];
        body.extend_from_slice(&interface.to_ne_bytes());
        // The other end's address comes first where there is one.
        for (attribute, ip) in [(ADDRESS, [9, 9, 9, 9]), (LOCAL, ip)] {
            body.extend_from_slice(&8u16.to_ne_bytes());
            body.extend_from_slice(&attribute.to_ne_bytes());
            body.extend_from_slice(&ip);
        }
        message(kind, &body)
    }

    #[test]
    fn an_address_can_be_used_while_its_interface_has_a_carrier() {
        let mut table = Table::default();
        let mut usable = |datagram: &[Vec<u8>]| {
            table.take(&datagram.concat());
            table.usable().into_iter().collect::<Vec<_>>()
        };
        let one = IpAddr::from([10, 0, 0, 1]);
        let here = address(NEW_ADDRESS, 7, 0, [10, 0, 0, 1]);
        assert!(
            usable(std::slice::from_ref(&here)).is_empty(),
            "nothing is known of 7"
        );
        assert_eq!(usable(&[link(7, UP_AND_RUNNING)]), [one]);
        assert!(usable(&[link(7, 0x1)]).is_empty(), "no carrier");
        assert_eq!(usable(&[link(7, UP_AND_RUNNING), link(8, 0x1)]), [one]);
        let other = address(NEW_ADDRESS, 7, TENTATIVE, [10, 0, 0, 2]);
        assert_eq!(usable(&[other]), [one], "it is not to be used yet");
        let gone = address(DEL_ADDRESS, 7, 0, [10, 0, 0, 1]);
        assert!(usable(&[gone]).is_empty());
        assert_eq!(usable(&[here, link(8, 0)]), [one]);
        let mut down = link(7, 0);
        down[4..6].copy_from_slice(&DEL_LINK.to_ne_bytes());
        assert!(usable(&[down]).is_empty());
    }

    #[test]
    fn a_datagram_that_is_cut_anywhere_does_no_harm() {
        let whole = [link(7, 0x41), address(NEW_ADDRESS, 7, 0, [10, 0, 0, 1])].concat();
        for cut in 0..whole.len() {
            Table::default().take(&whole[..cut]);
            let mut short = whole.clone();
            short[cut] ^= 0xff;
            Table::default().take(&short);
        }
    }

    #[tokio::test]
    async fn the_kernel_tells_of_this_machine() {
        let network = Network::watch().await.unwrap();
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert!(network.usable.contains(&local), "{:?}", network.usable);
    }
}
