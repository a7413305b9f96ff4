//! What the program prints, and how it ends.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use lavant_node::shell::client::ClientError;
use lavant_node::shell::is_hidden;

/// A text as one line that does nothing but show letters.
///
/// Titles, names, reasons and addresses come from other nodes. A terminal would obey the control
/// characters in them, and show the text between marks of direction in another order.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(is_hidden) {
        Cow::Owned(text.replace(is_hidden, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// The same for a text that has several lines of its own.
fn clean_lines(text: &str) -> String {
    let lines = text.split('\n').map(clean);
    lines.collect::<Vec<_>>().join("\n")
}

/// Prints one line, cleaned; a reader that went away ends the program quietly.
pub(crate) fn line(text: impl Display) {
    raw(&clean(&text.to_string()));
}

fn raw(text: &str) {
    // Whoever closed the pipe has read enough, which is no failure.
    if let Err(error) = writeln!(std::io::stdout(), "{text}")
        && error.kind() == ErrorKind::BrokenPipe
    {
        std::process::exit(0);
    }
}

/// Prints a value as JSON on one line.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    // Controls are escaped in it, and it is data: nothing is replaced.
    raw(&serde_json::to_string(value)?);
    Ok(())
}

/// Prints a remark for people, apart from the output.
pub(crate) fn note(text: impl Display) {
    // Nothing can be done about an error output that is gone.
    let _ = writeln!(std::io::stderr(), "{}", clean(&text.to_string()));
}

/// Prints an error and gives the exit code that fits it.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    let text = format!("lavant: {error:#}");
    // Errors in the own configuration show the lines of the file; any other is one line.
    let text = match error.downcast_ref::<lavant_node::config::ConfigError>() {
        Some(_) => clean_lines(&text),
        None => clean(&text).into_owned(),
    };
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<ClientError>() {
        return match error {
            ClientError::Address(_) | ClientError::Path(_) => 2,
            ClientError::Unreachable { .. }
            | ClientError::Refused { .. }
            | ClientError::Strange { .. } => 3,
            _ => 1,
        };
    }
    if error
        .downcast_ref::<lavant_node::config::ConfigError>()
        .is_some()
    {
        return 2;
    }
    if error.downcast_ref::<WrongInput>().is_some() {
        return 2;
    }
    1
}

/// What was given makes no sense: a sentence that says so.
#[derive(Debug)]
pub(crate) struct WrongInput(pub(crate) String);

impl Display for WrongInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongInput {}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_replaced() {
        assert_eq!(
            clean("a\u{1b}[2Jb\r\nc\u{9b}d\u{7}"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}d\u{fffd}"
        );
        assert_eq!(
            clean("x\u{202e}y\u{2067}z\u{2028}"),
            "x\u{fffd}y\u{fffd}z\u{fffd}"
        );
        assert_eq!(
            clean("a\u{61c}b\u{200e}c\u{200f}"),
            "a\u{fffd}b\u{fffd}c\u{fffd}"
        );
        for plain in ["Caf\u{e9} \u{1f3ac}", "\u{5e9}\u{5dc} a\u{200d}b", ""] {
            assert!(matches!(clean(plain), Cow::Borrowed(same) if same == plain));
        }
        assert_eq!(clean_lines("a\nb\u{1b}"), "a\nb\u{fffd}");
    }
}
