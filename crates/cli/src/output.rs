//! What the program prints, and how it ends.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use lavant_node::client::ClientError;
use lavant_node::run::StartError;

/// Prints one line; a reader that went away ends the program quietly.
pub(crate) fn line(text: impl Display) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}")
        && error.kind() == ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
}

/// Prints a value as JSON on one line.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string(value)?);
    Ok(())
}

/// Prints a remark for people, apart from the output.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints an error and gives the exit code that fits it.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    note(format_args!("lavant: {error:#}"));
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return match error {
            ClientError::Unreachable { .. } | ClientError::Refused { .. } => 3,
            _ => 1,
        };
    }
    if error
        .downcast_ref::<lavant_node::config::ConfigError>()
        .is_some()
    {
        return 2;
    }
    match error.downcast_ref::<StartError>() {
        Some(StartError::Serve(_) | StartError::Store(_)) => 1,
        _ => 1,
    }
}

/// A number of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// A length of time for people.
pub(crate) fn duration(seconds: f64) -> String {
    let total = seconds.round() as u64;
    let (hours, minutes, seconds) = (total / 3600, total / 60 % 60, total % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}
