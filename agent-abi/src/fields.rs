//! The kernel fields the probes read: one table, resolved from BTF at start.
//!
//! No offset is ever hard-coded: they differ between kernels and configurations. What a
//! kernel does not have is [`ABSENT`], never 0, and the code that would read it is pruned
//! by the verifier because the table is a frozen constant. Fields of modules that may load
//! later live in a second table, in an ordinary map.

/// Offset of a field this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Whether the agent can work without a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Cannot start without.
    Required,
    /// Something is not seen, or found another way.
    Optional,
}

/// What the number in the table counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes from the start of the struct.
    Byte,
    /// Bits from the start of the struct, for bit fields.
    Bit,
}

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in the table.
    pub name: &'static str,
    /// Kernel struct.
    pub of: &'static str,
    /// Members from that struct to the field, dotted; anonymous members are looked through.
    pub path: &'static str,
    /// Unit of its offset.
    pub unit: Unit,
    /// Whether it may be missing.
    pub need: Need,
}

/// Declares a table of fields and the struct that carries their offsets.
macro_rules! fields {
    ($(#[doc = $tdoc:literal])* $table:ident, $list:ident, $count:ident;
     $($(#[doc = $doc:literal])* $name:ident: $of:literal, $path:literal, $unit:ident, $need:ident;)*) => {
        $(#[doc = $tdoc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $table { $($(#[doc = $doc])* pub $name: u32,)* }

        /// The fields, in the order of the struct.
        pub const $list: &[Field] = &[$(Field {
            name: stringify!($name), of: $of, path: $path, unit: Unit::$unit, need: Need::$need,
        },)*];

        /// Number of fields.
        pub const $count: usize = $list.len();

        const _: () = assert!(size_of::<$table>() == $count * size_of::<u32>());

        impl $table {
            /// A table in which nothing exists.
            pub const NONE: Self = Self { $($name: ABSENT,)* };
        }
    };
}

fields! {
    /// Offsets of fields of the kernel image, passed as a frozen constant.
    Offsets, FIELDS, FIELD_COUNT;
    /// Address family.
    skc_family: "sock", "__sk_common.skc_family", Byte, Required;
    /// TCP state.
    skc_state: "sock", "__sk_common.skc_state", Byte, Required;
    /// Local port, host order; 0 once the port is given back.
    skc_num: "sock", "__sk_common.skc_num", Byte, Required;
    /// Peer's port, network order.
    skc_dport: "sock", "__sk_common.skc_dport", Byte, Required;
    /// Peer's IPv4 address.
    skc_daddr: "sock", "__sk_common.skc_daddr", Byte, Required;
    /// Own IPv4 address.
    skc_rcv_saddr: "sock", "__sk_common.skc_rcv_saddr", Byte, Required;
    /// Peer's IPv6 address.
    skc_v6_daddr: "sock", "__sk_common.skc_v6_daddr", Byte, Optional;
    /// Own IPv6 address.
    skc_v6_rcv_saddr: "sock", "__sk_common.skc_v6_rcv_saddr", Byte, Optional;
    /// Whether an IPv6 socket refuses IPv4.
    skc_ipv6only: "sock", "__sk_common.skc_ipv6only", Bit, Optional;
    /// Network namespace.
    skc_net: "sock", "__sk_common.skc_net.net", Byte, Required;
    /// Protocol: TCP and MPTCP share state changes.
    sk_protocol: "sock", "sk_protocol", Byte, Required;
    /// Pending error.
    sk_err: "sock", "sk_err", Byte, Required;
    /// The socket of the file; none for a child not yet accepted.
    sk_socket: "sock", "sk_socket", Byte, Required;
    /// User that made the socket; inherited by children.
    sk_uid: "sock", "sk_uid", Byte, Required;
    /// Cgroup, where it is a plain pointer (5.15 and later).
    sk_cgroup: "sock", "sk_cgrp_data.cgroup", Byte, Optional;
    /// Cgroup, where low bits say that it is something else.
    sk_cgroup_tagged: "sock", "sk_cgrp_data.val", Byte, Optional;
    /// File of a socket; none for sockets of the kernel.
    socket_file: "socket", "file", Byte, Required;
    /// Credentials a file was opened with: those the owner match compares.
    file_cred: "file", "f_cred", Byte, Required;
    /// Filesystem user id.
    cred_fsuid: "cred", "fsuid", Byte, Required;
    /// Filesystem group id.
    cred_fsgid: "cred", "fsgid", Byte, Required;
    /// Inode of a namespace.
    net_inum: "net", "ns.inum", Byte, Required;
    /// Directory of a cgroup.
    cgroup_kn: "cgroup", "kn", Byte, Optional;
    /// Inode of that directory.
    kernfs_id: "kernfs_node", "id", Byte, Optional;
    /// Local port in network order; survives the giving back of the port.
    inet_sport: "inet_sock", "inet_sport", Byte, Required;
    /// Maximum segment size the peer announced.
    tcp_mss_clamp: "tcp_sock", "rx_opt.mss_clamp", Byte, Optional;
    /// Bytes the peer has sent.
    tcp_bytes_received: "tcp_sock", "bytes_received", Byte, Optional;
    /// Bytes sent.
    tcp_bytes_sent: "tcp_sock", "bytes_sent", Byte, Optional;
    /// What is to be received next.
    tcp_rcv_nxt: "tcp_sock", "rcv_nxt", Byte, Optional;
    /// What is to be read next.
    tcp_copied_seq: "tcp_sock", "copied_seq", Byte, Optional;
    /// The first byte that is not acknowledged.
    tcp_snd_una: "tcp_sock", "snd_una", Byte, Optional;
    /// The byte after all that was written.
    tcp_write_seq: "tcp_sock", "write_seq", Byte, Optional;
    /// Buffer of a packet.
    skb_head: "sk_buff", "head", Byte, Optional;
    /// Offset of its network header in the buffer.
    skb_network_header: "sk_buff", "network_header", Byte, Optional;
    /// Offset of its transport header in the buffer.
    skb_transport_header: "sk_buff", "transport_header", Byte, Optional;
    /// Device it came in by.
    skb_dev: "sk_buff", "dev", Byte, Optional;
    /// Socket it belongs to, where it was made here.
    skb_sk: "sk_buff", "sk", Byte, Optional;
    /// Namespace of a device.
    dev_net: "net_device", "nd_net.net", Byte, Optional;
    /// Name of a task, [`crate::COMM_LEN`] bytes.
    task_comm: "task_struct", "comm", Byte, Optional;
    /// Namespaces of a task.
    task_nsproxy: "task_struct", "nsproxy", Byte, Optional;
    /// The network namespace among them.
    nsproxy_net: "nsproxy", "net_ns", Byte, Optional;
    /// Number of the system call a task is in (x86-64 only).
    regs_number: "pt_regs", "orig_ax", Byte, Optional;
    /// Its second argument (x86-64 only).
    regs_second: "pt_regs", "si", Byte, Optional;
}

fields! {
    /// Offsets of connection tracking's fields, known when its module is loaded. Tuple and
    /// range are read whole, for the cost of one field: see [`LateOffsets::fits`].
    LateOffsets, LATE_FIELDS, LATE_FIELD_COUNT;
    /// Namespace of a tracked connection.
    ct_net: "nf_conn", "ct_net.net", Byte, Required;
    /// Tuples of both directions; the original's comes first.
    ct_tuplehash: "nf_conn", "tuplehash", Byte, Required;
    /// The tuple in its hash node.
    hash_tuple: "nf_conntrack_tuple_hash", "tuple", Byte, Required;
    /// Source address.
    tuple_src: "nf_conntrack_tuple", "src.u3", Byte, Required;
    /// Source port.
    tuple_src_port: "nf_conntrack_tuple", "src.u", Byte, Required;
    /// Family.
    tuple_family: "nf_conntrack_tuple", "src.l3num", Byte, Required;
    /// Destination address.
    tuple_dst: "nf_conntrack_tuple", "dst.u3", Byte, Required;
    /// Destination port.
    tuple_dst_port: "nf_conntrack_tuple", "dst.u", Byte, Required;
    /// Transport protocol.
    tuple_protocol: "nf_conntrack_tuple", "dst.protonum", Byte, Required;
    /// Flags of a NAT range: which parts it sets.
    range_flags: "nf_nat_range2", "flags", Byte, Required;
    /// First address of the range.
    range_addr: "nf_nat_range2", "min_addr", Byte, Required;
    /// First port of the range.
    range_port: "nf_nat_range2", "min_proto", Byte, Required;
}

/// The family of a table of the older netfilter backend, known when its module is loaded.
pub const TABLE_FAMILY: Field = Field {
    name: "table_family",
    of: "xt_table",
    path: "af",
    unit: Unit::Byte,
    need: Need::Optional,
};

/// `struct nf_conntrack_tuple` as the probes read it: its layout has not changed since
/// 2007, and is compared with the running kernel's before use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub src: [u32; 4],
    /// Source port, network order.
    pub src_port: u16,
    /// Address family.
    pub family: u16,
    /// Destination address.
    pub dst: [u32; 4],
    /// Destination port, network order.
    pub dst_port: u16,
    /// Transport protocol.
    pub protocol: u8,
    /// Direction.
    pub dir: u8,
}

/// The beginning of `struct nf_nat_range2`, likewise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// Which parts it sets.
    pub flags: u32,
    /// First address.
    pub addr: [u32; 4],
    /// Last address.
    pub max_addr: [u32; 4],
    /// First port, network order.
    pub port: u16,
    /// Last port, network order.
    pub max_port: u16,
}

impl LateOffsets {
    /// Whether this kernel's tuple and range are laid out as [`Tuple`] and [`Range`].
    #[must_use]
    pub const fn fits(&self) -> bool {
        self.tuple_src as usize == core::mem::offset_of!(Tuple, src)
            && self.tuple_src_port as usize == core::mem::offset_of!(Tuple, src_port)
            && self.tuple_family as usize == core::mem::offset_of!(Tuple, family)
            && self.tuple_dst as usize == core::mem::offset_of!(Tuple, dst)
            && self.tuple_dst_port as usize == core::mem::offset_of!(Tuple, dst_port)
            && self.tuple_protocol as usize == core::mem::offset_of!(Tuple, protocol)
            && self.range_flags as usize == core::mem::offset_of!(Range, flags)
            && self.range_addr as usize == core::mem::offset_of!(Range, addr)
            && self.range_port as usize == core::mem::offset_of!(Range, port)
    }

    /// The table of a list of offsets in [`LATE_FIELDS`]' order.
    #[must_use]
    pub const fn from_list(list: [u32; LATE_FIELD_COUNT]) -> Self {
        let [
            ct_net,
            ct_tuplehash,
            hash_tuple,
            tuple_src,
            tuple_src_port,
            tuple_family,
            tuple_dst,
            tuple_dst_port,
            tuple_protocol,
            range_flags,
            range_addr,
            range_port,
        ] = list;
        Self {
            ct_net,
            ct_tuplehash,
            hash_tuple,
            tuple_src,
            tuple_src_port,
            tuple_family,
            tuple_dst,
            tuple_dst_port,
            tuple_protocol,
            range_flags,
            range_addr,
            range_port,
        }
    }
}
