//! ffmpeg as a child of the node.

use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// The most that is kept of what it says.
const SAID_MAX: u64 = 4096;

/// ffmpeg's option for the protocols that it may use, under the word that it has for them.
pub(super) const ALLOW: &str = concat!("-protocol_", "white", "list");

/// A child that says only what is wrong, and ends with whoever holds it.
pub(super) fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error"]);
    command.stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What the child says of itself, in one line.
pub(super) fn said(child: &mut Child) -> tokio::task::JoinHandle<String> {
    let stderr = child.stderr.take();
    tokio::spawn(async move {
        let Some(mut stderr) = stderr else {
            return String::new();
        };
        let mut said = Vec::new();
        let _ = (&mut stderr).take(SAID_MAX).read_to_end(&mut said).await;
        // It is read to its end, or the child would wait.
        let mut nowhere = tokio::io::sink();
        let _ = tokio::io::copy(&mut stderr, &mut nowhere).await;
        let text = String::from_utf8_lossy(&said);
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        tidy(last.unwrap_or_default())
    })
}

/// A line of ffmpeg without what only its developers read, and without the URL, which may have a
/// password in it.
fn tidy(line: &str) -> String {
    let words = line.split_whitespace();
    let words = words.map(|word| match word.contains("://") {
        true => "the source:",
        false => word,
    });
    let line = words.collect::<Vec<_>>().join(" ");
    let line = match line.split_once("] ") {
        Some((from, rest)) if from.starts_with('[') => rest,
        _ => &line,
    };
    line.chars().filter(|letter| !letter.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_ffmpeg_keeps_its_sense_and_loses_the_password() {
        assert_eq!(
            tidy("rtsp://joe:secret@10.0.0.1/cam: Connection refused"),
            "the source: Connection refused"
        );
        assert_eq!(
            tidy("[tcp @ 0x5581] Connection to tcp://10.0.0.1:554 failed: No route"),
            "Connection to the source: failed: No route"
        );
    }
}
