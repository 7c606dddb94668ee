//! What was asked of the API server and what it answered: counted where every request passes.
//!
//! The watches themselves do not say when they are well again: a watch on which nothing happens is silent. The answer to the
//! request that opened it is what tells, so successes are counted here by what they were about.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::http::{Request, Response};
use kube::client::Body;
use tower::{Layer, Service};

use crate::model::{ClusterStats, WatchStats};

/// Path of the list and the watch of pods.
pub(super) const PODS_PATH: &str = "/api/v1/pods";
/// Path of the list and the watch of namespaces.
pub(super) const NAMESPACES_PATH: &str = "/api/v1/namespaces";

#[derive(Debug, Default)]
struct Inner {
    stats: ClusterStats,
    /// Requests that succeeded, by path, for the two paths that are watched.
    answered: BTreeMap<&'static str, u64>,
}

/// The counters, shared by the requests, the watches and the agent's own account.
#[derive(Clone, Debug, Default)]
pub(super) struct Account(Arc<Mutex<Inner>>);

impl Account {
    /// All counters now.
    pub(super) fn stats(&self) -> ClusterStats {
        self.lock().stats.clone()
    }

    /// Requests for this path that succeeded so far.
    pub(super) fn answered(&self, path: &'static str) -> u64 {
        self.lock().answered.get(path).copied().unwrap_or(0)
    }

    /// Changes the account of one watch.
    pub(super) fn watch(&self, kind: &str, change: impl FnOnce(&mut WatchStats)) {
        change(
            self.lock()
                .stats
                .watches
                .entry(kind.to_owned())
                .or_default(),
        );
    }

    /// Counts Events by what came of them.
    pub(super) fn events(&self, result: &str, number: u64) {
        let mut inner = self.lock();
        let count = inner.stats.events.entry(result.to_owned()).or_default();
        *count = count.saturating_add(number);
    }

    /// As if a request about what is watched succeeded.
    #[cfg(test)]
    pub(super) fn answer(&self, path: &str) {
        self.request(path, Some(200));
    }

    /// Objects not held because there were too many, all in all.
    pub(super) fn refused(&self, number: u64) {
        self.lock().stats.refused = number;
    }

    fn request(&self, path: &str, status: Option<u16>) {
        let mut inner = self.lock();
        let code = status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        let count = inner.stats.requests.entry(code).or_default();
        *count = count.saturating_add(1);
        let watched = [PODS_PATH, NAMESPACES_PATH]
            .into_iter()
            .find(|p| *p == path);
        if let Some(path) = watched.filter(|_| status.is_some_and(|code| code < 300)) {
            let count = inner.answered.entry(path).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Counters are whole at every step: one that panicked left nothing half done.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts requests on their way to the API server.
#[derive(Clone, Debug)]
pub(super) struct Counting(pub(super) Account);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted {
            inner,
            account: self.0.clone(),
        }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    account: Account,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let account = self.account.clone();
        let path = request.uri().path().to_owned();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            account.request(&path, status);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_about_what_is_watched_say_that_it_is_well() {
        let account = Account::default();
        account.request(PODS_PATH, Some(200));
        account.request(PODS_PATH, Some(403));
        account.request(PODS_PATH, None);
        account.request("/api/v1/namespaces/n/events", Some(201));
        assert_eq!(account.answered(PODS_PATH), 1);
        assert_eq!(account.answered(NAMESPACES_PATH), 0);
        let requests = account.stats().requests;
        let told: Vec<_> = requests.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(told, [("200", 1), ("201", 1), ("403", 1), ("none", 1)]);
    }
}
