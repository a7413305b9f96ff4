//! How fast a link is: plain TCP, a TCP link and a QUIC link side by side, both ends together.
//!
//! `cargo run --release -p lavant-node --example link_speed -- [GB] [ROUNDS]`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lavant_node::link::{Frame, Link, LinkConfig, LinkKind, Links, Target};
use lavant_proto::ids::SigningKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
                sender.send(&mut batch).await?;
            }
        }
        sender.send(&mut batch).await?;
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
