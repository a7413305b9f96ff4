//! `lavant live NAME SOURCE`.

use std::process::ExitCode;

use lavant_node::shell::TITLE_BYTES_MAX;
use lavant_node::shell::client::{Client, ClientError, encode};
use lavant_node::shell::publish::Progress;
use serde_json::Value;

use super::source::Source;
use super::{Args, check_name, number, text, wrong};
use crate::output;

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let name = args.name.as_deref().unwrap_or_default();
    check_name(name)?;
    let title = args.title.as_deref();
    if title.is_some_and(|title| title.len() > TITLE_BYTES_MAX) {
        return wrong(format!(
            "a title has at most {TITLE_BYTES_MAX} bytes in UTF-8; shorten it"
        ));
    }
    let client = args.node.client()?;
    if args.source.contains("://") {
        return pull(args, &client, name);
    }
    let mut source = Source::open(&args.source)?;
    let mut left_out = source.left_out();
    let reader = source.reader();
    let mut told = |progress| tell(args, &client, name, progress);
    let ended = client.publish(name, title, reader, &mut told);
    // What ffmpeg could not read is the reason of what the node says then.
    if matches!(ended, Ok(_) | Err(ClientError::Refused { status: 422, .. })) {
        source.check()?;
    }
    let ended = match ended {
        Err(ClientError::Refused {
            status: 422,
            message,
        }) => return wrong(message),
        other => other?,
    };
    let listed = ended.get("left_out").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().filter_map(Value::as_str);
    left_out.extend(listed.map(str::to_owned));
    if !left_out.is_empty() {
        output::note(format_args!(
            "left out: {}; H.264 and AAC are what everything plays",
            left_out.join(", ")
        ));
    }
    if args.node.json {
        output::json(&ended)?;
    } else {
        output::line(format_args!(
            "{name} is finished: {}, {} segments",
            output::duration(number(&ended, "seconds")),
            ended.get("stored").and_then(Value::as_u64).unwrap_or(0)
        ));
    }
    let lost = ended.get("lost").and_then(Value::as_u64).unwrap_or(0);
    if lost > 0 {
        let fault = ended.get("fault").and_then(Value::as_str);
        output::note(format_args!(
            "{lost} segments were shown live and are not in the replay: {}",
            fault.unwrap_or("the node's disk did not follow")
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(args: &Args, client: &Client, name: &str, progress: Progress) {
    match progress {
        Progress::Taken if args.node.json => {}
        Progress::Taken => {
            let url = client.url(&format!("/play/{}/index.m3u8", encode(name)));
            output::note(format_args!("publishing {name}; watch it at {url}"));
        }
        Progress::TakenAgain => output::note(format_args!("publishing {name} again")),
        Progress::Lost(reason) => output::note(format_args!(
            "the connection was lost ({reason}); trying again for as long as the source runs"
        )),
    }
}

/// Lets the node fetch a stream, which it goes on with after this program has ended.
fn pull(args: &Args, client: &Client, name: &str) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/live/{}/pull", encode(name));
    let body = serde_json::json!({
        "url": args.source,
        "title": args.title,
        "allow_private": args.allow_private,
    });
    let entry: Value = match client.call_with("POST", &path, &body) {
        Err(ClientError::Refused {
            status: 400,
            message,
        }) => return wrong(message),
        other => other?,
    };
    if args.node.json {
        output::json(&entry)?;
    } else {
        let url = client.url(text(&entry, "play"));
        output::line(format_args!(
            "the node fetches {name} until 'lavant live stop {name}'; watch it at {url}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}
