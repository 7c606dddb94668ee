#!/bin/sh
# Process 1 of a test machine: mounts what a node has, loads modules, runs one command, reports its exit code.
# The kernel's own messages go to the first serial line, everything printed from here to the second.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/busybox HOME=/root TERM=dumb LC_ALL=C

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
exec </dev/null >/dev/ttyS1 2>&1
stty raw -echo </dev/ttyS1

mkdir -p /dev/pts /dev/shm /run/netns
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf

# The files of the machine that started us, with memory over them, become the root of what is started by "chroot .".
# They must cover the first root: whoever enters a mount namespace (runc exec) is put on top of it, not into a folder.
# Process 1 stays below, and so does the kernel's modprobe, where this kernel's modules are.
among_host_files() {
    # What a kernel has built in is no module of it.
    modprobe -qa virtio_pci virtiofs overlay
    mkdir /host /memory /root-folder &&
        mount -t virtiofs -o ro host /host &&
        mount -t tmpfs -o mode=755,size=90% memory /memory &&
        mkdir /memory/upper /memory/work &&
        mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work root /root-folder &&
        mount --rbind /proc /root-folder/proc &&
        mount --rbind /sys /root-folder/sys &&
        mount --rbind /dev /root-folder/dev &&
        mount -t tmpfs -o mode=755 tmpfs /root-folder/run || return
    for folder; do
        mkdir -p "/root-folder$folder" &&
            mount -t tmpfs -o mode=755,size=90% tmpfs "/root-folder$folder" || return
    done
    mkdir /root-folder/vm && cp /vm/command /root-folder/vm/command &&
        cd /root-folder && mount --move . /
}

host_files=
. /vm/settings
case "$cgroup" in
v2) mount -t cgroup2 cgroup2 /sys/fs/cgroup ;;
v1 | hybrid)
    mount -t tmpfs cgroup /sys/fs/cgroup
    for controller in cpu,cpuacct memory pids net_cls,net_prio; do
        mkdir -p "/sys/fs/cgroup/$controller"
        # Newer kernels no longer have every controller of version 1.
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" 2>/dev/null ||
            rmdir "/sys/fs/cgroup/$controller"
    done
    if [ "$cgroup" = hybrid ]; then
        mkdir -p /sys/fs/cgroup/unified
        mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    fi
    ;;
esac

# A kernel that stumbles must not pass a test.
echo 1 >/proc/sys/kernel/panic_on_oops
hostname sidestep-vm
ip link set lo up
[ -z "$modules" ] || modprobe -a $modules

read -r uptime _ </proc/uptime
echo "sidestep-vm: up $uptime"
if [ -n "$host_files" ]; then
    # $@ are the fresh folders.
    among_host_files "$@" && chroot . /bin/sh /vm/command
else
    cd /root && sh /vm/command
fi
echo "sidestep-vm: exit $?"
poweroff -f
