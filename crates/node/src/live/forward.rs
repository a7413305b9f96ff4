//! Streams that this node sends on to other services, such as the RTMP servers of video sites.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lavant_proto::ids::ContentId;
use reqwest::Url;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::program::{ALLOW, ffmpeg, said};
use super::{Live, State, Stream, locked};

/// The most targets of the node.
const TARGETS_MAX: usize = 64;
/// How long a target may take nothing.
const STUCK: Duration = Duration::from_secs(10);
/// Pauses between two tries, at first and at the most; a target that held for `HELD` is tried at
/// once again.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const HELD: Duration = Duration::from_secs(60);

/// Why a stream cannot be sent on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// The URL.
    #[error("{0:?} is no target: give a URL of rtmp, rtmps or srt")]
    Url(String),
    /// Too many.
    #[error("this node sends to {TARGETS_MAX} targets, which is all that it does")]
    TooMany,
    /// The node is ending.
    #[error("the node is ending")]
    Closed,
}

/// A target of a stream, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where to: without what follows the host, in which the stream key stands.
    pub to: String,
    /// Whether it takes the stream now.
    pub is_running: bool,
    /// Why it does not, if it failed.
    pub error: Option<String>,
}

/// All targets; clones share them.
#[derive(Clone)]
pub struct Forwards {
    live: Live,
    running: Arc<Mutex<Running>>,
}

#[derive(Default)]
struct Running {
    targets: BTreeMap<ContentId, Vec<Entry>>,
    is_closed: bool,
}

struct Entry {
    url: Url,
    state: watch::Receiver<Forward>,
    task: AbortHandle,
}

impl Forwards {
    /// None yet.
    #[must_use]
    pub fn new(live: Live) -> Self {
        Self {
            live,
            running: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        locked(&self.running)
    }

    /// Checks a URL.
    ///
    /// # Errors
    /// When it is none, or of a kind that is no target.
    pub fn target(text: &str) -> Result<Url, BadTarget> {
        let url: Option<Url> = text.parse().ok();
        let is_target = |url: &Url| {
            matches!(url.scheme(), "rtmp" | "rtmps" | "srt")
                && url.host_str().is_some_and(|host| !host.is_empty())
        };
        url.filter(is_target)
            .ok_or_else(|| BadTarget::Url(text.to_owned()))
    }

    /// Sends a stream to these targets from now on, whenever it runs, and to no others. To be
    /// called in a runtime.
    ///
    /// # Errors
    /// See [`BadTarget`].
    pub fn set(&self, name: &ContentId, urls: &[Url]) -> Result<(), BadTarget> {
        let mut running = self.lock();
        if running.is_closed {
            return Err(BadTarget::Closed);
        }
        let mut others = running.targets.iter().filter(|(other, _)| *other != name);
        let others: usize = others.by_ref().map(|(_, entries)| entries.len()).sum();
        if others + urls.len() > TARGETS_MAX {
            return Err(BadTarget::TooMany);
        }
        let mut held = running.targets.remove(name).unwrap_or_default();
        let mut entries = Vec::new();
        for url in urls {
            // One that runs goes on.
            let place = held.iter().position(|entry| entry.url == *url);
            entries.push(match place {
                Some(place) => held.swap_remove(place),
                None => self.begin(name, url),
            });
        }
        for gone in held {
            gone.task.abort();
        }
        if !entries.is_empty() {
            running.targets.insert(name.clone(), entries);
        }
        Ok(())
    }

    fn begin(&self, name: &ContentId, url: &Url) -> Entry {
        let (tell, state) = watch::channel(Forward {
            to: shown(url),
            is_running: false,
            error: None,
        });
        let work = keep(self.live.clone(), name.clone(), url.clone(), tell);
        Entry {
            url: url.clone(),
            state,
            task: tokio::spawn(work).abort_handle(),
        }
    }

    /// The targets of a stream.
    #[must_use]
    pub fn of(&self, name: &ContentId) -> Vec<Forward> {
        let running = self.lock();
        let entries = running.targets.get(name).into_iter().flatten();
        entries.map(|entry| entry.state.borrow().clone()).collect()
    }

    /// Ends all, with the programs that they run.
    pub fn close(&self) {
        let mut running = self.lock();
        running.is_closed = true;
        for entry in std::mem::take(&mut running.targets).into_values().flatten() {
            entry.task.abort();
        }
    }
}

/// A target without path and query.
fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}"));
    let (scheme, host) = (url.scheme(), url.host_str().unwrap_or_default());
    format!("{scheme}://{host}{}", port.unwrap_or_default())
}

/// Sends a stream on whenever it runs.
async fn keep(live: Live, name: ContentId, url: Url, tell: watch::Sender<Forward>) {
    let mut events = live.events();
    let mut pause = PAUSE.0;
    loop {
        let stream = live.stream(&name);
        let Some(stream) = stream.filter(|stream| stream.status().state != State::Ended) else {
            // Some may have been missed; then the streams are looked at again.
            let _ = events.recv().await;
            continue;
        };
        let begun = Instant::now();
        let sent = send(&stream, &url, &tell).await;
        let error = sent.err();
        if let Some(reason) = &error
            && tell.borrow().error.as_ref() != Some(reason)
        {
            tracing::warn!(stream = %name, to = %shown(&url), reason,
                "a stream is not sent on; it is tried again");
        }
        tell.send_modify(|state| {
            state.is_running = false;
            state.error.clone_from(&error);
        });
        pause = match error.is_none() || begun.elapsed() > HELD {
            true => PAUSE.0,
            false => (pause * 2).min(PAUSE.1),
        };
        tokio::time::sleep(pause).await;
    }
}

/// Sends a stream until it is over, or needs another init segment, or the target fails.
async fn send(stream: &Stream, url: &Url, tell: &watch::Sender<Forward>) -> Result<(), String> {
    let Some((init, mut place, mut data)) = stream.after(None).await else {
        return Ok(());
    };
    let head = stream.init(init).ok_or("its beginning is gone")?;
    let mut child = command(url);
    let mut child = child
        .spawn()
        .map_err(|error| format!("ffmpeg, which sends streams on, cannot be started: {error}"))?;
    let said = said(&mut child);
    let Some(mut stdin) = child.stdin.take() else {
        return Ok(());
    };
    tracing::info!(stream = %stream.name(), to = %shown(url), "a stream is sent on");
    let feeding = async {
        write(&mut stdin, &head).await?;
        loop {
            write(&mut stdin, &data).await?;
            // What it takes is read by the target; before, it may still be connecting.
            tell.send_if_modified(|state| !std::mem::replace(&mut state.is_running, true));
            let Some((next_init, next_place, next)) = stream.after(Some(place)).await else {
                return Ok(());
            };
            if next_init != init {
                return Ok(());
            }
            (place, data) = (next_place, next);
        }
    };
    let fed: Result<(), String> = tokio::select! {
        fed = feeding => fed,
        _ = child.wait() => Err(String::new()),
    };
    drop(stdin);
    let fault = match fed {
        Ok(()) => return end(&mut child).await,
        Err(fault) => fault,
    };
    let _ = child.kill().await;
    let said = said.await.unwrap_or_default();
    Err(match (said.is_empty(), fault.is_empty()) {
        (false, _) => format!("ffmpeg says: {said}"),
        (true, false) => fault,
        (true, true) => "ffmpeg gave up without a word".into(),
    })
}

/// Lets the child send what it has.
async fn end(child: &mut Child) -> Result<(), String> {
    // One that does not end is killed when it is dropped.
    let _ = timeout(STUCK, child.wait()).await;
    Ok(())
}

async fn write(stdin: &mut ChildStdin, data: &[u8]) -> Result<(), String> {
    match timeout(STUCK, stdin.write_all(data)).await {
        Ok(Ok(())) => Ok(()),
        // The child ended; what it says tells why.
        Ok(Err(_)) => Err(String::new()),
        Err(_) => Err("the target took nothing for 10 seconds".into()),
    }
}

fn command(url: &Url) -> tokio::process::Command {
    let mut command = ffmpeg();
    let allowed = match url.scheme() {
        "srt" => "pipe,srt",
        _ => "pipe,rtmp,rtmps,tcp,tls,crypto",
    };
    command.args(["-fflags", "+nobuffer", "-f", "mp4", ALLOW, allowed]);
    command.args([
        "-i",
        "pipe:0",
        "-map",
        "0",
        "-c",
        "copy",
        "-flush_packets",
        "1",
    ]);
    match url.scheme() {
        "srt" => command.args(["-f", "mpegts"]),
        _ => command.args(["-f", "flv", "-flvflags", "no_duration_filesize"]),
    };
    command.arg(url.as_str());
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command
}
