//! Writes rows as metric families: sorted, added up by labels, one family at a time.
//!
//! The encoder of the library writes what it is told; that each family appears once, and
//! each series once in it, is settled here.

use std::{collections::BTreeMap, fmt};

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder,
    NoLabelSet,
};

use super::catalog::Metric;
use crate::model::{HISTOGRAM_BUCKETS, Histogram};

/// Upper bounds exported: 2^6 µs (64 µs), then every second power of two up to 2^24 µs (16.8 s).
///
/// The kernel counts every power of two; every second one is exact too and halves the
/// series. 2^20 µs (1.05 s) parts handshakes that lost one SYN (retransmitted after 1 s)
/// from those that lost more.
const EXPORTED_POWERS: [usize; 10] = [6, 8, 10, 12, 14, 16, 18, 20, 22, 24];

/// The page being written.
pub(super) struct Page<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
}

impl<'a, 'e> Page<'a, 'e> {
    pub(super) fn new(encoder: &'a mut DescriptorEncoder<'e>) -> Self {
        Self { encoder }
    }

    /// A family of counters.
    pub(super) fn counters<L: EncodeLabelSet + Ord>(
        &mut self,
        metric: &Metric,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.family(metric)?;
        for (labels, value) in added_up(rows) {
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        Ok(())
    }

    /// A family of counters of seconds, from nanoseconds.
    pub(super) fn counters_of_seconds<L: EncodeLabelSet + Ord>(
        &mut self,
        metric: &Metric,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.family(metric)?;
        for (labels, nanos) in added_up(rows) {
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, f64, f64>(&(nanos as f64 / 1e9), None)?;
        }
        Ok(())
    }

    /// A family of gauges.
    pub(super) fn gauges<L: EncodeLabelSet + Ord>(
        &mut self,
        metric: &Metric,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.family(metric)?;
        for (labels, value) in added_up(rows) {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// A single gauge without labels.
    pub(super) fn gauge<N: EncodeGaugeValue>(&mut self, metric: &Metric, value: N) -> fmt::Result {
        self.family(metric)?.encode_gauge(&value)
    }

    /// A single counter without labels.
    pub(super) fn counter<N: EncodeCounterValue>(
        &mut self,
        metric: &Metric,
        value: N,
    ) -> fmt::Result {
        self.family(metric)?
            .encode_counter::<NoLabelSet, N, f64>(&value, None)
    }

    /// An info metric.
    pub(super) fn info(&mut self, metric: &Metric, labels: &impl EncodeLabelSet) -> fmt::Result {
        self.family(metric)?.encode_info(labels)
    }

    /// A family of histograms.
    pub(super) fn histograms<'h, L: EncodeLabelSet + Ord>(
        &mut self,
        metric: &Metric,
        rows: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> fmt::Result {
        let mut merged: BTreeMap<L, Histogram> = BTreeMap::new();
        for (labels, histogram) in rows {
            merge(merged.entry(labels).or_default(), histogram);
        }
        let mut family = self.family(metric)?;
        for (labels, histogram) in &merged {
            family
                .encode_family(labels)?
                .encode_histogram::<NoLabelSet>(
                    histogram.sum_us as f64 / 1e6,
                    histogram.buckets.iter().sum(),
                    &exported(histogram),
                    None,
                )?;
        }
        Ok(())
    }

    fn family<'m>(&'m mut self, metric: &'m Metric) -> Result<MetricEncoder<'m>, fmt::Error> {
        self.encoder.encode_descriptor(
            metric.base,
            metric.help,
            metric.unit.as_ref(),
            metric.kind.metric_type(),
        )
    }
}

fn added_up<L: Ord>(rows: impl IntoIterator<Item = (L, u64)>) -> BTreeMap<L, u64> {
    let mut sums = BTreeMap::new();
    for (labels, value) in rows {
        let sum: &mut u64 = sums.entry(labels).or_default();
        *sum = sum.saturating_add(value);
    }
    sums
}

fn merge(into: &mut Histogram, from: &Histogram) {
    for (sum, value) in into.buckets.iter_mut().zip(from.buckets) {
        *sum = sum.saturating_add(value);
    }
    into.sum_us = into.sum_us.saturating_add(from.sum_us);
}

/// Upper bounds in seconds with the counts between them (the encoder adds them up).
fn exported(histogram: &Histogram) -> Vec<(f64, u64)> {
    let mut below = 0;
    let mut buckets = Vec::with_capacity(EXPORTED_POWERS.len() + 1);
    for power in EXPORTED_POWERS {
        // Kernel bucket i ends at 2^(i+1) µs, so those below 2^power are 0..power.
        let count = histogram.buckets[below..power].iter().sum();
        buckets.push(((1_u64 << power) as f64 / 1e6, count));
        below = power;
    }
    buckets.push((
        f64::INFINITY,
        histogram.buckets[below..HISTOGRAM_BUCKETS].iter().sum(),
    ));
    buckets
}
