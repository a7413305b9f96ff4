//! Playlists, read as a player does, and the strict check of `web/tests/strict-playlist.mjs`.

use super::program::{Done, run};
use super::repository;

/// An entry of a media playlist.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Entry {
    pub(crate) uri: String,
    pub(crate) seconds: f64,
    pub(crate) gap: bool,
    pub(crate) discontinuity: bool,
    /// The init segment in force.
    pub(crate) map: Option<String>,
}

/// A master or media playlist.
#[derive(Debug)]
pub(crate) struct Playlist {
    pub(crate) text: String,
    pub(crate) entries: Vec<Entry>,
    /// URIs of a master playlist.
    pub(crate) variants: Vec<String>,
}

impl Playlist {
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.starts_with("#EXTM3U\n"), "no playlist: {text}");
        let mut playlist = Self {
            text: text.to_owned(),
            entries: Vec::new(),
            variants: Vec::new(),
        };
        let (mut next, mut map, mut is_variant) = (Entry::default(), None, false);
        for line in text.lines() {
            if let Some(info) = line.strip_prefix("#EXTINF:") {
                let seconds = info.split(',').next().unwrap_or_default();
                next.seconds = seconds.parse().expect("a duration is a number");
            } else if let Some(given) = line.strip_prefix("#EXT-X-MAP:") {
                map = given.split('"').nth(1).map(str::to_owned);
            } else if line.starts_with("#EXT-X-STREAM-INF:") {
                is_variant = true;
            } else if line == "#EXT-X-GAP" {
                next.gap = true;
            } else if line == "#EXT-X-DISCONTINUITY" {
                next.discontinuity = true;
            } else if !line.starts_with('#') && !line.is_empty() {
                if std::mem::take(&mut is_variant) {
                    playlist.variants.push(line.to_owned());
                    continue;
                }
                next.uri = line.to_owned();
                next.map.clone_from(&map);
                playlist.entries.push(std::mem::take(&mut next));
            }
        }
        playlist
    }

    /// The value of a tag such as `MEDIA-SEQUENCE`.
    pub(crate) fn tag(&self, name: &str) -> Option<&str> {
        let prefix = format!("#EXT-X-{name}:");
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
    }

    /// The value of a tag that is a number; 0 when it is absent, as RFC 8216 has it.
    pub(crate) fn number(&self, name: &str) -> u64 {
        let value = self.tag(name);
        value.map_or(0, |value| value.parse().expect("it is a whole number"))
    }

    pub(crate) fn has_end(&self) -> bool {
        self.text.lines().any(|line| line == "#EXT-X-ENDLIST")
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.entries.iter().map(|entry| entry.seconds).sum()
    }

    /// Which entries are gaps.
    pub(crate) fn gaps(&self) -> Vec<bool> {
        self.entries.iter().map(|entry| entry.gap).collect()
    }

    /// The sequences of the segments that are there, by their URIs.
    pub(crate) fn sequences(&self) -> Vec<u64> {
        let there = self.entries.iter().filter(|entry| !entry.gap);
        there
            .map(|entry| {
                let name = entry.uri.rsplit('/').next().unwrap_or_default();
                let number = name.split('.').next().unwrap_or_default();
                number.parse().expect("a segment is named by its sequence")
            })
            .collect()
    }
}

/// The folder of the page, whose modules hold the checker and the browser's driver.
pub(crate) fn web() -> std::path::PathBuf {
    let web = repository().join("web");
    assert!(
        web.join("node_modules/hls-parser").is_dir(),
        "the modules of the page are missing: run scripts/web.sh"
    );
    web
}

/// Asserts that strict parsers accept playlists, and those that master playlists name.
#[track_caller]
pub(crate) fn strict(urls: &[&str]) -> Done {
    let script = web().join("tests/strict-playlist.mjs");
    let mut args = vec![super::text(&script)];
    args.extend(urls);
    run("node", &args)
}
