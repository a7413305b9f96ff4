//! Running programs: captured output, signals, bounded waits.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, until, within};

/// How long a program that has ended may hold its output open, by its own children.
const DRAIN: Duration = Duration::from_secs(10);

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// The exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Done {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        let out = String::from_utf8_lossy(&self.out[..self.out.len().min(2000)]);
        assert_eq!(self.code, Some(code), "said: {}\nprinted: {out}", self.err);
        self
    }

    /// Asserts that it went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.exits(0)
    }

    /// Its output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Its output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }

    /// The last line of its messages, without the program's name: why it failed.
    pub(crate) fn reason(&self) -> String {
        let last = self.err.trim_end().lines().last().unwrap_or_default();
        last.trim_start_matches("lavant: ").to_owned()
    }
}

/// A command line of `lavant` that does not see the settings of whoever runs the tests.
pub(crate) struct Lavant {
    command: Command,
    input: Option<Vec<u8>>,
}

impl Lavant {
    pub(crate) fn new<A: AsRef<OsStr>>(args: &[A]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lavant"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LAVANT_") {
                command.env_remove(name);
            }
        }
        command.args(args).stdin(Stdio::piped());
        Self {
            command,
            input: None,
        }
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn folder(mut self, folder: &std::path::Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Standard input.
    pub(crate) fn input(mut self, bytes: Vec<u8>) -> Self {
        self.input = Some(bytes);
        self
    }

    pub(crate) fn spawn(self) -> Program {
        Program::spawn(self.command)
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self) -> Done {
        let input = self.input.take();
        if input.is_none() {
            self.command.stdin(Stdio::null());
        }
        let mut program = self.spawn();
        let feeding = input.map(|bytes| {
            let mut stdin = program.stdin.take().expect("a pipe was asked for");
            // A program may well end before it has read everything.
            std::thread::spawn(move || drop(stdin.write_all(&bytes)))
        });
        let done = program.wait();
        if let Some(feeding) = feeding {
            feeding.join().expect("feeding does not panic");
        }
        done
    }
}

/// Runs `lavant` to its end.
pub(crate) fn lavant<A: AsRef<OsStr>>(args: &[A]) -> Done {
    Lavant::new(args).run()
}

type Captured = Arc<Mutex<Vec<u8>>>;

/// A running program.
pub(crate) struct Program {
    child: Child,
    /// Its standard input, unless it was told to have none.
    pub(crate) stdin: Option<ChildStdin>,
    out: Captured,
    err: Captured,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts a command; its input is a pipe unless the command says otherwise.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("these tests need {name}: {error}"));
        let stdin = child.stdin.take();
        let (out, read_out) = capture(child.stdout.take().expect("a pipe was asked for"));
        let (err, read_err) = capture(child.stderr.take().expect("a pipe was asked for"));
        Self {
            child,
            stdin,
            out,
            err,
            readers: vec![read_out, read_err],
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub(crate) fn printed(&self) -> String {
        String::from_utf8_lossy(&locked(&self.out)).into_owned()
    }

    /// What it has said on its error output so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&locked(&self.err)).into_owned()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state is known").is_none()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("an id is small");
        let id = Pid::from_raw(id).expect("an id is not 0");
        kill_process(id, signal).expect("the program runs");
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill9(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("it is ours to wait for");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(self) -> Done {
        self.wait_within(PATIENCE * 2)
    }

    /// Waits for its end, for `limit` at most.
    #[track_caller]
    pub(crate) fn wait_within(mut self, limit: Duration) -> Done {
        self.stdin = None;
        let child = &mut self.child;
        let status = within(limit, "the end of a program", || {
            child.try_wait().expect("its state is known")
        });
        let readers = &mut self.readers;
        within(DRAIN, "the end of a program's output", || {
            readers.iter().all(JoinHandle::is_finished).then_some(())
        });
        Done {
            code: status.code(),
            out: locked(&self.out).clone(),
            err: self.said(),
        }
    }

    /// Waits until it has printed a line, and gives that.
    pub(crate) fn first_line(&mut self) -> String {
        until("a line of output", || {
            let printed = self.printed();
            if let Some((line, _)) = printed.split_once('\n') {
                return Some(line.to_owned());
            }
            assert!(self.is_running(), "it ended: {}", self.said());
            None
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn locked(captured: &Captured) -> std::sync::MutexGuard<'_, Vec<u8>> {
    captured.lock().unwrap_or_else(PoisonError::into_inner)
}

fn capture(mut from: impl Read + Send + 'static) -> (Captured, JoinHandle<()>) {
    let captured = Captured::default();
    let into = captured.clone();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            locked(&into).extend_from_slice(&buffer[..count]);
        }
    });
    (captured, reader)
}

/// Runs another program to its end; it must go well.
#[track_caller]
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, args: &[A]) -> Done {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    Program::spawn(command).wait().ok()
}
