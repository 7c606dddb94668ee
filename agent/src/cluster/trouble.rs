//! What is wrong between the agent and the API server, in words that say what is not known and what to do.
//!
//! Trouble here never stops the measuring: pods keep what was known of them last.

use kube::{Error, runtime::watcher};

/// What a watch that failed means; `None` for what is no trouble (the place in the watch is too old: it lists again).
pub(super) fn of_watch(what: &str, error: &watcher::Error) -> Option<String> {
    use watcher::Error as E;
    match error {
        E::InitialListFailed(error) | E::WatchStartFailed(error) | E::WatchFailed(error) => {
            Some(of(what, "list and watch", error))
        }
        E::WatchError(status) if status.code == 410 => None,
        E::WatchError(status) => Some(format!(
            "the API server ended the watch of {what}: {} (status {}); it is tried again",
            status.message, status.code
        )),
        E::NoResourceVersion => Some(format!(
            "the API server's list of {what} has no resource version; this is no Kubernetes API server as the agent knows them"
        )),
    }
}

/// What a request that failed means.
pub(super) fn of(what: &str, verb: &str, error: &Error) -> String {
    match error {
        Error::Api(status) if status.code == 403 => format!(
            "the agent may not {verb} {what}: {}; give its ServiceAccount that right (docs/install.md has the ClusterRole)",
            status.message
        ),
        Error::Api(status) if status.code == 401 => format!(
            "the API server does not accept the agent's credentials for {what}: {}; check its ServiceAccount token or kubeconfig",
            status.message
        ),
        Error::Api(status) => format!(
            "the API server refuses {what}: {} (status {}); it is tried again",
            status.message, status.code
        ),
        Error::Auth(error) => format!(
            "no credentials for the API server: {error}; check the agent's ServiceAccount token or kubeconfig"
        ),
        other => format!(
            "the API server cannot be asked about {what}: {}; what was known last is kept, and it is tried again",
            root(other)
        ),
    }
}

/// The innermost cause: the outer ones only say that something failed.
fn root(error: &Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn status(code: u16) -> Box<Status> {
        Box::new(Status {
            code,
            message: "because".to_owned(),
            ..Status::default()
        })
    }

    #[test]
    fn every_trouble_says_what_to_do() {
        for (code, expected) in [
            (403, "ClusterRole"),
            (401, "ServiceAccount token"),
            (500, "tried again"),
        ] {
            let text = of("pods", "list and watch", &Error::Api(status(code)));
            assert!(
                text.contains(expected) && text.contains("because"),
                "{text}"
            );
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let text = of("pods", "list", &Error::Service(refused.into()));
        assert!(text.contains("connection refused"), "{text}");
    }

    #[test]
    fn a_place_too_old_is_no_trouble() {
        let gone = watcher::Error::WatchError(status(410));
        assert_eq!(of_watch("pods", &gone), None);
        let other = watcher::Error::WatchError(status(500));
        assert!(of_watch("pods", &other).is_some());
    }
}
