//! Watches the directory of manifests: the async shell around [`PodsDir`].
//!
//! The kernel's notice of a change makes it quick, a look every few seconds makes it sure:
//! on file systems without notices, and for a directory that does not exist yet.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::{Notify, mpsc},
    time,
};

use super::PodsDir;
use crate::engine::Change;

/// An editor's write is several notices, and a file half written is no manifest.
const SETTLE: Duration = Duration::from_millis(50);
/// A look without a notice.
const RESCAN: Duration = Duration::from_secs(5);

/// Sends what changes in the directory until nobody listens any more. Waits while the
/// channel is full: nothing is lost, later changes are told as one.
pub async fn watch_pods_dir(
    dir: PathBuf,
    variables: BTreeSet<String>,
    changes: mpsc::Sender<Change>,
) {
    let notice = Arc::new(Notify::new());
    let mut watcher = None;
    let mut pods = PodsDir::new(dir.clone(), variables);
    loop {
        // A watch dies with its directory; a new one is cheap.
        if watcher.is_none() || !dir.is_dir() {
            watcher = watch(&dir, &notice);
        }
        let scanned = tokio::task::spawn_blocking(move || {
            let found = pods.scan();
            (pods, found)
        });
        let Ok((back, found)) = scanned.await else {
            tracing::error!(dir = %dir.display(), "reading the manifests was aborted; pods are not updated any more");
            return;
        };
        pods = back;
        for change in found {
            if changes.send(change).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = notice.notified() => time::sleep(SETTLE).await,
            () = time::sleep(RESCAN) => {}
            () = changes.closed() => return,
        }
    }
}

fn watch(dir: &Path, notice: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let notice = Arc::clone(notice);
    let told = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| is_change(event.kind)) {
            notice.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(told).ok()?;
    watcher.watch(dir, RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// Reading is noticed too, ours first of all: it must not make us read again.
const fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::fs;

    use tokio::sync::mpsc;

    use super::watch_pods_dir;
    use crate::engine::Change;

    #[tokio::test]
    async fn a_manifest_is_told_when_it_appears_and_when_it_goes() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("a.yaml");
        let (sender, mut changes) = mpsc::channel(8);
        let watching = tokio::spawn(watch_pods_dir(temp.path().to_owned(), [].into(), sender));
        fs::write(&file, "kind: Pod\nmetadata: {name: a}\n").unwrap();
        assert!(matches!(changes.recv().await, Some(Change::Pod(pod)) if pod.key.name == "a"));
        fs::remove_file(&file).unwrap();
        assert!(matches!(changes.recv().await, Some(Change::PodGone(key)) if key.name == "a"));
        drop(changes);
        watching.await.unwrap();
    }
}
