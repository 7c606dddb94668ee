//! Pods by hand, on the machine the test runs on.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use sidestep::model::NetnsId;

pub(crate) const UID: &str = "0f9e7a7c-1b2d-4c3e-8f4a-5b6c7d8e9f00";

/// A pod by hand: a named namespace with addresses, and a cgroup as a kubelet makes them.
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) processes: Vec<Child>,
}

pub(crate) fn run(line: &str) {
    let mut words = line.split(' ');
    let status = Command::new(words.next().unwrap())
        .args(words)
        .status()
        .unwrap();
    assert!(status.success(), "{line}");
}

/// The root of a v2 hierarchy in which cgroups can be made.
pub(crate) fn unified() -> Option<PathBuf> {
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    roots
        .into_iter()
        .find(|root| root.join("cgroup.controllers").exists())
}

impl Pod {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("ss-node-{name}-{}", std::process::id());
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        Self {
            name,
            cgroup: None,
            processes: Vec::new(),
        }
    }

    pub(crate) fn container_id(&self) -> String {
        let digits = self.name.bytes().map(|byte| format!("{byte:02x}"));
        format!("{:0<64}", digits.collect::<String>())
            .chars()
            .take(64)
            .collect()
    }

    pub(crate) fn addresses(&self) {
        run(&format!("ip -n {} addr add 10.77.1.5/32 dev lo", self.name));
        run(&format!("ip -n {} addr add fd77::5/128 dev lo", self.name));
    }

    /// Runs a program in the pod's namespace and, where there is a v2 hierarchy, in its cgroup.
    pub(crate) fn start(&mut self, program: &str) {
        let mut enter = String::new();
        if let Some(root) = unified() {
            let below = format!(
                "{}-kubepods/besteffort/pod{UID}/{}",
                self.name,
                self.container_id()
            );
            let dir = root.join(below);
            fs::create_dir_all(&dir).unwrap();
            enter = format!("echo $$ > {}/cgroup.procs && ", dir.display());
            self.cgroup = Some(dir);
        }
        let script = format!("{enter}exec ip netns exec {} {program}", self.name);
        let child = Command::new("sh")
            .args(["-c", &script])
            .stdout(Stdio::null())
            .spawn();
        self.processes.push(child.unwrap());
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    pub(crate) fn netns(&self) -> NetnsId {
        let meta = fs::metadata(self.path()).unwrap();
        NetnsId(
            std::os::unix::fs::MetadataExt::ino(&meta)
                .try_into()
                .unwrap(),
        )
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for child in &mut self.processes {
            let _ = child.kill();
            let _ = child.wait();
        }
        // From the container's directory up to the pod's own tree.
        for dir in self.cgroup.iter().flat_map(|dir| dir.ancestors().take(4)) {
            let _ = fs::remove_dir(dir);
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}
