//! What a stream is called: the parts of an RTMP address, wherever the encoder put them.

/// Application, key and query of a publication.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) app: String,
    pub(super) key: String,
    pub(super) query: Option<String>,
}

/// Sorts out an address. `rtmp://host/live/room/key?token=x` may come as `live` and
/// `room/key?token=x`, as `live/room?token=x` and `key`, or with a nameless application; the last
/// part of the path is the key, and the query stands behind any of the three.
pub(super) fn parse(app: &str, stream: &str, url: &str) -> Name {
    let (app_path, app_query) = divide(app);
    let (stream_path, stream_query) = divide(stream);
    let parts = app_path.split('/').chain(stream_path.split('/'));
    let mut parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let key = parts.pop().unwrap_or_default();
    let query = [stream_query, app_query, divide(url).1];
    Name {
        app: parts.join("/"),
        key: key.to_owned(),
        query: query.into_iter().flatten().next().map(str::to_owned),
    }
}

fn divide(text: &str) -> (&str, Option<&str>) {
    match text.split_once('?') {
        Some((path, query)) => (path, (!query.is_empty()).then_some(query)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(app: &str, stream: &str, url: &str, expected: (&str, &str, Option<&str>)) {
        let name = parse(app, stream, url);
        let found = (name.app.as_str(), name.key.as_str(), name.query.as_deref());
        assert_eq!(found, expected);
    }

    #[test]
    fn the_key_is_found_wherever_it_stands() {
        check("live", "key", "", ("live", "key", None));
        check(
            "/live/",
            "key?token=x",
            "rtmp://h/live?a=b",
            ("live", "key", Some("token=x")),
        );
        check("live?token=x", "key", "", ("live", "key", Some("token=x")));
        check(
            "live",
            "key?",
            "rtmp://h/live?a=b",
            ("live", "key", Some("a=b")),
        );
        check("live/room", "key", "", ("live/room", "key", None));
        check("live", "room/key", "", ("live/room", "key", None));
        check("", "live/key", "", ("live", "key", None));
        check("live/key", "", "", ("live", "key", None));
        check("", "key", "", ("", "key", None));
        check("", "", "", ("", "", None));
    }
}
