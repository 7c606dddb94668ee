//! Takes network namespaces away when whoever made them ends, however that ends.
//!
//! A destructor does not run when a test is killed by a signal, and a test that hangs is. So a
//! shell waits for the end of a pipe of which only the test holds the other end, in a process
//! group of its own that nobody kills along with it. Included by whoever makes namespaces.
//!
//! It must never remove what it was not told of by name.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

/// What it does with its arguments once the pipe ends.
const SCRIPT: &str = r#"read -r end; for name; do ip netns del "$name" 2>/dev/null; done"#;

/// Namespaces that go when this is dropped, or its process is gone.
#[derive(Debug)]
pub(crate) struct Reaper(Child);

impl Reaper {
    /// For namespaces of these names, which need not be there yet.
    pub(crate) fn of(names: &[String]) -> io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "reaper"]).args(names);
        shell.stdin(Stdio::piped()).process_group(0);
        // Whoever waits for the test's output must not wait for the shell, too.
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        shell.spawn().map(Self)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // An error means that it is gone already.
        let _ = self.0.wait();
    }
}
