//! Kubernetes, compiled from Debian 12's source package: the one complete form of it that a Debian mirror has.
//!
//! Debian ships only its client, but the source of all of it, with everything it depends on, and a Go of its time. What is
//! needed beside that is one generated file (made the way upstream makes it, and checked by upstream's own list) and a newer
//! reflect2, without which every program built by this Go crashes at its first map. Once made it is cached for good.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

use super::apt::{AptRoot, Suite};
use super::{Context, Unavailable, host};
use crate::cache::Manifest;
use crate::process;

const VERSION: &str = "1.20.2";
/// When upstream published it: builds carry it, so that they are the same everywhere.
const BUILD_DATE: &str = "2021-01-13T13:20:00Z";
const PROGRAMS: [&str; 5] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
];
const GO: &str = "usr/lib/go-1.19";
const GO_PACKAGES: [&str; 3] = [
    "golang-1.19-go",
    "golang-1.19-src",
    "golang-github-modern-go-reflect2-dev",
];
const REFLECT2: &str = "github.com/modern-go/reflect2";
/// Marks packages whose types the API's description is generated from.
const OPENAPI_TAG: &[u8] = b"+k8s:openapi-gen=";

/// The folders of one build.
#[derive(Debug)]
struct Build {
    work: PathBuf,
    tree: PathBuf,
}

/// Returns the folder with the programs.
pub(crate) fn make(context: &Context) -> Result<PathBuf> {
    let dir = context.cache.join("kubernetes").join(VERSION);
    if Manifest::check(&dir, context.depth)?.is_some() {
        return Ok(dir);
    }
    let _lock = context.cache.lock("kubernetes")?;
    if Manifest::check(&dir, context.depth)?.is_some() {
        return Ok(dir);
    }
    install(context, &dir).map_err(|error| Unavailable {
        what: format!("Kubernetes {VERSION}"),
        why: format!("{error:#}"),
        todo: "check that apt reaches a Debian mirror that has bookworm with its sources, and that 4 GB are free in the \
               cache, then run this again"
            .to_owned(),
    })?;
    Ok(dir)
}

fn install(context: &Context, dir: &Path) -> Result<()> {
    let start = Instant::now();
    for (program, package) in [("patch", "patch"), ("tar", "tar"), ("xz", "xz-utils")] {
        host::program(context, program, package)?;
    }
    let work = context.cache.fresh("kubernetes/build")?;
    let build = Build {
        tree: work.join("gopath/src/k8s.io/kubernetes"),
        work,
    };
    build.fetch(context)?;
    context.say(format!(
        "compiling Kubernetes {VERSION}: five minutes, once"
    ));
    build.generate_openapi()?;
    context.cache.fresh(Path::new("kubernetes").join(VERSION))?;
    for program in PROGRAMS {
        build.compile(program, &dir.join(program))?;
        let version = process::output(Command::new(dir.join(program)).arg("--version"))?;
        ensure!(
            version.contains(&format!("v{VERSION}")),
            "{program} says it is {}",
            version.trim()
        );
        context.say(format!("{program} after {} s", start.elapsed().as_secs()));
    }
    Manifest::write(
        dir,
        format!("kubernetes {VERSION} of bookworm's sources"),
        &PROGRAMS.map(PathBuf::from),
    )?;
    crate::cache::remove(&build.work)
}

impl Build {
    /// Sources, Debian's patches, the compiler, and the one dependency that must be newer.
    fn fetch(&self, context: &Context) -> Result<()> {
        let downloads = self.work.join("downloads");
        for dir in ["downloads", "go", "cache", "tmp"] {
            fs::create_dir_all(self.work.join(dir))?;
        }
        fs::create_dir_all(&self.tree)?;
        context.say("downloading the sources of Kubernetes and a compiler (100 MB)");
        let apt = AptRoot::open(context, Suite::Bookworm)?;
        let debs = apt.download(&GO_PACKAGES.map(str::to_owned), &downloads)?;
        apt.unpack(&debs, &self.work.join("go"))?;
        AptRoot::open(context, Suite::BookwormSources)?
            .download_source("kubernetes", &downloads)?;
        let upstream = self.downloaded(".orig.tar.gz")?;
        ensure!(
            upstream.to_string_lossy().contains(VERSION),
            "bookworm has {} now, which this does not know how to build",
            upstream.display()
        );
        unpack(&upstream, &self.tree, &["--strip-components=1"])?;
        unpack(&self.downloaded(".debian.tar.xz")?, &downloads, &[])?;
        self.patch(&downloads.join("debian/patches"))?;
        self.replace_reflect2()
    }

    fn downloaded(&self, ending: &str) -> Result<PathBuf> {
        fs::read_dir(self.work.join("downloads"))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with(ending))
            .with_context(|| format!("the source package has no *{ending}"))
    }

    fn patch(&self, patches: &Path) -> Result<()> {
        let series = fs::read_to_string(patches.join("series")).context("no list of patches")?;
        for name in series.lines().map(str::trim) {
            if name.is_empty() || name.starts_with('#') {
                continue;
            }
            process::output(
                Command::new("patch")
                    .args(["--silent", "--strip=1", "--input"])
                    .arg(patches.join(name))
                    .current_dir(&self.tree),
            )?;
        }
        Ok(())
    }

    /// The vendored 1.0.1 walks maps by an internal of Go that 1.18 changed.
    fn replace_reflect2(&self) -> Result<()> {
        let old = self.tree.join("vendor").join(REFLECT2);
        let new = self.work.join("go/usr/share/gocode/src").join(REFLECT2);
        crate::cache::remove(&old)?;
        fs::create_dir_all(&old)?;
        for entry in fs::read_dir(&new).context("the package has no reflect2")? {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_file() && !name.ends_with("_test.go") {
                fs::copy(&path, old.join(name))?;
            }
        }
        Ok(())
    }

    /// Makes the description of the API that the sources leave out, and compares what the generator complains of with
    /// upstream's own list.
    fn generate_openapi(&self) -> Result<()> {
        let generator = self.work.join("openapi-gen");
        let complaints = self.work.join("violations");
        process::output(
            self.go()
                .arg("build")
                .arg("-o")
                .arg(&generator)
                .arg("./vendor/k8s.io/kube-openapi/cmd/openapi-gen"),
        )?;
        let inputs: Vec<String> = self
            .described()?
            .into_iter()
            .map(|dir| format!("k8s.io/kubernetes/{dir}"))
            .collect();
        let mut command = self.in_tree(&generator);
        command
            .args(["-i", &inputs.join(",")])
            .args(["-p", "k8s.io/kubernetes/pkg/generated/openapi"])
            .args(["-O", "zz_generated.openapi"])
            .args(["-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"])
            .arg("-r")
            .arg(&complaints);
        process::output(&mut command)?;
        let expected = self.tree.join("api/api-rules/violation_exceptions.list");
        if fs::read(&complaints)? != fs::read(expected)? {
            bail!(
                "the generated description of the API is not what upstream's list says it should be"
            );
        }
        Ok(())
    }

    /// Folders with types that belong in the description, relative to the sources.
    fn described(&self) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        for dir in ["pkg", "cmd", "plugin"] {
            self.tagged(Path::new(dir), &mut found)?;
        }
        for entry in fs::read_dir(self.tree.join("vendor/k8s.io"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !["code-generator", "sample-apiserver"].contains(&name.as_str()) {
                self.tagged(&Path::new("vendor/k8s.io").join(name), &mut found)?;
            }
        }
        found.retain(|dir| {
            ["testdata", "/kube-openapi/", "/gengo/"]
                .iter()
                .all(|out| !format!("{dir}/").contains(out))
        });
        Ok(found)
    }

    fn tagged(&self, start: &Path, found: &mut BTreeSet<String>) -> Result<()> {
        let mut open = vec![start.to_path_buf()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(self.tree.join(&dir))? {
                let entry = entry?;
                let path = dir.join(entry.file_name());
                // Links are followed at the start only, as the vendored parts of Kubernetes itself are links.
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    open.push(path);
                } else if kind.is_file() && path.extension().is_some_and(|end| end == "go") {
                    let text = fs::read(entry.path())?;
                    if text
                        .windows(OPENAPI_TAG.len())
                        .any(|part| part == OPENAPI_TAG)
                    {
                        found.insert(dir.to_string_lossy().into_owned());
                    }
                }
            }
        }
        Ok(())
    }

    fn compile(&self, program: &str, to: &Path) -> Result<()> {
        let mut flags = "-s -w".to_owned();
        for package in [
            "k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version",
            "k8s.io/kubernetes/vendor/k8s.io/component-base/version",
        ] {
            for (name, value) in [
                ("gitVersion", format!("v{VERSION}").as_str()),
                ("gitMajor", "1"),
                ("gitMinor", "20"),
                ("gitTreeState", "archive"),
                ("buildDate", BUILD_DATE),
            ] {
                flags += &format!(" -X {package}.{name}={value}");
            }
        }
        let mut command = self.go();
        command
            .args(["build", "-trimpath", "-tags", "providerless dockerless"])
            .args(["-ldflags", &flags])
            .arg("-o")
            .arg(to)
            .arg(format!("./cmd/{program}"));
        process::output(&mut command).map(drop)
    }

    fn go(&self) -> Command {
        self.in_tree(&self.work.join("go").join(GO).join("bin/go"))
    }

    /// A command in the sources, with a Go that uses and writes nothing outside the work folder.
    fn in_tree(&self, program: &Path) -> Command {
        let root = self.work.join("go").join(GO);
        let jobs = std::env::var("CARGO_BUILD_JOBS")
            .ok()
            .and_then(|jobs| jobs.parse::<usize>().ok())
            .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
            .unwrap_or(1);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            std::iter::once(root.join("bin")).chain(std::env::split_paths(&path)),
        );
        let mut command = Command::new(program);
        command
            .current_dir(&self.tree)
            .env("PATH", path.unwrap_or_default())
            .env("GOROOT", &root)
            .env("GOPATH", self.work.join("gopath"))
            .env("GOCACHE", self.work.join("cache"))
            .env("GOTMPDIR", self.work.join("tmp"))
            .env("GOENV", "off")
            .env("GO111MODULE", "off")
            .env("GOPROXY", "off")
            .env("GOSUMDB", "off")
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", format!("-p={jobs}"))
            .env("GOMAXPROCS", jobs.to_string());
        command
    }
}

fn unpack(archive: &Path, to: &Path, more: &[&str]) -> Result<()> {
    process::output(
        Command::new("tar")
            .args(["--extract", "--no-same-owner"])
            .args(more)
            .arg("--file")
            .arg(archive)
            .arg("--directory")
            .arg(to),
    )
    .map(drop)
}
