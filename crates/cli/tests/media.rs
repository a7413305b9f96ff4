//! What goes in comes out: films of many kinds through a node, as ffmpeg, mpv and the shell see it.

mod common;

use std::io::Write;
use std::path::Path;

use common::media::{AAC, H264, PICTURE, TONE, contains_run, count, film, film_of, frames, mp4};
use common::media::{pieces, times, transport};
use common::playlist::strict;
use common::program::run;
use common::{Lavant, Node, assert_sentence, text, until};
use rustix::process::Signal;
use serde_json::Value;

/// Ingests a film as `film` and gives the result, after strict parsers accepted its playlists.
#[track_caller]
fn bring(node: &Node, file: &Path, flags: &[&str]) -> Value {
    let args = [&[text(file), "--content-id", "film"], flags].concat();
    let result = node.ingest(&args);
    strict(&[&node.play_url("film")]);
    result
}

#[track_caller]
fn assert_same_frames(node: &Node, file: &Path, stream: &str) {
    let (source, served) = (
        frames(text(file), stream),
        frames(&node.play_url("film"), stream),
    );
    assert_eq!(source.len(), served.len(), "frames of {}", file.display());
    assert!(source == served, "other frames in {}", file.display());
}

/// Asserts that the times of the pictures are those of the file, to a tick of the coarsest clock.
#[track_caller]
fn assert_same_times(node: &Node, file: &Path) {
    let (source, served) = (
        times(text(file), "v:0"),
        times(&node.play_url("film"), "v:0"),
    );
    assert_eq!(source.len(), served.len(), "pictures of {}", file.display());
    for (wanted, found) in source.iter().zip(&served) {
        assert!((wanted - found).abs() < 0.0021, "{wanted} became {found}");
    }
}

#[track_caller]
fn assert_lasts(node: &Node, seconds: f64, tolerance: f64) {
    let entry = node.json("/content/film");
    let said = entry["duration_seconds"].as_f64().unwrap();
    let listed = node.playlist("film").seconds();
    assert!((said - seconds).abs() <= tolerance, "{said} s");
    assert!((listed - said).abs() < 0.01, "{listed} s in the playlist");
}

#[track_caller]
fn mode(result: &Value) -> &str {
    result["mode"].as_str().unwrap()
}

#[test]
fn h264_and_aac_are_copied_frame_for_frame() {
    let (node, file) = (Node::start(&[]), mp4(6));
    let result = bring(&node, &file, &["--segment-seconds", "2"]);
    assert_eq!(mode(&result), "copied video h264, copied audio aac");
    assert_same_frames(&node, &file, "v");
    assert_same_times(&node, &file);
    // The edit list of the file cuts the silence that AAC begins with; a transport stream keeps it.
    let (source, served) = (
        frames(text(&file), "a"),
        frames(&node.play_url("film"), "a"),
    );
    assert!(contains_run(&served, &source[..source.len() - 1]));
    assert!(served.len() <= source.len() + 2);
    assert_lasts(&node, 6.0, 0.1);
    let playlist = node.playlist("film");
    assert_eq!(playlist.entries.len(), 3);
    assert!(
        playlist
            .entries
            .iter()
            .all(|entry| entry.uri.ends_with(".ts"))
    );
    assert!(playlist.has_end());
    let rendition = &node.json("/content/film")["renditions"][0];
    assert_eq!(
        (rendition["width"].as_u64(), rendition["height"].as_u64()),
        (Some(320), Some(180))
    );
    assert_eq!(rendition["frame_rate"].as_f64(), Some(25.0));
}

#[test]
fn hevc_is_copied_frame_for_frame() {
    let x265 = "-c:v libx265 -preset ultrafast -x265-params log-level=error:keyint=25";
    let args = format!("{PICTURE} {TONE} -t 3 {x265} -pix_fmt yuv420p {AAC}");
    let (node, file) = (Node::start(&[]), film("hevc.mkv", &args));
    let result = bring(&node, &file, &["--segment-seconds", "1"]);
    assert_eq!(mode(&result), "copied video hevc, copied audio aac");
    assert_same_frames(&node, &file, "v");
    assert_same_times(&node, &file);
    let playlist = node.playlist("film");
    assert_eq!(playlist.entries.len(), 3);
    assert!(
        playlist
            .entries
            .iter()
            .all(|entry| entry.uri.ends_with(".m4s"))
    );
    assert!(
        playlist.entries[0]
            .map
            .as_ref()
            .unwrap()
            .ends_with("/init-0.mp4")
    );
}

#[test]
fn what_browsers_cannot_play_is_transcoded_picture_for_picture() {
    let webm = format!(
        "{PICTURE} {TONE} -t 2 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -c:a libopus"
    );
    let avi = format!("{PICTURE} {TONE} -t 2 -c:v mpeg4 -c:a libmp3lame");
    for (file, audio) in [
        (film("vp9.webm", &webm), "transcoded audio opus to aac"),
        (film("mpeg4.avi", &avi), "copied audio mp3"),
    ] {
        let node = Node::start(&[]);
        let result = bring(&node, &file, &["--segment-seconds", "1"]);
        let words = mode(&result);
        assert!(
            words.starts_with("transcoded video ") && words.ends_with(audio),
            "{words}"
        );
        assert_same_times(&node, &file);
        assert_lasts(&node, 2.0, 0.1);
    }
}

#[test]
fn odd_sizes_and_uneven_times_keep_every_picture() {
    let odd = "-f lavfi -i testsrc=size=321x241:rate=25 -t 2 -c:v mpeg4";
    // Every picture that is divisible by 3 or 7 is left out.
    let select = "select='mod(n,3)*mod(n,7)'";
    let uneven = format!("{PICTURE} -t 3 -vf {select} -fps_mode vfr");
    let node = Node::start(&[]);
    let file = film("odd.mkv", odd);
    bring(&node, &file, &[]);
    assert_same_times(&node, &file);
    let rendition = &node.json("/content/film")["renditions"][0];
    assert_eq!(
        (rendition["width"].as_u64(), rendition["height"].as_u64()),
        (Some(322), Some(242))
    );

    let file = film("uneven-h264.mkv", &format!("{uneven} {H264}"));
    let node = Node::start(&[]);
    bring(&node, &file, &["--segment-seconds", "1"]);
    assert_same_frames(&node, &file, "v");
    assert_same_times(&node, &file);

    let file = film("uneven-mpeg4.mkv", &format!("{uneven} -c:v mpeg4"));
    let node = Node::start(&[]);
    bring(&node, &file, &["--segment-seconds", "1"]);
    assert_same_times(&node, &file);
}

#[test]
fn audio_alone_and_pictures_alone_are_contents_too() {
    let node = Node::start(&[]);
    let file = film("tone.m4a", &format!("{TONE} -t 4 {AAC}"));
    bring(&node, &file, &["--segment-seconds", "2"]);
    let (source, served) = (
        frames(text(&file), "a"),
        frames(&node.play_url("film"), "a"),
    );
    assert!(contains_run(&served, &source[..source.len() - 1]));
    assert_lasts(&node, 4.0, 0.1);

    let cover = film("cover.jpg", &format!("{PICTURE} -frames:v 1"));
    let args = format!("{TONE} -i {{}} -map 0 -map 1 -t 3 -c:a libmp3lame -c:v copy");
    let file = film_of(
        "cover.mp3",
        &cover,
        &format!("{args} -disposition:v attached_pic"),
    );
    let node = Node::start(&[]);
    bring(&node, &file, &["--segment-seconds", "1"]);
    let (source, served) = (
        frames(text(&file), "a"),
        frames(&node.play_url("film"), "a"),
    );
    assert!(
        contains_run(&served, &source[2..source.len() - 2]),
        "other frames of mp3"
    );
    assert_eq!(
        node.json("/content/film")["renditions"][0]["width"],
        Value::Null
    );

    let file = film("silent.mp4", &format!("{PICTURE} -t 3 {H264}"));
    let node = Node::start(&[]);
    bring(&node, &file, &["--segment-seconds", "1"]);
    assert_same_frames(&node, &file, "v");
    assert_same_times(&node, &file);
}

#[test]
fn a_second_and_three_hours_are_both_films() {
    let node = Node::start(&[]);
    let file = mp4(1);
    bring(&node, &file, &[]);
    assert_same_frames(&node, &file, "v");
    assert_eq!(node.playlist("film").entries.len(), 1);

    let picture = "-f lavfi -i testsrc2=size=64x64:rate=2 -t 60";
    let minute = film("minute.mp4", &format!("{picture} {H264} -g 12 -crf 45"));
    let long = "-stream_loop 179 -i {} -c copy";
    let file = film_of("hours.mp4", &minute, long);
    let node = Node::start(&[]);
    let result = bring(&node, &file, &[]);
    assert_eq!(result["segments"], 1800);
    assert_eq!(node.playlist("film").entries.len(), 1800);
    assert_lasts(&node, 10_800.0, 1.0);
    assert_eq!(count(&node.play_url("film"), "v"), count(text(&file), "v"));
}

#[test]
fn a_transport_stream_on_standard_input_needs_no_ffmpeg() {
    let (node, file) = (Node::start(&[]), transport(6));
    let nothing = tempfile::tempdir().unwrap();
    let args = [
        "ingest",
        "-",
        "--json",
        "--title",
        "From a pipe",
        "--segment-seconds",
        "2",
    ];
    let piped = node.command_on(&args).env("PATH", nothing.path());
    let result = piped.input(std::fs::read(&file).unwrap()).run().ok().json();
    assert_eq!(result["content_id"], "from_a_pipe");
    let url = node.play_url("from_a_pipe");
    assert!(frames(text(&file), "v") == frames(&url, "v"));
    assert!(frames(text(&file), "a") == frames(&url, "a"));
    strict(&[&url]);
}

#[test]
fn a_ladder_gives_renditions_that_are_cut_at_the_same_places() {
    let (node, file) = (Node::start(&[]), mp4(6));
    let sized = film_of(
        "larger.mp4",
        &file,
        &format!("-i {{}} -vf scale=480:270 {H264}"),
    );
    let result = bring(
        &node,
        &sized,
        &["--ladder", "240p,144p", "--segment-seconds", "2"],
    );
    assert!(mode(&result).contains("240p+144p"), "{}", mode(&result));
    let master = node.playlist("film");
    assert_eq!(
        master.variants,
        ["/play/film/240p.m3u8", "/play/film/144p.m3u8"]
    );
    let [high, low] = ["240p", "144p"].map(|name| node.playlist(&format!("film/{name}.m3u8")));
    let lengths = |of: &common::playlist::Playlist| -> Vec<f64> {
        of.entries.iter().map(|entry| entry.seconds).collect()
    };
    assert_eq!(lengths(&high), lengths(&low));
    assert_eq!(high.entries.len(), 3);
    let url = |name: &str| format!("{}/play/film/{name}.m3u8", node.url);
    let times = [url("240p"), url("144p")].map(|url| times(&url, "v"));
    assert_eq!(times[0], times[1]);
    assert_eq!(times[0].len(), 150);
    let entry = node.json("/content/film");
    let heights = entry["renditions"].as_array().unwrap().iter();
    assert_eq!(
        heights
            .map(|r| r["height"].as_u64().unwrap())
            .collect::<Vec<_>>(),
        [240, 144]
    );
}

#[test]
fn few_key_frames_are_transcoded_unless_copying_is_asked_for() {
    let picture = "-f lavfi -i testsrc2=size=64x64:rate=5 -t 40";
    let args = format!("{picture} -c:v libx264 -preset ultrafast -g 9999 -pix_fmt yuv420p");
    let file = film("one-key-frame.mp4", &args);
    let node = Node::start(&[]);
    let result = bring(&node, &file, &[]);
    assert!(mode(&result).contains("key frames"), "{}", mode(&result));
    assert_same_times(&node, &file);
    assert_eq!(node.playlist("film").entries.len(), 7);

    let node = Node::start(&[]);
    bring(&node, &file, &["--copy"]);
    assert_same_frames(&node, &file, "v");
    assert_eq!(node.playlist("film").entries.len(), 1);
}

#[test]
fn mpv_plays_what_was_ingested() {
    let (node, file) = (Node::start(&[]), mp4(6));
    bring(&node, &file, &["--segment-seconds", "2"]);
    let status = "--term-status-msg=frame ${=estimated-frame-number}";
    let quiet = ["--no-config", "--vo=null", "--ao=null", "--end=3", status];
    let done = run("mpv", &[&quiet[..], &[&node.play_url("film")]].concat());
    let said = format!("{}{}", done.text(), done.err);
    let frames = said.rsplit("frame ").find_map(|rest| {
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        number.parse::<u32>().ok()
    });
    assert!(frames.is_some_and(|frames| frames > 50), "{said}");
}

#[test]
fn get_gives_a_file_with_the_same_frames() {
    let (node, file) = (Node::start(&[]), mp4(6));
    bring(&node, &file, &["--segment-seconds", "2"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("back.ts");
    node.lavant(&["get", "film", "-o", text(&path)]).ok();
    assert!(frames(text(&file), "v") == frames(text(&path), "v"));
    let piped = node.lavant(&["get", "film", "-o", "-"]).ok();
    assert_eq!(piped.out, std::fs::read(&path).unwrap());
    let again = node.lavant(&["get", "film", "-o", text(&path)]).exits(1);
    assert!(again.reason().contains("exists"), "{}", again.reason());
    assert_sentence(&again.err);
}

/// Asserts that an ingest failed, said why in a sentence, and left nothing.
#[track_caller]
fn assert_refused(node: &Node, done: common::Done, code: i32) -> String {
    let done = done.exits(code);
    assert_sentence(&done.err);
    assert!(done.out.is_empty(), "{}", done.text());
    assert!(node.contents().is_empty());
    assert!(node.uploads().is_empty());
    assert!(node.incoming().is_empty());
    done.reason()
}

#[test]
fn without_ffmpeg_the_user_is_told_how_to_get_it() {
    let (node, file) = (Node::start(&[]), mp4(1));
    let nothing = tempfile::tempdir().unwrap();
    let command = node
        .command_on(&["ingest", text(&file)])
        .env("PATH", nothing.path());
    let reason = assert_refused(&node, command.run(), 4);
    assert_eq!(
        reason,
        "ffmpeg is not installed; install it with: apt-get install ffmpeg"
    );
}

#[test]
fn inputs_that_are_no_media_are_refused_in_a_sentence() {
    let node = Node::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("garbage.mp4"), common::payload(1, 100_000)).unwrap();
    std::fs::write(path("empty.mp4"), b"").unwrap();
    std::fs::write(path("page.html"), b"<html>not a film</html>").unwrap();
    for name in ["garbage.mp4", "empty.mp4", "page.html", "missing.mp4", "."] {
        let file = path(name);
        let reason = assert_refused(&node, node.lavant(&["ingest", text(&file)]), 2);
        assert!(reason.contains(text(&file)), "{reason}");
    }
    let empty = node.command_on(&["ingest", "-"]).input(Vec::new()).run();
    let reason = assert_refused(&node, empty, 2);
    assert!(reason.contains("standard input"), "{reason}");
    let json = node
        .lavant(&["ingest", "--json", text(&path("missing.mp4"))])
        .exits(2)
        .json();
    assert_eq!(json["exit_code"], 2);
    assert!(json["error"].as_str().unwrap().contains("missing.mp4"));
}

/// Waits until an upload holds segments.
fn wait_for_upload(node: &Node, segments: u64) {
    until("segments in an upload", || {
        let uploads = node.uploads();
        let held = uploads.first()?["segments"].as_u64()?;
        (held >= segments).then_some(())
    });
}

#[test]
fn ctrl_c_rolls_an_ingest_back() {
    let node = Node::start(&[]);
    node.ingest(&[text(&mp4(1)), "--content-id", "other"]);
    let before = node.json("/catalog");
    let args = ["ingest", "-", "--title", "slow", "--segment-seconds", "1"];
    let mut ingest = node.command_on(&args).spawn();
    // The pipe stays open: more could come.
    let mut pipe = ingest.stdin.take().unwrap();
    pipe.write_all(&pieces(8).concat()).unwrap();
    wait_for_upload(&node, 2);
    assert_eq!(node.json("/catalog"), before);
    ingest.signal(Signal::INT);
    let done = ingest
        .wait_within(std::time::Duration::from_secs(5))
        .exits(130);
    assert!(done.reason().contains("rolled back"), "{}", done.err);
    assert!(node.uploads().is_empty());
    assert_eq!(node.json("/catalog"), before);
    until("an empty incoming/", || {
        node.incoming().is_empty().then_some(())
    });
    drop(pipe);
}

#[test]
fn a_killed_ingest_is_resumed_by_the_next() {
    let (node, file) = (Node::start(&[]), mp4(6));
    let long = film_of("ten-times.mp4", &file, "-stream_loop 29 -i {} -c copy");
    let args = [
        "ingest",
        text(&long),
        "--content-id",
        "film",
        "--segment-seconds",
        "1",
    ];
    let mut ingest = node.command_on(&args).spawn();
    wait_for_upload(&node, 3);
    ingest.kill9();
    assert!(node.contents().is_empty());
    assert_eq!(node.uploads().len(), 1);
    let done = node.lavant(&args).ok();
    assert!(
        done.err.contains("resuming: the node holds "),
        "{}",
        done.err
    );
    assert!(done.text().contains("resumed: "), "{}", done.text());
    assert!(node.uploads().is_empty());
    strict(&[&node.play_url("film")]);
    assert_same_frames(&node, &long, "v");
}

#[test]
fn the_same_file_is_known_again() {
    let (node, file) = (Node::start(&[]), mp4(1));
    let args = ["ingest", text(&file), "--content-id", "film"];
    node.lavant(&args).ok();
    let again = node.lavant(&args).ok();
    let said = again.text();
    assert!(said.contains("already here; nothing to do"), "{said}");
    assert_eq!(node.ingest(&args[1..])["already_here"], true);
    assert_eq!(node.json("/content/film")["version"], 1);
}

#[test]
fn a_changed_file_is_a_new_version_and_the_old_one_still_plays() {
    let node = Node::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("film.mp4");
    std::fs::copy(mp4(6), &path).unwrap();
    let args = [
        "ingest",
        text(&path),
        "--content-id",
        "film",
        "--segment-seconds",
        "2",
    ];
    node.lavant(&args).ok();
    let first = node.playlist("film");
    let bytes: Vec<_> = first
        .entries
        .iter()
        .map(|entry| node.bytes(&entry.uri))
        .collect();
    std::fs::copy(film("silent.mp4", &format!("{PICTURE} -t 3 {H264}")), &path).unwrap();
    node.lavant(&args).ok();
    let entry = node.json("/content/film");
    assert_eq!(
        (&entry["version"], &entry["segment_count"]),
        (&2.into(), &2.into())
    );
    assert_eq!(node.contents(), ["film"]);
    strict(&[&node.play_url("film")]);
    assert_same_frames(&node, &path, "v");
    for (entry, bytes) in first.entries.iter().zip(&bytes) {
        assert!(&node.bytes(&entry.uri) == bytes, "{}", entry.uri);
    }
}

#[test]
fn a_film_can_be_published_with_a_key_of_its_own() {
    let (node, file) = (Node::start(&[]), mp4(1));
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("publisher.key");
    let made = Lavant::new(&["key", "new", text(&key), "--json"])
        .run()
        .ok()
        .json();
    let publisher = made["publisher"].as_str().unwrap();
    let result = bring(&node, &file, &["--publish-as", text(&key), "--pin"]);
    assert_eq!(result["content"]["publisher"], publisher);
    assert_eq!(result["content"]["pinned"], true);
    let url = format!("{}/play/{publisher}/film/index.m3u8", node.url);
    assert!(frames(text(&file), "v") == frames(&url, "v"));
}
