//! What can go wrong with a link, in sentences that say what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use lavant_proto::ids::PublisherKey;

/// Why a link ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// One side closed it.
    #[error("the link was closed: {0}")]
    Closed(String),
    /// It broke.
    #[error("the link was cut: {0}")]
    Cut(String),
    /// A frame longer than its kind may be.
    #[error("a frame of {length} bytes; {most} are the most for its kind")]
    TooLong {
        /// What the header says.
        length: usize,
        /// The limit.
        most: usize,
    },
    /// A frame of another version or another protocol.
    #[error("a frame of unknown kind {0}; the other node may be of another version")]
    UnknownKind(u8),
    /// Parts of more frames than a node has begun at a time.
    #[error("parts of too many frames that did not end")]
    TooManyParts,
}

/// Why no port could be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the port.
    #[error(
        "port {port} is in use for {protocol}; take another with --relay-port, or stop the program \
         that has it"
    )]
    InUse {
        /// The port.
        port: u16,
        /// `TCP` or `UDP`.
        protocol: &'static str,
    },
    /// The operating system refused.
    #[error("cannot listen on {address} for {protocol}: {reason}; see --relay-port")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// What the system says.
        reason: String,
    },
    /// No address was given.
    #[error("no address to listen on was given")]
    NoAddress,
}

/// Why a node could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("the name {host} has no address: {reason}; check the spelling, or give an address")]
    Name {
        /// The name.
        host: String,
        /// What the resolver says.
        reason: String,
    },
    /// Nobody listens.
    #[error("{0} refused: nothing listens there; check the port and that the node runs")]
    Refused(SocketAddr),
    /// The network does not lead there.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        reason: String,
    },
    /// No answer in time.
    #[error(
        "no answer from {0} in time; check the address, and that no firewall keeps its port \
         (TCP and UDP) closed"
    )]
    TimedOut(String),
    /// The node there has too much to do, or went away.
    #[error("the node at {0} broke off; it may be busy or stopping: try again later")]
    BrokeOff(SocketAddr),
    /// Something else listens there.
    #[error("what answers at {address} is not a lavant node of this version ({reason})")]
    NotLavant {
        /// Where.
        address: SocketAddr,
        /// In what way.
        reason: String,
    },
    /// Another key than the one asked for.
    #[error(
        "{address} has the key {answered}, not {expected}; if that is right, dial \
         {answered}@{address}"
    )]
    OtherKey {
        /// Where.
        address: SocketAddr,
        /// The one asked for.
        expected: PublisherKey,
        /// The one proved.
        answered: PublisherKey,
    },
    /// Over QUIC the one who answers proves the key asked for or stays unknown.
    #[error("what answers at {address} did not prove to have the key {expected}")]
    NotProved {
        /// Where.
        address: SocketAddr,
        /// The one asked for.
        expected: PublisherKey,
    },
    /// Another key than last time.
    #[error(
        "the key of {host} has changed: it was {before}, it is {now}. Either the node was set up \
         anew, or somebody else answers in its place. If you know that it was set up anew, remove \
         its line from {file}, or dial {now}@{host}"
    )]
    KeyChanged {
        /// As it was dialled.
        host: String,
        /// The one remembered.
        before: PublisherKey,
        /// The one proved.
        now: PublisherKey,
        /// Where it is remembered.
        file: PathBuf,
    },
    /// QUIC is dialled by key, and TCP, which could tell it, does not answer.
    #[error(
        "the key of {target} is not known, and asking for it over TCP failed: {reason}; \
         dial KEY@{target}"
    )]
    KeyUnknown {
        /// As it was dialled.
        target: String,
        /// Why it could not be asked for.
        reason: String,
    },
    /// The dialled node is this one.
    #[error("{0} is this node itself")]
    Myself(String),
    /// The kind of link is switched off.
    #[error("this node has no QUIC: it was started for TCP alone")]
    NoQuic,
    /// The links were closed.
    #[error("this node is stopping")]
    Stopping,
    /// Which key the node had before cannot be told.
    #[error(transparent)]
    Known(#[from] KnownPeersError),
}

/// Why the file of known keys could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KnownPeersError {
    /// The operating system refused.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line that is not of the form.
    #[error("{file}, line {line}: HOST:PORT KEY is expected; mend or remove the line")]
    Line {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// Too much in it.
    #[error("{0} holds too many lines; remove those that are no longer needed")]
    Full(PathBuf),
}

/// Why a text does not name a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No port.
    #[error("{0:?} has no port; write HOST:PORT, such as node.example:7778 or [::1]:7778")]
    NoPort(String),
    /// No port number.
    #[error("{0:?} is not a port; a port is a number from 1 to 65535")]
    Port(String),
    /// No host.
    #[error("{0:?} has no host before the port")]
    NoHost(String),
    /// An IPv6 address that runs into its port.
    #[error("{0:?} is ambiguous; write an IPv6 address in brackets: [{0}]:PORT")]
    Brackets(String),
    /// Brackets around what is no IPv6 address.
    #[error("{0:?} is not an IPv6 address")]
    NotIpv6(String),
    /// A character that no host name has.
    #[error("{0:?} is not a host name or an address")]
    Host(String),
    /// No key before the `@`.
    #[error("before the @ a node's key is expected, 64 hexadecimal digits, not {0:?}")]
    Key(String),
}
