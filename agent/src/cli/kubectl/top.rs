//! `kubectl sidestep top`: the pods with the most connections a second, on one screen.
//!
//! Rates are differences of two looks at the agents' counters, so that nothing is kept anywhere for it. What goes around the
//! proxy or fails comes first. Without a terminal one table is printed.

use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use clap::Args;
use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Cell, Row, Table},
};

use super::{
    Asker,
    gather::{Node, node_of},
    lines,
};
use crate::{
    cli::{
        Exit,
        text::{self, printable},
    },
    engine::PodRow,
    model::PodKey,
    output::api::PodsPage,
};

/// Options of `kubectl sidestep top`.
#[derive(Debug, Args)]
pub(super) struct TopOptions {
    /// Seconds between two looks.
    #[arg(long, value_name = "SECS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
}

/// Keys are looked at this often.
const KEYS: Duration = Duration::from_millis(50);

/// Counters of a pod: intercepted, bypassed, excluded, failed.
type Counters = [u64; 4];

/// A pod's line.
#[derive(Clone, Debug, PartialEq)]
struct Rates {
    pod: PodKey,
    node: String,
    mesh: String,
    /// Connections a second: intercepted, bypassed, excluded, failed.
    rates: [f64; 4],
    findings: String,
}

/// Two looks.
#[derive(Debug, Default)]
struct Looks {
    before: BTreeMap<PodKey, Counters>,
    at: Option<Instant>,
}

impl Looks {
    /// Takes a look; the rates since the one before it, empty for the first.
    fn take(&mut self, page: &PodsPage, nodes: &[Node], at: Instant) -> Vec<Rates> {
        let secs = self.at.map(|before| (at - before).as_secs_f64());
        let now: BTreeMap<PodKey, Counters> = page
            .pods
            .iter()
            .map(|row| (row.pod.clone(), counters(row)))
            .collect();
        let before = std::mem::replace(&mut self.before, now);
        self.at = Some(at);
        let Some(secs) = secs.filter(|secs| *secs > 0.0) else {
            return Vec::new();
        };
        let mut rows: Vec<Rates> = page
            .pods
            .iter()
            .map(|row| rates(row, before.get(&row.pod), secs, nodes))
            .collect();
        rows.sort_by(|a, b| {
            let weight = |row: &Rates| {
                let [intercepted, bypassed, excluded, failed] = row.rates;
                (bypassed + failed, intercepted + excluded)
            };
            let (a, b) = (weight(a), weight(b));
            b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
        });
        rows
    }
}

const fn counters(row: &PodRow) -> Counters {
    [row.intercepted, row.bypassed, row.excluded, row.failed]
}

/// Of a pod that is new, or whose agent began anew, nothing is known of before.
fn rates(row: &PodRow, before: Option<&Counters>, secs: f64, nodes: &[Node]) -> Rates {
    let now = counters(row);
    let since = before.copied().unwrap_or(now);
    let mut rates = [0.0; 4];
    for (rate, (now, since)) in rates.iter_mut().zip(now.into_iter().zip(since)) {
        *rate = now.saturating_sub(since) as f64 / secs;
    }
    let codes: Vec<&str> = row.findings.iter().map(|code| code.as_str()).collect();
    Rates {
        pod: row.pod.clone(),
        node: node_of(nodes, &row.pod).to_owned(),
        mesh: row.mesh.clone().unwrap_or_else(|| "-".to_owned()),
        rates,
        findings: codes.join(" "),
    }
}

/// What the screen shows.
#[derive(Debug, Default)]
struct Screen {
    rows: Vec<Rates>,
    /// Lines scrolled past.
    skip: usize,
    pods: usize,
    nodes: usize,
    missing: String,
}

/// Shows it until `q`.
pub(super) async fn run(asker: &mut Asker<'_>, options: &TopOptions) -> anyhow::Result<Exit> {
    let every = Duration::from_secs(options.every.into());
    if !std::io::stdout().is_terminal() {
        return once(asker, every).await;
    }
    let mut terminal = ratatui::try_init()?;
    let shown = live(asker, every, &mut terminal).await;
    ratatui::restore();
    shown.map(|()| Exit::Ok)
}

async fn once(asker: &mut Asker<'_>, every: Duration) -> anyhow::Result<Exit> {
    let (mut looks, mut screen) = (Looks::default(), Screen::default());
    look(asker, &mut looks, &mut screen).await?;
    tokio::time::sleep(every).await;
    look(asker, &mut looks, &mut screen).await?;
    text::print(&plain(&screen.rows))?;
    text::print(&screen.missing)?;
    Ok(Exit::Ok)
}

async fn live(
    asker: &mut Asker<'_>,
    every: Duration,
    terminal: &mut ratatui::DefaultTerminal,
) -> anyhow::Result<()> {
    let (mut looks, mut screen) = (Looks::default(), Screen::default());
    loop {
        look(asker, &mut looks, &mut screen).await?;
        let until = Instant::now() + every;
        while Instant::now() < until {
            terminal.draw(|frame| draw(frame, &screen))?;
            if pressed(&mut screen)? {
                return Ok(());
            }
            tokio::time::sleep(KEYS).await;
        }
        asker.look().await?;
    }
}

async fn look(asker: &Asker<'_>, looks: &mut Looks, screen: &mut Screen) -> anyhow::Result<()> {
    let (page, nodes) = asker.all_pods(None, None).await?;
    screen.rows = looks.take(&page, &nodes, Instant::now());
    screen.pods = page.pods.len();
    screen.nodes = nodes.len();
    screen.missing = lines::missing(&nodes);
    Ok(())
}

/// Takes the keys pressed; whether to end.
fn pressed(screen: &mut Screen) -> anyhow::Result<bool> {
    while event::poll(Duration::ZERO)? {
        let Event::Key(key) = event::read()? else {
            continue;
        };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        let last = screen.rows.len().saturating_sub(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Ok(true),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(true),
            KeyCode::Down | KeyCode::Char('j') => screen.skip = (screen.skip + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => screen.skip = screen.skip.saturating_sub(1),
            KeyCode::PageDown => screen.skip = (screen.skip + 20).min(last),
            KeyCode::PageUp => screen.skip = screen.skip.saturating_sub(20),
            KeyCode::Home => screen.skip = 0,
            _ => {}
        }
    }
    Ok(false)
}

const HEADER: [&str; 8] = [
    "POD",
    "NODE",
    "MESH",
    "INTERCEPTED/s",
    "BYPASSED/s",
    "EXCLUDED/s",
    "FAILED/s",
    "FINDINGS",
];

fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let title = match screen.rows.is_empty() {
        true => "counting…".to_owned(),
        false => format!("{} pods on {} nodes", screen.pods, screen.nodes),
    };
    frame.render_widget(Line::styled(title, Modifier::BOLD), head);
    let rows = screen.rows.iter().skip(screen.skip).map(row);
    let widths = [
        Constraint::Fill(3),
        Constraint::Fill(1),
        Constraint::Length(14),
        Constraint::Length(13),
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Fill(2),
    ];
    let table = Table::new(rows, widths).header(Row::new(HEADER).style(Modifier::BOLD));
    frame.render_widget(table, body);
    let foot_line = match screen.missing.lines().next() {
        Some(missing) => Line::styled(missing.to_owned(), Color::Yellow),
        None => Line::raw("q: quit   ↑↓: scroll"),
    };
    frame.render_widget(foot_line, foot);
}

fn row(rates: &Rates) -> Row<'static> {
    let [intercepted, bypassed, excluded, failed] = rates.rates;
    let alarm = |rate: f64, colour| match rate > 0.0 {
        true => Cell::new(number(rate)).style(Style::new().fg(colour)),
        false => Cell::new(number(rate)),
    };
    Row::new([
        Cell::new(printable(&rates.pod.to_string())),
        Cell::new(printable(&rates.node)),
        Cell::new(printable(&rates.mesh)),
        Cell::new(number(intercepted)),
        alarm(bypassed, Color::Red),
        Cell::new(number(excluded)),
        alarm(failed, Color::Yellow),
        Cell::new(rates.findings.clone()),
    ])
}

fn number(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

fn plain(rows: &[Rates]) -> String {
    let mut all = vec![HEADER.map(str::to_owned).to_vec()];
    all.extend(rows.iter().map(|row| {
        let mut parts = vec![row.pod.to_string(), row.node.clone(), row.mesh.clone()];
        parts.extend(row.rates.iter().map(|rate| number(*rate)));
        parts.push(row.findings.clone());
        parts
    }));
    lines::aligned(&all)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::output::{
        api::{self, PodFilter},
        fixture,
    };

    fn looks() -> Vec<Rates> {
        let mut page = api::pods(&fixture::board(), &PodFilter::default());
        let (mut looks, start) = (Looks::default(), Instant::now());
        assert_eq!(looks.take(&page, &[], start), []);
        page.pods[0].intercepted += 100;
        page.pods[1].bypassed += 3;
        looks.take(&page, &[], start + Duration::from_secs(2))
    }

    #[test]
    fn rates_are_what_was_added_and_trouble_comes_first() {
        let rows = looks();
        assert_eq!(rows[0].rates, [0.0, 1.5, 0.0, 0.0]);
        assert_eq!(rows[1].rates, [50.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn an_agent_that_began_anew_makes_no_rate() {
        let mut page = api::pods(&fixture::board(), &PodFilter::default());
        let (mut looks, start) = (Looks::default(), Instant::now());
        looks.take(&page, &[], start);
        let busiest = page.pods.iter_mut().max_by_key(|row| row.intercepted);
        busiest.unwrap().intercepted = 1;
        let rows = looks.take(&page, &[], start + Duration::from_secs(1));
        assert!(rows.iter().all(|row| row.rates == [0.0; 4]));
    }

    #[test]
    fn the_screen_holds_what_matters_at_80_columns() {
        let mut terminal = Terminal::new(TestBackend::new(100, 8)).unwrap();
        let screen = Screen {
            rows: looks(),
            pods: 4,
            nodes: 2,
            ..Screen::default()
        };
        terminal.draw(|frame| draw(frame, &screen)).unwrap();
        let text = terminal.backend().to_string();
        for part in ["4 pods on 2 nodes", "BYPASSED/s", "1.5", "50", "q: quit"] {
            assert!(text.contains(part), "{part} not in\n{text}");
        }
    }
}
