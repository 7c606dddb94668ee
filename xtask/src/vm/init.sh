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
cd /root && sh /vm/command
echo "sidestep-vm: exit $?"
poweroff -f
