//! Nodes under test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::http::{Connection, Reply};
use super::playlist::Playlist;
use super::program::{Done, Lavant, Program};
use super::text;

/// How long a node may take to end after SIGTERM.
const END_MAX: Duration = Duration::from_secs(5);

/// Flags of nodes that meet others on loopback alone.
const RELAYING: [&str; 5] = [
    "--relay-port",
    "0",
    "--relay-bind",
    "127.0.0.1",
    "--no-discovery",
];

/// A running node with a store of its own.
pub(crate) struct Node {
    program: Option<Program>,
    /// What it is started with.
    pub(crate) flags: Vec<String>,
    /// Where it listens, as this machine reaches it.
    pub(crate) address: SocketAddr,
    /// `http://` and the address.
    pub(crate) url: String,
    /// What it said when it was ready.
    pub(crate) ready: Value,
    /// The folder of its store.
    pub(crate) store: PathBuf,
    _folder: Option<TempDir>,
}

impl Node {
    /// Starts a node with an empty store.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let store = folder.path().join("store");
        let mut node = Self::on(&store, flags);
        node._folder = Some(folder);
        node
    }

    /// Starts a node with a store that is there already, or is made.
    pub(crate) fn on(store: &Path, flags: &[&str]) -> Self {
        let mut node = Self {
            program: None,
            flags: flags.iter().map(ToString::to_string).collect(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            url: String::new(),
            ready: Value::Null,
            store: store.to_owned(),
            _folder: None,
        };
        node.start_again();
        node
    }

    /// Starts a node that meets others, on loopback alone.
    pub(crate) fn relaying(flags: &[&str]) -> Self {
        Self::start(&[&RELAYING[..], flags].concat())
    }

    /// Starts a node that meets others with a store that is there already, or is made.
    pub(crate) fn relaying_on(store: &Path, flags: &[&str]) -> Self {
        Self::on(store, &[&RELAYING[..], flags].concat())
    }

    /// Where its links come in.
    pub(crate) fn relay_address(&self) -> String {
        let port = self.ready["relay_port"].as_u64();
        format!(
            "127.0.0.1:{}",
            port.expect("a node says where links come in")
        )
    }

    /// Has it meet another node.
    #[track_caller]
    pub(crate) fn meets(&self, other: &str) {
        let body = serde_json::json!({ "address": other }).to_string();
        let kind = [("content-type", "application/json")];
        self.call("POST", "/peers", &kind, body.as_bytes()).ok();
    }

    /// The nodes that it meets.
    pub(crate) fn peers(&self) -> Vec<Value> {
        let peers = self.json("/peers");
        peers.as_array().expect("peers are an array").clone()
    }

    /// Waits until all of a content is here.
    #[track_caller]
    pub(crate) fn has_all(&self, id: &str) -> Value {
        super::until(&format!("all of {id}"), || {
            let reply = self.get(&format!("/content/{id}"));
            let entry: Value = (reply.status == 200).then(|| reply.json())?;
            (entry["complete"] == true).then_some(entry)
        })
    }

    /// The file of its store that holds a payload.
    pub(crate) fn payload_file(&self, bytes: &[u8]) -> PathBuf {
        let segments = self.store.join("segments");
        let files = super::program::run("find", &[text(&segments), "-type", "f"]).text();
        let holds = |path: &&str| std::fs::read(path).is_ok_and(|found| found.starts_with(bytes));
        PathBuf::from(files.lines().find(holds).expect("the payload is in a file"))
    }

    /// The command line of such a node.
    pub(crate) fn command(store: &Path, flags: &[&str]) -> Lavant {
        let mut args = vec!["serve", "--json", "--store", text(store)];
        args.extend(flags);
        if !flags.contains(&"--port") {
            args.extend(["--port", "0"]);
        }
        // A test that says nothing of other nodes meets none.
        if !flags.contains(&"--relay-port") {
            args.push("--no-relay");
        }
        Lavant::new(&args)
    }

    /// Starts it with the store it had, after it was ended.
    pub(crate) fn start_again(&mut self) {
        self.program = None;
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let mut program = Self::command(&self.store, &flags).spawn();
        let line = program.first_line();
        self.ready = serde_json::from_str(&line).expect("a node says as JSON that it is ready");
        let listens: SocketAddr = self.ready["address"]
            .as_str()
            .and_then(|address| address.parse().ok())
            .expect("a node says where it listens");
        self.address = SocketAddr::from(([127, 0, 0, 1], listens.port()));
        self.url = format!("http://{}", self.address);
        self.program = Some(program);
    }

    fn program(&mut self) -> &mut Program {
        self.program.as_mut().expect("the node runs")
    }

    pub(crate) fn id(&self) -> u32 {
        self.program.as_ref().expect("the node runs").id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let program = self.program.as_ref().expect("the node runs");
        program.signal(signal);
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill9(&mut self) {
        self.program().kill9();
    }

    /// Asks it to end, and asserts that it does so, in time and with code 0.
    pub(crate) fn stop(&mut self) -> Done {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Asserts that it ends in time and with code 0.
    pub(crate) fn ended(&mut self) -> Done {
        let program = self.program.take().expect("the node runs");
        program.wait_within(END_MAX).ok()
    }

    /// Runs a command of `lavant` on this node.
    pub(crate) fn lavant(&self, args: &[&str]) -> Done {
        self.command_on(args).run()
    }

    /// A command of `lavant` on this node.
    pub(crate) fn command_on(&self, args: &[&str]) -> Lavant {
        Lavant::new(args).env("LAVANT_DAEMON", &self.url)
    }

    /// Ingests and gives the result as JSON.
    #[track_caller]
    pub(crate) fn ingest(&self, args: &[&str]) -> Value {
        let mut all = vec!["ingest", "--json"];
        all.extend(args);
        self.lavant(&all).ok().json()
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// One request on a connection of its own.
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        self.connect().call(method, path, headers, body)
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], &[])
    }

    /// The JSON at a path.
    #[track_caller]
    pub(crate) fn json(&self, path: &str) -> Value {
        self.get(path).ok().json()
    }

    /// The bytes at a path.
    #[track_caller]
    pub(crate) fn bytes(&self, path: &str) -> Vec<u8> {
        self.get(path).ok().body
    }

    /// The ids in the catalogue.
    pub(crate) fn contents(&self) -> Vec<String> {
        let catalog = self.json("/catalog");
        let entries = catalog.as_array().expect("the catalogue is an array");
        let ids = entries.iter().map(|entry| entry["content_id"].as_str());
        ids.map(|id| id.expect("an entry has an id").to_owned())
            .collect()
    }

    /// The uploads that are running.
    pub(crate) fn uploads(&self) -> Vec<Value> {
        let uploads = self.json("/uploads");
        uploads.as_array().expect("uploads are an array").clone()
    }

    /// Sends a segment by `POST /ingest` with a raw body.
    pub(crate) fn post(&self, query: &str, body: &[u8]) -> Reply {
        let path = format!("/ingest?{query}");
        self.call("POST", &path, &[("content-type", "video/mp2t")], body)
    }

    /// The playlist of a content, or of `ID/NAME.m3u8`.
    #[track_caller]
    pub(crate) fn playlist(&self, reference: &str) -> Playlist {
        Playlist::parse(&self.get(&format!("/play/{reference}")).ok().text())
    }

    /// The URL of a content's playlist.
    pub(crate) fn play_url(&self, id: &str) -> String {
        format!("{}/play/{id}/index.m3u8", self.url)
    }

    /// What lies in `incoming/` of the store.
    pub(crate) fn incoming(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.store.join("incoming")).expect("it is there");
        entries.map(|e| e.expect("it can be read").path()).collect()
    }
}
