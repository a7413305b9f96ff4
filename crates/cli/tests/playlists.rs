//! Playlists as strict parsers and players see them, for contents in every state.

mod common;

use std::io::Write;
use std::process::ChildStdin;

use common::media::{AAC, H264, PICTURE, TONE, film, mp4, pieces};
use common::playlist::{Playlist, strict};
use common::program::Program;
use common::{Node, payload, text, until};
use rustix::process::Signal;

/// Sends segments of a second each by `POST /ingest`.
#[track_caller]
fn post(node: &Node, more: &str, sequences: impl IntoIterator<Item = usize>) {
    let pieces = pieces(8);
    for sequence in sequences {
        let query = format!("content_id=film&target_duration=1&sequence={sequence}&{more}");
        node.post(&query, &pieces[sequence % pieces.len()]).ok();
    }
}

/// Asserts that every segment that a playlist lists is there, and no gap is.
#[track_caller]
fn assert_served(node: &Node, playlist: &Playlist) {
    for entry in &playlist.entries {
        let path = entry.uri.as_str();
        let ending = path.rsplit('.').next().unwrap();
        assert!(matches!(ending, "ts" | "m4s" | "mp4"), "{path}");
        let wanted = if entry.gap { 404 } else { 200 };
        assert_eq!(node.call("HEAD", path, &[], &[]).status, wanted, "{path}");
        if let Some(map) = &entry.map {
            assert!(map.ends_with(".mp4"), "{map}");
            node.get(map).ok();
        }
    }
}

#[test]
fn films_have_playlists_that_strict_parsers_accept() {
    let node = Node::start(&[]);
    let hevc = "-c:v libx265 -preset ultrafast -x265-params log-level=error:keyint=25";
    let hevc = film(
        "hevc.mkv",
        &format!("{PICTURE} {TONE} -t 3 {hevc} -pix_fmt yuv420p {AAC}"),
    );
    let tone = film("tone.m4a", &format!("{TONE} -t 4 {AAC}"));
    let each = ["--segment-seconds", "1", "--content-id"];
    let ingest = |file: &std::path::Path, id: &str, more: &[&str]| {
        node.ingest(&[&[text(file)][..], &each, &[id], more].concat());
    };
    ingest(&mp4(6), "ts", &[]);
    ingest(&hevc, "cmaf", &[]);
    ingest(&tone, "tone", &[]);
    ingest(&mp4(6), "ladder", &["--ladder", "144p,96p"]);
    let urls = ["ts", "cmaf", "tone", "ladder"].map(|id| node.play_url(id));
    let said = strict(&urls.each_ref().map(String::as_str)).text();
    assert_eq!(said.matches(": ok (media").count(), 5, "{said}");
    assert_eq!(
        said.matches(": ok (master, 2 variants)").count(),
        1,
        "{said}"
    );
    for name in ["ts", "cmaf", "tone", "ladder/144p.m3u8", "ladder/96p.m3u8"] {
        let playlist = node.playlist(name);
        assert!(
            playlist.has_end() && playlist.tag("PLAYLIST-TYPE") == Some("VOD"),
            "{name}"
        );
        assert_served(&node, &playlist);
    }
    let master = node.get("/play/ladder").ok();
    assert_eq!(
        master.header("content-type"),
        "application/vnd.apple.mpegurl"
    );
    assert!(
        master.text().contains("CODECS=\"avc1."),
        "{}",
        master.text()
    );
    assert!(
        master.text().contains("RESOLUTION=256x144"),
        "{}",
        master.text()
    );
}

#[test]
fn a_film_that_comes_by_pieces_ends_when_it_is_finished() {
    let node = Node::start(&[]);
    let mut seen = 0;
    for sequence in 0..5 {
        post(&node, "priority=vod", [sequence]);
        let playlist = node.playlist("film");
        assert!(!playlist.has_end());
        assert!(playlist.entries.len() > seen, "it grows");
        assert_eq!(playlist.number("MEDIA-SEQUENCE"), 0);
        seen = playlist.entries.len();
        strict(&[&node.play_url("film")]);
    }
    let entry = node
        .call("POST", "/ingest/film/finish", &[], &[])
        .ok()
        .json();
    assert_eq!(
        (&entry["state"], &entry["complete"]),
        (&"finished".into(), &true.into())
    );
    let playlist = node.playlist("film");
    assert!(playlist.has_end());
    assert_served(&node, &playlist);
    strict(&[&node.play_url("film")]);
}

#[test]
fn the_last_segment_may_say_that_it_is_the_last() {
    let node = Node::start(&[]);
    post(&node, "priority=vod", 0..2);
    post(&node, "priority=vod&last=true", [2]);
    assert!(node.playlist("film").has_end());
    let refused = node.post("content_id=film&sequence=3&priority=vod", &pieces(8)[3]);
    assert_eq!(refused.status, 409);
    refused.sentence();
}

#[test]
fn a_gap_is_shown_until_it_is_filled() {
    let node = Node::start(&[]);
    post(&node, "priority=vod", [0, 1, 3]);
    let playlist = node.playlist("film");
    assert_eq!(playlist.gaps(), [false, false, true, false]);
    assert!(!playlist.has_end());
    assert_served(&node, &playlist);
    strict(&[&node.play_url("film")]);

    let refused = node.call("POST", "/ingest/film/finish", &[], &[]).is(409);
    assert!(
        refused.sentence().contains("segment 2"),
        "{}",
        refused.text()
    );
    assert!(
        !node.playlist("film").has_end(),
        "a player would stop at the gap"
    );
    assert_eq!(node.json("/content/film")["complete"], false);
    let got = node.lavant(&["get", "film", "-o", "-"]).exits(1);
    assert!(got.reason().contains("--gaps"), "{}", got.reason());
    let got = node.lavant(&["get", "film", "-o", "-", "--gaps"]).ok();
    assert_eq!(
        got.out,
        [0, 1, 3].map(|at: usize| pieces(8)[at].clone()).concat()
    );

    post(&node, "priority=vod", [2]);
    assert!(node.playlist("film").gaps().iter().all(|gap| !gap));
    node.call("POST", "/ingest/film/finish", &[], &[]).ok();
    let playlist = node.playlist("film");
    assert!(playlist.has_end());
    assert_served(&node, &playlist);
    strict(&[&node.play_url("film")]);
}

#[test]
fn segments_may_come_in_any_order() {
    let node = Node::start(&[]);
    post(&node, "priority=vod", [2, 0, 1, 4, 3]);
    let playlist = node.playlist("film");
    assert_eq!(playlist.sequences(), [0, 1, 2, 3, 4]);
    assert!(playlist.gaps().iter().all(|gap| !gap));
    strict(&[&node.play_url("film")]);
}

#[test]
fn discontinuities_are_told() {
    let node = Node::start(&[]);
    post(&node, "priority=vod", 0..2);
    post(&node, "priority=vod&discontinuity=true", [2]);
    post(&node, "priority=vod", [3]);
    let playlist = node.playlist("film");
    let breaks: Vec<bool> = playlist.entries.iter().map(|e| e.discontinuity).collect();
    assert_eq!(breaks, [false, false, true, false]);
    strict(&[&node.play_url("film")]);
}

#[test]
fn a_partly_evicted_film_shows_gaps_and_no_end() {
    // Room for about twelve segments of 100,000 bytes.
    let node = Node::start(&["--store-limit", "1300k"]);
    let send = |id: &str, priority: &str, sequence: u64| {
        let query = format!("content_id={id}&priority={priority}&sequence={sequence}&duration=1");
        let seed = sequence + 1000 * u64::from(id.as_bytes()[0]);
        node.post(&query, &payload(seed, 100_000)).ok();
    };
    for sequence in 0..8 {
        send("old", "vod", sequence);
    }
    node.call("POST", "/ingest/old/finish", &[], &[]).ok();
    assert!(node.playlist("old").has_end());
    for sequence in 0..8 {
        send("new", "vod", sequence);
    }
    let old = node.playlist("old");
    assert!(!old.has_end(), "{}", old.text);
    assert_eq!(node.json("/content/old")["complete"], false);
    assert_eq!(node.playlist("new").sequences(), (0..8).collect::<Vec<_>>());
    for playlist in [&old, &node.playlist("new")] {
        assert_served(&node, playlist);
    }
    let kept = old.sequences();
    assert!(
        !kept.is_empty() && kept.len() < 8 && kept.contains(&7),
        "{kept:?}"
    );
    strict(&[&node.play_url("old"), &node.play_url("new")]);
    let status = node.json("/status");
    assert!(
        status["store"]["bytes"].as_u64().unwrap() <= 1_300_000,
        "{status}"
    );
}

#[test]
fn a_live_window_slides_and_never_goes_back() {
    let node = Node::start(&["--ttl-live", "4s"]);
    let mut sent = 0;
    let (mut first, mut last) = (0, 0);
    // Until the first segment has left the window, and then until the window has moved on a while.
    until("the window to slide", || {
        post(&node, "priority=live", [sent]);
        sent += 1;
        let playlist = node.playlist("film");
        assert!(!playlist.has_end());
        assert_eq!(playlist.tag("PLAYLIST-TYPE"), None);
        assert_eq!(playlist.number("TARGETDURATION"), 1);
        let begins = playlist.number("MEDIA-SEQUENCE");
        let ends = begins + playlist.entries.len() as u64;
        assert!(
            begins >= first && ends > last,
            "{first}..{last} became {begins}..{ends}"
        );
        assert_eq!(ends, sent as u64);
        (first, last) = (begins, ends);
        (begins > 30).then_some(())
    });
    strict(&[&node.play_url("film")]);
}

#[test]
fn a_live_window_survives_a_restart() {
    let mut node = Node::start(&["--ttl-live", "5s"]);
    post(&node, "priority=live", 0..20);
    let slid = |node: &Node| {
        let reply = node.get("/play/film");
        (reply.status == 200).then(|| Playlist::parse(&reply.text()))
    };
    let before = slid(&node).unwrap();
    node.stop();
    node.start_again();
    post(&node, "priority=live", [20]);
    let after = until("a playlist", || slid(&node));
    assert!(after.number("MEDIA-SEQUENCE") >= before.number("MEDIA-SEQUENCE"));
    assert!(after.sequences().contains(&20), "{}", after.text);
    assert_eq!(
        after.number("TARGETDURATION"),
        before.number("TARGETDURATION")
    );
    strict(&[&node.play_url("film")]);
}

#[test]
fn a_discontinuity_that_leaves_the_window_is_counted() {
    let node = Node::start(&["--ttl-live", "3s"]);
    post(&node, "priority=live&discontinuity=true", [0, 1]);
    let mut sent = 2;
    let playlist = until("the discontinuities to leave", || {
        post(&node, "priority=live", [sent]);
        sent += 1;
        let playlist = node.playlist("film");
        (playlist.number("MEDIA-SEQUENCE") > 1).then_some(playlist)
    });
    let gone = playlist.number("DISCONTINUITY-SEQUENCE");
    assert!((1..=2).contains(&gone), "{}", playlist.text);
    strict(&[&node.play_url("film")]);
}

#[test]
fn a_piece_without_a_length_is_measured() {
    let node = Node::start(&[]);
    post(&node, "priority=vod", 0..3);
    for entry in &node.playlist("film").entries {
        assert!((entry.seconds - 1.0).abs() < 0.05, "{entry:?}");
    }
    let silent = film("silent.mp4", &format!("{PICTURE} -t 3 {H264}"));
    node.ingest(&[
        text(&silent),
        "--content-id",
        "whole",
        "--segment-seconds",
        "1",
    ]);
    assert!((node.playlist("whole").seconds() - 3.0).abs() < 0.01);
}

const STREAM: [&str; 8] = [
    "ingest",
    "-",
    "--title",
    "cam",
    "--priority",
    "live",
    "--segment-seconds",
    "1",
];

/// Starts a stream of eight seconds whose source stays open, and waits until it is seen.
fn stream(node: &Node) -> (Program, ChildStdin) {
    let mut ingest = node.command_on(&STREAM).spawn();
    let mut pipe = ingest.stdin.take().unwrap();
    let before = node.json("/catalog")[0]["segment_count"].as_u64();
    pipe.write_all(&pieces(8).concat()).unwrap();
    until("segments of a running stream", || {
        let count = node.json("/catalog")[0]["segment_count"].as_u64()?;
        (count >= before.unwrap_or(0) + 3).then_some(())
    });
    (ingest, pipe)
}

#[test]
fn a_stream_is_watched_while_it_comes_and_ends_with_its_source() {
    let node = Node::start(&[]);
    let (ingest, pipe) = stream(&node);
    let running = node.playlist("cam");
    assert!(!running.has_end());
    assert!(node.uploads().is_empty());
    assert_served(&node, &running);
    drop(pipe);
    ingest.wait().ok();
    let ended = node.playlist("cam");
    assert!(ended.has_end());
    assert_eq!(ended.sequences(), (0..8).collect::<Vec<_>>());
    assert_served(&node, &ended);
    strict(&[&node.play_url("cam")]).ok();
    let again = node.command_on(&STREAM).input(pieces(8).concat()).run();
    let reason = again.exits(2).reason();
    assert!(reason.contains("\"cam\" is finished"), "{reason}");
}

#[test]
fn a_stream_that_comes_again_goes_on_after_a_discontinuity() {
    let node = Node::start(&[]);
    let (mut first, _pipe) = stream(&node);
    first.kill9();
    let (second, _pipe) = stream(&node);
    second.signal(Signal::INT);
    second.wait().ok();
    let playlist = node.playlist("cam");
    assert!(playlist.has_end());
    let after = u64::try_from(playlist.entries.len()).unwrap();
    assert_eq!(playlist.sequences(), (0..after).collect::<Vec<_>>());
    let joins = playlist.entries.iter().map(|entry| entry.discontinuity);
    let joins: Vec<usize> = joins
        .enumerate()
        .filter(|(_, is)| *is)
        .map(|(n, _)| n)
        .collect();
    assert!(joins.len() == 1 && joins[0] >= 3, "{joins:?}");
    strict(&[&node.play_url("cam")]).ok();
}
