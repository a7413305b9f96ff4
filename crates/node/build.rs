//! Puts the built page into the program.
//!
//! The files of `web/dist` become a table of byte strings; `make web` makes them. Without them a
//! plain page says how to get the real one, so that the program can be built without npm.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PLAIN: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
    <title>lavant</title>\
    <p>This lavant was built without its page: run <code>make web</code> and build again.</p>\
    <p>The API works: <a href=\"/catalog\">catalogue</a>, <a href=\"/status\">status</a>.</p>\
    </html>";

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env("CARGO_MANIFEST_DIR"));
    let dist = manifest.join("../../web/dist");
    println!("cargo:rerun-if-changed={}", dist.display());
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env("OUT_DIR"));
    let mut files = Vec::new();
    if dist.join("index.html").exists() {
        collect(&dist, &mut files)?;
    } else {
        let plain = out.join("index.html");
        fs::write(&plain, PLAIN)?;
        files.push(plain);
    }
    let base = if dist.join("index.html").exists() {
        dist
    } else {
        out.clone()
    };
    fs::write(out.join("assets.rs"), table(&base, &files)?)
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_none_or(|extension| extension != "gz") {
            files.push(path);
        }
    }
    Ok(())
}

fn table(base: &Path, files: &[PathBuf]) -> io::Result<String> {
    let mut rust = String::from("pub(super) static ASSETS: &[super::Asset] = &[\n");
    for file in files {
        let path = file.strip_prefix(base).map_err(io::Error::other)?;
        let file = file.canonicalize()?;
        let packed = PathBuf::from(format!("{}.gz", file.display()));
        let gzip = if packed.exists() {
            format!("Some(include_bytes!({:?}))", packed.display().to_string())
        } else {
            "None".into()
        };
        writeln!(
            rust,
            "super::Asset {{ path: {:?}, mime: {:?}, bytes: include_bytes!({:?}), gzip: {gzip} }},",
            path.display().to_string(),
            mime(path),
            file.display().to_string()
        )
        .map_err(io::Error::other)?;
    }
    rust.push_str("];\n");
    Ok(rust)
}

fn mime(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("json" | "map") => "application/json",
        _ => "application/octet-stream",
    }
}
