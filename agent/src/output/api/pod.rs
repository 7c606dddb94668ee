//! Pages about one pod: `/v1/pods/NAMESPACE/NAME`, its `/rules`, and `/why` about one connection.
//!
//! The only pages that carry rules: they are asked for one pod at a time. Parameters are read here, so that the server and
//! the command line refuse the same things with the same words.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{ApiError, Head};
use crate::{
    engine::{self, Ask, Board, PodRow, RulesView, Why},
    model::{Direction, PodKey},
    rules::Protocol,
};

/// Stands for the empty namespace in a path: pods that are known only from the node have none.
pub const NO_NAMESPACE: &str = "-";
/// Pods that are named where one was not found.
const CANDIDATES: usize = 8;

/// `/v1/pods/NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPage {
    /// Node and time.
    #[serde(flatten)]
    pub head: Head,
    /// The pod, as in `/v1/pods`.
    #[serde(flatten)]
    pub row: PodRow,
}

/// `/v1/pods/NAMESPACE/NAME/rules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesPage {
    /// Node and time; `total` is the number of rules.
    #[serde(flatten)]
    pub head: Head,
    /// The rules.
    #[serde(flatten)]
    pub rules: RulesView,
}

/// `/v1/pods/NAMESPACE/NAME/why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyPage {
    /// Node and time; `total` is the number of edges that match.
    #[serde(flatten)]
    pub head: Head,
    /// The answer.
    #[serde(flatten)]
    pub why: Why,
}

/// Query of `/why`: `to`, or `from` and `port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WhyQuery {
    /// Outbound: the destination, `ADDRESS:PORT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Inbound: the peer, `ADDRESS` or `ADDRESS:PORT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Inbound: the pod's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Outbound: user of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Outbound: group of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// `tcp` (without it) or `udp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
}

/// What is wrong with a question, and what to do.
pub type Refusal = (String, &'static str);

impl WhyQuery {
    /// The question.
    ///
    /// # Errors
    /// It names no connection, or two, or an address that is none.
    pub fn ask(&self) -> Result<Ask, Refusal> {
        let protocol = self.protocol.unwrap_or(Protocol::Tcp);
        match (&self.to, &self.from, self.port) {
            (Some(to), None, None) => Ok(Ask {
                direction: Direction::Outbound,
                remote: destination(to)?,
                port: 0,
                protocol,
                uid: self.uid,
                gid: self.gid,
            }),
            (None, Some(from), Some(port)) => self.inbound(from, port, protocol),
            (None, Some(_), None) => Err((
                "the port of the pod is missing".to_owned(),
                "say at which port of the pod the connection comes in: from=ADDRESS and port=PORT",
            )),
            (None, None, _) => Err((
                "no connection is named".to_owned(),
                "ask about one the pod makes with to=ADDRESS:PORT, or about one it gets with from=ADDRESS and port=PORT",
            )),
            (Some(_), _, _) => Err((
                "to excludes from and port".to_owned(),
                "ask about one connection: to=ADDRESS:PORT (out), or from=ADDRESS and port=PORT (in)",
            )),
        }
    }

    fn inbound(&self, from: &str, port: u16, protocol: Protocol) -> Result<Ask, Refusal> {
        if self.uid.is_some() || self.gid.is_some() {
            return Err((
                "uid and gid are the maker's, who is elsewhere for an inbound connection"
                    .to_owned(),
                "leave uid and gid out",
            ));
        }
        let remote = peer(from)?;
        Ok(Ask {
            direction: Direction::Inbound,
            remote,
            port: some_port(port)?,
            protocol,
            uid: None,
            gid: None,
        })
    }
}

fn some_port(port: u16) -> Result<u16, Refusal> {
    match port {
        0 => Err(("0 is not a port".to_owned(), "give a port from 1 to 65535")),
        port => Ok(port),
    }
}

fn destination(text: &str) -> Result<SocketAddr, Refusal> {
    match text.trim().parse::<SocketAddr>() {
        Ok(to) => some_port(to.port()).map(|_| to),
        Err(_) => Err((
            format!("{text:?} is not an address and a port"),
            "write it like 10.96.0.20:8080 or [fd00::20]:8080; names are not looked up, because the agent cannot know what they mean in the pod",
        )),
    }
}

fn peer(text: &str) -> Result<SocketAddr, Refusal> {
    let text = text.trim();
    let with_port = text.parse::<SocketAddr>();
    let alone = |_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    with_port.or_else(alone).map_err(|_| {
        (
            format!("{text:?} is not an address"),
            "write the peer like 10.0.0.7 or fd00::7, its own port behind it if it matters",
        )
    })
}

/// The pod of this name.
///
/// # Errors
/// There is none; who else might be meant.
pub fn find<'a>(board: &'a Board, namespace: &str, name: &str) -> Result<&'a PodRow, ApiError> {
    let namespace = if namespace == NO_NAMESPACE {
        ""
    } else {
        namespace
    };
    let found = board
        .pods
        .iter()
        .find(|row| row.pod.namespace == namespace && row.pod.name == name);
    found.ok_or_else(|| {
        let asked = PodKey {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        ApiError {
            error: format!("no pod {asked} is known on this node"),
            place: path(&asked, ""),
            to_do: to_do(board, name),
        }
    })
}

fn to_do(board: &Board, name: &str) -> String {
    let like = board.pods.iter().filter(|row| row.pod.name == name);
    let like: Vec<String> = like
        .map(|row| row.pod.to_string())
        .take(CANDIDATES)
        .collect();
    if like.is_empty() {
        "see /v1/pods (or `sidestep pods`) for the pods of this node; a pod of another node is known to that node's agent".to_owned()
    } else {
        format!("of that name there is: {}", like.join(", "))
    }
}

/// The path of a page about a pod; `page` is empty or like `/rules`.
#[must_use]
pub fn path(pod: &PodKey, page: &str) -> String {
    let namespace = if pod.namespace.is_empty() {
        NO_NAMESPACE
    } else {
        &pod.namespace
    };
    format!(
        "/v1/pods/{}/{}{page}",
        encoded(namespace),
        encoded(&pod.name)
    )
}

/// A path segment: a pod known only from the node may be called anything.
pub(crate) fn encoded(segment: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let bytes = segment.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    bytes.collect()
}

/// The page of a pod.
#[must_use]
pub fn pod(board: &Board, pod: &PodRow) -> PodPage {
    PodPage {
        head: Head::new(board, 1),
        row: pod.clone(),
    }
}

/// The page of a pod's rules.
#[must_use]
pub fn rules(board: &Board, pod: &PodRow) -> RulesPage {
    let rules = engine::rules_view(board, pod);
    let chains = rules.tables.iter().flat_map(|table| &table.chains);
    let total = chains.map(|chain| chain.rules.len()).sum();
    RulesPage {
        head: Head::new(board, total),
        rules,
    }
}

/// The page about one connection of a pod.
#[must_use]
pub fn why(board: &Board, pod: &PodRow, ask: &Ask) -> WhyPage {
    let why = engine::why(board, pod, ask);
    WhyPage {
        head: Head::new(board, why.observed.len()),
        why,
    }
}
