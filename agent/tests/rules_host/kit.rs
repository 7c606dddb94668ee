//! Namespaces with rules, and the thread under test.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sidestep::{
    engine::{Change, Input, RulesReading, RulesSource},
    model::NetnsId,
    node::{
        self, NodeHandle,
        rules::{Options, Tools},
    },
    rules::{Backend, Ruleset},
};
use tokio::sync::mpsc;

pub(crate) const REDIRECT: &str = "-t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 15001";
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace by hand.
pub(crate) struct Netns(pub(crate) String);

pub(crate) fn run(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

impl Netns {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("ss-rules-{name}-{}", std::process::id());
        run(&format!("ip netns add {name}"));
        Self(name)
    }

    pub(crate) fn exec(&self, line: &str) -> String {
        run(&format!("ip netns exec {} {line}", self.0))
    }

    pub(crate) fn id(&self) -> NetnsId {
        let inode = fs::metadata(format!("/run/netns/{}", self.0))
            .unwrap()
            .ino();
        NetnsId(inode.try_into().unwrap())
    }

    /// Restores a mesh's rules, as its installer does.
    pub(crate) fn restore(&self, program: &str, set: &str) {
        let path = format!("{}/../tests/rules/{set}.rules", env!("CARGO_MANIFEST_DIR"));
        let status = Command::new("ip")
            .args(["netns", "exec", &self.0, program, "--noflush"])
            .stdin(Stdio::from(fs::File::open(path).unwrap()))
            .status();
        assert!(status.unwrap().success(), "{program} {set}");
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// The thread under test.
pub(crate) struct Reader {
    pub(crate) node: NodeHandle,
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) readings: Vec<RulesReading>,
    pub(crate) troubles: Vec<Option<String>>,
}

impl Reader {
    pub(crate) fn new(rules: Options) -> Self {
        let options = node::Options {
            rules,
            ..node::Options::default()
        };
        let (send, inputs) = mpsc::channel(64);
        Self {
            node: node::spawn(options, send).unwrap(),
            inputs,
            readings: Vec::new(),
            troubles: Vec::new(),
        }
    }

    pub(crate) fn real() -> Self {
        Self::new(Options {
            tools: Tools::find(&[]).unwrap(),
            ..Options::default()
        })
    }

    pub(crate) fn listen(&mut self) {
        while let Ok(input) = self.inputs.try_recv() {
            match input {
                Input::Rules(reading) => self.readings.push(*reading),
                Input::Change(Change::Source { source, trouble }) if source == "rules" => {
                    self.troubles.push(trouble);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.listen();
            if done(self) {
                return;
            }
            assert!(
                Instant::now() < end,
                "never: {what}\n{:#?}\n{:?}\n{:?}",
                self.readings,
                self.troubles,
                self.node.rules_stats()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn last(&self, netns: NetnsId) -> Option<&RulesReading> {
        self.readings.iter().rfind(|r| r.netns == netns)
    }

    /// A reading of this namespace that has these results, in [`RulesSource::RULES`]'s order.
    pub(crate) fn reading<const N: usize>(
        &mut self,
        of: &Netns,
        expected: [&str; N],
    ) -> RulesReading {
        let netns = of.id();
        self.until(&format!("{expected:?}"), |reader| {
            reader.last(netns).is_some_and(|r| results(r) == expected)
        });
        self.last(netns).unwrap().clone()
    }
}

pub(crate) fn results(reading: &RulesReading) -> Vec<&str> {
    reading.sources.iter().map(|(_, r)| r.as_str()).collect()
}

/// Who keeps the rules that a program prints.
pub(crate) fn kept_by(source: RulesSource) -> Backend {
    match source {
        RulesSource::IptablesLegacy | RulesSource::Ip6tablesLegacy => Backend::Legacy,
        RulesSource::IptablesNft | RulesSource::Ip6tablesNft => Backend::Nft,
        RulesSource::Nft | RulesSource::Ipset => Backend::Native,
    }
}

/// The part of a reading that came from one program.
pub(crate) fn part(reading: &RulesReading, of: RulesSource) -> Ruleset {
    let tables = reading.ruleset.tables.iter().filter(|table| {
        table.backend == kept_by(of) && of.family().is_none_or(|f| table.family.includes(f))
    });
    Ruleset {
        tables: tables.cloned().collect(),
        ..Ruleset::default()
    }
}

/// A reading as one text to look for something in.
pub(crate) fn shown(reading: &RulesReading) -> String {
    serde_json::to_string(reading).unwrap()
}

pub(crate) fn script(dir: &tempfile::TempDir, name: &str, body: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
