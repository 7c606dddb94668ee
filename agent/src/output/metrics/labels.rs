//! The labels of each metric as a type: a missing or misspelled label does not compile.
//!
//! They borrow from the board, so that a scrape copies no names, and are ordered, so that
//! rows falling on the same labels meet. The library's derive cannot borrow, hence the
//! small macro; a label is named after its field, as the derive would do.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use crate::model::{PodKey, Workload};

macro_rules! label_sets {
    ($($(#[$doc:meta])* $type:ident { $($label:ident: $value:ty),* } $(+ $pod:ident)?)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
            pub(super) struct $type<'a> {
                $(pub(super) $pod: PodLabels<'a>,)?
                $(pub(super) $label: $value,)*
            }

            impl EncodeLabelSet for $type<'_> {
                fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
                    $(self.$pod.encode(encoder)?;)?
                    $((stringify!($label), self.$label).encode(encoder.encode_label())?;)*
                    Ok(())
                }
            }
        )*
    };
}

label_sets! {
    /// Whose row it is. `workload` is the bare name, as in the ecosystem's recording rules.
    PodLabels { namespace: &'a str, pod: &'a str, workload: &'a str }
    ConnectionLabels { leg: &'static str, result: &'static str } + pod
    InterceptionLabels { direction: &'static str, verdict: &'static str, reason: &'static str } + pod
    LegLabels { leg: &'static str } + pod
    ListenerLabels { listener: &'static str } + pod
    DropLabels { direction: &'static str, reason: &'a str } + pod
    QueueLabels { port: u16 } + pod
    StageLabels { stage: &'static str } + pod
    FindingLabels { code: &'static str, severity: &'static str } + pod
    ProbeLabels { signal: &'a str, variant: &'a str }
    NodeLabels { node: &'a str, kernel: &'a str }
    ResourceLabel { resource: &'a str }
    CodeLabel { code: &'a str }
    ReasonLabel { reason: &'a str }
    MeshLabel { mesh: &'a str }
    AtLabel { at: &'a str }
    MapLabel { map: &'a str }
    ProgramLabel { program: &'a str }
    ResultLabel { result: &'a str }
    SourceLabel { source: &'a str }
    VersionLabel { version: &'a str }
}

impl<'a> PodLabels<'a> {
    /// Labels of a row that belongs to no pod.
    pub(super) const NONE: Self = Self {
        namespace: "",
        pod: "",
        workload: "",
    };

    pub(super) fn new(pod: &'a PodKey, workload: Option<&'a Workload>) -> Self {
        Self {
            namespace: &pod.namespace,
            pod: &pod.name,
            workload: workload.map_or("", |owner| &owner.name),
        }
    }
}
