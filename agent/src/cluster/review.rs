//! Who may read the agent's port, as the API server judges: TokenReview, then SubjectAccessReview for the path.
//!
//! As kube-rbac-proxy does, with `get` on the path as a non-resource URL. Answers are kept for a minute (refusals for ten
//! seconds), so that a scrape every few seconds is two requests a minute; tokens themselves are kept as hashes only. At most
//! four are asked about at once: whoever sends made-up tokens must not send them to the API server as fast.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::{connect, connect::ConnectError, trouble};

/// How long a grant holds; somebody whose right is taken away reads on for so long.
const GRANTED: Duration = Duration::from_secs(60);
/// How long a refusal holds.
const REFUSED: Duration = Duration::from_secs(10);
/// Longest wait for the API server.
const ANSWER: Duration = Duration::from_secs(5);
/// Answers kept; with more, all are forgotten.
const KEPT: usize = 1_024;
/// Tokens asked about at once.
const AT_ONCE: usize = 4;

/// What the API server says about somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// May read.
    Granted,
    /// The token is nobody's.
    Unknown,
    /// This user may not.
    Denied(String),
    /// The API server did not say, and why.
    Undecided(String),
}

type Key = [u8; 32];

/// Asks the API server about tokens.
pub struct Reviewer {
    client: Client,
    kept: Mutex<HashMap<Key, (Judgement, Instant)>>,
    turns: Semaphore,
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").finish_non_exhaustive()
    }
}

impl Reviewer {
    /// Finds the credentials; asks nothing yet.
    ///
    /// # Errors
    /// There are none.
    pub async fn connect() -> Result<Self, ConnectError> {
        Ok(Self {
            client: connect::client(None).await?,
            kept: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
        })
    }

    /// Whether the token's owner may get the path.
    pub async fn may_read(&self, token: &str, path: &str) -> Judgement {
        let key: Key = Sha256::digest(format!("{token}\0{path}")).into();
        if let Some(known) = self.known(&key) {
            return known;
        }
        // An error means that the semaphore is closed, which nobody does.
        let _turn = self.turns.acquire().await.ok();
        if let Some(known) = self.known(&key) {
            return known;
        }
        let judged = match tokio::time::timeout(ANSWER, self.ask(token, path)).await {
            Ok(judged) => judged,
            Err(_) => Judgement::Undecided(format!(
                "the API server does not answer within {} s",
                ANSWER.as_secs()
            )),
        };
        self.keep(key, &judged);
        judged
    }

    fn known(&self, key: &Key) -> Option<Judgement> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (judged, until) = kept.get(key)?;
        (*until > Instant::now()).then(|| judged.clone())
    }

    fn keep(&self, key: Key, judged: &Judgement) {
        let holds = match judged {
            Judgement::Granted => GRANTED,
            Judgement::Unknown | Judgement::Denied(_) => REFUSED,
            Judgement::Undecided(_) => return,
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, (judged.clone(), Instant::now() + holds));
    }

    async fn ask(&self, token: &str, path: &str) -> Judgement {
        let user = match self.user(token).await {
            Ok(Some(user)) => user,
            Ok(None) => return Judgement::Unknown,
            Err(error) => return undecided("tokenreviews", &error),
        };
        let name = user.username.clone().unwrap_or_default();
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                extra: user.extra,
                groups: user.groups,
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some("get".to_owned()),
                }),
                uid: user.uid,
                user: user.username,
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        match api.create(&PostParams::default(), &review).await {
            Ok(answer) if answer.status.as_ref().is_some_and(|s| s.allowed) => Judgement::Granted,
            Ok(_) => Judgement::Denied(name),
            Err(error) => undecided("subjectaccessreviews", &error),
        }
    }

    async fn user(&self, token: &str) -> Result<Option<UserInfo>, kube::Error> {
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let status = api.create(&PostParams::default(), &review).await?.status;
        let status = status.unwrap_or_default();
        let authenticated = status.authenticated.unwrap_or(false);
        Ok(status.user.filter(|_| authenticated))
    }
}

fn undecided(what: &str, error: &kube::Error) -> Judgement {
    Judgement::Undecided(trouble::of(what, "create", error))
}
