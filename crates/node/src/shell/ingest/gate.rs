//! A proxy on loopback that lets ffmpeg reach the origin of its source, and nothing else.
//!
//! ffmpeg sends plain HTTP to a proxy as whole requests and HTTPS as `CONNECT`, whoever named the
//! URL: the user, a playlist, or a redirect. Each is checked here, where connections are made, so
//! nothing depends on how ffmpeg reads a playlist. A request has a connection of its own.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Bytes of a request's head; ffmpeg's are below 4 KiB.
const HEAD_MAX: u64 = 64 << 10;
/// Connections at a time; ffmpeg opens one or two for each rendition of a playlist.
const CONNECTIONS_MAX: usize = 128;
/// How long an origin may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// The longest silence of a connection. An ingest gives up earlier.
const SILENCE_MAX: Duration = Duration::from_secs(180);

/// Scheme, host and port of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    is_tls: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an `http` or `https` URL.
    pub(super) fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let is_tls = scheme.eq_ignore_ascii_case("https");
        if !is_tls && !scheme.eq_ignore_ascii_case("http") {
            return None;
        }
        let authority = rest.split(['/', '?', '#']).next()?;
        let place = authority
            // The last `@`, as in all programs that dial: what stands before it must not pass for a
            // host.
            .rsplit_once('@')
            .map_or(authority, |(_, place)| place);
        Self::at(is_tls, place)
    }

    /// `HOST`, `HOST:PORT` or `[IPV6]:PORT`.
    fn at(is_tls: bool, place: &str) -> Option<Self> {
        let default = if is_tls { 443 } else { 80 };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (
                    host,
                    if port.is_empty() {
                        None
                    } else {
                        Some(port.strip_prefix(':')?)
                    },
                )
            }
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let port = match port {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => default,
        };
        (!host.is_empty()).then(|| Self {
            is_tls,
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        Ok((&*self.host, self.port).to_socket_addrs()?.collect())
    }

    /// `HOST:PORT`, as it stands in a request.
    fn place(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.place())
    }
}

/// An origin that may be reached.
struct Known {
    origin: Origin,
    /// Whether it was on this machine or its network when it was first looked up.
    is_inner: OnceLock<bool>,
}

struct Shared {
    known: Vec<Known>,
    /// The user's own proxy, through which the outside is reached.
    proxy: Option<(String, String)>,
    refused: Mutex<Option<String>>,
    open: AtomicUsize,
    closed: AtomicBool,
}

/// The proxy, as long as this lives.
pub(super) struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Gate {
    /// Listens on loopback.
    pub(super) fn open(origins: Vec<Origin>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let known = origins.into_iter().map(|origin| Known {
            origin,
            is_inner: OnceLock::new(),
        });
        // ffmpeg's own variables are set to this gate, so the user's proxy is asked from here.
        let variable = |name| std::env::var(name).unwrap_or_default();
        let shared = Arc::new(Shared {
            known: known.collect(),
            proxy: outer_proxy(&variable("http_proxy")).map(|proxy| (proxy, variable("no_proxy"))),
            refused: Mutex::default(),
            open: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let own = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if own.closed.load(Ordering::SeqCst) {
                    return;
                }
                // Dropped: a playlist that names thousands of parts must not take a thread for
                // each.
                if own.open.load(Ordering::SeqCst) >= CONNECTIONS_MAX {
                    continue;
                }
                own.open.fetch_add(1, Ordering::SeqCst);
                let shared = own.clone();
                std::thread::spawn(move || {
                    // What fails here, ffmpeg tells by the answer that it does not get.
                    let _ = shared.serve(stream);
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { address, shared })
    }

    /// What ffmpeg is told of it.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first origin that was asked for and refused.
    pub(super) fn refused(&self) -> Option<String> {
        self.shared.lock_refused().clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that listens.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock_refused(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        for timeout in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            timeout(&stream, Some(SILENCE_MAX))?;
        }
        let mut reader = BufReader::new(stream.try_clone()?);
        let Some(request) = Request::read(&mut reader)? else {
            return refuse(stream, "400 Bad Request");
        };
        let known = self
            .known
            .iter()
            .find(|known| known.origin == request.origin);
        let Some(known) = known else {
            let mut refused = self.lock_refused();
            // The first one, which is what the user has to decide about.
            refused.get_or_insert_with(|| request.origin.to_string());
            drop(refused);
            return refuse(stream, "403 Forbidden");
        };
        let upstream = match self.proxy_for(&request.origin) {
            Some(proxy) => TcpStream::connect(proxy).map(|stream| (stream, true)),
            None => known.connect().map(|stream| (stream, false)),
        };
        let Ok((mut upstream, is_proxied)) = upstream else {
            return refuse(stream, "502 Bad Gateway");
        };
        for timeout in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            timeout(&upstream, Some(SILENCE_MAX))?;
        }
        // The user's proxy answers itself, and its answer is handed on as it is.
        if request.is_tunnel && !is_proxied {
            (&stream).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        } else {
            upstream.write_all(request.head(is_proxied).as_bytes())?;
        }
        if request.is_tunnel {
            let mut up = upstream.try_clone()?;
            std::thread::spawn(move || {
                let _ = io::copy(&mut reader, &mut up);
                let _ = up.shutdown(std::net::Shutdown::Write);
            });
        }
        // A plain request has no body: nothing more of it is passed on. The answer ends with the
        // connection, as the request asks to close it.
        let copied = io::copy(&mut upstream, &mut &stream);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        copied.map(drop)
    }

    fn proxy_for(&self, origin: &Origin) -> Option<&str> {
        let (proxy, direct) = self.proxy.as_ref()?;
        // As other programs read `no_proxy`: names and their subdomains, with commas or spaces.
        let is_direct = direct.split([',', ' ']).any(|name| {
            let name = name.trim_start_matches('*').trim_start_matches('.');
            let rest = origin.host.strip_suffix(&name.to_ascii_lowercase());
            !name.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        (!is_direct && direct != "*").then_some(proxy)
    }
}

/// `HOST:PORT` of a proxy; one that asks for a password is not supported.
fn outer_proxy(url: &str) -> Option<String> {
    Origin::of(url)
        .filter(|origin| !origin.is_tls && !url.contains('@'))
        .map(|origin| origin.place())
}

fn refuse(mut stream: TcpStream, status: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

impl Known {
    /// Connects. A name that led outside at first does not lead inside later (DNS rebinding).
    fn connect(&self) -> io::Result<TcpStream> {
        let addresses = self.origin.addresses()?;
        let is_inner = addresses.iter().any(|address| is_inner(address.ip()));
        // Decided by the first look-up: a user may name a host of the own network.
        let may_be_inner = *self.is_inner.get_or_init(|| is_inner);
        let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            if !may_be_inner && self::is_inner(address.ip()) {
                continue;
            }
            match TcpStream::connect_timeout(&address, CONNECT_MAX) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// True for addresses of this machine and its own networks.
fn is_inner(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified()
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_inner(IpAddr::V4(v4)),
            None => {
                v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_unique_local()
                    || v6.is_unicast_link_local()
            }
        },
    }
}

/// A request as a proxy gets it.
struct Request {
    origin: Origin,
    is_tunnel: bool,
    method: String,
    /// Path and query.
    path: String,
    /// Headers for the origin, each with its line end.
    headers: String,
}

/// Headers that are between ffmpeg and its proxy, and `Host`, which is written anew.
const HOP_HEADERS: [&str; 5] = [
    "connection",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
];

impl Request {
    /// Reads a head; `None` when it is none that ffmpeg sends.
    fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        // A head without end ends here, as one that is cut off.
        let mut from = from.take(HEAD_MAX);
        let mut line = String::new();
        from.read_line(&mut line)?;
        let mut headers = String::new();
        loop {
            let mut header = String::new();
            if from.read_line(&mut header)? == 0 {
                return Ok(None);
            }
            let Some((name, value)) = header.split_once(':') else {
                break;
            };
            // `Host` is written from the origin that was checked: two names in one request could
            // differ.
            if !HOP_HEADERS.iter().any(|hop| name.eq_ignore_ascii_case(hop)) {
                headers.push_str(&format!("{name}: {}\r\n", value.trim()));
            }
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Ok(None);
        };
        let is_tunnel = method == "CONNECT";
        let origin = if is_tunnel {
            Origin::at(true, target)
        } else {
            Origin::of(target)
        };
        let path = target.split_once("://").map_or("", |(_, rest)| {
            rest.find(['/', '?']).map_or("", |at| &rest[at..])
        });
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(origin.map(|origin| Self {
            origin,
            is_tunnel,
            method: method.to_owned(),
            path: format!("{slash}{path}"),
            headers,
        }))
    }

    /// The head for the origin, or for the user's proxy before it.
    fn head(&self, is_proxied: bool) -> String {
        let place = self.origin.place();
        let target = match (self.is_tunnel, is_proxied) {
            (true, _) => place.clone(),
            (false, true) => format!("{}{}", self.origin, self.path),
            (false, false) => self.path.clone(),
        };
        let Self {
            method, headers, ..
        } = self;
        // One request for each connection: a second one on it would not be checked.
        let close = if self.is_tunnel {
            ""
        } else {
            "Connection: close\r\n"
        };
        format!("{method} {target} HTTP/1.1\r\nHost: {place}\r\n{headers}{close}\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_told_apart_by_scheme_host_and_port() {
        let of = |url: &str| Origin::of(url).map(|origin| origin.to_string());
        assert_eq!(
            of("HTTP://U:p@Films.example/a").unwrap(),
            "http://films.example:80"
        );
        assert_eq!(of("https://h?x@y").unwrap(), "https://h:443");
        assert_eq!(of("http://[::1]:81/").unwrap(), "http://[::1]:81");
        assert_ne!(of("http://h:443/"), of("https://h:443/"));
        for bad in [
            "ftp://h/",
            "http://",
            "http://h:+80/",
            "http://h:1:2/",
            "http://[::1]x/",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn requests_are_written_anew_for_their_origin() {
        let head = "GET http://h:81/a?b=http://c HTTP/1.1\r\nUser-Agent: x\r\nHost: other\r\n\
            Proxy-Connection: a\r\nRange: bytes=0-\r\n\r\n";
        let request = Request::read(&mut head.as_bytes()).unwrap().unwrap();
        assert_eq!(
            request.head(false),
            "GET /a?b=http://c HTTP/1.1\r\nHost: h:81\r\nUser-Agent: x\r\nRange: bytes=0-\r\n\
             Connection: close\r\n\r\n"
        );
        let tunnel = "CONNECT h:443 HTTP/1.1\r\n\r\n";
        let request = Request::read(&mut tunnel.as_bytes()).unwrap().unwrap();
        assert!(request.is_tunnel && request.origin.is_tls);
        for bad in [
            "",
            "GET / HTTP/1.1\r\n\r\n",
            "GET\r\n\r\n",
            "GET http://h/ HTTP/1.1\r\n",
        ] {
            assert!(
                Request::read(&mut bad.as_bytes()).unwrap().is_none(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_name_that_led_outside_does_not_lead_inside() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let known = |is_inner| Known {
            origin: Origin::of(&format!("http://{}", listener.local_addr().unwrap())).unwrap(),
            is_inner,
        };
        assert!(known(OnceLock::new()).connect().is_ok());
        assert!(known(OnceLock::from(false)).connect().is_err());
    }

    #[test]
    fn the_users_own_proxy_is_passed_unless_it_need_not_be() {
        let shared = |no_proxy: &str| Shared {
            known: Vec::new(),
            proxy: outer_proxy("http://proxy:3128/").map(|proxy| (proxy, no_proxy.to_owned())),
            refused: Mutex::default(),
            open: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        };
        let origin = Origin::of("http://tv.example/").unwrap();
        assert_eq!(shared("").proxy_for(&origin), Some("proxy:3128"));
        assert_eq!(shared("v.example").proxy_for(&origin), Some("proxy:3128"));
        for direct in ["tv.example", "a,.example", "*.example", "*"] {
            assert_eq!(shared(direct).proxy_for(&origin), None, "{direct}");
        }
    }
}
