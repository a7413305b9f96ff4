//! ffmpeg as a child: it opens what lavant does not, such as cameras (RTSP) and SRT, and gives an
//! MPEG transport stream.

use std::process::Stdio;

use reqwest::{Response, Url};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::web::Web;
use super::{Fault, Sink, address};
use crate::live::SILENCE_MAX;
use crate::live::program::{ALLOW, ffmpeg, said};

/// Bytes that are read at a time.
const BUFFER: usize = 64 << 10;
/// What it opens.
pub(super) enum Input<'a> {
    /// A URL of a scheme in [`SCHEMES`].
    Url(&'a Url),
    /// Publishers by SRT that connect to an address and know the passphrase.
    Srt(std::net::SocketAddr, &'a str),
    /// What an HTTP server sends: what came already, and the rest. ffmpeg asks no server itself,
    /// as it would go wherever that one sends it.
    Body(Vec<u8>, Response),
}

/// Schemes that ffmpeg opens, what it may open for them, and whether the sound is AAC already.
const SCHEMES: &[(&str, &str, bool)] = &[
    ("rtsp", "rtsp,rtp,udp,tcp", false),
    ("rtsps", "rtsp,rtsps,rtp,srtp,udp,tcp,tls,crypto", false),
    ("rtmp", "rtmp,tcp", true),
    ("rtmps", "rtmp,rtmps,tcp,tls,crypto", true),
    ("srt", "srt", false),
    ("rist", "rist", false),
    ("udp", "udp", false),
    ("rtp", "rtp,udp", false),
];

/// Whether ffmpeg opens a scheme for us.
pub(super) fn opens(scheme: &str) -> bool {
    SCHEMES.iter().any(|(name, ..)| *name == scheme)
}

/// Runs until the source ends, says nothing for too long, or nobody takes it any more.
pub(super) async fn run(
    input: Input<'_>,
    with_private: bool,
    sink: &mut Sink<'_>,
) -> Result<(), Fault> {
    let looked_up;
    let input = match input {
        Input::Url(url) => {
            looked_up = look_up(url, with_private).await?;
            Input::Url(&looked_up)
        }
        other => other,
    };
    let mut child = command(&input).spawn().map_err(|error| {
        Fault::Source(format!(
            "ffmpeg, which opens this, cannot be started: {error}"
        ))
    })?;
    let feeding = match (input, child.stdin.take()) {
        (Input::Body(head, answer), Some(stdin)) => Some(tokio::spawn(feed(stdin, head, answer))),
        _ => None,
    };
    let said = said(&mut child);
    let read = read(&mut child, sink).await;
    if let Some(feeding) = feeding {
        feeding.abort();
    }
    read?;
    let status = child.wait().await?;
    let finished = sink.finish();
    if status.success() && finished.is_ok() {
        return finished;
    }
    let said = said.await.unwrap_or_default();
    match said.is_empty() {
        true => finished,
        false => Err(Fault::Source(format!("ffmpeg says: {said}"))),
    }
}

/// A URL whose host may be asked, with its address in the place of its name where the server does
/// not need the name: ffmpeg would look it up again, and could get another address.
async fn look_up(url: &Url, with_private: bool) -> Result<Url, Fault> {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_matches(['[', ']']);
    let found = address::resolve(host, url.port().unwrap_or(0), with_private).await;
    let found = found.map_err(Fault::Source)?;
    let mut url = url.clone();
    let needs_name = matches!(url.scheme(), "rtsps" | "rtmp" | "rtmps");
    if let (false, false, Some(first)) = (with_private, needs_name, found.first()) {
        // It fails for URLs without a host, which are refused before.
        let _ = url.set_ip_host(first.ip());
    }
    Ok(url)
}

fn command(input: &Input<'_>) -> Command {
    let mut command = ffmpeg();
    // What is not known after two seconds is left out; longer, and every viewer is that late.
    command.args(["-analyzeduration", "2000000", "-fflags", "+nobuffer"]);
    let mut has_aac = false;
    match input {
        Input::Url(url) => {
            command.arg("-nostdin").stdin(Stdio::null());
            let found = SCHEMES.iter().find(|(name, ..)| *name == url.scheme());
            let (_, may_open, is_aac) = found.copied().unwrap_or(("", "", false));
            has_aac = is_aac;
            if url.scheme().starts_with("rtsp") {
                // Over UDP, what a busy network loses is lost; some servers have nothing else.
                command.args(["-rtsp_flags", "prefer_tcp"]);
            }
            command.args([ALLOW, may_open, "-i", url.as_str()]);
        }
        Input::Srt(address, passphrase) => {
            command.arg("-nostdin").stdin(Stdio::null());
            // It ends by itself after a while, so that it never outlives the node for long.
            let wait = SILENCE_MAX.as_micros();
            command.args([ALLOW, "srt", "-i"]);
            command.arg(format!(
                "srt://{address}?mode=listener&listen_timeout={wait}&passphrase={passphrase}"
            ));
        }
        Input::Body(..) => {
            // A file would come in a moment, and be over before anybody watches.
            command.stdin(Stdio::piped());
            command.args(["-re", ALLOW, "pipe", "-i", "pipe:0"]);
        }
    }
    command.args(["-map", "0:v:0?", "-map", "0:a:0?", "-c:v", "copy"]);
    match has_aac {
        true => command.args(["-c:a", "copy"]),
        // Cameras have G.711 and broadcasters MPEG-1 layer II, which no browser plays.
        false => command.args(["-c:a", "aac", "-b:a", "160k"]),
    };
    command.args(["-flush_packets", "1", "-muxdelay", "0", "-muxpreload", "0"]);
    command.args(["-f", "mpegts", "pipe:1"]);
    command.stdout(Stdio::piped());
    command
}

/// Gives what the child gives to the stream.
async fn read(child: &mut Child, sink: &mut Sink<'_>) -> Result<(), Fault> {
    let Some(mut out) = child.stdout.take() else {
        return Ok(());
    };
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = timeout(SILENCE_MAX, out.read(&mut buffer)).await;
        match read.map_err(|_| Fault::Silent)?? {
            0 => return Ok(()),
            read => sink.push(buffer.get(..read).unwrap_or_default()).await?,
        }
    }
}

async fn feed(mut stdin: ChildStdin, head: Vec<u8>, mut answer: Response) {
    // It ends when the child has enough, or the server breaks off; the child then ends, too.
    if stdin.write_all(&head).await.is_err() {
        return;
    }
    while let Ok(Some(chunk)) = Web::chunk(&mut answer).await {
        if stdin.write_all(&chunk).await.is_err() {
            return;
        }
    }
}
