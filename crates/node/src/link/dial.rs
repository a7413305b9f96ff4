//! Dialling: which address and which kind of link is tried, in what order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lavant_proto::ids::PublisherKey;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::addresses::is_near;
use super::handshake::{HandshakeError, Opened};
use super::quic::{self, QuicDialError};
use super::tcp::TcpLink;
use super::tls::{ALPN, ALPN_KEY};
use super::{DialError, KnownPeers, KnownPeersError, Link, LinkKind, Links, Target};

/// Dials to one node that run beside each other while the network changes.
const DIALS_AT_ONCE: usize = 2;
/// Addresses of one node that are tried.
const ADDRESSES_MAX: usize = 8;
/// Time after which the next address is tried beside the first (RFC 8305 section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

type Dialled = Result<Box<dyn Link>, DialError>;

impl Links {
    /// Dials a node by its name. Without a key, the one it had before is expected; the first one
    /// is remembered.
    pub async fn dial(&self, target: &Target) -> Dialled {
        let host = target.address();
        // A key that was given is expected by itself; nothing is remembered for it.
        let known = self.known.as_ref().filter(|_| target.key.is_none());
        let before = match known {
            Some(known) => {
                let host = host.clone();
                with_file(known, move |known| known.key_of(&host)).await?
            }
            None => None,
        };
        let dialling = || async {
            let addresses = resolve(target).await?;
            self.connect(target.key.or(before), &addresses, &host).await
        };
        let dialled = self.within_limit(&host, dialling).await;
        let Some(known) = known else { return dialled };
        let changed = |before, now| DialError::KeyChanged {
            host: host.clone(),
            before,
            now,
            file: known.file().to_owned(),
        };
        // For a remembered key *other key* means *changed*, which needs another sentence.
        let link = dialled.map_err(|error| match error {
            DialError::OtherKey {
                expected, answered, ..
            } => changed(expected, answered),
            error => error,
        })?;
        let (of, peer) = (host.clone(), link.peer());
        // Only after the handshake: a key that was not proven is not remembered.
        let kept = with_file(known, move |known| known.remember(&of, &peer)).await?;
        // Another dial may have met another key at the same time.
        if kept != peer {
            return Err(changed(kept, peer));
        }
        Ok(link)
    }

    /// Dials a node by its key at some addresses, such as those that were found.
    pub async fn dial_key(&self, key: PublisherKey, addresses: &[SocketAddr]) -> Dialled {
        let host = match addresses.first() {
            Some(first) => first.to_string(),
            None => "no address at all".to_owned(),
        };
        // What was found is not proven: one node must not have this one dial a whole network.
        let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
        self.within_limit(&host, || self.connect(Some(key), addresses, &host))
            .await
    }

    async fn within_limit<D: Future<Output = Dialled>>(
        &self,
        host: &str,
        dialling: impl Fn() -> D,
    ) -> Dialled {
        let dialled = anew_when_changed(self.came.clone(), dialling);
        let link = timeout(self.config.dial_limit, dialled)
            .await
            .unwrap_or_else(|_| Err(DialError::TimedOut(host.to_owned())))?;
        // An address of this machine under another name, which shows only now.
        if link.peer() == self.key {
            return Err(DialError::Myself(host.to_owned()));
        }
        Ok(link)
    }

    async fn connect(
        &self,
        expected: Option<PublisherKey>,
        addresses: &[SocketAddr],
        host: &str,
    ) -> Dialled {
        if expected == Some(self.key) {
            return Err(DialError::Myself(host.to_owned()));
        }
        // All of them: one address that is far may be behind a translation that TCP does not pass.
        let near = addresses.iter().all(|address| is_near(address.ip()));
        let first = match self.config.choice {
            Some(kind) => return self.connect_by(kind, expected, addresses, host).await,
            None if near => LinkKind::Tcp,
            None => LinkKind::Quic,
        };
        // The other kind comes into play when the first one is slow: UDP may be blocked, or TCP.
        let attempts = [first, first.other()]
            .map(|kind| self.connect_by(kind, expected, addresses, host).boxed());
        staggered(attempts.into(), self.config.second_kind_after)
            .await
            .unwrap_or_else(|| Err(DialError::TimedOut(host.to_owned())))
    }

    async fn connect_by(
        &self,
        kind: LinkKind,
        expected: Option<PublisherKey>,
        addresses: &[SocketAddr],
        host: &str,
    ) -> Dialled {
        match kind {
            LinkKind::Tcp => {
                let (tcp, remote, opened) = self.open_tcp(expected, addresses, host, ALPN).await?;
                Ok(Box::new(
                    TcpLink::new(tcp, remote, opened).watched(&self.up),
                ))
            }
            LinkKind::Quic => self.connect_quic(expected, addresses, host).await,
        }
    }

    async fn connect_quic(
        &self,
        expected: Option<PublisherKey>,
        addresses: &[SocketAddr],
        host: &str,
    ) -> Dialled {
        let no_endpoint = || match self.config.choice {
            Some(LinkKind::Tcp) => DialError::NoQuic,
            _ => DialError::Stopping,
        };
        let endpoint = self.endpoint().ok_or_else(no_endpoint)?;
        let key = match expected {
            Some(key) => key,
            // QUIC is dialled by key, so that it is asked for over TCP first.
            None => {
                let asked = self.open_tcp(None, addresses, host, ALPN_KEY).await;
                let (_, _, opened) = asked.map_err(|error| DialError::KeyUnknown {
                    target: host.to_owned(),
                    reason: error.to_string(),
                })?;
                opened.peer
            }
        };
        if key == self.key {
            return Err(DialError::Myself(host.to_owned()));
        }
        // Only for errors: QUIC tries all of them by itself.
        let address = *addresses.first().ok_or_else(|| no_address(host))?;
        match quic::dial(&endpoint, key, addresses).await {
            Ok(link) => Ok(Box::new(link.watched(&self.up))),
            Err(error) => Err(match error {
                QuicDialError::BrokeOff => DialError::BrokeOff(address),
                QuicDialError::TimedOut => DialError::TimedOut(host.to_owned()),
                QuicDialError::NotProved => self.who_else(key, addresses, host).await,
                QuicDialError::OtherProtocol(reason) => DialError::NotLavant { address, reason },
                QuicDialError::Local(_) if endpoint.is_closed() => DialError::Stopping,
                QuicDialError::Local(reason) => DialError::Unreachable { address, reason },
            }),
        }
    }

    /// Over QUIC only the key that is expected shows itself; TCP tells which one is there.
    async fn who_else(
        &self,
        expected: PublisherKey,
        addresses: &[SocketAddr],
        host: &str,
    ) -> DialError {
        let address = addresses.first().copied();
        let asked = self.open_tcp(None, addresses, host, ALPN_KEY).await;
        match (asked, address) {
            (Ok((_, address, opened)), _) if opened.peer != expected => DialError::OtherKey {
                address,
                expected,
                answered: opened.peer,
            },
            (_, Some(address)) => DialError::NotProved { address, expected },
            (_, None) => no_address(host),
        }
    }

    /// Opens TCP to the first address that answers.
    async fn open_tcp(
        &self,
        expected: Option<PublisherKey>,
        addresses: &[SocketAddr],
        host: &str,
        alpn: &'static [u8],
    ) -> Result<(TcpStream, SocketAddr, Opened), DialError> {
        let attempts = addresses
            .iter()
            .map(|address| self.open_tcp_at(expected, *address, alpn).boxed())
            .collect();
        staggered(attempts, NEXT_ADDRESS_AFTER)
            .await
            .unwrap_or_else(|| Err(no_address(host)))
    }

    async fn open_tcp_at(
        &self,
        expected: Option<PublisherKey>,
        address: SocketAddr,
        alpn: &[u8],
    ) -> Result<(TcpStream, SocketAddr, Opened), DialError> {
        let mut tcp = TcpStream::connect(address)
            .await
            .map_err(|error| tcp_error(address, &error))?;
        tcp.set_nodelay(true).ok();
        let not_lavant = |reason: String| DialError::NotLavant { address, reason };
        let handshake = self.tls.dial(expected, alpn);
        let handshake = handshake.map_err(|error| not_lavant(error.to_string()))?;
        let opened = handshake.run(&mut tcp).await;
        let opened = opened.map_err(|error| match (error, expected) {
            (HandshakeError::Io(_) | HandshakeError::BrokeOff, _) => DialError::BrokeOff(address),
            (HandshakeError::OtherKey(answered), Some(expected)) => DialError::OtherKey {
                address,
                expected,
                answered,
            },
            (HandshakeError::OtherKey(key), None) => not_lavant(format!("it has the key {key}")),
            (HandshakeError::NotLavant(reason), _) => not_lavant(reason),
        })?;
        Ok((tcp, address, opened))
    }
}

/// Reading and writing the file can take a while, so it is done on a thread for that.
async fn with_file<T: Send + 'static>(
    known: &Arc<KnownPeers>,
    work: impl FnOnce(&KnownPeers) -> Result<T, KnownPeersError> + Send + 'static,
) -> Result<T, DialError> {
    let known = Arc::clone(known);
    let done = tokio::task::spawn_blocking(move || work(&known)).await;
    done.map_err(|_| DialError::Stopping)?
        .map_err(DialError::Known)
}

fn tcp_error(address: SocketAddr, error: &io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused(address),
        io::ErrorKind::TimedOut => DialError::TimedOut(address.to_string()),
        io::ErrorKind::ConnectionReset => DialError::BrokeOff(address),
        _ => DialError::Unreachable {
            address,
            reason: error.to_string(),
        },
    }
}

fn no_address(host: &str) -> DialError {
    DialError::Name {
        host: host.to_owned(),
        reason: "there is none".to_owned(),
    }
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, DialError> {
    let failed = |reason: String| DialError::Name {
        host: target.host.clone(),
        reason,
    };
    let found = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .map_err(|error| failed(error.to_string()))?;
    let addresses: Vec<_> = found.take(ADDRESSES_MAX).collect();
    if addresses.is_empty() {
        return Err(failed("there is none".to_owned()));
    }
    Ok(addresses)
}

/// Dials, and once more beside it when the network changes meanwhile: what was sent before is lost,
/// and the system would wait for longer and longer until it sends again. The first success wins.
async fn anew_when_changed<T, D: Future<Output = Result<T, DialError>>>(
    mut came: watch::Receiver<u64>,
    dialling: impl Fn() -> D,
) -> Result<T, DialError> {
    // Changes from before this dial are no reason to begin anew.
    came.mark_unchanged();
    let mut running = FuturesUnordered::from_iter([dialling()]);
    loop {
        tokio::select! {
            Some(result) = running.next() => match result {
                Err(_) if !running.is_empty() => {}
                done => return done,
            },
            Ok(()) = came.changed(), if running.len() < DIALS_AT_ONCE => {
                running.push(dialling());
            }
        }
    }
}

/// Starts the next attempt when one has failed, or when `after` has passed; the first success
/// wins. Of the errors the first counts, unless one tells of another key. Nothing when there is
/// no attempt.
async fn staggered<T>(
    attempts: Vec<BoxFuture<'_, Result<T, DialError>>>,
    after: Duration,
) -> Option<Result<T, DialError>> {
    let mut waiting = attempts.into_iter();
    let mut running = FuturesUnordered::new();
    let mut failed: Option<DialError> = None;
    // The first one has a head start; those behind it begin when it fails or is slow.
    running.extend(waiting.next());
    loop {
        let more = waiting.len() > 0;
        tokio::select! {
            Some(result) = running.next() => match result {
                Ok(done) => return Some(Ok(done)),
                Err(error) => {
                    // That another node answers says more than that one of its addresses does not.
                    let tells_more = matches!(error, DialError::OtherKey { .. });
                    if failed.is_none() || tells_more {
                        failed = Some(error);
                    }
                    running.extend(waiting.next());
                }
            },
            () = sleep(after), if more => running.extend(waiting.next()),
            else => return failed.map(Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn refused(port: u16) -> DialError {
        DialError::Refused(SocketAddr::new([127, 0, 0, 1].into(), port))
    }

    #[tokio::test]
    async fn the_second_is_tried_when_the_first_fails_or_says_nothing() {
        let long = Duration::from_secs(3600);
        let attempts = vec![ready(Err(refused(1))).boxed(), ready(Ok(2)).boxed()];
        assert!(matches!(staggered(attempts, long).await, Some(Ok(2))));
        let attempts = vec![pending().boxed(), ready(Ok(2)).boxed()];
        let won = staggered(attempts, Duration::ZERO).await;
        assert!(matches!(won, Some(Ok(2))));
        let attempts = vec![ready(Ok(1)).boxed(), ready(Ok(2)).boxed()];
        assert!(matches!(staggered(attempts, long).await, Some(Ok(1))));
        assert!(staggered::<()>(Vec::new(), long).await.is_none());
    }

    #[tokio::test]
    async fn a_dial_begins_anew_when_the_network_changes() {
        let (comes, came) = watch::channel(0);
        let begun = std::cell::Cell::new(0);
        // The first one never gets an answer.
        let dialling = || {
            begun.set(begun.get() + 1);
            match begun.get() {
                1 => pending().boxed(),
                number => ready(Ok(number)).boxed(),
            }
        };
        let mut dialled = std::pin::pin!(anew_when_changed(came.clone(), dialling));
        assert!((&mut dialled).now_or_never().is_none());
        assert!(
            (&mut dialled).now_or_never().is_none(),
            "nothing has changed"
        );
        comes.send_modify(|count| *count += 1);
        assert!(matches!(dialled.await, Ok(2)));
        let failing = || ready(Err::<(), _>(refused(1)));
        assert!(anew_when_changed(came, failing).await.is_err());
    }

    #[tokio::test]
    async fn the_first_error_counts_unless_another_key_answers() {
        let long = Duration::from_secs(3600);
        let failing = || {
            vec![
                ready(Err(refused(1))).boxed(),
                ready(Err(refused(2))).boxed(),
            ]
        };
        let failed = staggered::<()>(failing(), long).await;
        let Some(Err(DialError::Refused(address))) = failed else {
            panic!("{failed:?}")
        };
        assert_eq!(address.port(), 1);
        let mut attempts = failing();
        attempts.push(
            ready(Err(DialError::OtherKey {
                address,
                expected: PublisherKey([1; 32]),
                answered: PublisherKey([2; 32]),
            }))
            .boxed(),
        );
        let failed = staggered::<()>(attempts, long).await;
        let other = matches!(failed, Some(Err(DialError::OtherKey { .. })));
        assert!(other, "{failed:?}");
    }
}
