//! Links: how two nodes exchange frames, over QUIC or over TCP with TLS, and how they find each
//! other.
//!
//! A link is authenticated both ways by the nodes' Ed25519 keys before it is handed out. It
//! carries control frames in order, and data frames in order within one request. What the frames
//! mean is no matter of this room.
//!
//! | question | place |
//! |---|---|
//! | which ports are bound, who may come in | [`Links::bind`], `admit.rs` |
//! | which address and kind is tried first | `dial.rs` |
//! | what an operator may write for a node | [`Target`] |
//! | what is known of a link beforehand | [`LinkProfile`] |
//! | which key a host had before | [`KnownPeers`] |
//! | how a frame is written | `frame.rs` |
//! | what the transport has measured | [`LinkMeter`] |
//! | what counts as one sender | [`SourceAddr`] |
//! | how keys are proved over TCP | `tls.rs` |
//! | who is on the same network | [`Discovery`] |
//! | what happens when an interface goes or comes | `network.rs`, `uplinks.rs` |

mod addresses;
mod admit;
mod dial;
mod discovery;
mod error;
mod frame;
mod handshake;
mod known;
mod links;
mod listen;
mod meter;
mod network;
mod profile;
mod quic;
mod raw_key;
mod record;
mod target;
mod tcp;
mod tls;
mod uplinks;

use std::fmt;
use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use lavant_proto::ids::PublisherKey;

pub use addresses::is_near;
pub use discovery::{Discovery, DiscoveryError, Sighting};
pub use error::{BindError, DialError, KnownPeersError, LinkError, TargetError};
pub use frame::{CONTROL_BYTES_MAX, DATA_BYTES_MAX, Frame, REASON_BYTES_MAX, Urgency};
pub use known::KnownPeers;
pub use lavant_proto::contact::budget::SourceAddr;
pub use links::{LinkConfig, Links};
pub use meter::LinkMeter;
pub use profile::{LinkProfile, ProfileError};
pub use target::Target;

/// What carries a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// QUIC over UDP.
    Quic,
    /// TLS 1.3 over TCP.
    Tcp,
}

impl LinkKind {
    /// The other kind.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Quic => Self::Tcp,
            Self::Tcp => Self::Quic,
        }
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        })
    }
}

impl std::str::FromStr for LinkKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "quic" => Ok(Self::Quic),
            "tcp" => Ok(Self::Tcp),
            _ => Err(format!("a link is 'quic' or 'tcp', not {text:?}")),
        }
    }
}

/// A way to one node, up until either side closes it or it is cut.
pub trait Link: Send {
    /// The key the other node proved to have.
    fn peer(&self) -> PublisherKey;
    /// What carries it.
    fn kind(&self) -> LinkKind;
    /// Where the other node is. On QUIC the path may change later.
    fn remote(&self) -> SocketAddr;
    /// Where it comes from, by which is counted what one sender may have.
    fn source(&self) -> SourceAddr {
        SourceAddr::of(self.remote().ip())
    }
    /// What tells the measured round trip, also once the link was split.
    fn meter(&self) -> LinkMeter;
    /// Both directions, for a task each. The link is cut when both are dropped.
    fn split(self: Box<Self>) -> (Box<dyn LinkSender>, Box<dyn LinkReceiver>);
}

/// The direction out.
pub trait LinkSender: Send {
    /// Takes a batch, which is empty then, and sends; returns when all of it that is as urgent as
    /// its data frames, or more so, is handed to the transport.
    ///
    /// Control frames arrive in order and pass data frames, data frames arrive in order within a
    /// request, and all of a request have one urgency. The future may be dropped early: what is
    /// left waits for the next call, is sent with it when it is urgent enough, and is overtaken by
    /// what is more urgent. A frame beyond its limit is an error that sends nothing of the batch.
    fn send<'a>(
        &'a mut self,
        batch: &'a mut Vec<Frame>,
        urgency: Urgency,
    ) -> BoxFuture<'a, Result<(), LinkError>>;

    /// Ends the link. What was sent before arrives first, then the reason, of which at most
    /// [`REASON_BYTES_MAX`] bytes are sent. Takes no longer than a second or two.
    fn close<'a>(&'a mut self, reason: &'a str) -> BoxFuture<'a, ()>;
}

/// The direction in.
pub trait LinkReceiver: Send {
    /// Appends all frames that are complete, at least one.
    ///
    /// Every frame that came whole is given out before an error is; the error is then returned
    /// by every further call. May be dropped early without loss.
    fn receive<'a>(&'a mut self, out: &'a mut Vec<Frame>) -> BoxFuture<'a, Result<(), LinkError>>;
}
