//! Writes what the engine is given to a file, for `sidestep replay`.
//!
//! Recording must never stop the agent: a full disk ends the recording, not the watch,
//! and inputs that could not be written are counted and exported.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    engine::{Config, Input, record},
    model::Time,
};

/// A recording in progress, or none.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    file: Option<(PathBuf, BufWriter<File>)>,
    lost: Arc<AtomicU64>,
    wanted: bool,
}

impl Recorder {
    /// Begins a recording; an existing file is replaced.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub(super) fn create(path: &Path, config: &Config, started: Time) -> anyhow::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        let header = record::Header::new(config.clone(), started);
        file.write_all(record::write_header(&header)?.as_bytes())?;
        Ok(Self {
            file: Some((path.to_owned(), file)),
            lost: Arc::default(),
            wanted: true,
        })
    }

    /// Inputs not written since the start, for the view's losses.
    pub(super) fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Appends one input.
    pub(super) fn write(&mut self, at: Time, input: &Input) {
        if !self.wanted {
            return;
        }
        let written = match &mut self.file {
            Some((_, file)) => record::write_input(at, input)
                .map_err(anyhow::Error::from)
                .and_then(|line| Ok(file.write_all(line.as_bytes())?)),
            None => Err(anyhow::anyhow!("the recording has ended")),
        };
        if let Err(error) = written {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.give_up(&error);
        }
    }

    /// Hands what is buffered to the system, so that a killed agent leaves whole lines.
    pub(super) fn flush(&mut self) {
        if let Some((_, file)) = &mut self.file
            && let Err(error) = file.flush()
        {
            self.give_up(&error.into());
        }
    }

    fn give_up(&mut self, error: &anyhow::Error) {
        if let Some((path, _)) = self.file.take() {
            tracing::error!(file = %path.display(), %error, "the recording ends here; the agent goes on. Make room and start it again to record");
        }
    }
}
