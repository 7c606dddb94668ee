//! OpenMetrics text at `/metrics`: a view of the board, nothing more.
//!
//! There are no counters of our own to keep in step: a [`Collector`] walks the rows of the
//! latest board on each scrape, so a series exists exactly while its row exists and metrics
//! and JSON cannot disagree. Rows that fall on the same labels (two sockets on one port) are
//! added up, because a duplicate series makes a scraper refuse the whole page. Names, types,
//! units and labels stand in `catalog` alone; `docs/metrics.md` is checked against it.

mod catalog;
mod labels;
mod page;
mod process;
mod rows;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

use super::View;
pub use catalog::{Kind, METRICS, Metric};

/// Content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics page.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The page about what `view` sees.
    #[must_use]
    pub fn new(view: View) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(BoardCollector(view)));
        registry.register_collector(Box::new(process::ProcessCollector));
        Self { registry }
    }

    /// The page as OpenMetrics text.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[derive(Debug)]
struct BoardCollector(View);

impl Collector for BoardCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let board = self.0.board();
        let mut page = page::Page::new(&mut encoder);
        rows::traffic(&mut page, &board)?;
        rows::findings(&mut page, &board)?;
        rows::identity(&mut page, &board)?;
        rows::agent(&mut page, &board, &self.0)?;
        rows::coverage(&mut page, &board)
    }
}

#[cfg(test)]
mod tests;
