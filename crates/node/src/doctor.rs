//! What a node needs around it, and whether it is there.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::config::Config;
use crate::shell::client::{Client, ClientError};

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether the node can do without it.
    pub optional: bool,
    /// What was found, and what to do about it.
    pub detail: String,
}

/// Seconds since 1970 of 2024-01-01: a clock before that was never set.
const PLAUSIBLE_TIME: u64 = 1_704_067_200;

/// Looks at everything.
#[must_use]
pub fn examine(config: &Config) -> Vec<Finding> {
    vec![
        program("ffmpeg", true, "needed to ingest anything but MPEG-TS"),
        program("ffprobe", true, "needed to ingest anything but MPEG-TS"),
        encoders(),
        player(),
        store(&config.store),
        disk(config),
        port(config),
        clock(),
    ]
}

fn finding(what: &'static str, ok: bool, optional: bool, detail: impl Into<String>) -> Finding {
    Finding {
        what,
        ok,
        optional,
        detail: detail.into(),
    }
}

fn first_line(name: &str) -> Option<String> {
    let output = Command::new(name)
        .arg("-version")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .next()
        .map(|line| line.chars().take(60).collect())
}

fn program(name: &'static str, optional: bool, use_: &str) -> Finding {
    match first_line(name) {
        Some(version) => finding(name, true, optional, version),
        None => finding(
            name,
            false,
            optional,
            format!("not installed; {use_}: apt-get install ffmpeg"),
        ),
    }
}

fn encoders() -> Finding {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-encoders"])
        .output();
    let text = output.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
    let text = text.unwrap_or_default();
    let missing: Vec<_> = ["libx264", " aac "]
        .into_iter()
        .filter(|name| !text.contains(name))
        .collect();
    if missing.is_empty() {
        return finding("encoders", true, true, "H.264 (libx264) and AAC");
    }
    let missing = missing.join(", ");
    finding(
        "encoders",
        false,
        true,
        format!("ffmpeg lacks {missing}: transcoding will fail"),
    )
}

fn player() -> Finding {
    match crate::shell::client::find_player() {
        Some(name) => finding("player", true, true, name),
        None => finding(
            "player",
            false,
            true,
            "none of mpv, vlc, ffplay is installed; the page plays, 'lavant play' needs one: \
             apt-get install mpv",
        ),
    }
}

fn store(folder: &Path) -> Finding {
    let name = folder.display();
    // Nothing is made here: the folder that would hold it is asked.
    let existing = folder
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("."));
    match rustix::fs::access(existing, rustix::fs::Access::WRITE_OK) {
        Ok(()) if folder.exists() => finding("store", true, false, format!("{name}")),
        Ok(()) => finding(
            "store",
            true,
            false,
            format!("{name} (made at the first start)"),
        ),
        Err(error) => finding(
            "store",
            false,
            false,
            format!("{name} cannot be written ({error})"),
        ),
    }
}

fn disk(config: &Config) -> Finding {
    let existing = config.store.ancestors().find(|path| path.exists());
    let existing = existing
        .filter(|path| !path.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let Ok(stat) = rustix::fs::statvfs(existing) else {
        return finding("disk", false, true, "its free space cannot be read");
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let enough = free > config.min_free.0.saturating_mul(2);
    let text = format!(
        "{} MB free, {} MB kept in reserve",
        free / 1_000_000,
        config.min_free.0 / 1_000_000
    );
    finding("disk", enough, false, text)
}

fn port(config: &Config) -> Finding {
    let address = config.listen;
    // The surest test is to do it; the port is free again when the listener is dropped.
    if TcpListener::bind(address).is_ok() {
        return finding("port", true, false, format!("{address} is free"));
    }
    // A port that is taken by a node is as it should be.
    let client = Client::new(&format!("http://{address}"), None);
    match client.and_then(|client| client.get::<serde_json::Value>("/health")) {
        Ok(health) => {
            let id = health
                .get("node_id")
                .and_then(|id| id.as_str())
                .unwrap_or("?");
            finding(
                "port",
                true,
                false,
                format!("a node answers at {address}: {id}"),
            )
        }
        Err(ClientError::Refused {
            status: 503,
            message,
        }) => finding(
            "port",
            false,
            false,
            format!("a node answers at {address}, but {message}; restart it"),
        ),
        Err(_) => finding(
            "port",
            false,
            false,
            format!("{address} is used by another program; choose another with --port"),
        ),
    }
}

fn clock() -> Finding {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let text = lavant_proto::time::Time::from_seconds(now).rfc3339();
    if now > PLAUSIBLE_TIME {
        return finding("clock", true, false, text);
    }
    finding(
        "clock",
        false,
        false,
        format!("{text} cannot be right; set it, or segments expire late"),
    )
}
