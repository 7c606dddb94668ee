//! Packages of other Debian suites, without touching the system: one private apt root per suite.
//!
//! apt does what it is good at (mirrors, proxies, signatures, checksums, dependencies) on lists and folders of our own. Its
//! system configuration still applies, so a proxy set there works; the mirror is the one the system uses, or
//! `SIDESTEP_DEBIAN_MIRROR`. Nothing is ever installed from here, only unpacked into the cache.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use super::{Context, Unavailable};
use crate::process;

/// Package lists older than this are fetched again before something is downloaded.
const LISTS_FRESH: Duration = Duration::from_hours(6);
const SETTINGS: &str = "apt.conf";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A Debian suite that something is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suite {
    /// Security updates of Debian 11
    BullseyeSecurity,
    /// Debian 12 with its security updates
    Bookworm,
    /// What Debian 12 is compiled from
    BookwormSources,
    /// Debian 13
    Trixie,
    /// Newer packages for Debian 13
    TrixieBackports,
}

/// The archive a suite lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Archive {
    Main,
    Security,
}

/// A folder with apt's lists and settings for one suite.
#[derive(Debug)]
pub(crate) struct AptRoot {
    dir: PathBuf,
    suite: Suite,
}

impl Suite {
    fn sources(self) -> &'static [(Archive, &'static str)] {
        match self {
            Self::BullseyeSecurity => &[(Archive::Security, "bullseye-security")],
            Self::Bookworm => &[
                (Archive::Main, "bookworm"),
                (Archive::Security, "bookworm-security"),
            ],
            Self::BookwormSources => &[(Archive::Main, "bookworm")],
            Self::Trixie => &[(Archive::Main, "trixie")],
            Self::TrixieBackports => &[(Archive::Main, "trixie-backports")],
        }
    }
}

impl Suite {
    /// What apt calls its lists: programs, or what they are compiled from.
    fn kind(self) -> &'static str {
        match self {
            Self::BookwormSources => "deb-src",
            _ => "deb",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sources()[0].1)?;
        f.write_str(if *self == Self::BookwormSources {
            "-sources"
        } else {
            ""
        })
    }
}

impl AptRoot {
    /// Makes the root and fetches the package lists if they are missing or old.
    pub(crate) fn open(context: &Context, suite: Suite) -> Result<Self> {
        if process::find("apt-get").is_none() || process::find("dpkg-deb").is_none() {
            return Err(no_apt(&context.name, "this machine has no apt").into());
        }
        let mirror = Mirror::find()
            .ok_or_else(|| no_apt(&context.name, "apt's sources name no Debian mirror"))?;
        let dir = context.cache.join("apt").join(suite.to_string());
        let root = Self { dir, suite };
        let _lock = context.cache.lock(&format!("apt-{suite}"))?;
        root.configure(&mirror)?;
        if !root.is_fresh() {
            context.say(format!("fetching the package lists of {suite}"));
            process::output(root.apt("apt-get").args(["update", "--quiet"]))?;
            fs::write(root.stamp(), "")?;
        }
        Ok(root)
    }

    /// The suite this root is for.
    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    /// The names of packages that start so, in apt's order.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let text = process::output(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The versions there are of a package, newest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let text = process::output(self.apt("apt-cache").args(["madison", package]))?;
        Ok(text
            .lines()
            .filter_map(|line| line.split('|').nth(1))
            .map(|version| version.trim().to_owned())
            .collect())
    }

    /// Downloads packages (`name` or `name=version`) into `dir`; apt verifies signature and checksum.
    pub(crate) fn download(&self, packages: &[String], dir: &Path) -> Result<Vec<PathBuf>> {
        process::output(
            self.apt("apt-get")
                .arg("download")
                .args(packages)
                .current_dir(dir),
        )?;
        debs_in(dir)
    }

    /// Downloads packages and all they depend on into `dir`.
    pub(crate) fn download_all(&self, packages: &[&str], dir: &Path) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(dir.join("partial"))?;
        let mut archives = std::ffi::OsString::from("Dir::Cache::archives=");
        archives.push(dir);
        process::output(
            self.apt("apt-get")
                .arg("-o")
                .arg(archives)
                .args(["install", "--download-only", "--yes", "--quiet"])
                .arg("--no-install-recommends")
                .args(packages),
        )?;
        debs_in(dir)
    }

    /// Downloads what a package is compiled from (archives and their description) into `dir`; apt verifies as above.
    pub(crate) fn download_source(&self, package: &str, dir: &Path) -> Result<()> {
        process::output(
            self.apt("apt-get")
                .args(["source", "--download-only", "--quiet", package])
                .current_dir(dir),
        )
        .map(drop)
    }

    /// Unpacks packages into `dir` and removes them.
    pub(crate) fn unpack(&self, debs: &[PathBuf], dir: &Path) -> Result<()> {
        for deb in debs {
            process::output(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(dir))?;
            fs::remove_file(deb)?;
        }
        Ok(())
    }

    fn configure(&self, mirror: &Mirror) -> Result<()> {
        for dir in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        fs::write(self.dir.join("status"), "")?;
        fs::write(self.dir.join(SETTINGS), settings(&self.dir))?;
        let lines: String = self
            .suite
            .sources()
            .iter()
            .map(|(archive, suite)| {
                format!(
                    "{} [arch=amd64 signed-by={KEYRING}] {} {suite} main\n",
                    self.suite.kind(),
                    mirror.of(*archive)
                )
            })
            .collect();
        let path = self.dir.join("sources.list");
        if fs::read_to_string(&path).is_ok_and(|old| old == lines) {
            return Ok(());
        }
        crate::cache::remove(&self.stamp())?;
        fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))
    }

    fn stamp(&self) -> PathBuf {
        self.dir.join("updated")
    }

    fn is_fresh(&self) -> bool {
        self.stamp()
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < LISTS_FRESH))
    }

    /// An apt command on this root.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.dir.join(SETTINGS))
            .env("LC_ALL", "C");
        command
    }
}

/// Settings of one root. apt reads them after the system's own, which still apply where these are silent.
fn settings(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "Dir::State \"{dir}/state\";\n\
         Dir::State::status \"{dir}/status\";\n\
         Dir::Cache \"{dir}/cache\";\n\
         Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"-\";\n\
         Dir::Etc::preferencesparts \"-\";\n\
         APT::Architecture \"amd64\";\n\
         // apt's own user may not write into this folder.\n\
         APT::Sandbox::User \"root\";\n\
         APT::Get::List-Cleanup \"false\";\n\
         // By default a list that cannot be fetched is only a warning.\n\
         APT::Update::Error-Mode \"any\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         // Old suites are frozen: their lists are signed, but no longer renewed.\n\
         Acquire::Check-Valid-Until \"false\";\n"
    )
}

/// Where Debian's archives are, as the system's own apt sources say.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    main: String,
    security: Option<String>,
}

impl Mirror {
    fn find() -> Option<Self> {
        if let Some(main) = std::env::var("SIDESTEP_DEBIAN_MIRROR")
            .ok()
            .filter(|url| !url.is_empty())
        {
            return Some(Self {
                main,
                security: None,
            });
        }
        let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
        for entry in fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
        {
            texts.push(fs::read_to_string(entry.path()).unwrap_or_default());
        }
        Self::parse(&texts.join("\n"))
    }

    /// Reads both formats of apt's sources: the first address that ends in `debian` and the first in `debian-security`.
    fn parse(text: &str) -> Option<Self> {
        let words = || {
            text.lines()
                .filter(|line| !line.trim_start().starts_with('#'))
                .filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
                .flat_map(str::split_whitespace)
                .map(|word| word.trim_end_matches('/'))
        };
        let ending = |end: &str| words().find(|word| word.ends_with(end)).map(str::to_owned);
        Some(Self {
            main: ending("/debian")?,
            security: ending("/debian-security"),
        })
    }

    fn of(&self, archive: Archive) -> String {
        match (archive, &self.security) {
            (Archive::Main, _) => self.main.clone(),
            (Archive::Security, Some(security)) => security.clone(),
            (Archive::Security, None) => format!("{}-security", self.main.trim_end_matches('/')),
        }
    }
}

fn debs_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut debs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            debs.push(path);
        }
    }
    if debs.is_empty() {
        return Err(anyhow!("apt downloaded nothing into {}", dir.display()));
    }
    debs.sort();
    Ok(debs)
}

fn no_apt(what: &str, why: &str) -> Unavailable {
    Unavailable {
        what: what.to_owned(),
        why: format!("{why}, and it comes from Debian's packages"),
        todo: "run on Debian, or where apt is installed set SIDESTEP_DEBIAN_MIRROR to the address of a Debian mirror \
               and have Debian's archive keyring installed"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_from_both_formats() {
        let wanted = Some(Mirror {
            main: "http://mirror.test/debian".to_owned(),
            security: Some("http://mirror.test/debian-security".to_owned()),
        });
        let old = "# deb http://no.test/debian sid main\n\
                   deb [arch=amd64] http://mirror.test/debian/ bookworm main\n\
                   deb http://mirror.test/debian-security bookworm-security main\n";
        let new = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm\n\n\
                   Types: deb\n# URIs: http://no.test/debian-security\nURIs: http://mirror.test/debian-security\n";
        assert_eq!(Mirror::parse(old), wanted);
        assert_eq!(Mirror::parse(new), wanted);
    }

    #[test]
    fn other_distributions_have_no_debian_mirror() {
        assert_eq!(
            Mirror::parse("deb http://mirror.test/ubuntu noble main\n"),
            None
        );
    }

    #[test]
    fn security_is_beside_main_where_it_is_not_named() {
        let mirror = Mirror {
            main: "http://mirror.test/debian".to_owned(),
            security: None,
        };
        assert_eq!(
            mirror.of(Archive::Security),
            "http://mirror.test/debian-security"
        );
    }
}
