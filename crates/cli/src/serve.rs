//! `lavant serve` and `lavant doctor`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use lavant_node::config::{Config, Layer, Size, Span};
use lavant_node::run::Ready;
use lavant_node::{doctor, run, signals};

use crate::output;
use crate::relay::RelayArgs;

/// What a node can be told; `lavant.example.toml` explains every key.
#[derive(clap::Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file (TOML)
    #[arg(long, env = "LAVANT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Port of the API, the page and the playlists [default: 7777]
    #[arg(long, env = "LAVANT_PORT")]
    port: Option<u16>,
    /// Address to listen on; beyond loopback, changes need a token [default: 127.0.0.1]
    #[arg(long, env = "LAVANT_BIND")]
    bind: Option<IpAddr>,
    /// Folder of the store [default: .lavant/store]
    #[arg(long, env = "LAVANT_STORE", value_name = "FOLDER")]
    store: Option<PathBuf>,
    /// Name of the node, shown to people [default: name of the machine]
    #[arg(long, env = "LAVANT_NODE_ID", value_name = "NAME")]
    node_id: Option<String>,
    /// Most bytes that segments may take, such as 20G; 0 for no limit [default: for what comes
    /// from other nodes, 80 percent of the disk's free space]
    #[arg(long, env = "LAVANT_STORE_LIMIT", value_name = "SIZE")]
    store_limit: Option<Size>,
    /// Bytes of the disk that stay free [default: 64MiB]
    #[arg(long, env = "LAVANT_MIN_FREE", value_name = "SIZE")]
    min_free: Option<Size>,
    /// Memory for the newest live segments [default: 32MiB]
    #[arg(long, env = "LAVANT_HOT_MEMORY", value_name = "SIZE")]
    hot_memory: Option<Size>,
    /// Largest segment that is accepted [default: 64MiB]
    #[arg(long, env = "LAVANT_SEGMENT_LIMIT", value_name = "SIZE")]
    segment_limit: Option<Size>,
    /// Memory for all segments on their way in [default: 256MiB]
    #[arg(long, env = "LAVANT_INGEST_MEMORY", value_name = "SIZE")]
    ingest_memory: Option<Size>,
    /// Time to live of live segments [default: 30m]
    #[arg(long, env = "LAVANT_TTL_LIVE", value_name = "TIME")]
    ttl_live: Option<Span>,
    /// Time to live of near-live segments [default: 6h]
    #[arg(long, env = "LAVANT_TTL_NEAR_LIVE", value_name = "TIME")]
    ttl_near_live: Option<Span>,
    /// Time to live of on-demand segments [default: 30d]
    #[arg(long, env = "LAVANT_TTL_VOD", value_name = "TIME")]
    ttl_vod: Option<Span>,
    /// When an upload to which nothing comes is rolled back [default: 1h]
    #[arg(long, env = "LAVANT_UPLOAD_IDLE", value_name = "TIME")]
    upload_idle: Option<Span>,
    /// When a growing on-demand content to which nothing comes is finished [default: 5m]
    #[arg(long, env = "LAVANT_FINISH_AFTER", value_name = "TIME")]
    finish_after: Option<Span>,
    /// Listen for publishers by RTMP, such as OBS, at a port of this machine or an address with a
    /// port; `lavant live key NAME` prints what to enter there
    #[arg(long, env = "LAVANT_RTMP", value_name = "[ADDRESS:]PORT")]
    rtmp: Option<String>,
    /// Listen for publishers by RTMP in TLS; needs --tls-cert and --tls-key
    #[arg(long, env = "LAVANT_RTMPS", value_name = "[ADDRESS:]PORT")]
    rtmps: Option<String>,
    /// The certificate of this machine for --rtmps, with those between it and an authority (PEM)
    #[arg(long, env = "LAVANT_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, env = "LAVANT_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Listen for a publisher by SRT, of one stream; `lavant live key NAME` prints the URL (repeat)
    #[arg(
        long,
        env = "LAVANT_SRT",
        value_name = "NAME=[ADDRESS:]PORT",
        value_delimiter = ','
    )]
    srt: Option<Vec<String>>,
    /// Fetch a stream and publish it: an HLS playlist, or anything that ffmpeg opens (repeat)
    #[arg(long, env = "LAVANT_PULL", value_name = "NAME=URL")]
    pull: Option<Vec<String>>,
    /// Send a stream on whenever it runs, by RTMP(S) or SRT (repeat)
    #[arg(long, env = "LAVANT_FORWARD", value_name = "NAME=URL")]
    forward: Option<Vec<String>>,
    /// Fetch streams from addresses, too, that are not of the open internet
    #[arg(long, env = "LAVANT_ALLOW_PRIVATE")]
    allow_private: bool,
    /// Tell this service what happens to live streams; needs LAVANT_HOOK_SECRET (repeat)
    #[arg(long, env = "LAVANT_HOOK", value_name = "URL", value_delimiter = ',')]
    hook: Option<Vec<String>>,
    /// Ask this service who may publish and watch; needs LAVANT_HOOK_SECRET
    #[arg(long, env = "LAVANT_AUTHORIZE", value_name = "URL")]
    authorize: Option<String>,
    /// Secret that the calls of these services are signed with; other users of this machine can
    /// see it here, but not in LAVANT_HOOK_SECRET or a configuration file
    #[arg(
        long,
        env = "LAVANT_HOOK_SECRET",
        value_name = "SECRET",
        hide_env_values = true
    )]
    hook_secret: Option<String>,
    /// How much of a live stream its playlist lists [default: 2m]
    #[arg(long, env = "LAVANT_WINDOW", value_name = "TIME")]
    window: Option<Span>,
    /// How long a live stream waits for its publisher to come back [default: 60s]
    #[arg(long, env = "LAVANT_GRACE", value_name = "TIME")]
    grace: Option<Span>,
    /// Length of a part of a live stream, 200ms to 1s [default: 334ms]
    #[arg(long, env = "LAVANT_PART", value_name = "TIME")]
    part: Option<Span>,
    /// For how long a live stream can be watched afterwards [default: 30d]
    #[arg(long, env = "LAVANT_REPLAY", value_name = "TIME")]
    replay: Option<Span>,
    /// Token that callers must send to change anything; other users of this machine can see it
    /// here, but not in LAVANT_API_TOKEN, a configuration file, or api.token of the store
    #[arg(
        long,
        env = "LAVANT_API_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    api_token: Option<String>,
    /// A further host name that the node answers to (repeat)
    #[arg(
        long,
        env = "LAVANT_ALLOW_HOST",
        value_name = "NAME",
        value_delimiter = ','
    )]
    allow_host: Option<Vec<String>>,
    /// A web origin whose pages may use the API, such as https://example.org (repeat)
    #[arg(
        long,
        env = "LAVANT_ALLOW_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    allow_origin: Option<Vec<String>>,
    /// Most connections at a time [default: 4096]
    #[arg(long, env = "LAVANT_MAX_CONNECTIONS", value_name = "N")]
    max_connections: Option<usize>,
    #[command(flatten)]
    relay: RelayArgs,
}

impl ConfigArgs {
    /// Flags and environment over the file over the defaults.
    pub(crate) fn resolve(self) -> anyhow::Result<Config> {
        let file = match &self.config {
            Some(path) => Layer::read(path)?,
            None => Layer::default(),
        };
        let flags = Layer {
            port: self.port,
            bind: self.bind,
            store: self.store,
            node_id: self.node_id,
            store_limit: self.store_limit,
            min_free: self.min_free,
            hot_memory: self.hot_memory,
            segment_limit: self.segment_limit,
            ingest_memory: self.ingest_memory,
            ttl_live: self.ttl_live,
            ttl_near_live: self.ttl_near_live,
            ttl_vod: self.ttl_vod,
            upload_idle: self.upload_idle,
            finish_after: self.finish_after,
            rtmp: self.rtmp,
            rtmps: self.rtmps,
            tls_cert: self.tls_cert,
            tls_key: self.tls_key,
            srt: self.srt,
            pull: self.pull,
            forward: self.forward,
            allow_private: self.allow_private.then_some(true),
            hook: self.hook,
            authorize: self.authorize,
            hook_secret: self.hook_secret,
            window: self.window,
            grace: self.grace,
            part: self.part,
            replay: self.replay,
            api_token: self.api_token,
            allow_host: self.allow_host,
            allow_origin: self.allow_origin,
            max_connections: self.max_connections,
            ..self.relay.layer()
        };
        Ok(flags.over(file).resolve()?)
    }
}

/// Arguments of `lavant serve`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lavant serve\n  \
    lavant serve --port 8080 --store /var/lib/lavant --store-limit 100G\n  \
    lavant serve --config lavant.toml\n  \
    LAVANT_API_TOKEN=\"$(cat token)\" lavant serve --bind 0.0.0.0\n  \
    LAVANT_RELAY_TOKEN=\"$(cat group)\" lavant serve --peer ship.example:7778\n\n\
    Ctrl-C or SIGTERM ends it; open requests get three seconds.")]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Say that it is ready as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Before the runtime: the key of a token takes a tenth of a second of one core.
    let config = args.config.resolve()?;
    let filter = tracing_subscriber::EnvFilter::try_from_env("LAVANT_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("lavant=info,lavant_node=info,warn")
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Standard output is for what the program says, which other programs read.
        .with_writer(std::io::stderr)
        .with_ansi(colours())
        .with_target(false)
        .init();
    let (store, json) = (config.store.clone(), args.json);
    let runtime = run::runtime()?;
    runtime.block_on(run::run(
        config,
        |ready| announce(ready, &store, json),
        signals::stop(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Colours are for people who look at a terminal and do not object (no-color.org).
fn colours() -> bool {
    let objects = std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty());
    std::io::IsTerminal::is_terminal(&std::io::stderr()) && !objects
}

fn announce(ready: &Ready, store: &std::path::Path, json: bool) {
    let url = page_url(ready.address);
    if json {
        let ready = serde_json::json!({
            "address": ready.address.to_string(),
            "url": url,
            "publisher": ready.publisher.to_string(),
            "auth_required": ready.auth_required,
            "token_file": ready.token_file,
            "relay_port": ready.relay_port,
            "rtmp": ready.rtmp.map(|address| address.to_string()),
            "rtmps": ready.rtmps.map(|address| address.to_string()),
            "warnings": ready.warnings,
        });
        // A JSON value can always be written as text.
        let _ = output::json(&ready);
        return;
    }
    output::line(format_args!(
        "lavant {} is ready",
        env!("CARGO_PKG_VERSION")
    ));
    output::line(format_args!("  page   {url}"));
    output::line(format_args!("  store  {}", store.display()));
    output::line(format_args!("  key    {}", ready.publisher));
    if let Some(address) = ready.rtmp {
        output::line(format_args!("  rtmp   rtmp://{address}/live"));
    }
    if let Some(address) = ready.rtmps {
        output::line(format_args!("  rtmp   rtmps://{address}/live"));
    }
    if let Some(port) = ready.relay_port {
        output::line(format_args!("  relay  port {port}, TCP and UDP"));
    }
    if ready.auth_required {
        // A token that was given is not repeated; one that was made stands in a file of the
        // owner's, where one may stand from a start before.
        let hint = match &ready.token_file {
            Some(file) => format!("in {}", file.display()),
            None => "as given".into(),
        };
        output::line(format_args!("  token  {hint} (needed to change anything)"));
    }
    for warning in &ready.warnings {
        output::note(format_args!("warning: {warning}"));
    }
}

/// The address as a browser on this machine can open it.
fn page_url(address: std::net::SocketAddr) -> String {
    // No browser opens an unspecified address.
    if address.ip().is_unspecified() {
        format!("http://localhost:{}/", address.port())
    } else {
        format!("http://{address}/")
    }
}

/// Arguments of `lavant doctor`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  lavant doctor\n  lavant doctor --port 8080 --json\n\n\
    Exit code 1 when something that a node needs is missing."
)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn doctor(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let findings = doctor::examine(&args.config.resolve()?);
    if args.json {
        output::json(&findings)?;
    } else {
        for found in &findings {
            let mark = match (found.ok, found.optional) {
                (true, _) => "ok     ",
                (false, true) => "missing",
                (false, false) => "WRONG  ",
            };
            output::line(format_args!("{mark}  {:<9} {}", found.what, found.detail));
        }
    }
    let healthy = findings.iter().all(|found| found.ok || found.optional);
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
