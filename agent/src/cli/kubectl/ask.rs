//! Asks the cluster's agents, and prints what they say.
//!
//! Every command asks once and ends, but those that watch: they find the agents and the selected pods anew with every look,
//! because both change. Which rows are wanted is decided here, never by an agent alone: labels are the API server's to judge.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{
    Common, FindingsOptions, Form, LOOK, PodsOptions, RulesOptions, WhyOptions, fault,
    gather::{self, Gathered, Node},
    lines, no_agents, path,
};
use crate::{
    cli::{
        Exit, Fault,
        findings::{self, json},
        live_rules, pods,
        report::{self, Detail},
        text::{self, Style},
        why,
    },
    cluster::{AgentPod, Fleet, Reach},
    engine::Code,
    model::PodKey,
    output::api::{
        FindingsPage, PodsPage,
        pod::{self, RulesPage, WhyPage},
    },
};

/// The cluster, and whom to ask about.
pub(super) struct Asker<'a> {
    fleet: Fleet,
    common: &'a Common,
    agents: Vec<AgentPod>,
    /// Namespace asked about, `None` for all.
    namespace: Option<String>,
    /// Pods with the labels asked for.
    selected: Option<BTreeSet<PodKey>>,
}

impl<'a> Asker<'a> {
    pub(super) async fn open(common: &'a Common) -> Result<Self, Fault> {
        let reach = Reach {
            kubeconfig: common.kubeconfig.clone(),
            context: common.context.clone(),
            agents_namespace: common.agents_namespace.clone(),
            agents: common.agents.clone(),
            port: common.agents_port,
            token: common.agents_token.clone(),
        };
        let fleet = Fleet::open(reach).await.map_err(fault)?;
        let given = common.namespace.clone();
        let namespace =
            (!common.all_namespaces).then(|| given.unwrap_or_else(|| fleet.namespace.clone()));
        let mut asker = Self {
            fleet,
            common,
            agents: Vec::new(),
            namespace,
            selected: None,
        };
        asker.look().await?;
        Ok(asker)
    }

    /// Finds the agents, and the pods that are selected now.
    pub(super) async fn look(&mut self) -> Result<(), Fault> {
        self.agents = self.fleet.agents().await.map_err(fault)?;
        if self.agents.is_empty() {
            return Err(no_agents(self.common));
        }
        if let Some(labels) = &self.common.selector {
            let namespace = self.namespace.as_deref();
            let selected = self.fleet.selected(labels, namespace).await;
            self.selected = Some(selected.map_err(fault)?);
        }
        Ok(())
    }

    async fn page<T>(&self, path: &str) -> Result<Gathered<T>, Fault>
    where
        T: serde::de::DeserializeOwned,
    {
        let answers = self.fleet.ask(&self.agents, path).await;
        gather::read(answers).map_err(|place| {
            Fault::new(
                Exit::Unreachable,
                "no agent answers",
                place,
                "check that you may `get` pods/proxy in the agents' namespace, and look at the agents' logs",
            )
        })
    }

    async fn all_findings(
        &self,
        asked: &FindingsOptions,
    ) -> Result<(FindingsPage, Vec<Node>), Fault> {
        let mut query = vec![("limit", "1000000".to_owned())];
        if !asked.resolved {
            query.push(("state", "open".to_owned()));
        }
        query.extend(asked.code.map(|code| ("code", code.as_str().to_owned())));
        let name = asked.pod.as_deref().map(|pod| self.key(pod));
        let gathered = self
            .page(&path("/v1/findings", &self.narrowed(query, name.as_ref())))
            .await?;
        let wanted = |key: Option<&PodKey>| match key {
            Some(key) => self.wanted(key),
            // About an agent itself: whoever asks about everything wants to know.
            None => self.namespace.is_none() && self.selected.is_none() && name.is_none(),
        };
        Ok(gather::findings(gathered, wanted))
    }

    pub(super) async fn findings(&mut self, asked: &FindingsOptions) -> anyhow::Result<Exit> {
        if asked.watch {
            return self.watch_findings(asked).await;
        }
        let (page, nodes) = self.all_findings(asked).await?;
        if !self.machine(&gather::FindingsList::new(&page, &nodes))? {
            let (style, detail) = self.style(asked.pod.is_some());
            let filtered = asked.code.is_some() || asked.pod.is_some() || self.namespace.is_some();
            let text = match self.common.output {
                Some(_) => lines::findings(&page, &nodes),
                None => report::findings(&page, style, detail, filtered),
            };
            text::print(&text)?;
            text::print(&lines::missing(&nodes))?;
        }
        Ok(findings::verdict(&page.findings, asked.fail_on))
    }

    async fn watch_findings(&mut self, asked: &FindingsOptions) -> anyhow::Result<Exit> {
        let mut shown = lines::Shown::default();
        loop {
            let (page, nodes) = self.all_findings(asked).await?;
            text::print(&shown.findings(&page, &nodes))?;
            tokio::time::sleep(LOOK).await;
            self.look().await?;
        }
    }

    pub(super) async fn all_pods(
        &self,
        name: Option<&str>,
        code: Option<Code>,
    ) -> Result<(PodsPage, Vec<Node>), Fault> {
        let mut query = vec![("limit", "1000000".to_owned())];
        query.extend(code.map(|code| ("code", code.as_str().to_owned())));
        let name = name.map(|pod| self.key(pod));
        let gathered = self
            .page(&path("/v1/pods", &self.narrowed(query, name.as_ref())))
            .await?;
        Ok(gather::pods(gathered, |key| self.wanted(key)))
    }

    pub(super) async fn pods(&mut self, asked: &PodsOptions) -> anyhow::Result<Exit> {
        let mut shown = lines::Shown::default();
        loop {
            let (page, nodes) = self.all_pods(asked.pod.as_deref(), asked.code).await?;
            if asked.watch {
                text::print(&shown.pods(&page, &nodes))?;
                tokio::time::sleep(LOOK).await;
                self.look().await?;
                continue;
            }
            if !self.machine(&gather::PodsList::new(&page, &nodes))? {
                let text = match self.common.output {
                    Some(_) => lines::pods(&page, &nodes),
                    None => pods::report(&page, self.style(true).0),
                };
                text::print(&text)?;
                text::print(&lines::missing(&nodes))?;
            }
            return Ok(Exit::Ok);
        }
    }

    pub(super) async fn why(&mut self, asked: &WhyOptions) -> anyhow::Result<Exit> {
        let query = asked.asked.query()?;
        let key = self.key(&asked.pod);
        let page: WhyPage = self
            .of_pod(&key, &path(&pod::path(&key, "/why"), &why::pairs(&query)))
            .await?;
        if !self.machine(&page)? {
            text::print(&why::report(&page, self.style(true).0))?;
        }
        Ok(Exit::Ok)
    }

    pub(super) async fn rules(&mut self, asked: &RulesOptions) -> anyhow::Result<Exit> {
        let key = self.key(&asked.pod);
        let page: RulesPage = self.of_pod(&key, &pod::path(&key, "/rules")).await?;
        if !self.machine(&page)? {
            text::print(&live_rules::report(&page, Style::of_stdout(true)))?;
        }
        Ok(Exit::Ok)
    }

    /// A page about one pod, from the agent of its node.
    async fn of_pod<T: serde::de::DeserializeOwned>(
        &self,
        key: &PodKey,
        path: &str,
    ) -> Result<T, Fault> {
        let node = self.fleet.node_of(key).await.map_err(fault)?;
        let Some(node) = node else {
            let to_do =
                "wait until it is scheduled; `kubectl describe pod` tells what it waits for";
            return Err(Fault::new(
                Exit::Usage,
                "the pod is on no node yet",
                key.to_string(),
                to_do,
            ));
        };
        let agent = self.agents.iter().find(|agent| agent.node == node);
        let Some(agent) = agent else {
            return Err(Fault::new(
                Exit::Unreachable,
                "no agent runs on the pod's node",
                format!("{key} on {node}"),
                "look at the DaemonSet of the agents: its tolerations and node selector",
            ));
        };
        let answers = self.fleet.ask(std::slice::from_ref(agent), path).await;
        let gathered: Gathered<T> = gather::read(answers).map_err(|place| {
            Fault::new(
                Exit::Unreachable,
                format!("the agent of {node} does not answer"),
                place,
                "check the pod's name, that the agent is of this version, and that you may `get` pods/proxy in its namespace",
            )
        })?;
        gathered
            .pages
            .into_iter()
            .next()
            .map(|(_, page)| page)
            .ok_or_else(|| no_agents(self.common))
    }

    /// The pod a person means: `namespace/name`, `pod/name`, or a name in the namespace asked about.
    fn key(&self, given: &str) -> PodKey {
        let own = || {
            self.namespace
                .clone()
                .unwrap_or_else(|| self.fleet.namespace.clone())
        };
        let (namespace, name) = match given.split_once('/') {
            Some(("pod" | "pods" | "po", name)) => (own(), name),
            Some((namespace, name)) => (namespace.to_owned(), name),
            None => (own(), given),
        };
        PodKey {
            namespace,
            name: name.to_owned(),
        }
    }

    fn wanted(&self, key: &PodKey) -> bool {
        self.selected
            .as_ref()
            .is_none_or(|selected| selected.contains(key))
    }

    fn narrowed(
        &self,
        mut query: Vec<(&'static str, String)>,
        name: Option<&PodKey>,
    ) -> Vec<(&'static str, String)> {
        let namespace = name
            .map(|key| key.namespace.clone())
            .or_else(|| self.namespace.clone());
        query.extend(namespace.map(|namespace| ("namespace", namespace)));
        query.extend(name.map(|key| ("pod", key.name.clone())));
        query
    }

    fn style(&self, full: bool) -> (Style, Detail) {
        let detail = if full { Detail::Full } else { Detail::Brief };
        (
            Style::of_stdout(self.common.output == Some(Form::Wide)),
            detail,
        )
    }

    /// Prints for machines, if asked to.
    fn machine(&self, page: &impl Serialize) -> anyhow::Result<bool> {
        match self.common.output {
            Some(Form::Json) => text::print(&json(page)?)?,
            Some(Form::Yaml) => text::print(&serde_saphyr::to_string(page)?)?,
            Some(Form::Wide) | None => return Ok(false),
        }
        Ok(true)
    }
}
