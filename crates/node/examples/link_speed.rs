//! How fast a link is: plain TCP, TLS as tokio-rustls does it, a TCP link and a QUIC link side by
//! side, both ends together.
//!
//! `cargo run --release -p lavant-node --example link_speed -- [GB] [ROUNDS]`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use lavant_node::link::{Frame, Link, LinkConfig, LinkKind, Links, Target, Urgency};
use lavant_proto::ids::SigningKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A chunk group with its proof.
const FRAME_BYTES: usize = 16_896;
/// Frames handed over at once.
const BATCH: usize = 32;
/// Different frames, so that what is sent does not fit into the nearest cache.
const POOL: usize = 512;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let number = |at: usize, default: f64| match std::env::args().nth(at) {
        Some(text) => text.parse::<f64>(),
        None => Ok(default),
    };
    let bytes = (number(1, 1.0)? * 1e9) as usize;
    println!("{:<10} {:>8} {:>12}", "", "MB/s", "CPU s/GB");
    for _ in 0..number(2, 3.0)? as usize {
        report("plain TCP", bytes, plain(bytes).await?);
        report("TLS", bytes, tls(bytes).await?);
        report("TCP link", bytes, link(LinkKind::Tcp, bytes).await?);
        report("QUIC link", bytes, link(LinkKind::Quic, bytes).await?);
    }
    Ok(())
}

fn report(name: &str, bytes: usize, (wall, cpu): (Duration, f64)) {
    let megabytes = bytes as f64 / 1e6;
    let rate = megabytes / wall.as_secs_f64();
    println!("{name:<10} {rate:>8.0} {:>12.2}", cpu / megabytes * 1000.0);
}

/// What this process has used so far: 14th and 15th field, in hundredths of a second.
fn cpu_seconds() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: Result<Vec<f64>, _> = ticks.map(str::parse).collect();
    Ok(ticks?.iter().sum::<f64>() / 100.0)
}

fn pool() -> Vec<Bytes> {
    (0..POOL)
        .map(|number| Bytes::from(vec![number as u8; FRAME_BYTES]))
        .collect()
}

async fn plain(bytes: usize) -> Result<(Duration, f64), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut out = TcpStream::connect(listener.local_addr()?).await?;
    let (mut inward, _) = listener.accept().await?;
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    let sending = tokio::spawn(async move {
        let piece = vec![7; 256 * 1024];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(piece.len());
            out.write_all(&piece[..now]).await?;
            left -= now;
        }
        Ok::<_, Failure>(())
    });
    let mut piece = vec![0; 256 * 1024];
    let mut got = 0;
    while got < bytes {
        got += inward.read(&mut piece).await?;
    }
    let used = (start.elapsed(), cpu_seconds()? - cpu);
    sending.await??;
    Ok(used)
}

/// Trusts everybody: the handshake is not measured.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Both ends of TLS with the cipher that links have.
fn tls_ends() -> Result<(TlsConnector, TlsAcceptor), Failure> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let provider = Arc::new(provider);
    // PKCS #8 (RFC 8410) around a seed.
    let mut key = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    key.extend_from_slice(&[1; 32]);
    let key = PrivateKeyDer::Pkcs8(key.into());
    let signer = rustls::crypto::ring::sign::any_supported_type(&key)?;
    let spki = signer.public_key().ok_or("no public key")?;
    let shown = CertificateDer::from(spki.to_vec());
    let certified = Arc::new(CertifiedKey::new(vec![shown], signer));
    let versions = [&rustls::version::TLS13];
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    Ok((Arc::new(client).into(), Arc::new(server).into()))
}

/// The same frames through tokio-rustls: written in batches of the same size, read into a large
/// buffer and cut into frames without a copy.
async fn tls(bytes: usize) -> Result<(Duration, f64), Failure> {
    let (connector, acceptor) = tls_ends()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let out = TcpStream::connect(listener.local_addr()?).await?;
    let (inward, _) = listener.accept().await?;
    out.set_nodelay(true)?;
    let name = ServerName::try_from("lavant")?;
    let ends = tokio::join!(connector.connect(name, out), acceptor.accept(inward));
    let (mut out, mut inward) = (ends.0?, ends.1?);
    out.get_mut().1.set_buffer_limit(Some(256 * 1024));
    // Few large writes cost less than many of a frame, though each byte is copied once more.
    let mut out = BufWriter::with_capacity(256 * 1024, out);
    let (frames, pool) = (bytes / FRAME_BYTES, pool());
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    let sending = tokio::spawn(async move {
        for number in 0..frames {
            let mut head = [0; 9];
            head[..4].copy_from_slice(&(FRAME_BYTES as u32).to_be_bytes());
            let mut parts = [IoSlice::new(&head), IoSlice::new(&pool[number % POOL])];
            let mut left = &mut parts[..];
            while !left.is_empty() {
                let written = out.write_vectored(left).await?;
                IoSlice::advance_slices(&mut left, written);
            }
        }
        out.flush().await?;
        Ok::<_, Failure>(out)
    });
    let (mut got, mut buffer) = (0, BytesMut::with_capacity(256 * 1024));
    while got < frames {
        buffer.reserve(128 * 1024);
        if inward.read_buf(&mut buffer).await? == 0 {
            return Err("it ended".into());
        }
        while buffer.len() >= 9 + FRAME_BYTES {
            drop(buffer.split_to(9 + FRAME_BYTES).freeze());
            got += 1;
        }
    }
    let used = (start.elapsed(), cpu_seconds()? - cpu);
    sending.await??;
    Ok(used)
}

async fn link(kind: LinkKind, bytes: usize) -> Result<(Duration, f64), Failure> {
    let bind = |seed| {
        Links::bind(LinkConfig {
            addresses: vec![Ipv4Addr::LOCALHOST.into()],
            choice: Some(kind),
            ..LinkConfig::new(SigningKey::from_seed(&[seed; 32]))
        })
    };
    let (one, other) = (bind(1).await?, bind(2).await?);
    let target = Target {
        host: "127.0.0.1".to_owned(),
        port: other.port(),
        key: Some(other.key()),
    };
    let (out, inward) = tokio::join!(one.dial(&target), other.accept());
    let used = transfer(out?, inward.ok_or("no link came in")?, bytes).await?;
    one.close().await;
    other.close().await;
    Ok(used)
}

async fn transfer(
    out: Box<dyn Link>,
    inward: Box<dyn Link>,
    bytes: usize,
) -> Result<(Duration, f64), Failure> {
    let frames = bytes / FRAME_BYTES;
    let pool = pool();
    let (mut sender, _back) = out.split();
    let (_forth, mut receiver) = inward.split();
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    let sending = tokio::spawn(async move {
        let mut batch = Vec::with_capacity(BATCH);
        for number in 0..frames {
            batch.push(Frame::Data {
                request: (number / 64) as u32,
                last: number % 64 == 63,
                bytes: pool[number % POOL].clone(),
            });
            if batch.len() == BATCH {
                sender.send(&mut batch, Urgency::Bulk).await?;
            }
        }
        sender.send(&mut batch, Urgency::Bulk).await?;
        Ok::<_, Failure>(sender)
    });
    let mut got = 0;
    let mut batch = Vec::new();
    while got < frames {
        receiver.receive(&mut batch).await?;
        got += batch.len();
        batch.clear();
    }
    let used = (start.elapsed(), cpu_seconds()? - cpu);
    sending.await??;
    Ok(used)
}
