//! `cargo xtask cluster test`: the chart on a real cluster, and whether what the agent says there is right.
//!
//! One run, one cluster, in the order of a story: installed, a healthy and a broken pod, Prometheus; then its chapters, each
//! of which needs nothing but that beginning. A check that fails does not keep the others from being made, except where
//! there is nothing to check. Nothing is asked of the agent that a user could not ask.

mod agent;
mod chaos;
mod churn;
mod guide;
mod kernel;
mod kinds;
mod load;
mod options;
mod prometheus;
mod reboot;
mod secured;
mod service;
mod vm;
mod world;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum as _;

use super::kubectl::Kubectl;
use super::lifecycle::Running;
use super::signals::Stop;
use agent::Agent;
use options::Chapter;
use prometheus::Prometheus;

pub(crate) use options::Options;

use crate::{paths, process};

/// How long something that takes seconds may take on a machine that does much else.
const SOON: Duration = Duration::from_secs(90);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What the beginning leaves to the chapters; a chapter that moves the agent puts the new one here.
#[derive(Debug)]
struct Scene<'a> {
    images: &'a world::Images,
    agent: Agent,
    prometheus: Prometheus,
}

impl Scene<'_> {
    /// The agent is another pod now.
    fn moved(&mut self, test: &Test) -> Result<()> {
        self.agent = Agent::find(&test.kubectl)?;
        self.prometheus.configure(&world::prometheus(&self.agent)?)
    }
}

/// Everything the checks need.
#[derive(Debug)]
struct Test {
    running: Running,
    kubectl: Kubectl,
    stop: Stop,
    failed: Vec<String>,
    checked: u32,
}

/// Starts a cluster, runs all checks, ends it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if let Some(kernel) = options.kernel {
        return vm::run(options, kernel);
    }
    let stop = Stop::watch()?;
    let start = Instant::now();
    let images = match &options.made {
        Some(agent) => world::Images::made_of(agent),
        None => world::images(options.agent.as_deref().zip(options.tests.as_deref()))?,
    };
    let running = Running::start(&stop)?;
    println!("cluster ready after {:.0} s", start.elapsed().as_secs_f64());
    let mut test = Test {
        kubectl: Kubectl::new(&running.place, &running.programs),
        running,
        stop,
        failed: Vec::new(),
        checked: 0,
    };
    let result = test.story(options, &images);
    if let Err(error) = &result {
        test.failed.push(format!("{error:#}"));
        println!("FAIL the story ended early: {error:#}");
        test.say_more();
    }
    if options.keep {
        println!(
            "export KUBECONFIG={}",
            test.running.leave()?.kubeconfig().display()
        );
    }
    println!(
        "{} of {} checks failed, {:.0} s",
        test.failed.len(),
        test.checked,
        start.elapsed().as_secs_f64()
    );
    Ok(if test.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Test {
    fn story(&mut self, options: &Options, images: &world::Images) -> Result<()> {
        world::install(&self.running, images)?;
        self.until("the agent is ready", |test| {
            world::agent_address(&test.kubectl).map(drop)
        })?;
        let agent = Agent::find(&self.kubectl)?;
        let prometheus = Prometheus::start(
            &self.running.place,
            &self.running.programs,
            "prometheus",
            "127.0.0.1:19090",
            &world::prometheus(&agent)?,
        )?;
        self.kubectl
            .run(&["apply", "--filename", &world::file("mesh.yaml")])?;
        self.until("the pods of the mesh are ready", |test| {
            world::ready(&test.kubectl, "mesh", 3)
        })?;
        self.finding(&agent)?;
        self.events()?;
        self.until("`kubectl sidestep findings` tells it", |test| {
            let text = world::plugin(&test.running, images, &["findings", "--namespace", "mesh"])?;
            ensure!(
                text.contains("bypass-no-rules")
                    && text.contains("broken")
                    && !text.contains("healthy"),
                "{text}"
            );
            Ok(())
        })?;
        let mut scene = Scene {
            images,
            agent,
            prometheus,
        };
        self.scraped(&scene.prometheus);
        for chapter in Chapter::value_variants() {
            if options.wants(*chapter) {
                self.chapter(*chapter, options, &mut scene)?;
            }
        }
        self.finding(&scene.agent)?;
        self.memory(&scene.agent);
        Ok(())
    }

    fn chapter(
        &mut self,
        chapter: Chapter,
        options: &Options,
        scene: &mut Scene<'_>,
    ) -> Result<()> {
        match chapter {
            Chapter::Kernel => {
                kernel::everything_is_seen(self, &scene.agent);
                Ok(())
            }
            Chapter::Watches => {
                self.watches();
                Ok(())
            }
            Chapter::Quiet => churn::requests(self),
            Chapter::HostNetwork => kinds::host_network(self, scene),
            Chapter::NativeSidecar => kinds::native_sidecar(self, scene),
            Chapter::EmptyService => service::without_endpoints(self, scene),
            Chapter::Churn => {
                let (agent, prometheus) = (&scene.agent, &scene.prometheus);
                churn::crowd(self, agent, prometheus, options.crowd)?;
                churn::churn(self, agent, prometheus, options.churn)?;
                self.memory(agent);
                churn::disperse(self)
            }
            Chapter::Killed => {
                scene.agent = chaos::kill_agent(self, &scene.agent)?;
                Ok(())
            }
            Chapter::ApiServer => chaos::api_server_away(self, &scene.agent, &scene.prometheus),
            Chapter::Reboot => reboot::reboot(self, scene),
            Chapter::Secured => secured::secured(self, scene),
            Chapter::Guide => {
                let compile = options.agent.is_none() && options.made.is_none();
                guide::guide(self, scene, compile)
            }
        }
    }

    /// What Prometheus has of the mesh.
    fn scraped(&mut self, prometheus: &Prometheus) {
        self.check("Prometheus has the finding by its pod", || {
            prometheus.wait(
                r#"sidestep_findings{namespace="mesh",pod="broken",code="bypass-no-rules"}"#,
                |value| value >= 1.0,
            )
        });
        self.check("Prometheus has what was intercepted", || {
            prometheus.wait(
                r#"sidestep_interception_total{namespace="mesh",pod="healthy",direction="outbound",verdict="intercepted"}"#,
                |value| value >= 20.0,
            )
        });
    }

    /// The agent's own tests against an API server alone: rights that are missing, an outage, Events.
    fn watches(&mut self) {
        let programs = &self.running.programs;
        let mut command = Command::new("cargo");
        command
            .current_dir(paths::workspace())
            .args(["test", "--quiet", "--package", "sidestep", "--lib"])
            .args(["cluster::apiserver", "--", "--include-ignored"])
            .env("SIDESTEP_TEST_KUBERNETES", &programs.kubernetes)
            .env("SIDESTEP_TEST_ETCD", programs.tools.join("usr/bin"));
        self.check("the watches' own tests pass", || {
            process::output(&mut command).map(|_| String::new())
        });
    }

    /// The broken pod is found, with the right code and words, and nobody else is.
    fn finding(&mut self, agent: &Agent) -> Result<()> {
        self.until("the broken pod is found", |_| {
            let found = agent.findings("mesh")?;
            ensure!(
                found
                    .iter()
                    .any(|(pod, code)| pod == "broken" && code == "bypass-no-rules"),
                "there is {found:?}"
            );
            Ok(())
        })?;
        self.healthy(agent);
        Ok(())
    }

    fn memory(&mut self, agent: &Agent) {
        let memory = agent.memory();
        self.check("the agent takes at most 48 MiB", || {
            let bytes = memory?;
            ensure!(bytes <= 48 << 20, "{:.1} MiB", mebibytes(bytes));
            Ok(format!("{:.1} MiB", mebibytes(bytes)))
        });
    }

    fn healthy(&mut self, agent: &Agent) {
        let found = agent.findings("mesh");
        self.check(
            "of the mesh only the broken pod is found, and that once",
            || {
                let found = found?;
                ensure!(
                    found == [("broken".to_owned(), "bypass-no-rules".to_owned())],
                    "there is {found:?}"
                );
                Ok(String::new())
            },
        );
    }

    /// What `kubectl describe pod` shows.
    fn events(&mut self) -> Result<()> {
        self.until("the broken pod has an Event with the remedy", |test| {
            let text = test
                .kubectl
                .run(&["describe", "pod", "--namespace", "mesh", "broken"])?;
            let (_, events) = text.split_once("Events:").context("it has no events")?;
            let line = events
                .lines()
                .find(|line| line.contains("BypassNoRules"))
                .with_context(|| format!("there is no such event in:{events}"))?;
            ensure!(
                line.contains("Warning") && line.contains("sidestep"),
                "it is: {line}"
            );
            Ok(())
        })?;
        let text = self
            .kubectl
            .run(&["describe", "pod", "--namespace", "mesh", "healthy"])?;
        self.check("the healthy pod has none", || {
            ensure!(!text.contains("Bypass"), "{text}");
            Ok(String::new())
        });
        Ok(())
    }

    /// A check that says what it saw.
    fn check(&mut self, what: &str, check: impl FnOnce() -> Result<String>) {
        self.checked += 1;
        match check() {
            Ok(seen) if seen.is_empty() => println!("pass {what}"),
            Ok(seen) => println!("pass {what}: {seen}"),
            Err(error) => {
                println!("FAIL {what}: {error:#}");
                self.failed.push(what.to_owned());
            }
        }
    }

    /// Leaves everything alone for a while.
    fn rest(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.stop.check()?;
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// A check that may take a while; says how long it did.
    fn until(&mut self, what: &str, check: impl Fn(&Self) -> Result<()>) -> Result<()> {
        let start = Instant::now();
        let result = loop {
            self.stop.check()?;
            match check(self) {
                Ok(()) => break Ok(format!("after {:.1} s", start.elapsed().as_secs_f64())),
                Err(error) if start.elapsed() > SOON => break Err(error.context("not in time")),
                Err(_) => std::thread::sleep(LOOK),
            }
        };
        self.check(what, || result);
        Ok(())
    }

    /// What helps to understand a story that ended early.
    fn say_more(&self) {
        for question in [
            ["get", "pods", "--all-namespaces", "--output=wide"].as_slice(),
            &["get", "events", "--all-namespaces"],
            &[
                "logs",
                "--namespace=sidestep",
                "daemonset/sidestep",
                "--tail=20",
            ],
        ] {
            println!(
                "{}",
                self.kubectl
                    .run(question)
                    .unwrap_or_else(|error| format!("{error:#}"))
            );
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
