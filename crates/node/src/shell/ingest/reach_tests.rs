//! Sources that name other files and other origins, with the real ffmpeg and real web servers.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Mutex;

use super::*;

/// A web server on loopback; its threads end with the test program.
#[derive(Clone)]
struct Web {
    url: String,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    /// The paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
enum Page {
    Bytes(Vec<u8>),
    /// Elsewhere.
    Redirect(String),
}

impl Web {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            pages: Arc::default(),
            asked: Arc::default(),
        };
        let own = web.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let web = own.clone();
                std::thread::spawn(move || web.serve(stream));
            }
        });
        web
    }

    fn serve(&self, mut stream: std::net::TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        while lines
            .next()
            .and_then(Result::ok)
            .is_some_and(|line| !line.is_empty())
        {}
        self.asked.lock().unwrap().push(path.clone());
        let page = self.pages.lock().unwrap().get(&path).cloned();
        let (head, body) = match page {
            Some(Page::Bytes(bytes)) => ("200 OK".to_owned(), bytes),
            Some(Page::Redirect(to)) => (format!("302 Found\r\nLocation: {to}"), Vec::new()),
            None => ("404 Not Found".to_owned(), Vec::new()),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {length}");
        let _ = stream.write_all(&[head.as_bytes(), b"\r\n\r\n", &body].concat());
    }

    fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) -> String {
        let page = Page::Bytes(bytes.into());
        self.pages.lock().unwrap().insert(path.to_owned(), page);
        format!("{}{path}", self.url)
    }

    fn redirect(&self, path: &str, to: &str) -> String {
        let page = Page::Redirect(to.to_owned());
        self.pages.lock().unwrap().insert(path.to_owned(), page);
        format!("{}{path}", self.url)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// A playlist of one segment.
fn playlist(segment: &str) -> String {
    format!("#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:2,\n{segment}\n#EXT-X-ENDLIST\n")
}

/// A film of two seconds that can be a segment.
fn segment() -> Vec<u8> {
    let clip = Clip::standard("a.ts", 2, &format!("{X264} -g 25 -c:a aac"));
    std::fs::read(&clip.path).unwrap()
}

fn url(node: &FakeNode, url: &str) -> Options {
    Options {
        input: Input::parse(url),
        ..options(node, Path::new(""))
    }
}

/// Asserts that nothing reached the node, and gives the reason.
#[track_caller]
fn refused(node: &FakeNode, options: &Options) -> IngestError {
    let error = run(options).map(|(outcome, _)| outcome).unwrap_err();
    assert!(node.state.lock().unwrap().published.is_none(), "{error}");
    error
}

#[test]
fn files_that_list_other_files_are_not_opened() {
    let node = FakeNode::start();
    let clip = Clip::standard("secret.ts", 2, &format!("{X264} -g 25 -c:a aac"));
    let folder = clip.path.parent().unwrap().to_owned();
    let secret = clip.path.display();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let dash = "<?xml version=\"1.0\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" \
        type=\"static\"><Period><AdaptationSet mimeType=\"video/mp2t\"><Representation id=\"a\">\
        <BaseURL>secret.ts</BaseURL></Representation></AdaptationSet></Period></MPD>\n";
    let sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n\
        m=video 5004 RTP/AVP 33\n";
    for path in [
        write("hls.mp4", &playlist(&format!("file://{secret}"))),
        write("relative.mp4", &playlist("secret.ts")),
        write("list.m3u8", &playlist("secret.ts")),
        write("concat.mp4", "ffconcat version 1.0\nfile secret.ts\n"),
        write("dash.mp4", dash),
        write("session.sdp", sdp),
        write("session.mp4", sdp),
    ] {
        let error = refused(&node, &options(&node, &path));
        assert!(
            matches!(error, IngestError::List(_) | IngestError::Unreadable { .. }),
            "{}: {error}",
            path.display()
        );
        assert_eq!(error.exit_code(), 2);
    }
    let hls = refused(&node, &options(&node, &folder.join("hls.mp4"))).to_string();
    assert!(hls.contains("hls.mp4 is a list of other files"), "{hls}");
    assert!(hls.contains("ingest the video itself"), "{hls}");
    assert_eq!(node.state.lock().unwrap().opened, 0);
}

#[test]
fn numbered_pictures_are_not_gathered() {
    let node = FakeNode::start();
    let clip = Clip::new("p%d.png", &format!("{} -t 1", picture("32x32")));
    let error = refused(&node, &options(&node, &clip.path));
    // A file of that name would be looked for first.
    assert!(matches!(error, IngestError::NoSuchFile(_)), "{error}");
    std::fs::copy(clip.path.with_file_name("p1.png"), &clip.path).unwrap();
    let error = refused(&node, &options(&node, &clip.path));
    assert!(matches!(error, IngestError::List(_)), "{error}");
}

#[test]
fn lists_on_standard_input_are_not_opened() {
    let node = FakeNode::start();
    let web = Web::start();
    let foreign = web.put("/secret.ts", segment());
    let options = Options {
        input: Input::Stdin,
        ..options(&node, Path::new(""))
    };
    let list: Box<dyn Read + Send> = Box::new(std::io::Cursor::new(playlist(&foreign)));
    let error = ingest_from(&options, Some(list), &mut |_| {}, &NEVER).unwrap_err();
    assert!(matches!(error, IngestError::List(_)), "{error}");
    assert!(web.asked().is_empty());
}

#[test]
fn playlists_of_the_web_play_from_their_own_origin() {
    let node = FakeNode::start();
    let web = Web::start();
    web.put("/a/0.ts", segment());
    let media = web.put("/a/media.m3u8", playlist("0.ts"));
    let whole = web.put("/b/whole.m3u8", playlist(&format!("{}/a/0.ts", web.url)));
    let variant = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000000\n/a/media.m3u8\n";
    let master = web.put("/master.m3u8", variant);
    let moved = web.redirect("/moved.m3u8", "/a/media.m3u8");
    let plain = web.put("/film.ts", segment());
    for source in [media, whole, master, moved, plain] {
        node.state.lock().unwrap().forget();
        let (outcome, _) = run(&url(&node, &source)).unwrap();
        assert!(outcome.media_seconds > 1.5, "{source}: {outcome:?}");
    }
}

#[test]
fn other_origins_are_not_fetched() {
    let node = FakeNode::start();
    let (web, inner) = (Web::start(), Web::start());
    let secret = inner.put("/secret.ts", segment());
    let list = inner.put("/list.m3u8", playlist("secret.ts"));
    web.put("/0.ts", segment());
    let variant = format!("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000000\n{list}\n");
    let key = format!("#EXT-X-KEY:METHOD=AES-128,URI=\"{secret}\"\n#EXTINF:2,\n0.ts");
    let later = format!("0.ts\n#EXTINF:2,\n{secret}");
    web.redirect("/moved.ts", &secret);
    for source in [
        web.put("/segment.m3u8", playlist(&secret)),
        web.put("/later.m3u8", playlist(&later)),
        web.put("/nested.m3u8", variant),
        web.put("/key.m3u8", playlist(&key)),
        web.put("/hop.m3u8", playlist("moved.ts")),
        web.redirect("/away.m3u8", &list),
        web.redirect("/away.ts", &secret),
    ] {
        let error = refused(&node, &url(&node, &source));
        let sentence = error.to_string();
        assert!(
            sentence.contains(&format!("--also-from {}", inner.url)),
            "{source}: {sentence}"
        );
        assert_eq!(error.exit_code(), 2);
    }
    assert!(inner.asked().is_empty(), "{:?}", inner.asked());
}

#[test]
fn playlists_of_the_web_reach_no_local_files_and_no_other_protocols() {
    let node = FakeNode::start();
    let web = Web::start();
    let clip = Clip::standard("secret.ts", 2, &format!("{X264} -g 25 -c:a aac"));
    let secret = clip.path.display();
    let quiet = TcpListener::bind("127.0.0.1:0").unwrap();
    quiet.set_nonblocking(true).unwrap();
    let port = quiet.local_addr().unwrap().port();
    for (n, named) in [
        format!("file://{secret}"),
        format!("{secret}"),
        format!("crypto:file://{secret}"),
        format!("concat:file://{secret}"),
        format!("tcp://127.0.0.1:{port}"),
        format!("https://127.0.0.1:{port}/a.ts"),
    ]
    .into_iter()
    .enumerate()
    {
        let source = web.put(&format!("/{n}.m3u8"), playlist(&named));
        refused(&node, &url(&node, &source));
    }
    let nobody = quiet.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn further_origins_are_fetched_when_the_user_names_them() {
    let node = FakeNode::start();
    let (web, other) = (Web::start(), Web::start());
    let source = web.put("/a.m3u8", playlist(&other.put("/0.ts", segment())));
    let mut options = url(&node, &source);
    options.also_from = vec![other.url.clone()];
    assert!(run(&options).unwrap().0.media_seconds > 1.5);
    options.also_from = vec!["cdn.example".to_owned()];
    let error = refused(&FakeNode::start(), &options).to_string();
    assert!(error.contains("\"cdn.example\" is not a URL"), "{error}");
}

#[test]
fn a_stream_ends_when_its_source_leads_elsewhere() {
    let (web, inner) = (Web::start(), Web::start());
    let later = format!("0.ts\n#EXTINF:2,\n{}", inner.put("/secret.ts", segment()));
    web.put("/0.ts", segment());
    let source = web.put("/a.m3u8", playlist("0.ts"));
    let mut source = Source::open(&Input::parse(&source), None, &NEVER).unwrap();
    let reach = Arc::new(Reach::of(&source.input, &[]).unwrap());
    let probe = source.probe(&reach, &NEVER).unwrap();
    web.put("/a.m3u8", playlist(&later));
    let plan = plan::plan(&probe, &Wish::default()).unwrap();
    let job = Job {
        plan: &plan,
        cut: Cut {
            container: plan.container,
            target_seconds: 1,
            patient: false,
        },
        reach,
        sink: Arc::new(Null::default()),
        patience: None,
    };
    let feed = Feed::Ffmpeg {
        input: source.argument(),
        stdin: None,
    };
    let error = pipeline::run(&job, feed, &mut |_| {}, &NEVER).unwrap_err();
    assert!(matches!(error, IngestError::OtherOrigin { .. }), "{error}");
    assert!(inner.asked().is_empty());
}

#[test]
fn bare_streams_are_taken_unless_they_are_lists() {
    let node = FakeNode::start();
    let inner = Web::start();
    let film = segment();
    let list = playlist(&inner.put("/secret.ts", film.clone())).into_bytes();
    for (bytes, is_taken) in [(film, true), (list, false)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source = format!("tcp://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(&bytes);
            }
        });
        let result = run(&url(&node, &source));
        match (result, is_taken) {
            (Ok((outcome, _)), true) => assert!(outcome.media_seconds > 1.5, "{outcome:?}"),
            (Err(IngestError::List(_)), false) => {}
            (other, _) => panic!("{other:?}"),
        }
    }
    assert!(inner.asked().is_empty());
}
