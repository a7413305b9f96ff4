//! Streams that the node fetches itself: playlists from a web server, RTMP and SRT through ffmpeg.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::media::{contains_run, count, frames, mp4, transport};
use common::program::{Program, run};
use common::{Node, assert_sentence, text, until};
use serde_json::Value;
use tempfile::TempDir;

/// A web server for the files of a folder, with ranges.
struct Web {
    folder: TempDir,
    url: String,
}

impl Web {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder can be made");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let path = folder.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let path = path.clone();
                std::thread::spawn(move || serve(&stream, &path));
            }
        });
        let url = format!("http://{address}");
        Self { folder, url }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        // As a whole: whoever asks meanwhile gets the old one.
        let new = self.path("new");
        fs::write(&new, bytes).expect("it can be written");
        fs::rename(new, self.path(name)).expect("it can be moved");
    }

    /// Writes a playlist of the film, with segments of two seconds; `more` is for ffmpeg.
    fn hls(&self, name: &str, film: &Path, more: &str) -> String {
        let list = self.path(name);
        let mut args = vec!["-v", "error", "-nostdin", "-i", text(film), "-c", "copy"];
        args.extend("-hls_time 2 -hls_list_size 0 -f hls".split_whitespace());
        args.extend(more.split_whitespace());
        args.push(text(&list));
        run("ffmpeg", &args);
        fs::read_to_string(&list).expect("ffmpeg wrote it")
    }
}

fn serve(stream: &TcpStream, folder: &Path) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let mut range = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        let line = line.to_ascii_lowercase();
        if let Some((from, to)) = line
            .strip_prefix("range: bytes=")
            .and_then(|it| it.split_once('-'))
        {
            range = from.parse::<usize>().ok().zip(to.parse::<usize>().ok());
        }
    }
    let path = first
        .split(' ')
        .nth(1)
        .unwrap_or("/")
        .trim_start_matches('/')
        .split('?')
        .next()
        .unwrap_or_default();
    let (status, body) = match (fs::read(folder.join(path)), range) {
        (Err(_), _) => ("404 Not Found", Vec::new()),
        (Ok(body), None) => ("200 OK", body),
        (Ok(body), Some((from, to))) => ("206 Partial Content", body[from..=to].to_vec()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = (&mut &*stream).write_all(head.as_bytes());
    let _ = (&mut &*stream).write_all(&body);
}

/// `lavant live NAME URL`.
fn pull(node: &Node, name: &str, url: &str) -> common::program::Done {
    node.lavant(&["live", name, url, "--allow-private"])
}

/// What the node says of a stream that is still there.
fn live(node: &Node, name: &str) -> Option<Value> {
    let all = node.json("/api/v1/live");
    let all = all.as_array().expect("a list");
    all.iter().find(|entry| entry["name"] == name).cloned()
}

/// Waits until a stream is over and can be watched again as a whole; gives its address.
fn over(node: &Node, name: &str) -> String {
    until("the stream is over", || {
        let entry = live(node, name);
        let is_over = entry.is_none_or(|entry| entry["state"] == "ended");
        is_over.then_some(())
    });
    format!("{}/play/{name}/index.m3u8", node.url)
}

#[test]
fn a_playlist_comes_with_its_gaps_and_discontinuities() {
    let (node, web) = (Node::start(&[]), Web::new());
    let film = mp4(10);
    let list = web.hls("index.m3u8", &film, "");
    let list = list.replacen(
        "#EXTINF:2.000000,\nindex1.ts",
        "#EXT-X-GAP\n#EXTINF:2.000000,\nindex1.ts",
        1,
    );
    let list = list.replacen(
        "#EXTINF:2.000000,\nindex3.ts",
        "#EXT-X-DISCONTINUITY\n#EXTINF:2.000000,\nindex3.ts",
        1,
    );
    web.write("index.m3u8", &list);
    let master = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\nlow.m3u8\n\
        #EXT-X-STREAM-INF:BANDWIDTH=2000\nindex.m3u8\n";
    web.write("master.m3u8", master);
    let done = pull(
        &node,
        "tv",
        &format!("{}/master.m3u8?token=secret", web.url),
    )
    .ok();
    assert!(done.text().contains("lavant live stop tv"), "{done:?}");
    let entry = live(&node, "tv").unwrap();
    let source = entry["source"].as_str().unwrap();
    assert!(source.ends_with("/master.m3u8"), "{source}");

    let url = over(&node, "tv");
    let playlist = node.get("/play/tv/main.m3u8").ok().text();
    assert_eq!(
        playlist.matches("#EXT-X-DISCONTINUITY\n").count(),
        2,
        "{playlist}"
    );
    assert!(playlist.contains("#EXT-X-ENDLIST"), "{playlist}");
    // Every picture of what was there, and none of the gap's.
    let all = frames(text(&film), "v");
    let of = |from: usize, to: usize| &all[from * 25..to * 25];
    let wanted = [of(0, 2), of(4, 10)].concat();
    assert_eq!(frames(&url, "v"), wanted);
}

#[test]
fn a_playlist_of_fragmented_mp4_in_ranges_of_one_file_is_the_film_again() {
    let (node, web) = (Node::start(&[]), Web::new());
    let film = mp4(10);
    let list = web.hls(
        "one.m3u8",
        &film,
        "-hls_segment_type fmp4 -hls_flags single_file",
    );
    assert!(list.contains("#EXT-X-BYTERANGE"), "{list}");
    pull(&node, "one", &format!("{}/one.m3u8", web.url)).ok();
    let url = over(&node, "one");
    assert_eq!(frames(&url, "v"), frames(text(&film), "v"));
    assert_eq!(count(&url, "a"), count(text(&film), "a"));
}

#[test]
fn a_growing_playlist_is_followed_from_its_end_to_its_end() {
    let (node, web) = (Node::start(&[]), Web::new());
    let film = mp4(20);
    let whole = web.hls("index.m3u8", &film, "");
    // What a live playlist shows when `end` segments have come: the last four.
    let window = |end: usize, is_over: bool| {
        let first = end.saturating_sub(4);
        let mut list = format!(
            "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n\
            #EXT-X-MEDIA-SEQUENCE:{first}\n"
        );
        for number in first..end {
            list += &format!("#EXTINF:2.000000,\nindex{number}.ts\n");
        }
        if is_over {
            list += "#EXT-X-ENDLIST\n";
        }
        list
    };
    assert_eq!(whole.matches("#EXTINF").count(), 10);
    web.write("live.m3u8", window(5, false));
    pull(&node, "tv", &format!("{}/live.m3u8", web.url)).ok();
    let stored = |least: u64| {
        until("segments come", || {
            let entry = live(&node, "tv")?;
            (entry["seconds"].as_f64()? >= least as f64).then_some(())
        });
    };
    stored(5);
    for end in [7, 9] {
        web.write("live.m3u8", window(end, false));
        stored(2 * (end as u64 - 2) - 1);
    }
    web.write("live.m3u8", window(10, true));
    let url = over(&node, "tv");
    // The third from the end was the first that was fetched.
    assert_eq!(frames(&url, "v"), frames(text(&film), "v")[2 * 50..]);
}

#[test]
fn what_cannot_be_fetched_is_said_and_takes_no_name() {
    let (node, web) = (Node::start(&[]), Web::new());
    let film = mp4(10);
    let list = web.hls("index.m3u8", &film, "");
    web.write(
        "locked.m3u8",
        list.replacen("#EXTINF", "#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n#EXTINF", 1),
    );
    web.write(
        "apart.m3u8",
        "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",NAME=\"a\",URI=\"a.m3u8\"\n\
        #EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO=\"a\"\nindex.m3u8\n",
    );
    web.write("torn.m3u8", b"#EXTM3U\n#EXTINF:2,\n\xff\xfe.ts\n");
    web.write("page.html", "<html>".repeat(200));
    let at = |name: &str| format!("{}/{name}", web.url);
    let closed = free();
    for (url, word) in [
        (at("nothing.m3u8"), "404"),
        (at("locked.m3u8"), "encrypted"),
        (at("apart.m3u8"), "ffmpeg -i URL"),
        (at("torn.m3u8"), "damaged"),
        (at("page.html"), "ffmpeg says"),
        (format!("http://127.0.0.1:{closed}/x"), "refused"),
        (
            format!("rtmp://joe:secret@127.0.0.1:{closed}/live/x"),
            "refused",
        ),
        ("gopher://127.0.0.1/x".to_owned(), "rtsp"),
        ("http://".to_owned(), "URL"),
    ] {
        let done = pull(&node, "x", &url);
        assert_ne!(done.code, Some(0), "{url}");
        assert_sentence(&done.reason());
        assert!(done.reason().contains(word), "{url}: {}", done.reason());
        assert!(!done.reason().contains("secret"), "{}", done.reason());
        assert!(live(&node, "x").is_none(), "{url}");
    }
    // Nobody lets this node ask machines that only it reaches, by whatever name.
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "2130706433",
    ] {
        for scheme in ["http", "rtsp"] {
            let url = format!("{scheme}://{host}:{closed}/x");
            let done = node.lavant(&["live", "x", &url]);
            assert_ne!(done.code, Some(0), "{url}");
            assert!(
                done.reason().contains("allow-private"),
                "{url}: {}",
                done.reason()
            );
        }
    }
}

#[test]
fn what_ffmpeg_opens_is_pulled_until_it_is_stopped() {
    let (node, web) = (Node::start(&[]), Web::new());
    let film = mp4(20);
    let file = web.path("film.mkv");
    let copied = ["-v", "error", "-nostdin", "-i", text(&film), "-c", "copy"];
    run("ffmpeg", &[&copied[..], &[text(&file)]].concat());
    let url = format!("{}/film.mkv", web.url);
    pull(&node, "cam", &url).ok();
    until("segments come", || {
        live(&node, "cam").filter(|it| it["stored"].as_u64() >= Some(2))
    });
    let taken = pull(&node, "cam", &url);
    let reason = taken.reason();
    assert!(reason.contains("lavant live stop cam"), "{reason}");
    node.lavant(&["live", "stop", "cam"]).ok();
    let pictures = frames(&over(&node, "cam"), "v");
    assert!(pictures.len() >= 50, "{}", pictures.len());
    assert!(contains_run(&frames(text(&film), "v"), &pictures));
}

#[test]
fn a_source_that_breaks_off_is_asked_again() {
    let node = Node::start(&[]);
    let number = free();
    let url = format!("rtmp://127.0.0.1:{number}/live/cam");
    // It serves whoever comes first, as a camera does, and ends with them.
    let camera = || {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-re", "-i", text(&mp4(20))]);
        command.args(["-c", "copy", "-f", "flv", "-listen", "1", &url]);
        command.stdin(Stdio::null());
        Program::spawn(command)
    };
    let mut running = camera();
    until("the camera answers", || {
        if !running.is_running() {
            running = camera();
        }
        pull(&node, "cam", &url).code.filter(|code| *code == 0)
    });
    let stored = |least: u64| {
        move |it: &Value| it["state"] == "live" && it["stored"].as_u64() >= Some(least)
    };
    let before = until("segments come", || {
        if !running.is_running() {
            running = camera();
        }
        live(&node, "cam").filter(stored(1))
    });
    running.kill9();
    let lost = until("it is missed", || {
        live(&node, "cam").filter(|it| it["error"].is_string())
    });
    assert!(
        !lost["error"].as_str().unwrap().contains("127.0.0.1"),
        "{lost}"
    );
    running = camera();
    let more = before["stored"].as_u64().unwrap() + 2;
    until("it comes again", || {
        if !running.is_running() {
            running = camera();
        }
        live(&node, "cam").filter(stored(more))
    });
}

#[test]
fn srt_takes_who_has_the_passphrase_and_whoever_comes_next() {
    let number = free();
    let node = Node::start(&["--srt", &format!("ship={number}")]);
    let film = transport(60);
    let send = |url: &str| {
        let mut command = Command::new("ffmpeg");
        command.args([
            "-nostdin",
            "-v",
            "error",
            "-re",
            "-i",
            text(&film),
            "-c",
            "copy",
        ]);
        command.args(["-f", "mpegts", url]).stdin(Stdio::null());
        Program::spawn(command)
    };
    let wrong = send(&format!(
        "srt://127.0.0.1:{number}?passphrase=not-the-right-one"
    ))
    .wait();
    assert_ne!(wrong.code, Some(0));
    let key = node.lavant(&["live", "key", "ship", "--json"]).ok().json();
    let url = key["srt"].as_str().unwrap().to_owned();
    for round in 1..=2 {
        // Between two publishers nobody listens for a moment.
        let mut sender = until("it is taken", || {
            let mut sender = send(&url);
            let begun = until("it comes, or was refused", || {
                let entry = live(&node, "ship")?;
                let is_live = entry["state"] == "live" && entry["by"] == "srt";
                (is_live || !sender.is_running()).then_some(is_live)
            });
            begun.then_some(sender)
        });
        let least = 4.0 * f64::from(round);
        until("seconds come", || {
            live(&node, "ship").filter(|it| it["seconds"].as_f64() >= Some(least))
        });
        sender.kill9();
        until("it is waited for", || {
            live(&node, "ship").filter(|it| it["state"] == "waiting")
        });
    }
    let entry = live(&node, "ship").unwrap();
    assert_eq!(entry["version"], 1, "it is one broadcast: {entry}");
    // Whoever is stopped may come back later, so that it is listened for.
    node.lavant(&["live", "stop", "ship"]).ok();
    let entry = over(&node, "ship");
    assert!(entry.contains("ship"));
    let listens = live(&node, "ship").expect("it is listed");
    assert!(listens["source"].as_str().unwrap().contains("listening"));
}

/// A port that nobody listens at, by UDP or TCP.
fn free() -> u16 {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        let address = socket.local_addr().expect("it has an address");
        if TcpListener::bind(address).is_ok() {
            return address.port();
        }
    }
}

#[test]
fn what_is_watched_as_a_transport_stream_is_the_same_film() {
    let node = Node::start(&[]);
    let film = mp4(20);
    let folder = TempDir::new().expect("a folder can be made");
    // The name says the container; on a pipe the flag does.
    let file = folder.path().join("cam.ts");
    let mut sender = Command::new("ffmpeg");
    sender.args([
        "-nostdin",
        "-v",
        "error",
        "-re",
        "-i",
        text(&film),
        "-c",
        "copy",
    ]);
    sender.args(["-muxdelay", "0", "-method", "PUT", "-f", "mpegts"]);
    sender.arg(format!("{}/api/v1/live/cam", node.url));
    sender.stdin(Stdio::null());
    let sender = Program::spawn(sender);
    until("it can be watched", || {
        live(&node, "cam").filter(|it| it["stored"].as_u64() >= Some(1))
    });
    let watcher = node
        .command_on(&["watch", "cam", "-o", text(&file)])
        .spawn();
    let pipe = node
        .command_on(&["watch", "cam", "-o", "-", "--format", "ts"])
        .spawn();
    sender.wait().ok();
    node.lavant(&["live", "stop", "cam"]).ok();
    watcher.wait().ok();
    let piped = pipe.wait().ok().out;
    let head = fs::read(&file).expect("it was written");
    assert!(head.len() > 188 * 100 && head[0] == 0x47 && head[188] == 0x47);
    let pictures = frames(text(&file), "v");
    assert!(pictures.len() > 200, "{}", pictures.len());
    assert!(frames(text(&film), "v").ends_with(&pictures));
    assert!(frames(text(&film), "a").len() >= frames(text(&file), "a").len());
    let other = folder.path().join("piped.ts");
    fs::write(&other, piped).expect("it can be written");
    let piped = frames(text(&other), "v");
    assert!(frames(text(&film), "v").ends_with(&piped) && piped.len() > 200);
}
